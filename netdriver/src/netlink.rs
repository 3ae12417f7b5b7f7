//! A netlink socket in one namespace, and what the kernel answers.
//!
//! A socket stays in the namespace in which it was opened, whichever thread uses it, and keeps that namespace alive: so
//! sockets are opened for one piece of work and closed after it. It costs a short-lived thread, about 0.1 ms.

pub mod answer;
pub mod batch;

use std::fmt;
use std::fs::File;
use std::io;

use futures_util::{Stream, StreamExt};
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use nix::errno::Errno;
use tokio::task::JoinSet;

use crate::netns;

pub struct Netlink {
    handle: rtnetlink::Handle,
    /// Polls the socket; aborted, and the socket closed, when this is dropped.
    _driver: JoinSet<()>,
}

/// What a request does if the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Makes it; refuses if it exists.
    Create,
    /// Makes or replaces it.
    Replace,
    /// Changes or deletes it; refuses if it is missing.
    Change,
}

impl Mode {
    fn flags(self) -> u16 {
        NLM_F_REQUEST
            | NLM_F_ACK
            | match self {
                Self::Create => NLM_F_CREATE | NLM_F_EXCL,
                Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                Self::Change => 0,
            }
    }
}

impl Netlink {
    /// Opens a socket in `namespace`, or in the process's own.
    pub async fn open(namespace: Option<&File>) -> io::Result<Self> {
        let (mut connection, handle, _) = match namespace {
            Some(file) => netns::within(Some(file), rtnetlink::new_connection).await??,
            None => rtnetlink::new_connection()?,
        };
        let socket = connection.socket_mut().socket_mut();
        // Errors then carry a text and not the whole request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { handle, _driver: driver })
    }

    /// Sends a change and waits for the kernel's verdict.
    pub async fn apply(&self, message: RouteNetlinkMessage, mode: Mode) -> Result<(), Refusal> {
        self.exchange(message, mode.flags()).await.map(|_| ())
    }

    /// Asks for one object.
    pub async fn get(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        self.exchange(message, NLM_F_REQUEST).await
    }

    /// Asks for all objects. One dump at a time on a socket: the kernel refuses a second.
    pub async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP).await
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut handle = self.handle.clone();
        collect(handle.request(request).map_err(|_| Refusal::Closed)?).await
    }
}

/// The answers to one request, of whichever family.
pub async fn collect<M>(answers: impl Stream<Item = NetlinkMessage<M>>) -> Result<Vec<M>, Refusal> {
    let mut answers = std::pin::pin!(answers);
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => found.push(message),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(Refusal::from(&error)),
            _ => {}
        }
    }
    Ok(found)
}

/// Why the kernel refused a request.
#[derive(Debug)]
pub enum Refusal {
    Kernel {
        errno: Errno,
        text: Option<String>,
    },
    /// A namespace could not be entered or a socket not be opened.
    Io(io::Error),
    Closed,
}

impl Refusal {
    /// What the kernel would say, said before it is asked.
    pub fn of(errno: Errno) -> Self {
        Self::Kernel { errno, text: None }
    }

    /// The same, for another who was refused with it.
    pub fn again(&self) -> Self {
        match self {
            Self::Kernel { errno, text } => Self::Kernel { errno: *errno, text: text.clone() },
            Self::Io(error) => {
                let same = error.raw_os_error().map(io::Error::from_raw_os_error);
                Self::Io(same.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string())))
            }
            Self::Closed => Self::Closed,
        }
    }

    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Io(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Closed => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { errno, text: Some(text) } => write!(f, "{text} ({})", errno.desc()),
            Self::Kernel { errno, text: None } => f.write_str(errno.desc()),
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the netlink socket was closed"),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&ErrorMessage> for Refusal {
    fn from(error: &ErrorMessage) -> Self {
        Self::Kernel { errno: Errno::from_raw(error.raw_code().abs()), text: ext_ack(&error.header) }
    }
}

/// The text of an extended acknowledgement: an attribute (NLMSGERR_ATTR_MSG) after the request's 16-byte header.
pub fn ext_ack(header: &[u8]) -> Option<String> {
    const TEXT: u16 = 1;
    let mut rest = header.get(16..)?;
    while let [l0, l1, k0, k1, ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let kind = u16::from_ne_bytes([*k0, *k1]) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == TEXT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_text_among_the_attributes() {
        let mut header = vec![0; 16];
        header.extend([8, 0, 2, 0, 9, 9, 9, 9]);
        header.extend([9, 0, 1, 0, b'b', b'u', b's', b'y', 0, 0, 0, 0]);
        assert_eq!(ext_ack(&header).as_deref(), Some("busy"));
        assert_eq!(ext_ack(&header[..24]), None);
        assert_eq!(ext_ack(&[0; 18]), None);
    }
}
