//! TLS of the API: the only module that uses rustls.

pub(crate) mod client;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::api::auth::secret_file::{self, FileError};
use crate::api::file_probe::FileProbe;
use crate::config;
use crate::document::Diagnostic;
use crate::reload::FileVersion;
use crate::reload::out_of_date::Beginning;
use crate::util::lock;

/// The protocols offered to clients (RFC 7301), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate and its key, read again whenever a file has changed, so that a renewal needs no restart.
pub(in crate::api) struct Certificate {
    files: config::control::Tls,
    /// The versions that were read; `None` if a later change might have the same ones.
    versions: Mutex<Option<[FileVersion; 2]>>,
    /// The last good certificate; `None` before the first.
    in_force: ArcSwapOption<ServerConfig>,
    error: FileError,
    probe: FileProbe,
}

impl Certificate {
    /// Reads certificate and key. Until they are good for the first time, no connection is served.
    pub(in crate::api) fn open(files: &config::control::Tls) -> Arc<Self> {
        let certificate = Self {
            files: files.clone(),
            versions: Mutex::default(),
            in_force: ArcSwapOption::empty(),
            error: FileError::default(),
            probe: FileProbe::default(),
        };
        certificate.look();
        Arc::new(certificate)
    }

    /// Reads the files if they have changed, and notices a file system that hangs.
    pub(in crate::api) async fn probe(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.probe.look(move || this.look()).await;
    }

    /// Returns the certificate's file, the error, and the time at which that began.
    pub(in crate::api) fn error(&self) -> Option<(&Path, String, Beginning)> {
        let (error, since) = self.error.get()?;
        let is_closed = self.in_force.load().is_none();
        let state = if is_closed { "the API is closed" } else { "the certificate is as it was" };
        Some((&self.files.certificate, format!("{state}: {error}"), since))
    }

    /// Returns the acceptor with the certificate that is in the files now or, if they are bad or hang, was good last.
    pub(in crate::api) async fn acceptor(self: &Arc<Self>) -> Option<TlsAcceptor> {
        self.probe().await;
        self.in_force.load_full().map(TlsAcceptor::from)
    }

    /// Reads the files if they have changed.
    pub(in crate::api) fn look(&self) {
        let mut versions = lock(&self.versions);
        let now = [FileVersion::at(&self.files.certificate), FileVersion::at(&self.files.key)];
        if versions.is_some_and(|versions| versions.map(Some) == now) {
            return;
        }
        let path = self.files.certificate.display();
        match read(&self.files) {
            Ok((read, config)) => {
                if self.error.clear() {
                    tracing::info!(%path, "certificate is good again");
                }
                self.in_force.store(Some(Arc::new(config)));
                *versions = read;
            }
            Err(wrong) => {
                let error = wrong.to_string();
                if self.error.set(&error) {
                    let message = match &*self.in_force.load() {
                        Some(_) => "certificate not reloaded; keeping the one in force",
                        None => "certificate cannot be used; the API is closed",
                    };
                    tracing::error!(%path, error, "{message}");
                }
            }
        }
    }
}

/// Reads certificate and key, and their versions.
fn read(files: &config::control::Tls) -> Result<(Option<[FileVersion; 2]>, ServerConfig), Box<Diagnostic>> {
    let now = SystemTime::now();
    let config::control::Tls { certificate, key } = files;
    let (certificate_text, certificate_version) = secret_file::read_public(certificate)?;
    let (key_text, key_version) = secret_file::read(key)?;
    let no_pem = |path: &Path, error: &dyn std::fmt::Display, what: &str| {
        let message = format!("no {what} can be read from it: {error}");
        Box::new(
            Diagnostic::about_file(path, message).help("it has to be PEM: base64 between `-----BEGIN` and `-----END`"),
        )
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate_text).collect();
    let chain = chain.map_err(|error| no_pem(certificate, &error, "certificate"))?;
    if chain.is_empty() {
        return Err(no_pem(certificate, &"there is none", "certificate"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| no_pem(key, &error, "private key"))?;
    let builder =
        ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let built = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret));
    let mut config = built.map_err(|error| unusable(files, &error))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    let versions = [certificate_version, key_version];
    let is_firm = versions.iter().all(|version| !version.is_racy(now));
    Ok((Some(versions).filter(|_| is_firm), config))
}
/// Makes the error of a certificate and a key that rustls refuses.
fn unusable(files: &config::control::Tls, error: &rustls::Error) -> Box<Diagnostic> {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        let message = format!("it is not the key of the certificate in {}", files.certificate.display());
        let help = "name two that were made together; the server's own certificate comes first in its file";
        return Box::new(Diagnostic::about_file(&files.key, message).help(help));
    }
    let message = format!("the certificate or its key cannot be used: {error}");
    Box::new(Diagnostic::about_file(&files.certificate, message))
}
