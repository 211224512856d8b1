//! TLS of the API: the home of rustls.

pub(crate) mod client;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::api::auth::secret_file;
use crate::api::file_probe::FileProbe;
use crate::config;
use crate::document::Diagnostic;
use crate::reload::FileVersion;
use crate::util::lock;

/// What is offered to clients (RFC 7301), the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate, read again whenever its files have changed, so that a renewal takes no restart.
pub(in crate::api) struct Certificate {
    /// The files.
    files: config::control::Tls,
    /// What they held.
    held: Mutex<Held>,
    /// What connections are accepted with; none while they have not been good yet.
    in_force: ArcSwapOption<ServerConfig>,
    /// What was wrong when they were last looked at, and since when.
    told: ArcSwapOption<(String, Timestamp)>,
    /// Looks at the files.
    disk: FileProbe,
}

/// What the files held when they were last good.
#[derive(Default)]
struct Held {
    /// The states of both when they were last read; none where a further change could go unnoticed.
    stamps: Option<[FileVersion; 2]>,
}

impl Certificate {
    /// Reads certificate and key. While they have not been good yet, no connection is accepted.
    pub(in crate::api) fn open(files: &config::control::Tls) -> Arc<Self> {
        let tls = Self {
            files: files.clone(),
            held: Mutex::default(),
            in_force: ArcSwapOption::empty(),
            told: ArcSwapOption::empty(),
            disk: FileProbe::default(),
        };
        tls.look();
        Arc::new(tls)
    }

    /// Looks whether the files answer.
    pub(in crate::api) async fn probe(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.disk.look(move || this.look()).await;
    }

    /// Returns what was wrong with the files at the last look, with that of the certificate and since when.
    pub(in crate::api) fn error(&self) -> Option<(&Path, String, Timestamp)> {
        let told = self.told.load_full()?;
        let is_closed = self.in_force.load().is_none();
        let what = if is_closed { "the API is closed" } else { "the certificate is as it was" };
        Some((&self.files.certificate, format!("{what}: {}", told.0), told.1))
    }

    /// Returns what accepts a connection, with the certificate as its files have it now; while they are bad, or their file system
    /// does not answer, as they last were good. `None` while they have not been good yet.
    pub(in crate::api) async fn acceptor(self: &Arc<Self>) -> Option<TlsAcceptor> {
        let this = Arc::clone(self);
        self.disk.look(move || this.look()).await;
        self.in_force.load_full().map(TlsAcceptor::from)
    }

    /// Reads the files again if they have changed.
    pub(in crate::api) fn look(&self) {
        let mut held = lock(&self.held);
        let now = [FileVersion::at(&self.files.certificate), FileVersion::at(&self.files.key)];
        if held.stamps.is_none_or(|stamps| stamps.map(Some) != now) {
            let path = self.files.certificate.display();
            match Held::read(&self.files) {
                Ok((new, config)) => {
                    if self.told.swap(None).is_some() {
                        tracing::info!(%path, "certificate is good again");
                    }
                    self.in_force.store(Some(Arc::new(config)));
                    *held = new;
                }
                Err(wrong) => {
                    let told = wrong.to_string();
                    let before = self.told.load_full();
                    if before.as_ref().is_none_or(|before| before.0 != told) {
                        let what = match &*self.in_force.load() {
                            Some(_) => "certificate not reloaded; keeping the one in force",
                            None => "certificate cannot be used; the API is closed",
                        };
                        tracing::error!(%path, error = told, "{what}");
                    }
                    let since = before.map_or_else(Timestamp::now, |before| before.1);
                    self.told.store(Some(Arc::new((told, since))));
                }
            }
        }
    }
}

impl Held {
    /// Reads certificate and key, and the states they are in; returns what connections are accepted with as well.
    fn read(files: &config::control::Tls) -> Result<(Self, ServerConfig), Box<Diagnostic>> {
        let now = SystemTime::now();
        let config::control::Tls { certificate, key } = files;
        let (certificate_text, certificate_stamp) = secret_file::read_public(certificate)?;
        let (key_text, key_stamp) = secret_file::read(key)?;
        let no_pem = |path: &Path, error: &dyn std::fmt::Display, what: &str| {
            let message = format!("no {what} can be read from it: {error}");
            Box::new(
                Diagnostic::about_file(path, message)
                    .help("it has to be PEM: base64 between `-----BEGIN` and `-----END`"),
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
        let stamps = [certificate_stamp, key_stamp];
        let is_firm = stamps.iter().all(|stamp| !stamp.is_racy(now));
        Ok((Self { stamps: Some(stamps).filter(|_| is_firm) }, config))
    }
}

/// Says what is wrong with a certificate and its key.
fn unusable(files: &config::control::Tls, error: &rustls::Error) -> Box<Diagnostic> {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        let message = format!("it is not the key of the certificate in {}", files.certificate.display());
        let help = "name two that were made together; the server's own certificate comes first in its file";
        return Box::new(Diagnostic::about_file(&files.key, message).help(help));
    }
    let message = format!("the certificate or its key cannot be used: {error}");
    Box::new(Diagnostic::about_file(&files.certificate, message))
}
