//! What all objects are made of.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proto::model::{Annotations, Driver, Meta};

/// Every value of an enum that the protocol has.
pub fn value<W, M>() -> impl Strategy<Value = M>
where
    W: TryFrom<i32> + Into<M>,
    M: Clone + Debug + 'static,
{
    select((0..1000).filter_map(|number| W::try_from(number).ok().map(Into::into)).collect::<Vec<M>>())
}

pub fn id<T: From<String> + Debug>() -> impl Strategy<Value = T> {
    "[a-z0-9]{1,25}".prop_map(T::from)
}

pub fn text() -> impl Strategy<Value = String> {
    "\\PC{0,8}"
}

pub fn few<T: Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    vec(one, 0..3)
}

pub fn map<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = BTreeMap<String, T>> {
    btree_map(text(), value, 0..3)
}

/// The wire has it as a signed number.
pub fn amount() -> impl Strategy<Value = u64> {
    0..=i64::MAX.unsigned_abs()
}

pub fn duration() -> impl Strategy<Value = Duration> {
    (0..315_576_000_000u64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

/// From the year 1 to 9999.
pub fn time() -> impl Strategy<Value = SystemTime> {
    (-62_135_596_800..=253_402_300_799i64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let at = if seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
        at + Duration::from_nanos(nanos.into())
    })
}

pub fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

pub fn net() -> impl Strategy<Value = IpNet> {
    let mask = |addr: IpAddr| (Just(addr), 0..=if addr.is_ipv4() { 32 } else { 128u8 });
    address().prop_flat_map(mask).prop_map(|(addr, mask)| IpNet::new(addr, mask).unwrap())
}

prop_compose! {
    pub fn meta()(version: u64, created_at in time(), updated_at in time()) -> Meta {
        Meta { version, created_at, updated_at }
    }
}

prop_compose! {
    pub fn annotations()(name in text(), labels in map(text())) -> Annotations {
        Annotations { name, labels }
    }
}

prop_compose! {
    pub fn driver()(name in text(), options in map(text())) -> Driver {
        Driver { name, options }
    }
}
