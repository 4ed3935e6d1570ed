//! One authority for the control plane, and what each of its programs shows.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType,
};

/// Names that the servers are called by.
const SERVER_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes.default.svc",
    "keda-operator.keda.svc",
    "keda-metrics-apiserver.keda.svc",
    "keda-admission-webhooks.keda.svc",
];

/// Files below one folder, in PEM form.
pub struct Certs {
    /// The authority's certificate.
    pub ca: String,
    /// Certificate and key of a client with every right.
    pub admin: (String, String),
    dir: PathBuf,
}

impl Certs {
    /// Makes everything anew.
    pub fn make(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "bed");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let client = |organisation: Option<&str>, name: &str| {
            let mut params = CertificateParams::default();
            if let Some(organisation) = organisation {
                params.distinguished_name.push(DnType::OrganizationName, organisation);
            }
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            sign(params, &issuer)
        };
        let admin = client(Some("system:masters"), "admin");
        let certs = Self { ca, admin, dir: dir.to_owned() };
        std::fs::create_dir_all(dir.join("keda")).unwrap();
        certs.write_pair("admin", &certs.admin);
        certs.write_pair("kcm", &client(None, "system:kube-controller-manager"));
        certs.write_pair("front-proxy", &client(None, "front-proxy-client"));
        let server = sign(server(), &issuer);
        certs.write_pair("server", &server);
        // KEDA's programs look for these three names.
        certs.write_pair("keda/tls", &server);
        for file in ["ca.crt", "keda/ca.crt"] {
            std::fs::write(dir.join(file), &certs.ca).unwrap();
        }
        let accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(dir.join("sa.key"), accounts.serialize_pem()).unwrap();
        std::fs::write(dir.join("sa.pub"), accounts.public_key_pem()).unwrap();
        certs
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn write_pair(&self, name: &str, (cert, key): &(String, String)) {
        std::fs::write(self.dir.join(format!("{name}.crt")), cert).unwrap();
        std::fs::write(self.dir.join(format!("{name}.key")), key).unwrap();
    }
}

fn server() -> CertificateParams {
    let mut params = CertificateParams::new(SERVER_NAMES.map(str::to_owned).to_vec()).unwrap();
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    // One server calls another with it, too.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn sign(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}
