//! The manifests of `deploy/`, with the addresses of this machine's servers in them and nothing
//! else changed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bed::Bed;

/// Where the servers are.
pub struct Addresses<'a> {
    /// Bootstrap servers, as KEDA reaches them.
    pub brokers: &'a str,
    /// The database, as KEDA reaches it: a URL.
    pub database: &'a str,
    /// `host:port` of our scaler.
    pub scaler: &'a str,
}

/// Folders with a kustomization each, which take `deploy/` and set the addresses.
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Writes them below a folder.
    pub fn new(dir: &Path, addresses: &Addresses<'_>) -> Self {
        let it = Self { dir: dir.to_owned() };
        it.write(
            "system",
            &["k8s/overlays/kind"],
            &format!(
                "configMapGenerator:\n  - name: patient-notify-brokers\n    behavior: merge\n    literals:\n      \
                 - PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS={}\n",
                addresses.brokers
            ),
        );
        let connection = format!(
            "secretGenerator:\n  - name: patient-notify-keda-postgres\n    behavior: merge\n    \
             options: {{ disableNameSuffixHash: true }}\n    literals: ['connection={}']\n",
            addresses.database
        );
        it.write("simple", &["k8s/overlays/kind/keda"], &connection);
        let scaler = addresses.scaler;
        // The overlay's own patch of the triggers stays; only the address of its server differs.
        let external = format!(
            "patches:\n  - target: {{ kind: ScaledObject, name: consumer-.* }}\n    patch: |-\n      \
             - {{ op: replace, path: /spec/triggers/0/metadata/scalerAddress, value: '{scaler}' }}\n  \
             - target: {{ kind: TriggerAuthentication, name: kafka }}\n    patch: |-\n      $patch: delete\n      \
             apiVersion: keda.sh/v1alpha1\n      kind: TriggerAuthentication\n      metadata: {{ name: kafka }}\n"
        );
        it.write("external", &["keda/overlays/external"], &external);
        it
    }

    /// Deployments and all that they need.
    pub fn system(&self, bed: &Bed) -> String {
        bed.render(&self.dir.join("system"))
    }

    /// What scales them: `simple` or `external`.
    pub fn scaling(&self, bed: &Bed, overlay: &str) -> String {
        bed.render(&self.dir.join(overlay))
    }

    fn write(&self, name: &str, resources: &[&str], rest: &str) {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        // kustomize takes no absolute folders.
        let up = "../".repeat(dir.components().count() - 1);
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        let deploy = deploy.canonicalize().unwrap();
        let mut text =
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n".to_owned();
        for resource in resources {
            let target = deploy.join(resource);
            let below_root = target.strip_prefix("/").unwrap();
            text += &format!("  - {up}{}\n", below_root.display());
        }
        fs::write(dir.join("kustomization.yaml"), text + rest).unwrap();
    }
}
