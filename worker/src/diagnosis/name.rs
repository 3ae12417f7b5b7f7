//! Asks a task's name server as the task would: by a socket in its namespace, at 127.0.0.11:53.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use netdriver::SandboxKey;
use tokio::time::timeout;

use crate::dns;
use crate::network::Kernel;

const DNS_PORT: u16 = 53;
/// A little more than what is allowed to servers that are asked in turn.
const PATIENCE: Duration = Duration::from_millis(4700);
const MOST_BYTES: usize = 4096;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// As DNS names it; empty: there was none.
    pub code: String,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
}

pub async fn ask(kernel: &dyn Kernel, sandbox: &SandboxKey, name: &str) -> Reply {
    let kinds = [RecordType::A, RecordType::AAAA];
    let [first, second] = kinds.map(|kind| ask_for(kernel, sandbox, name, kind));
    let (first, second) = tokio::join!(first, second);
    let addresses = [&first, &second].into_iter().flatten().flat_map(|reply| &reply.addresses);
    let addresses = addresses.copied().collect();
    let code = first.or(second).map(|reply| reply.code).unwrap_or_default();
    Reply { code, addresses }
}

async fn ask_for(kernel: &dyn Kernel, sandbox: &SandboxKey, name: &str, kind: RecordType) -> Option<Reply> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).ok()?;
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries = vec![Query::query(name, kind)];
    let id = message.metadata.id;
    let question = message.to_vec().ok()?;
    let socket = kernel.udp_towards(sandbox, (dns::ADDRESS, DNS_PORT).into()).await.ok()?;
    let exchange = async {
        socket.send(&question).await.ok()?;
        let mut buffer = vec![0; MOST_BYTES];
        loop {
            let length = socket.recv(&mut buffer).await.ok()?;
            let reply = read(&buffer[..length], id);
            if reply.is_some() {
                return reply;
            }
        }
    };
    timeout(PATIENCE, exchange).await.ok().flatten()
}

fn read(reply: &[u8], id: u16) -> Option<Reply> {
    let message = Message::from_vec(reply).ok().filter(|message| message.metadata.id == id)?;
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    Some(Reply { code: code(message.metadata.response_code).to_owned(), addresses: addresses.collect() })
}

/// The names of RFC 2929.
fn code(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        _ => "another error",
    }
}
