//! TLS of the native host. Certificates come from files, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The shortest time between two checks of the files for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A certificate chain and its private key, in PEM files.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    changed: [Option<SystemTime>; 2],
    checked: Instant,
}

impl Certificate {
    /// Reads the certificate chain and the private key from their PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, or the key does not belong to the certificate.
    pub fn open(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self> {
        let (chain, key) = (chain.into(), key.into());
        let changed = [&chain, &key].map(|path| changed(path));
        let current = Current { acceptor: acceptor(&chain, &key)?, changed, checked: Instant::now() };
        Ok(Self { chain, key, current: Mutex::new(current) })
    }

    /// Returns an acceptor for the certificate that the files hold now. If the new files are
    /// unusable, the log gets an error and the previous certificate stays in use. The files are
    /// checked for changes at most once in 5 seconds.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked.elapsed() >= CHECK_INTERVAL {
            current.checked = Instant::now();
            let now = [&self.chain, &self.key].map(|path| changed(path));
            if now != current.changed {
                match acceptor(&self.chain, &self.key) {
                    Ok(acceptor) => {
                        tracing::info!("read the certificate again");
                        current.acceptor = acceptor;
                        current.changed = now;
                    }
                    // The other file may be about to change as well, so the next check reads both
                    // again.
                    Err(error) => tracing::error!("cannot read the certificate again: {error:#}"),
                }
            }
        }
        current.acceptor.clone()
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let context = |path: &Path| format!("cannot use {}", path.display());
    let certificates = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.with_context(|| context(chain))?;
    let private_key = PrivateKeyDer::from_pem_file(key).with_context(|| context(key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = config.with_single_cert(certificates, private_key).with_context(|| context(chain))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
