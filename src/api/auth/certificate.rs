//! What a client's certificate says who it is of.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::callers::canonical;

/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 32;

/// URIs and DNS names of the certificate's subject alternative names. Its subject is
/// nobody's identity: it has no form that could be compared. TLS has checked the
/// certificate before.
pub(super) fn identities(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().filter(|uri| uri.contains(':'));
    uris.chain(certificate.valid_dns_names()).take(NAMES_MAX).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_and_dns_names_are_identities_and_the_subject_is_none() {
        use rcgen::{CertificateParams, DnType, KeyPair, SanType};

        let mut params = CertificateParams::new(vec!["Portal.internal".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the-subject");
        params.subject_alt_names.push(SanType::URI("spiffe://clinic/Portal".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("portal.fake".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("jane@example.org".try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(identities(certificate.der()), ["spiffe://clinic/Portal", "portal.internal"]);
        assert!(identities(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }
}
