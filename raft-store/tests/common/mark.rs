//! A seal that tells who has sealed something, and no more.

use zeroize::Zeroizing;

use super::Seal;

pub struct Mark(pub u8);

impl Seal for Mark {
    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        std::iter::once(self.0).chain(plaintext.iter().map(|byte| byte ^ self.0)).collect()
    }

    fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (mark, rest) = sealed.split_first()?;
        (*mark == self.0).then(|| Zeroizing::new(rest.iter().map(|byte| byte ^ mark).collect()))
    }
}
