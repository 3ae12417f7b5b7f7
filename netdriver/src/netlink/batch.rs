//! Many changes in few datagrams, each with a verdict of its own.
//!
//! The kernel works a datagram off while it is being sent and answers to those messages only that ask for it or fail.
//! So one round to the kernel makes about a thousand entries, where a message each costs a round for every one.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_ACK, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use nix::sys::socket::{setsockopt, sockopt};

use super::answer::{NLMSG_ERROR, RECEIVE_BYTES, answers};
use super::{Mode, Refusal};

/// Messages in a datagram: were all refused, their answers must fit into the socket's buffer.
const MESSAGES: usize = 1024;
const BUFFER_BYTES: usize = 4 << 20;

/// Sends changes in their order from the namespace of the calling thread. Blocks, for about 2 µs a change. The verdicts
/// are in the order of the changes; an error means that nobody knows which of them were made.
pub fn send(changes: Vec<(RouteNetlinkMessage, Mode)>) -> io::Result<Vec<Result<(), Refusal>>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &BUFFER_BYTES)?;
    let mut verdicts: Vec<Result<(), Refusal>> = changes.iter().map(|_| Ok(())).collect();
    let mut changes = changes.into_iter().enumerate().peekable();
    while changes.peek().is_some() {
        let mut datagram = Vec::new();
        let mut last = 0;
        for (number, (message, mode)) in changes.by_ref().take(MESSAGES) {
            last = number;
            encode(&mut datagram, message, mode, number);
        }
        ask_for_answer(&mut datagram);
        socket.send(&datagram, 0)?;
        hear(&socket, last, &mut verdicts)?;
    }
    Ok(verdicts)
}

fn encode(datagram: &mut Vec<u8>, message: RouteNetlinkMessage, mode: Mode, number: usize) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = mode.flags() & !NLM_F_ACK;
    message.header.sequence_number = u32::try_from(number).expect("a batch has fewer changes than 2^32");
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

/// Sets the flag in the last message, whose answer then tells that all are done.
fn ask_for_answer(datagram: &mut [u8]) {
    let mut start = 0;
    loop {
        let Some(length) = datagram.get(start..).and_then(<[u8]>::first_chunk).copied() else { return };
        let next = start + (u32::from_ne_bytes(length) as usize).next_multiple_of(4);
        if next >= datagram.len() {
            break;
        }
        start = next;
    }
    let flags = &mut datagram[start + 6..start + 8];
    let asking = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
    flags.copy_from_slice(&asking.to_ne_bytes());
}

/// Takes the answers up to that of the change `last`.
fn hear(socket: &Socket, last: usize, verdicts: &mut [Result<(), Refusal>]) -> io::Result<()> {
    loop {
        let mut datagram = Vec::with_capacity(RECEIVE_BYTES);
        match socket.recv(&mut datagram, MSG_DONTWAIT) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Errno::EPROTO.into()),
            received => received?,
        };
        for answer in answers(&datagram).iter().filter(|answer| answer.kind == NLMSG_ERROR) {
            let number = answer.sequence as usize;
            if let Some(verdict) = verdicts.get_mut(number) {
                *verdict = answer.verdict();
            }
            if number == last {
                return Ok(());
            }
        }
    }
}
