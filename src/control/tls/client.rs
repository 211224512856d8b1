//! TLS towards the API, for the command line.

use std::path::Path;
use std::sync::Arc;

pub(crate) use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Makes what connects to servers whose certificate one of those in the PEM file `ca` has signed, and to no others.
///
/// # Errors
/// The file cannot be read, or holds none.
pub(crate) fn trusting(ca: &Path) -> Result<TlsConnector, String> {
    let told =
        |error: &dyn std::fmt::Display| format!("{}: {error} (--ca takes certificates in PEM form)", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| told(&error))? {
        let certificate = certificate.map_err(|error| told(&error))?;
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    if roots.is_empty() {
        return Err(told(&"it holds no certificate"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions of TLS that are built in")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Returns the name or address that the server's certificate has to be for.
///
/// # Errors
/// It is neither.
pub(crate) fn name(host: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(host.to_owned());
    name.map_err(|_| format!("`{host}` is no name that a certificate could be for"))
}
