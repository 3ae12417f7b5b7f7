//! What this kernel can do for encrypted networks. Asked once, in a namespace that is gone afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

use crate::driver::encryption::{self, Shielded};
use crate::error::Error;
use crate::esp::{self, End, Incarnation, Secret};
use crate::netns;
use crate::nft;
use crate::xfrm::{Association, AssociationId, Xfrm};

/// What a kernel lacks, in words for the user; empty if it has all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacks(Vec<String>);

impl Lacks {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// What of encryption is missing here.
pub async fn probe() -> Lacks {
    let scratch = match netns::scratch().await {
        Ok(scratch) => scratch,
        Err(error) => return Lacks(vec![format!("a namespace to try it in ({error})")]),
    };
    let mut lacks = match Xfrm::open(Some(&scratch)).await {
        Err(_) => vec!["IPsec (XFRM)".to_owned()],
        Ok(xfrm) => probe_esp(&xfrm).await,
    };
    let script = encryption::rules(&Shielded::from([(1, 4789)]));
    if let Err(Error::Nft(reason)) = nft::run(Some(&scratch), script).await {
        lacks.push(format!("nftables rules for IPsec ({reason})"));
    }
    lacks.sort();
    Lacks(lacks)
}

async fn probe_esp(xfrm: &Xfrm) -> Vec<String> {
    let [one, other] = [1, 2].map(|host| IpAddr::from(Ipv4Addr::new(192, 0, 2, host)));
    let end = |vtep| End { vtep, incarnation: Incarnation([0; 16]) };
    let (spi, material) = esp::derive(&Secret::new([0; 32]), 1, end(one), end(other));
    let id = AssociationId { destination: other, spi };
    let association = Association { id, source: one, vni: 1, port: Some(4789), material: Some(material) };
    let Err(refusal) = xfrm.add(&association).await else { return Vec::new() };
    let mut lacks = Vec::new();
    // The algorithm is looked for first, so its absence would hide that of ESP.
    if let Err(plain) = xfrm.try_plain_esp((one, other)).await
        && plain.errno() != Some(Errno::EEXIST)
    {
        lacks.push("ESP".to_owned());
    }
    match refusal.errno() {
        Some(Errno::ENOSYS | Errno::ENOENT) => lacks.push("AES-GCM (rfc4106)".to_owned()),
        _ if lacks.is_empty() => lacks.push(format!("ESP with AES-GCM ({refusal})")),
        _ => {}
    }
    lacks
}
