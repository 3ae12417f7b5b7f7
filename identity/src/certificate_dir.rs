//! Where a node keeps its identity: `<data-root>/certificates`, names as in SwarmKit.
//!
//! - `swarm-root-ca.crt`: what it trusts
//! - `swarm-node.crt`: its certificate chain
//! - `swarm-node.key`: its private key (mode 0600)
//!
//! Certificate and key are two files and change together, which no file system does in one step. So the key file first
//! gets the new key besides the old one, then the certificate is replaced, then the old key is dropped; loading
//! takes the key that fits the certificate.
//!
//! Invariant: after a crash at any instant the directory holds a whole identity, the old or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::certificate::{self, NodeCertificate, NodeIdentity};
use crate::root::{self, RootCertificate};
use crate::{PrivateKey, private_key};

const ROOT: &str = "swarm-root-ca.crt";
const CERTIFICATE: &str = "swarm-node.crt";
const KEY: &str = "swarm-node.key";

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is unusable", path.display())]
    Root { path: PathBuf, source: root::Error },
    #[error("{} is unusable", path.display())]
    Certificate { path: PathBuf, source: certificate::Error },
    #[error("{} is unusable", path.display())]
    Key { path: PathBuf, source: private_key::Error },
    #[error("{} holds no key that belongs to the node's certificate", .0.display())]
    NoKey(PathBuf),
}

#[derive(Clone, Debug)]
pub struct CertificateDir {
    path: PathBuf,
}

/// One file to replace.
struct Step {
    name: &'static str,
    mode: u32,
    contents: Zeroizing<String>,
}

impl CertificateDir {
    pub fn new(data_root: &Path) -> Self {
        Self { path: data_root.join("certificates") }
    }

    /// What the node is, or `None` if it has not joined a swarm (or was interrupted while joining).
    pub fn load(&self) -> Result<Option<(NodeIdentity, RootCertificate)>, Error> {
        let (Some(root), Some(chain)) = (self.read(ROOT)?, self.read(CERTIFICATE)?) else { return Ok(None) };
        let root = RootCertificate::from_pem(&root)
            .map_err(|source| Error::Root { path: self.path.join(ROOT), source })?;
        let unusable = |source| Error::Certificate { path: self.path.join(CERTIFICATE), source };
        let certificate = NodeCertificate::from_pem(&chain).map_err(unusable)?;
        for key in self.keys()? {
            if let Ok(identity) = NodeIdentity::new(certificate.clone(), key) {
                return Ok(Some((identity, root)));
            }
        }
        Err(Error::NoKey(self.path.join(KEY)))
    }

    /// Replaces what is there. Blocks on the disk until everything is durable.
    pub fn save(&self, identity: &NodeIdentity, root: &RootCertificate) -> Result<(), Error> {
        self.ensure()?;
        let old = self.keys().unwrap_or_default();
        plan(identity, root, &old).iter().try_for_each(|step| self.apply(step))
    }

    /// Forgets the identity: the node has left its swarm.
    pub fn clear(&self) -> Result<(), Error> {
        // The certificate first: without it the rest counts as nothing.
        for name in [CERTIFICATE, KEY, ROOT] {
            let path = self.path.join(name);
            remove(&path).map_err(|source| Error::Io { verb: "remove", path, source })?;
        }
        if self.path.exists() { self.sync(&self.path) } else { Ok(()) }
    }

    fn ensure(&self) -> Result<(), Error> {
        let failed = |source| Error::Io { verb: "create", path: self.path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(failed)?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o700)).map_err(failed)?;
        self.path.parent().map_or(Ok(()), |parent| self.sync(parent))
    }

    fn keys(&self) -> Result<Vec<PrivateKey>, Error> {
        let text = Zeroizing::new(self.read(KEY)?.unwrap_or_default());
        let unusable = |source| Error::Key { path: self.path.join(KEY), source };
        text.split_inclusive("-----END PRIVATE KEY-----\n")
            .filter(|block| !block.trim().is_empty())
            .map(|block| PrivateKey::from_pem(block).map_err(unusable))
            .collect()
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { verb: "read", path, source }),
        }
    }

    fn apply(&self, step: &Step) -> Result<(), Error> {
        let path = self.path.join(step.name);
        let temporary = self.path.join(format!(".{}.new", step.name));
        write_durably(&temporary, step)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| Error::Io { verb: "write", path, source })?;
        self.sync(&self.path)
    }

    fn sync(&self, directory: &Path) -> Result<(), Error> {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|source| Error::Io {
            verb: "sync",
            path: directory.to_owned(),
            source,
        })
    }
}

/// The files to replace, in an order in which every prefix leaves a whole identity.
fn plan(identity: &NodeIdentity, root: &RootCertificate, old: &[PrivateKey]) -> Vec<Step> {
    let step =
        |name, mode, contents: &str| Step { name, mode, contents: Zeroizing::new(contents.to_owned()) };
    let new = identity.key().expose_pem();
    let both = Zeroizing::new(old.iter().fold(new.to_owned(), |keys, key| keys + key.expose_pem()));
    vec![
        step(ROOT, PUBLIC, root.pem()),
        step(KEY, PRIVATE, &both),
        step(CERTIFICATE, PUBLIC, identity.certificate().pem()),
        step(KEY, PRIVATE, new),
    ]
}

fn write_durably(path: &Path, step: &Step) -> io::Result<()> {
    // What a crash left behind may have another mode: never write into it.
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(step.mode).open(path)?;
    file.write_all(step.contents.as_bytes())?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proto::model::Role;
    use tempfile::TempDir;

    use super::*;
    use crate::{RootCa, Subject};

    struct Fixture {
        root_dir: TempDir,
        dir: CertificateDir,
        ca: RootCa,
    }

    impl Fixture {
        fn new() -> Self {
            let root_dir = tempfile::tempdir().unwrap();
            let dir = CertificateDir::new(root_dir.path());
            Self { root_dir, dir, ca: RootCa::generate(SystemTime::now()).unwrap() }
        }

        fn identity(&self) -> NodeIdentity {
            let subject = Subject { node: "n".into(), role: Role::Worker, cluster: "c".into() };
            self.ca.issue(&subject, Duration::from_secs(3600), SystemTime::now()).unwrap()
        }

        fn save(&self, identity: &NodeIdentity) {
            self.dir.save(identity, self.ca.certificate()).unwrap();
        }

        fn mode(&self, name: &str) -> u32 {
            let path = self.root_dir.path().join("certificates").join(name);
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let fixture = Fixture::new();
        assert!(fixture.dir.load().unwrap().is_none());
        let identity = fixture.identity();
        fixture.save(&identity);
        assert_eq!(fixture.dir.load().unwrap(), Some((identity, fixture.ca.certificate().clone())));
        fixture.dir.clear().unwrap();
        fixture.dir.clear().unwrap();
        assert!(fixture.dir.load().unwrap().is_none());
    }

    #[test]
    fn the_key_is_for_its_owner_only() {
        let fixture = Fixture::new();
        fixture.save(&fixture.identity());
        let leftover = fixture.dir.path.join(".swarm-node.key.new");
        fs::write(&leftover, "").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o666)).unwrap();
        fixture.save(&fixture.identity());
        assert_eq!(fixture.mode(KEY), 0o600);
        assert_eq!(fixture.mode(""), 0o700);
        assert!(!leftover.exists());
    }

    #[test]
    fn a_crash_between_two_files_leaves_a_whole_identity() {
        let fixture = Fixture::new();
        let mut held = fixture.identity();
        fixture.save(&held);
        for steps in 0..=4 {
            let next = fixture.identity();
            let old = fixture.dir.keys().unwrap();
            for step in plan(&next, fixture.ca.certificate(), &old).iter().take(steps) {
                fixture.dir.apply(step).unwrap();
            }
            let (loaded, _) = fixture.dir.load().unwrap().unwrap();
            assert_eq!(loaded, if steps < 3 { held } else { next }, "after {steps} steps");
            held = loaded;
        }
        let last = fixture.identity();
        fixture.save(&last);
        assert_eq!(fixture.dir.keys().unwrap(), [last.key().clone()]);
    }

    #[test]
    fn a_first_join_that_was_interrupted_counts_as_none() {
        let fixture = Fixture::new();
        fixture.dir.ensure().unwrap();
        for step in plan(&fixture.identity(), fixture.ca.certificate(), &[]).iter().take(2) {
            fixture.dir.apply(step).unwrap();
            assert!(fixture.dir.load().unwrap().is_none());
        }
    }

    #[test]
    fn a_foreign_key_is_named() {
        let fixture = Fixture::new();
        fixture.save(&fixture.identity());
        let path = fixture.dir.path.join(KEY);
        fs::write(&path, PrivateKey::generate().unwrap().expose_pem()).unwrap();
        assert!(matches!(fixture.dir.load(), Err(Error::NoKey(named)) if named == path));
        fs::write(&path, "rubbish").unwrap();
        assert!(matches!(fixture.dir.load(), Err(Error::Key { .. })));
        fixture.save(&fixture.identity());
        fixture.dir.load().unwrap().unwrap();
    }
}
