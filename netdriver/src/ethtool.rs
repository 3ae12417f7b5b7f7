//! Features of a device, by ethtool's netlink family. Blocking, in the namespace of the calling thread.
//!
//! Only one of them is of concern: whether the checksum of what is sent is left to the device below.

use nix::errno::Errno;

use crate::netlink::Refusal;
use crate::nfnetlink::{Attributes, Message, NfSocket, find, read};

/// Of linux/genetlink.h.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Of linux/ethtool_netlink.h.
const GET_FEATURES: u8 = 11;
const SET_FEATURES: u8 = 12;
const HEADER: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const DEVICE_NAME: u16 = 2;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// As `ethtool -k` prints it.
const CHECKSUM: &str = "tx-checksum-ip-generic";

pub struct Ethtool {
    socket: NfSocket,
    family: u16,
}

impl Ethtool {
    pub fn open() -> Result<Self, Refusal> {
        let mut socket = NfSocket::open_generic()?;
        let attributes = Attributes::default().text(FAMILY_NAME, "ethtool");
        let answer = socket.ask(&Message { kind: CONTROLLER, flags: 0, family: GET_FAMILY, attributes })?;
        let id = answer.first().and_then(|family| find(family, &[FAMILY_ID])?.try_into().ok());
        let family = u16::from_ne_bytes(id.ok_or_else(|| Refusal::of(Errno::EPROTO))?);
        Ok(Self { socket, family })
    }

    /// Whether the device leaves checksums of what it sends to the one below.
    pub fn leaves_checksum(&mut self, device: &str) -> Result<bool, Refusal> {
        let answer = self.ask(GET_FEATURES, header(device))?;
        let active = answer.first().and_then(|features| find(features, &[ACTIVE, BITS])).unwrap_or_default();
        let name =
            |bit: &[u8]| find(bit, &[BIT_NAME]).and_then(|name| name.strip_suffix(&[0])).map(<[u8]>::to_vec);
        Ok(read(active).any(|(_, bit)| name(bit).as_deref() == Some(CHECKSUM.as_bytes())))
    }

    pub fn leave_checksum(&mut self, device: &str, on: bool) -> Result<(), Refusal> {
        let bit = Attributes::default().text(BIT_NAME, CHECKSUM);
        let bit = if on { bit.bytes(BIT_VALUE, &[]) } else { bit };
        let bits = Attributes::default().nest(BIT, &bit);
        let wanted = Attributes::default().nest(BITS, &bits);
        self.ask(SET_FEATURES, header(device).nest(WANTED, &wanted)).map(drop)
    }

    fn ask(&mut self, command: u8, attributes: Attributes) -> Result<Vec<Vec<u8>>, Refusal> {
        self.socket.ask(&Message { kind: self.family, flags: 0, family: command, attributes })
    }
}

fn header(device: &str) -> Attributes {
    Attributes::default().nest(HEADER, &Attributes::default().text(DEVICE_NAME, device))
}
