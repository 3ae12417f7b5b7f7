//! Reads what the kernel answers on a netlink socket, message by message.

use nix::errno::Errno;

use super::{Refusal, ext_ack};

/// Of linux/netlink.h.
pub const NLMSG_ERROR: u16 = 2;
/// `struct nlmsghdr`.
pub const HEADER_BYTES: usize = 16;
/// More than the kernel puts into one datagram.
pub const RECEIVE_BYTES: usize = 128 << 10;

pub struct Answer {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Behind the header.
    pub body: Vec<u8>,
}

impl Answer {
    /// What a message of kind [`NLMSG_ERROR`] says.
    pub fn verdict(&self) -> Result<(), Refusal> {
        let code = self.body.first_chunk().map_or(-(Errno::EPROTO as i32), |code| i32::from_ne_bytes(*code));
        if code == 0 {
            return Ok(());
        }
        let text = self.body.get(4..).and_then(ext_ack);
        Err(Refusal::Kernel { errno: Errno::from_raw(code.abs()), text })
    }
}

pub fn answers(datagram: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = rest.get(HEADER_BYTES..length) else { break };
        answers.push(Answer {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body: body.to_vec(),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}
