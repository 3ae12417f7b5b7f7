//! From a question to its reply: what is answered here, with which code, and how much of it.
//!
//! Pure. Decides what is to be asked elsewhere, not where; what names mean is decided in `names`.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::names::{Pointer, View};

/// Seconds. Whatever is told may be wrong in the next moment, and asking again costs next to nothing.
const TTL: u32 = 0;
/// Bytes of a header, RFC 1035 section 4.1.1.
pub const HEADER: usize = 12;
/// Most bytes over UDP, whatever the client says it can take.
const MOST_UDP: u16 = 4096;
/// Bytes of an OPT record without options, RFC 6891 section 6.1.2.
const OPT: usize = 11;
/// Bytes of a record beside its name and data, RFC 1035 section 3.2.1.
const FIXED: usize = 10;
/// Records whose name the encoder surely writes as a pointer, which takes two bytes; it stops at 120 names.
const COMPRESSED: usize = 118;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Reply(Vec<u8>),
    /// Others may know.
    Forward,
    /// It is no question, and gets no reply.
    Ignore,
}

/// Decides about a message. `random` is where the order of addresses begins.
pub fn decide(message: &[u8], view: &View<'_>, transport: Transport, random: u32) -> Decision {
    let question = match read(message) {
        Ok(question) => question,
        Err(decision) => return decision,
    };
    let query = &question.queries[0];
    let name = query.name.to_lowercase().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let reply =
        |code, found: Vec<RData>| Decision::Reply(reply(&question, transport, code, found.into_iter()));
    let found = match query.query_class {
        DNSClass::IN => view.addresses(name),
        _ => None,
    };
    match (query.query_type, found) {
        (RecordType::A, Some(found)) => told(&question, transport, found, IpAddr::is_ipv4, random),
        (RecordType::AAAA, Some(found)) => told(&question, transport, found, IpAddr::is_ipv6, random),
        (_, Some(_)) => reply(ResponseCode::NoError, vec![]),
        (RecordType::PTR, None) => match address(&query.name).map(|address| view.pointer(address)) {
            Some(Pointer::Name(name)) => reply(ResponseCode::NoError, pointer(&name).into_iter().collect()),
            Some(Pointer::Nobody) => reply(ResponseCode::NXDomain, vec![]),
            Some(Pointer::Elsewhere) | None => Decision::Forward,
        },
        (_, None) => Decision::Forward,
    }
}

/// The reply to a question that cannot be answered; none if it is no question.
pub fn failure(message: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    match read(message) {
        Ok(question) => Some(reply(&question, Transport::Udp, code, std::iter::empty())),
        Err(Decision::Reply(reply)) => Some(reply),
        Err(_) => None,
    }
}

/// A message with one question, or what is to be done with it instead.
fn read(message: &[u8]) -> Result<Message, Decision> {
    // The bit QR, RFC 1035 section 4.1.1: replies to replies could go round for ever.
    if message.len() < HEADER || message[2] & 0x80 != 0 {
        return Err(Decision::Ignore);
    }
    let id = u16::from_be_bytes([message[0], message[1]]);
    let refuse = |op_code, code| {
        let reply = Message::error_msg(id, op_code, code);
        reply.to_vec().map_or(Decision::Ignore, Decision::Reply)
    };
    let question = Message::from_vec(message).map_err(|_| refuse(OpCode::Query, ResponseCode::FormErr))?;
    let op_code = question.metadata.op_code;
    if op_code != OpCode::Query {
        return Err(refuse(op_code, ResponseCode::NotImp));
    }
    if question.queries.len() != 1 {
        return Err(refuse(op_code, ResponseCode::FormErr));
    }
    if question.version() > 0 {
        return Err(Decision::Reply(reply(
            &question,
            Transport::Udp,
            ResponseCode::BADVERS,
            std::iter::empty(),
        )));
    }
    Ok(question)
}

fn told(
    question: &Message,
    transport: Transport,
    mut found: Vec<IpAddr>,
    wanted: fn(&IpAddr) -> bool,
    random: u32,
) -> Decision {
    found.retain(wanted);
    if !found.is_empty() {
        let first = random as usize % found.len();
        found.rotate_left(first);
    }
    let data = found.into_iter().map(|address| match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    });
    Decision::Reply(reply(question, transport, ResponseCode::NoError, data))
}

/// None if the name is too long for DNS or has labels that are no host's.
fn pointer(name: &str) -> Option<RData> {
    Name::from_ascii(format!("{name}.")).ok().map(|name| RData::PTR(PTR(name)))
}

/// The address in a name below in-addr.arpa or ip6.arpa, if it is whole.
fn address(name: &Name) -> Option<IpAddr> {
    match name.parse_arpa_name().ok()? {
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr().into()),
        IpNet::V6(net) if net.prefix_len() == 128 => Some(net.addr().into()),
        _ => None,
    }
}

/// As many of the records as fit, and the bit TC if that is not all.
fn reply(
    question: &Message,
    transport: Transport,
    code: ResponseCode,
    data: impl ExactSizeIterator<Item = RData>,
) -> Vec<u8> {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.checking_disabled = question.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.iter().cloned());
    let (all, limit) = (data.len(), limit(question, transport));
    reply.insert_answers(fitting(&question.queries[0].name, data, limit));
    reply.metadata.truncation = reply.answers.len() < all && transport == Transport::Udp;
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MOST_UDP).set_version(0);
        reply.set_edns(edns);
    }
    // Only a name that the encoder refuses can fail here, and this one was decoded a moment ago.
    reply.to_vec().unwrap_or_default()
}

/// Most bytes of a reply.
fn limit(question: &Message, transport: Transport) -> usize {
    match transport {
        Transport::Udp => question.max_payload().min(MOST_UDP).into(),
        Transport::Tcp => u16::MAX.into(),
    }
}

/// The records that fit into `limit` bytes beside header, question and OPT record.
fn fitting(name: &Name, data: impl Iterator<Item = RData>, limit: usize) -> Vec<Record> {
    // `len` leaves out the length of the first label. A question ends with its type and class, two bytes each.
    let length = |name: &Name| name.len() + 1;
    let mut size = HEADER + length(name) + 4 + OPT;
    let mut records = Vec::new();
    for data in data {
        let own = match &data {
            RData::A(_) => 4,
            RData::AAAA(_) => 16,
            RData::PTR(target) => length(target),
            // Nothing else is ever told.
            _ => break,
        };
        size += if records.len() < COMPRESSED { 2 } else { length(name) } + FIXED + own;
        if size > limit {
            break;
        }
        records.push(Record::from_rdata(name.clone(), TTL, data));
    }
    records
}
