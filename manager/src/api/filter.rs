//! Filters of the lists: an object must match every filter that is set; within a filter, one of its values.

use std::collections::BTreeMap;

/// The filters that every list has.
pub struct Common<'a> {
    pub names: &'a [String],
    pub id_prefixes: &'a [String],
    pub labels: &'a BTreeMap<String, String>,
    pub name_prefixes: &'a [String],
}

impl Common<'_> {
    pub fn admit(&self, id: &str, name: &str, labels: &BTreeMap<String, String>) -> bool {
        any(self.names, |wanted| wanted == name)
            && any(self.id_prefixes, |prefix| id.starts_with(prefix.as_str()))
            && any(self.name_prefixes, |prefix| name.starts_with(prefix.as_str()))
            && labelled(self.labels, labels)
    }
}

/// A filter without values admits everything.
pub fn any<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

/// Each label must be there; with the given value, unless that is empty.
pub fn labelled(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key).is_some_and(|has| value.is_empty() || has == value))
}

macro_rules! common {
    ($filters:expr) => {
        $crate::api::filter::Common {
            names: &$filters.names,
            id_prefixes: &$filters.id_prefixes,
            labels: &$filters.labels,
            name_prefixes: &$filters.name_prefixes,
        }
    };
}
pub(super) use common;

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_filter_must_match() {
        let (names, prefixes) = (["web".to_owned(), "db".to_owned()], ["ab".to_owned()]);
        let wanted = labels(&[("tier", ""), ("zone", "east")]);
        let filter = Common { names: &names, id_prefixes: &prefixes, labels: &wanted, name_prefixes: &[] };
        let has = labels(&[("tier", "front"), ("zone", "east")]);
        assert!(filter.admit("abc", "db", &has));
        assert!(!filter.admit("xbc", "db", &has));
        assert!(!filter.admit("abc", "cache", &has));
        assert!(!filter.admit("abc", "db", &labels(&[("tier", "front"), ("zone", "west")])));
        assert!(!filter.admit("abc", "db", &labels(&[("zone", "east")])));
    }
}
