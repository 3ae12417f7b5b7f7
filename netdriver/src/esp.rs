//! What encrypts a network: its keys, who takes part, and what every security association derives from them. Pure.
//!
//! ESP (RFC 4303) in transport mode over the VXLAN packets, AES-GCM (RFC 4106) with a 128-bit key and a 128-bit ICV.
//! Each direction of each pair of nodes has keys of its own: HKDF (RFC 5869) over the network's secret, the VNI, both
//! VTEPs and both incarnations. An incarnation is drawn at every start of a node, so an association that is made again
//! never has the key of an earlier one: no nonce repeats, and no replay window refuses what is new.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ring::hkdf;
use zeroize::Zeroizing;

pub const SECRET_BYTES: usize = 32;
/// AES-128 key, then the salt of the nonce (RFC 4106, section 8.1).
pub const MATERIAL_BYTES: usize = 16 + 4;
const SPI_BYTES: usize = 4;

/// Separates these keys from all others that may ever be derived from a secret.
const LABEL: &[u8] = b"swarmd esp rfc4106(gcm(aes)) 1";

/// SPIs up to 255 are reserved (RFC 4303, section 2.1).
const FIRST_SPI: u32 = 256;

/// Bytes that ESP puts around a payload: SPI and sequence number 8, IV 8, pad length and next header 2, ICV 16.
const HEADER: u32 = 16;
const TRAILER: u32 = 2;
const ICV: u32 = 16;
/// The payload with its trailer is a multiple of this (RFC 4303, section 2.4).
const ALIGNMENT: u32 = 4;

/// How a network is encrypted, as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// By generation. Packets under any of them are received.
    pub keys: BTreeMap<u64, Secret>,
    /// The generation that is sent with; one of `keys`.
    pub sending: u64,
    /// This node's own.
    pub incarnation: Incarnation,
    /// Nodes with endpoints on the network, by VTEP; this node may be among them.
    pub peers: BTreeMap<IpAddr, Counterpart>,
}

/// The other end of associations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counterpart {
    pub incarnation: Incarnation,
    pub handover: Handover,
}

impl Encryption {
    /// Refused as invalid, and so never made.
    pub fn without_keys() -> Self {
        Self { keys: BTreeMap::new(), sending: 0, incarnation: Incarnation([0; 16]), peers: BTreeMap::new() }
    }
}

/// What becomes of associations with a peer that are of an earlier incarnation of it or of this node: each side must
/// receive on the new ones before the other sends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Send on the old one where there is one.
    Receive,
    /// Send on the new one, receive on both.
    Send,
    /// Remove the old one.
    Done,
}

/// A network's secret, of one generation.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Drawn at random at every start of a node. Not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let digits =
            Some(text).filter(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()));
        digits.and_then(|text| u128::from_str_radix(text, 16).ok()).map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Key and salt of one association.
#[derive(Clone, PartialEq, Eq)]
pub struct Material(Zeroizing<[u8; MATERIAL_BYTES]>);

impl Material {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; MATERIAL_BYTES]>::try_from(bytes).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub fn expose(&self) -> &[u8] {
        &self.0[..]
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One end of an association: where it is and which start of the node it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub vtep: IpAddr,
    pub incarnation: Incarnation,
}

/// The SPI and the keys with which `sender` sends to `receiver`.
///
/// SPIs are as good as random, so two of one receiver may be equal; whoever sees that draws another incarnation.
pub fn derive(secret: &Secret, vni: u32, sender: End, receiver: End) -> (u32, Material) {
    let mut info = vni.to_be_bytes().to_vec();
    for end in [sender, receiver] {
        // The family tells the length, so no two pairs of ends read the same.
        match end.vtep {
            IpAddr::V4(v4) => info.extend([&[4][..], &v4.octets()].concat()),
            IpAddr::V6(v6) => info.extend([&[6][..], &v6.octets()].concat()),
        }
        info.extend(end.incarnation.0);
    }
    let mut output = Zeroizing::new([0; MATERIAL_BYTES + SPI_BYTES]);
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL).extract(&secret.0[..]);
    let info = [info.as_slice()];
    let expanded = key.expand(&info, Length(output.len())).and_then(|okm| okm.fill(&mut output[..]));
    expanded.expect("24 bytes are less than the 8160 that HKDF can give");
    let (material, spi) = output.split_at(MATERIAL_BYTES);
    let spi = spi.iter().fold(0, |spi, byte| spi << 8 | u32::from(*byte));
    let spi = if spi < FIRST_SPI { spi + FIRST_SPI } else { spi };
    (spi, Material::read(material).expect("it was split off with that length"))
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Bytes of the largest payload that fits into `room` bytes after the outer IP header.
pub fn largest_payload(room: u32) -> u32 {
    let padded = room.saturating_sub(HEADER + ICV);
    (padded - padded % ALIGNMENT).saturating_sub(TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(vtep: &str, incarnation: u8) -> End {
        End { vtep: vtep.parse().unwrap(), incarnation: Incarnation([incarnation; 16]) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Worked out by another implementation of HKDF. They must never change: nodes of two releases share networks.
    #[test]
    fn derived_keys_never_change() {
        let secret = Secret::new(std::array::from_fn(|i| i as u8));
        let (spi, material) = derive(&secret, 4097, end("192.0.2.1", 0x11), end("192.0.2.2", 0x22));
        assert_eq!((spi, hex(material.expose()).as_str()), VECTOR_V4);
        let (spi, material) = derive(&secret, 4097, end("2001:db8::1", 0x11), end("2001:db8::2", 0x22));
        assert_eq!((spi, hex(material.expose()).as_str()), VECTOR_V6);
    }

    const VECTOR_V4: (u32, &str) = (0xc684dcee, "1a4b4043d596db0c459806babb5c0bb45cc502e1");
    const VECTOR_V6: (u32, &str) = (0x0464fe46, "45efccf5716a7424c401bc94b88a369dcfb416ea");

    #[test]
    fn whatever_differs_gives_another_key() {
        let (one, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let (a, b) = (end("192.0.2.1", 1), end("192.0.2.2", 2));
        let all = [
            derive(&one, 7, a, b),
            derive(&one, 7, b, a),
            derive(&one, 8, a, b),
            derive(&other, 7, a, b),
            derive(&one, 7, end("192.0.2.1", 3), b),
            derive(&one, 7, a, end("192.0.2.2", 3)),
            derive(&one, 7, end("192.0.2.3", 1), b),
        ];
        for (i, (spi, material)) in all.iter().enumerate() {
            assert!(*spi >= FIRST_SPI);
            assert!(all[i + 1..].iter().all(|(_, other)| other != material), "{i}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new([0xab; 32]);
        let (_, material) = derive(&secret, 7, end("192.0.2.1", 1), end("192.0.2.2", 2));
        assert_eq!(format!("{secret:?} {material:?}"), "[redacted] [redacted]");
    }

    #[test]
    fn incarnations_are_read_as_they_are_written() {
        let incarnation = Incarnation(std::array::from_fn(|i| i as u8));
        assert_eq!(incarnation.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(Incarnation::parse(&incarnation.to_string()), Some(incarnation));
        for bad in ["", "00", "+00102030405060708090a0b0c0d0e0f", "g00102030405060708090a0b0c0d0e0f"] {
            assert_eq!(Incarnation::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_payload_is_padded_to_words() {
        assert_eq!(largest_payload(1480), 1446);
        assert_eq!(
            (1476..1484).map(largest_payload).collect::<Vec<_>>(),
            [1442, 1442, 1442, 1442, 1446, 1446, 1446, 1446]
        );
        assert_eq!(largest_payload(10), 0);
    }
}
