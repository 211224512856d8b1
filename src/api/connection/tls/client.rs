//! TLS of the command line as a client of the API.

use std::path::Path;
use std::sync::Arc;

pub(crate) use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// A verifier that trusts the certificates of `--ca` and those they have signed.
///
/// The usual rules refuse a certificate that is both a signer's and a server's, as one made by a single command of openssl
/// is. The certificates of `--ca` themselves are therefore trusted as they are, for their names.
#[derive(Debug)]
struct Verifier {
    /// The certificates of `--ca`.
    named: Vec<CertificateDer<'static>>,
    /// The usual rules, with these certificates as roots.
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.named.iter().any(|named| named == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Returns a connector to servers whose certificate is in the PEM file `ca`, or signed by one of those.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub(crate) fn trusting(ca: &Path) -> Result<TlsConnector, String> {
    let told =
        |error: &dyn std::fmt::Display| format!("{}: {error} (--ca takes certificates in PEM form)", ca.display());
    let named: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca).map_err(|error| told(&error))?.collect();
    let named = named.map_err(|error| told(&error))?;
    if named.is_empty() {
        return Err(told(&"it holds no certificate"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &named {
        roots.add(certificate.clone()).map_err(|error| told(&error))?;
    }
    let provider = Arc::new(default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier = Verifier { named, usual: usual.map_err(|error| told(&error))? };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions of TLS that are built in")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Parses the name or address that the server's certificate has to be for.
///
/// # Errors
/// The text is neither.
pub(crate) fn name(host: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(host.to_owned());
    name.map_err(|_| format!("`{host}` is no name that a certificate could be for"))
}
