//! Packets that came to sandboxes with a wrong checksum, as the kernel counts them.
//!
//! The outer packet of a tunnel over IPv4 has none, so damage on the way, by a card that reckons checksums of what is in a
//! tunnel wrongly, shows where the inner packet arrives. It is dropped there, and nobody else notices.

use std::collections::BTreeMap;

use crate::desired::SandboxKey;
use crate::error::Error;
use crate::model::Place;
use crate::{Netdriver, netns, site};

/// By sandbox: how many since it was made. Sandboxes without one are left out.
pub type Corrupted = BTreeMap<SandboxKey, u64>;

impl Netdriver {
    /// Packets with a wrong checksum that reached each sandbox, over TCP and UDP.
    pub async fn corrupted(&self) -> Result<Corrupted, Error> {
        let mut corrupted = Corrupted::new();
        for place in site::list(&self.config.netns_dir)? {
            let Place::Sandbox(key) = &place else { continue };
            let Some(path) = site::path(&self.config, &place) else { continue };
            let failed = |cause| Error::file("reading checksum errors in", &path, cause);
            let Some(namespace) = netns::open(&path).map_err(failed)? else { continue };
            let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
            let table =
                netns::within(Some(&namespace), read).await.and_then(|table| table).map_err(failed)?;
            corrupted
                .extend(Some(count(&table)).filter(|count| *count > 0).map(|count| (key.clone(), count)));
        }
        Ok(corrupted)
    }
}

/// The sum of what `Tcp:` and `Udp:` say of `InCsumErrors`; of each, a line with names and one with numbers.
fn count(table: &str) -> u64 {
    let of = |protocol: &str| {
        let mut lines = table.lines().filter_map(|line| line.strip_prefix(protocol));
        let (names, numbers) = (lines.next()?, lines.next()?);
        let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
        pairs.find(|(name, _)| *name == "InCsumErrors")?.1.parse::<u64>().ok()
    };
    ["Tcp:", "Udp:"].into_iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_both_protocols_are_added() {
        let table = "Ip: Forwarding\nIp: 2\nTcp: RtoMin InCsumErrors\nTcp: 200 3\nUdp: InDatagrams InCsumErrors\n\
                     Udp: 9 4\nUdpLite: InDatagrams InCsumErrors\nUdpLite: 0 100\n";
        assert_eq!(count(table), 7);
        assert_eq!(count(""), 0);
    }
}
