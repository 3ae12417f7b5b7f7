//! Ids: one type an object, so that none can be taken for another.

use std::fmt;
use std::sync::Arc;

/// Digits of an id: 25 of base 36 hold 128 bits.
pub const ID_DIGITS: usize = 25;

/// Writes `bits` as an id: base 36, lower case, 25 digits.
pub fn encode(mut bits: u128) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = [b'0'; ID_DIGITS];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(bits % 36) as usize];
        bits /= 36;
    }
    text.iter().map(|digit| char::from(*digit)).collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id from 128 random bits.
            pub fn from_random(bits: u128) -> Self {
                Self(encode(bits).into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().into()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

ids! {
    ClusterId,
    KeyringId,
    NetworkId,
    NodeId,
    ServiceId,
    TaskId,
}

impl KeyringId {
    /// Of the keys of a network: the same characters.
    pub fn of(network: &NetworkId) -> Self {
        Self(network.0.clone())
    }
}

impl NetworkId {
    /// The network that the keys are of.
    pub fn of(keyring: &KeyringId) -> Self {
        Self(keyring.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_same_length_whatever_the_bits() {
        assert_eq!(encode(0), "0".repeat(ID_DIGITS));
        assert_eq!(encode(u128::MAX), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(encode(35), format!("{}z", "0".repeat(ID_DIGITS - 1)));
    }
}
