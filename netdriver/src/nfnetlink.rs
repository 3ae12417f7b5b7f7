//! Speaks to the kernel's packet filter (nf_tables) and connection tracking over netlink.
//!
//! Messages are written and read here and not by the `nft` program, because what they say changes with every task: a
//! run of the program costs about 5 ms of processor time, a message 0.1 ms. What is said is up to the callers.
//!
//! A socket belongs to the namespace of the thread that opened it. It blocks, and is used by the short-lived threads
//! of `netns::within` only: the kernel answers while the request is being sent, so nobody ever waits on it.

mod attributes;

pub use attributes::{Attributes, find, list, number, read};

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use nix::sys::socket::{setsockopt, sockopt};

use crate::netlink::Refusal;
use crate::netlink::answer::{Answer, HEADER_BYTES, NLMSG_ERROR, RECEIVE_BYTES, answers};

/// Of linux/netlink.h.
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nfgenmsg`.
const FAMILY_BYTES: usize = 4;

/// Of linux/netfilter/nfnetlink.h.
pub const NF_TABLES: u16 = 10 << 8;
pub const CONNTRACK: u16 = 1 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;

/// Room for a transaction that names every backend of thousands of services.
const SEND_BYTES: usize = 64 << 20;

/// One request.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub family: u8,
    pub attributes: Attributes,
}

pub struct NfSocket {
    socket: Socket,
    sequence: u32,
}

impl NfSocket {
    /// Opens one in the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Self::of(NETLINK_NETFILTER)
    }

    /// For the generic families, whose header has the same shape: a command where this one has an address family.
    pub fn open_generic() -> io::Result<Self> {
        Self::of(NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        setsockopt(&socket.as_fd(), sockopt::SndBufForce, &SEND_BYTES)?;
        setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &SEND_BYTES)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request; the attributes of each object in the answer.
    pub fn ask(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, Refusal> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        encode(&mut bytes, message, NLM_F_REQUEST, self.sequence, 0);
        self.socket.send(&bytes, 0)?;
        let is_dump = message.flags & NLM_F_DUMP == NLM_F_DUMP;
        let is_told = message.flags & NLM_F_ACK == 0;
        let mut found = Vec::new();
        loop {
            for answer in self.receive(0)? {
                if answer.flags & NLM_F_DUMP_INTR != 0 {
                    return Err(Refusal::of(Errno::EINTR));
                }
                match answer.kind {
                    NLMSG_ERROR => return answer.verdict().map(|()| found),
                    NLMSG_DONE => return Ok(found),
                    _ => found.extend(answer.body.get(FAMILY_BYTES..).map(<[u8]>::to_vec)),
                }
            }
            if !is_dump && is_told {
                return Ok(found);
            }
        }
    }

    /// Sends changes to nf_tables as one transaction: all of them or none.
    ///
    /// With `generation`, only if nobody has changed anything in this namespace since it was read (ERESTART).
    pub fn transact(&mut self, generation: Option<u32>, messages: &[Message]) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        let begin = match generation {
            Some(generation) => Attributes::default().be32(BATCH_GENID, generation),
            None => Attributes::default(),
        };
        self.encode_batch(&mut bytes, BATCH_BEGIN, begin);
        for (i, message) in messages.iter().enumerate() {
            self.sequence += 1;
            // The kernel answers to those that fail, and to the last.
            let ack = if i + 1 == messages.len() { NLM_F_ACK } else { 0 };
            encode(&mut bytes, message, NLM_F_REQUEST | ack, self.sequence, 0);
        }
        let last = self.sequence;
        self.encode_batch(&mut bytes, BATCH_END, Attributes::default());
        self.socket.send(&bytes, 0)?;
        self.verdict_of_batch(last)
    }

    /// A failure is told of the message or of the batch as a whole.
    fn verdict_of_batch(&self, last: u32) -> Result<(), Refusal> {
        let (mut done, mut refusal) = (false, None);
        loop {
            let answers = match self.receive(MSG_DONTWAIT) {
                Err(Refusal::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                answers => answers?,
            };
            for answer in answers.iter().filter(|answer| answer.kind == NLMSG_ERROR) {
                match answer.verdict() {
                    Ok(()) => done |= answer.sequence == last,
                    Err(why) => _ = refusal.get_or_insert(why),
                }
            }
        }
        match refusal {
            Some(why) => Err(why),
            None if done => Ok(()),
            None => Err(Refusal::of(Errno::EPROTO)),
        }
    }

    fn encode_batch(&mut self, bytes: &mut Vec<u8>, kind: u16, attributes: Attributes) {
        self.sequence += 1;
        let message = Message { kind, flags: 0, family: 0, attributes };
        encode(bytes, &message, NLM_F_REQUEST, self.sequence, NF_TABLES >> 8);
    }

    fn receive(&self, flags: i32) -> Result<Vec<Answer>, Refusal> {
        let mut datagram = Vec::with_capacity(RECEIVE_BYTES);
        self.socket.recv(&mut datagram, flags)?;
        Ok(answers(&datagram))
    }
}

fn encode(bytes: &mut Vec<u8>, message: &Message, flags: u16, sequence: u32, resource: u16) {
    let attributes = message.attributes.as_bytes();
    let length = u32::try_from(HEADER_BYTES + FAMILY_BYTES + attributes.len());
    let length = length.expect("a message is no longer than a few attributes of 64 KiB");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(message.kind.to_ne_bytes());
    bytes.extend((message.flags | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel's answers go to this socket.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([message.family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
}
