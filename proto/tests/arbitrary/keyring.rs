use std::time::{Duration, SystemTime};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proto::model::*;

use super::part::{id, meta};

prop_compose! {
    pub fn keyring()(
        id in id(),
        meta in meta(),
        secrets in vec(any::<[u8; SECRET_BYTES]>(), 1..3),
        first in 1..1000u64,
        (epoch, wanted, roster, settled) in any::<(u64, u64, u64, u64)>(),
        since in 0..4_000_000_000u64,
        members in btree_map(id(), member(), 0..4),
    ) -> Keyring {
        let keys = secrets.into_iter().zip(first..);
        let keys = keys.map(|(secret, generation)| NetworkKey { generation, secret: Sensitive::new(secret.to_vec()) });
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
        Keyring { id, meta, keys: keys.collect(), sending: first, epoch, since, wanted, members, roster, settled }
    }
}

prop_compose! {
    fn member()(
        incarnation: [u8; INCARNATION_BYTES],
        [confirmed, since, receives, sends, held]: [u64; 5],
    ) -> KeyringMember {
        KeyringMember { incarnation, confirmed, since, receives, sends, held }
    }
}
