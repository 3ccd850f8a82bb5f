//! TLS: the certificate that callers see, and how another takes its place while the server runs.
//!
//! Owns reading and checking the files, and the one shared configuration. TLS 1.2 and 1.3 with the library's own suites,
//! which are those of Mozilla's intermediate profile without the finite-field ones.

use crate::config::TlsFiles;
use crate::no::No;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// TLS for every connection, with a certificate that can be renewed.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
}

/// Reads the files of `setting`, each of which holds certificates (PEM), and gives what is in them.
///
/// # Errors
/// Which file cannot be read, is no PEM, or holds no certificate.
pub fn certificates(setting: &str, paths: &[PathBuf]) -> Result<Vec<String>, No> {
    let read = |path: &PathBuf| {
        let wrong = |why: String| No::usage(format!("{setting}: {} {why}", path.display()));
        let pem = std::fs::read_to_string(path).map_err(|why| wrong(format!("cannot be read: {why}")))?;
        let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|why| wrong(format!("is no PEM: {why}")))?;
        if found.is_empty() { Err(wrong("holds no certificate; it takes PEM".to_owned())) } else { Ok(pem) }
    };
    paths.iter().map(read).collect()
}

/// The certificate and its files.
struct Certificates {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
    tried: Mutex<Looks>,
}

/// How the two files look from outside: a change of them is a change of the certificate.
type Looks = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence: which file, what is wrong, what would be right.
    pub fn read(files: TlsFiles) -> Result<Self, String> {
        let tried = looks(&files);
        let current = RwLock::new(Arc::new(load(&files)?));
        let certificates = Arc::new(Certificates { files, current, tried: Mutex::new(tried) });
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| why.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|why| why.to_string())?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificates })
    }

    /// Shakes hands.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Reads the files again. The certificate in use stays when they are wrong.
    ///
    /// # Errors
    /// A sentence: which file, what is wrong, what would be right.
    pub fn reload(&self) -> Result<(), String> {
        let Certificates { files, current, tried } = &*self.certificates;
        *tried.lock().expect("nobody panics while holding it") = looks(files);
        let new = Arc::new(load(files)?);
        *current.write().expect("nobody panics while holding it") = new;
        Ok(())
    }

    /// Whether a file changed since it was last read. A renewal writes two files: the moment between them is told as a
    /// mistake, once, and the second write as another change.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let now = looks(&self.certificates.files);
        now != *self.certificates.tried.lock().expect("nobody panics while holding it")
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(…)")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().expect("nobody panics while holding it").clone())
    }
}

fn looks(files: &TlsFiles) -> Looks {
    [&files.certificate, &files.key].map(|path| {
        let it = std::fs::metadata(path).ok()?;
        Some((it.modified().ok()?, it.len()))
    })
}

fn load(files: &TlsFiles) -> Result<CertifiedKey, String> {
    let TlsFiles { certificate, key } = files;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| unreadable("server.tls.certificate", certificate, &why))?;
    if chain.is_empty() {
        return Err(format!("server.tls.certificate: {} holds no certificate; it takes a chain in PEM", certificate.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|why| unreadable("server.tls.key", key, &why))?;
    let whole = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider());
    whole.map_err(|why| format!("{} and {} are no pair: {why}", certificate.display(), key.display()))
}

fn unreadable(setting: &str, path: &Path, why: &PemError) -> String {
    match why {
        PemError::NoItemsFound => format!("{setting}: {} holds none; it takes PEM", path.display()),
        PemError::Io(why) => format!("{setting}: {} cannot be read: {why}", path.display()),
        other => format!("{setting}: {} is no PEM: {other}", path.display()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a self-made certificate for localhost, and gives its DER.
    pub(crate) fn write_pair(files: &TlsFiles) -> Vec<u8> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(&files.certificate, cert.pem()).expect("written");
        std::fs::write(&files.key, signing_key.serialize_pem()).expect("written");
        cert.der().to_vec()
    }

    pub(crate) fn files(folder: &Path) -> TlsFiles {
        TlsFiles { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") }
    }

    #[test]
    fn files_that_are_no_pair_are_refused_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = files(folder.path());
        assert!(Tls::read(files.clone()).err().expect("nothing there").contains("certificate.pem cannot be read"));
        write_pair(&files);
        let key = std::fs::read(&files.key).expect("there");
        write_pair(&files);
        std::fs::write(&files.key, key).expect("written");
        assert!(Tls::read(files.clone()).err().expect("two pairs").contains("are no pair"));
        std::fs::write(&files.key, "nothing").expect("written");
        assert!(Tls::read(files).err().expect("no key").contains("key.pem holds none"));
    }

    #[test]
    fn a_broken_renewal_keeps_the_certificate_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = files(folder.path());
        let first = write_pair(&files);
        let tls = Tls::read(files.clone()).expect("a pair");
        assert!(!tls.has_changed());
        std::fs::write(&files.certificate, "half a fi").expect("written");
        assert!(tls.has_changed());
        assert!(tls.reload().is_err());
        assert!(!tls.has_changed(), "a mistake is told once");
        let current = |tls: &Tls| tls.certificates.current.read().expect("held by nobody").cert[0].to_vec();
        assert_eq!(current(&tls), first);
        let second = write_pair(&files);
        tls.reload().expect("a pair");
        assert_eq!(current(&tls), second);
    }
}
