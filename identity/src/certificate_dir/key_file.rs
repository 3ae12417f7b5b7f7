//! What `swarm-node.key` looks like: private keys in PEM, each sealed or not.
//!
//! A first line may say at which version of the cluster object it was decided what seals them: a replica that is
//! still catching up must not seal with a key that was replaced since.

use proto::model::Role;
use zeroize::Zeroizing;

use crate::{PrivateKey, UnlockKey, private_key};

const SEALED: &str = "SEALED PRIVATE KEY";
const VERSION: &str = "Unlock-Key-Version: ";
const PURPOSE: &[u8] = b"swarm-node.key";

/// Why a key of the file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    Locked,
    WrongUnlockKey,
}

/// What seals the keys, if anything does.
#[derive(Debug, Default)]
pub(super) struct Lock {
    pub(super) key: Option<UnlockKey>,
    pub(super) version: u64,
}

impl Lock {
    /// A worker has nothing to lock, and must start by itself.
    pub(super) fn of(&self, role: Role) -> Option<&UnlockKey> {
        self.key.as_ref().filter(|_| role == Role::Manager)
    }
}

#[derive(Debug, Default)]
pub(super) struct KeyFile {
    pub(super) keys: Vec<PrivateKey>,
    pub(super) version: u64,
    /// There are keys besides that this unlock key does not open.
    pub(super) sealed: Option<Sealed>,
}

impl KeyFile {
    pub(super) fn read(text: &str, unlock: Option<&UnlockKey>) -> Result<Self, private_key::Error> {
        let version = text.lines().find_map(|line| line.strip_prefix(VERSION)?.trim().parse().ok());
        let mut file = Self { version: version.unwrap_or_default(), ..Self::default() };
        for block in blocks(text) {
            match open(block, unlock) {
                Ok(pem) => file.keys.push(PrivateKey::from_pem(&pem)?),
                Err(sealed) => file.sealed = Some(sealed),
            }
        }
        Ok(file)
    }
}

fn open(block: &str, unlock: Option<&UnlockKey>) -> Result<Zeroizing<String>, Sealed> {
    let sealed = pem::parse(block).ok().filter(|block| block.tag() == SEALED);
    let Some(sealed) = sealed else { return Ok(Zeroizing::new(block.to_owned())) };
    let unlock = unlock.ok_or(Sealed::Locked)?;
    let opened = unlock.open(PURPOSE, sealed.contents()).ok_or(Sealed::WrongUnlockKey)?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&opened).into_owned()))
}

/// What lies between the ends of PEM blocks.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest
            .find("-----END ")
            .map_or(rest.len(), |end| rest[end..].find('\n').map_or(rest.len(), |line| end + line + 1));
        let (block, more) = rest.split_at(end);
        rest = more;
        let block = block.find("-----BEGIN ").map_or(block, |begin| &block[begin..]);
        (!block.trim().is_empty()).then_some(block)
    })
}

/// The keys, each with what seals it.
pub(super) fn write(keys: &[(&PrivateKey, Option<&UnlockKey>)], version: u64) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if version > 0 {
        text.push_str(&format!("{VERSION}{version}\n"));
    }
    for (key, seal) in keys {
        match seal {
            None => text.push_str(key.expose_pem()),
            Some(unlock) => text.push_str(&sealed(key, unlock)),
        }
    }
    text
}

fn sealed(key: &PrivateKey, unlock: &UnlockKey) -> String {
    let sealed = unlock.seal(PURPOSE, key.expose_pem().as_bytes());
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(SEALED, sealed), config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let unlock = UnlockKey::generate();
        let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        for (seal, version) in [(None, 0), (Some(&unlock), 0), (Some(&unlock), 12), (None, 12)] {
            let text = write(&keys.each_ref().map(|key| (key, seal)), version);
            let file = KeyFile::read(&text, seal).unwrap();
            assert_eq!((file.keys.as_slice(), file.version), (&keys[..], version));
            assert_eq!(file.sealed, None);
            assert_eq!(text.contains("BEGIN PRIVATE KEY"), seal.is_none());
        }
        assert!(KeyFile::read("", None).unwrap().keys.is_empty());
    }

    #[test]
    fn a_sealed_key_needs_its_own_unlock_key() {
        let (open, sealed) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let text = write(&[(&open, None), (&sealed, Some(&UnlockKey::generate()))], 0);
        let file = KeyFile::read(&text, None).unwrap();
        assert_eq!((file.keys.as_slice(), file.sealed), (&[open.clone()][..], Some(Sealed::Locked)));
        let file = KeyFile::read(&text, Some(&UnlockKey::generate())).unwrap();
        assert_eq!((file.keys.as_slice(), file.sealed), (&[open][..], Some(Sealed::WrongUnlockKey)));
        assert!(KeyFile::read("rubbish", None).is_err());
    }
}
