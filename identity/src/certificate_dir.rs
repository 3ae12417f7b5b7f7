//! Where a node keeps its identity: `<data-root>/certificates`, names as in SwarmKit.
//!
//! - `swarm-root-ca.crt`: what it trusts
//! - `swarm-node.crt`: its certificate chain
//! - `swarm-node.key`: its private key (mode 0600), sealed by [`key_file`] on an autolocked manager
//!
//! Certificate and key are two files and change together, which no file system does in one step. So the key file first
//! gets the new key besides the old one, then the certificate is replaced, then the old key is dropped; loading
//! takes the key that fits the certificate.
//!
//! Which unlock key seals is decided by the managers; all clones of a directory share it. A worker's key is never sealed.
//!
//! Invariant: after a crash at any instant the directory holds a whole identity, the old or the new one.

mod key_file;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::certificate::{self, NodeCertificate, NodeIdentity};
use crate::root::{self, RootCertificate};
use crate::{PrivateKey, UnlockKey, private_key};
use key_file::{KeyFile, Lock, Sealed};

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
    #[error("the node's key is sealed: the unlock key is needed")]
    Locked,
    #[error("the unlock key does not open this node's key")]
    WrongUnlockKey,
}

#[derive(Clone, Debug)]
pub struct CertificateDir {
    path: PathBuf,
    /// Held while files are read or replaced.
    lock: Arc<Mutex<Lock>>,
}

/// One file to replace.
struct Step {
    name: &'static str,
    mode: u32,
    contents: Zeroizing<String>,
}

impl CertificateDir {
    pub fn new(data_root: &Path) -> Self {
        Self { path: data_root.join("certificates"), lock: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the sealed key of a manager that has started.
    pub fn unlock(&self, key: &UnlockKey) -> Result<(), Error> {
        let mut lock = self.lock();
        let opened = Lock { key: Some(key.clone()), version: 0 };
        let file = self.key_file(&opened)?;
        if file.sealed.is_some() {
            return Err(Error::WrongUnlockKey);
        }
        *lock = Lock { version: file.version, ..opened };
        Ok(())
    }

    /// What seals this node's keys, if anything does, since which version of the cluster object.
    pub fn unlock_key(&self) -> (Option<UnlockKey>, u64) {
        let lock = self.lock();
        (lock.key.clone(), lock.version)
    }

    /// From now on keys are sealed with `key`, or not at all; so is what is there already.
    pub fn seal(&self, key: Option<UnlockKey>, version: u64) -> Result<(), Error> {
        let mut lock = self.lock();
        let next = Lock { key, version };
        if let Some((identity, _)) = self.load_with(&lock)? {
            self.apply(&key_step(&[(identity.key(), next.of(identity.subject().role))], version))?;
        }
        *lock = next;
        Ok(())
    }

    /// What the node is, or `None` if it has not joined a swarm (or was interrupted while joining).
    pub fn load(&self) -> Result<Option<(NodeIdentity, RootCertificate)>, Error> {
        let mut lock = self.lock();
        let loaded = self.load_with(&lock)?;
        if loaded.is_some() {
            lock.version = self.key_file(&lock)?.version;
        }
        Ok(loaded)
    }

    /// The certificate, which is never sealed.
    pub fn certificate(&self) -> Result<Option<NodeCertificate>, Error> {
        let Some(chain) = self.read(CERTIFICATE)? else { return Ok(None) };
        let unusable = |source| Error::Certificate { path: self.path.join(CERTIFICATE), source };
        NodeCertificate::from_pem(&chain).map(Some).map_err(unusable)
    }

    fn load_with(&self, lock: &Lock) -> Result<Option<(NodeIdentity, RootCertificate)>, Error> {
        let (Some(root), Some(certificate)) = (self.read(ROOT)?, self.certificate()?) else {
            return Ok(None);
        };
        let root = RootCertificate::from_pem(&root)
            .map_err(|source| Error::Root { path: self.path.join(ROOT), source })?;
        let file = self.key_file(lock)?;
        for key in file.keys {
            if let Ok(identity) = NodeIdentity::new(certificate.clone(), key) {
                return Ok(Some((identity, root)));
            }
        }
        Err(match file.sealed {
            None => Error::NoKey(self.path.join(KEY)),
            Some(Sealed::Locked) => Error::Locked,
            Some(Sealed::WrongUnlockKey) => Error::WrongUnlockKey,
        })
    }

    /// Replaces what is there. Blocks on the disk until everything is durable.
    pub fn save(&self, identity: &NodeIdentity, root: &RootCertificate) -> Result<(), Error> {
        let lock = self.lock();
        self.ensure()?;
        let old = self.key_file(&lock).map(|file| file.keys).unwrap_or_default();
        plan(identity, root, &old, &lock).iter().try_for_each(|step| self.apply(step))
    }

    /// Forgets the identity: the node has left its swarm.
    pub fn clear(&self) -> Result<(), Error> {
        *self.lock() = Lock::default();
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

    fn key_file(&self, lock: &Lock) -> Result<KeyFile, Error> {
        let text = Zeroizing::new(self.read(KEY)?.unwrap_or_default());
        let unusable = |source| Error::Key { path: self.path.join(KEY), source };
        KeyFile::read(&text, lock.key.as_ref()).map_err(unusable)
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
fn plan(identity: &NodeIdentity, root: &RootCertificate, old: &[PrivateKey], lock: &Lock) -> Vec<Step> {
    let public = |name, text: &str| Step { name, mode: PUBLIC, contents: Zeroizing::new(text.to_owned()) };
    let new = (identity.key(), lock.of(identity.subject().role));
    let old = old.iter().map(|key| (key, lock.key.as_ref()));
    let both: Vec<_> = std::iter::once(new).chain(old).collect();
    vec![
        public(ROOT, root.pem()),
        key_step(&both, lock.version),
        public(CERTIFICATE, identity.certificate().pem()),
        key_step(&[new], lock.version),
    ]
}

fn key_step(keys: &[(&PrivateKey, Option<&UnlockKey>)], version: u64) -> Step {
    Step { name: KEY, mode: PRIVATE, contents: key_file::write(keys, version) }
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
            self.identity_as(Role::Worker)
        }

        fn identity_as(&self, role: Role) -> NodeIdentity {
            let subject = Subject { node: "n".into(), role, cluster: "c".into() };
            self.ca.issue(&subject, Duration::from_secs(3600), SystemTime::now()).unwrap()
        }

        fn save(&self, identity: &NodeIdentity) {
            self.dir.save(identity, self.ca.certificate()).unwrap();
        }

        fn keys(&self) -> Vec<PrivateKey> {
            self.dir.key_file(&self.dir.lock()).unwrap().keys
        }

        /// The same files, as a process finds them that has just started.
        fn restarted(&self) -> CertificateDir {
            CertificateDir::new(self.root_dir.path())
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
            let old = fixture.keys();
            for step in plan(&next, fixture.ca.certificate(), &old, &Lock::default()).iter().take(steps) {
                fixture.dir.apply(step).unwrap();
            }
            let (loaded, _) = fixture.dir.load().unwrap().unwrap();
            assert_eq!(loaded, if steps < 3 { held } else { next }, "after {steps} steps");
            held = loaded;
        }
        let last = fixture.identity();
        fixture.save(&last);
        assert_eq!(fixture.keys(), [last.key().clone()]);
    }

    #[test]
    fn a_first_join_that_was_interrupted_counts_as_none() {
        let fixture = Fixture::new();
        fixture.dir.ensure().unwrap();
        for step in plan(&fixture.identity(), fixture.ca.certificate(), &[], &Lock::default()).iter().take(2)
        {
            fixture.dir.apply(step).unwrap();
            assert!(fixture.dir.load().unwrap().is_none());
        }
    }

    #[test]
    fn a_locked_managers_key_needs_the_unlock_key() {
        let fixture = Fixture::new();
        let (first, second) = (UnlockKey::generate(), UnlockKey::generate());
        let manager = fixture.identity_as(Role::Manager);
        fixture.save(&manager);
        fixture.dir.seal(Some(first.clone()), 5).unwrap();
        let text = fs::read_to_string(fixture.dir.path.join(KEY)).unwrap();
        assert!(!text.contains("BEGIN PRIVATE KEY") && !text.contains(manager.key().expose_pem()), "{text}");

        let restarted = fixture.restarted();
        assert!(matches!(restarted.load(), Err(Error::Locked)));
        assert_eq!(restarted.certificate().unwrap().unwrap(), *manager.certificate());
        assert!(matches!(restarted.unlock(&second), Err(Error::WrongUnlockKey)));
        assert!(matches!(restarted.load(), Err(Error::Locked)), "a wrong key changes nothing");
        restarted.unlock(&first).unwrap();
        assert_eq!(restarted.load().unwrap().unwrap().0, manager);
        assert_eq!(restarted.unlock_key().1, 5);

        restarted.seal(Some(second.clone()), 9).unwrap();
        let renewed = fixture.identity_as(Role::Manager);
        restarted.save(&renewed, fixture.ca.certificate()).unwrap();
        let again = fixture.restarted();
        assert!(matches!(again.unlock(&first), Err(Error::WrongUnlockKey)));
        again.unlock(&second).unwrap();
        assert_eq!(again.load().unwrap().unwrap().0, renewed);
        again.seal(None, 11).unwrap();
        let open = fixture.restarted();
        assert_eq!(open.load().unwrap().unwrap().0, renewed);
        assert_eq!(open.unlock_key().1, 11);
    }

    #[test]
    fn a_demoted_managers_key_is_open_whenever_it_is_interrupted() {
        let fixture = Fixture::new();
        let unlock = UnlockKey::generate();
        let (manager, worker) = (fixture.identity_as(Role::Manager), fixture.identity_as(Role::Worker));
        for steps in 0..=4 {
            fixture.dir.seal(None, 1).unwrap();
            fixture.save(&manager);
            fixture.dir.seal(Some(unlock.clone()), 1).unwrap();
            let lock = Lock { key: Some(unlock.clone()), version: 1 };
            let plan = plan(&worker, fixture.ca.certificate(), &[manager.key().clone()], &lock);
            plan.iter().take(steps).for_each(|step| fixture.dir.apply(step).unwrap());
            let found = fixture.restarted().load();
            match steps {
                0..3 => assert!(matches!(found, Err(Error::Locked)), "a manager is locked"),
                _ => assert_eq!(found.unwrap().unwrap().0, worker, "after {steps} steps"),
            }
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
