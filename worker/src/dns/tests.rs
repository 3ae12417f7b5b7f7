//! Question and book in, answer out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use netdriver::{Peer, Subnet, mac_for};
use proptest::prelude::*;
use proto::model::TaskId;

use super::answer::{Decision, Transport, decide, failure};
use super::books::tellable;
use super::names::{Pointer, View, Zone};
use crate::network::{Book, Endpoint, OverlayNetwork, VirtualIp};

fn network(name: &str, octet: u8) -> OverlayNetwork {
    let net = format!("10.0.{octet}.0/24").parse().unwrap();
    OverlayNetwork {
        id: format!("id-{name}").as_str().into(),
        name: name.into(),
        vni: 4096 + u32::from(octet),
        subnets: vec![Subnet { net, gateway: [10, 0, octet, 1].into() }],
        mtu: None,
        encrypted: false,
        internal: false,
    }
}

fn endpoint(service: &str, task: &str, address: [u8; 4], ready: bool) -> Endpoint {
    Endpoint {
        node: "n2".into(),
        service: format!("id-{service}").as_str().into(),
        service_name: service.into(),
        task_name: format!("{service}.1.{task}"),
        aliases: vec![format!("{service}-alias")],
        hostname: format!("{service}-{task}"),
        ready,
        lost: false,
        peer: Arc::new(Peer {
            mac: mac_for(IpAddr::from(address)),
            addresses: vec![address.into()],
            vtep: [192, 0, 2, 2].into(),
        }),
    }
}

fn virtual_ip(service: &str, address: [u8; 4]) -> VirtualIp {
    let aliases = vec![format!("{service}-alias")];
    VirtualIp { service_name: service.into(), addresses: vec![address.into()], aliases }
}

/// A container's id as they are: 25 characters.
const LONG: &str = "abcdefghijkl0123456789xyz";

/// `front`: Web with a virtual address and two ready tasks of three, `db` without one; `back`: another `db`.
struct World {
    front: OverlayNetwork,
    back: OverlayNetwork,
    books: [Book; 2],
    own: TaskId,
}

impl World {
    fn new() -> Self {
        let mut front = Book::default();
        front.set_endpoint("t1".into(), endpoint("Web", "t1", [10, 0, 1, 11], true));
        front.set_endpoint("t2".into(), endpoint("Web", "t2", [10, 0, 1, 12], true));
        front.set_endpoint("t3".into(), endpoint("Web", "t3", [10, 0, 1, 13], false));
        front.set_virtual_ip("id-Web".into(), virtual_ip("Web", [10, 0, 1, 2]));
        front.set_endpoint(LONG.into(), endpoint("db", LONG, [10, 0, 1, 21], true));
        let mut back = Book::default();
        back.set_endpoint("t5".into(), endpoint("db", "t5", [10, 0, 2, 21], true));
        back.set_endpoint("t6".into(), endpoint("idle", "t6", [10, 0, 2, 31], false));
        Self {
            front: network("front", 1),
            back: network("Back.net", 2),
            books: [front, back],
            own: "t9".into(),
        }
    }

    fn view(&self) -> View<'_> {
        let networks = [&self.front, &self.back].into_iter().zip(&self.books);
        let zones = networks.map(|(network, book)| Zone { network, book: book.clone() }).collect();
        View { own: &self.own, zones }
    }

    fn ask(&self, name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        match decide(&question(name, kind).to_vec().unwrap(), &self.view(), Transport::Udp, 0) {
            Decision::Reply(reply) => {
                let reply = Message::from_vec(&reply).unwrap();
                Some((
                    reply.metadata.response_code,
                    reply.answers.iter().map(|r| r.data.to_string()).collect(),
                ))
            }
            Decision::Forward => None,
            Decision::Ignore => panic!("{name} was ignored"),
        }
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

#[test]
fn names_mean_what_the_documentation_says() {
    let world = World::new();
    let addresses = |name: &str| {
        let (code, mut answers) = world.ask(name, RecordType::A)?;
        assert_eq!(code, ResponseCode::NoError, "{name}");
        answers.sort();
        Some(answers.join(" "))
    };
    for (name, expected) in [
        ("web.", Some("10.0.1.2")),
        ("WEB.", Some("10.0.1.2")),
        ("web-alias.", Some("10.0.1.2")),
        ("tasks.web.", Some("10.0.1.11 10.0.1.12")),
        ("tasks.web-alias.", Some("10.0.1.11 10.0.1.12")),
        ("Web.1.t1.", Some("10.0.1.11")),
        ("t1.", Some("10.0.1.11")),
        ("t3.", Some("")),
        ("web.1.t3.", Some("")),
        ("web.2.t1.", None),
        // The first network that knows the name decides.
        ("db.", Some("10.0.1.21")),
        ("db.back.net.", Some("10.0.2.21")),
        ("db.front.", Some("10.0.1.21")),
        ("tasks.db.back.net.", Some("10.0.2.21")),
        ("db.1.t5.", Some("10.0.2.21")),
        ("abcdefghijkl.", Some("10.0.1.21")),
        ("abcdefghijkl0123456789xyz.", Some("10.0.1.21")),
        ("abcdefghijk.", None),
        ("abcdefghijkl0.", None),
        ("web-t1.", Some("10.0.1.11")),
        ("web-t1.front.", Some("10.0.1.11")),
        // Known, with nobody ready.
        ("idle.", Some("")),
        ("tasks.idle.", Some("")),
        ("other.", None),
        ("web.other.", None),
        ("tasks.other.", None),
        ("front.", None),
        ("example.com.", None),
        (".", None),
    ] {
        assert_eq!(addresses(name).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_known_name_is_never_asked_elsewhere() {
    let world = World::new();
    let nothing = Some((ResponseCode::NoError, vec![]));
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS, RecordType::ANY, RecordType::PTR] {
        assert_eq!(world.ask("web.", kind), nothing, "{kind}");
        assert_eq!(world.ask("example.com.", kind), None, "{kind}");
    }
}

#[test]
fn a_task_finds_itself_before_it_is_ready() {
    let mut world = World::new();
    world.own = "t3".into();
    assert_eq!(world.ask("t3.", RecordType::A).unwrap().1, ["10.0.1.13"]);
    assert_eq!(world.ask("tasks.web.", RecordType::A).unwrap().1.len(), 2, "not as one of its service");
}

#[test]
fn an_alias_may_be_shared() {
    let mut world = World::new();
    let mut other = endpoint("extra", "t7", [10, 0, 1, 31], true);
    other.aliases = vec!["db-alias".into()];
    world.books[0].set_endpoint("t7".into(), other);
    let answers: BTreeSet<_> = world.ask("db-alias.", RecordType::A).unwrap().1.into_iter().collect();
    assert_eq!(answers, BTreeSet::from(["10.0.1.21".to_owned(), "10.0.1.31".to_owned()]));
}

#[test]
fn addresses_lead_back_to_names() {
    let world = World::new();
    for (address, expected) in [
        ("11.1.0.10", Some((ResponseCode::NoError, vec!["Web.1.t1.front.".to_owned()]))),
        ("2.1.0.10", Some((ResponseCode::NoError, vec!["Web.front.".to_owned()]))),
        ("21.2.0.10", Some((ResponseCode::NoError, vec!["db.1.t5.Back.net.".to_owned()]))),
        ("13.1.0.10", Some((ResponseCode::NXDomain, vec![]))),
        ("77.1.0.10", Some((ResponseCode::NXDomain, vec![]))),
        ("1.3.0.10", None),
        ("1.0.10", None),
    ] {
        assert_eq!(world.ask(&format!("{address}.in-addr.arpa."), RecordType::PTR), expected, "{address}");
    }
    assert_eq!(world.ask("1.0.0.0.ip6.arpa.", RecordType::PTR), None);
}

#[test]
fn both_families_have_their_own_type() {
    let mut world = World::new();
    let mut both = endpoint("six", "t8", [10, 0, 1, 41], true);
    Arc::make_mut(&mut both.peer).addresses.push("fd00::29".parse().unwrap());
    world.books[0].set_endpoint("t8".into(), both);
    assert_eq!(world.ask("six.", RecordType::A).unwrap().1, ["10.0.1.41"]);
    assert_eq!(world.ask("six.", RecordType::AAAA).unwrap().1, ["fd00::29"]);
    let reverse = format!("9.2.{}d.f.ip6.arpa.", "0.".repeat(28));
    assert_eq!(world.ask(&reverse, RecordType::PTR).unwrap().1, ["six.1.t8.front."]);
}

#[test]
fn every_address_comes_first_now_and_then() {
    let (world, message) = (World::new(), question("tasks.web.", RecordType::A).to_vec().unwrap());
    let first = |random| match decide(&message, &world.view(), Transport::Udp, random) {
        Decision::Reply(reply) => Message::from_vec(&reply).unwrap().answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((first(0), first(1), first(2)), ("10.0.1.11".into(), "10.0.1.12".into(), "10.0.1.11".into()));
}

#[test]
fn what_is_no_proper_question_is_told_so() {
    let world = World::new();
    let code = |message: &Message| match decide(&message.to_vec().unwrap(), &world.view(), Transport::Udp, 0)
    {
        Decision::Reply(reply) => {
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
            Some(reply.metadata.response_code)
        }
        _ => None,
    };
    let web = question("web.", RecordType::A);
    let mut twice = web.clone();
    twice.add_query(web.queries[0].clone());
    assert_eq!(code(&twice), Some(ResponseCode::FormErr));
    let mut notify = web.clone();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&notify), Some(ResponseCode::NotImp));
    let mut later = web.clone();
    later.set_edns(Edns::new()).edns.as_mut().unwrap().set_version(1);
    // The library reads 16 as the other code with that number.
    assert_eq!(code(&later).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), None, "others may know");

    let cut = &web.to_vec().unwrap()[..14];
    let Decision::Reply(reply) = decide(cut, &world.view(), Transport::Udp, 0) else { panic!("no reply") };
    assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::FormErr);
    let reply = failure(&web.to_vec().unwrap(), ResponseCode::ServFail).unwrap();
    assert_eq!(
        decide(&reply, &world.view(), Transport::Udp, 0),
        Decision::Ignore,
        "replies are not replied to"
    );
    assert_eq!(failure(&reply, ResponseCode::ServFail), None);
    assert_eq!(decide(&reply[..5], &world.view(), Transport::Udp, 0), Decision::Ignore);
}

#[test]
fn what_is_new_is_told_once_it_can_be_reached_and_what_is_gone_at_once() {
    let reachable = World::new().books[0].clone();
    let mut now = reachable.clone();
    now.remove_endpoint(&"t1".into());
    now.set_endpoint("t3".into(), endpoint("Web", "t3", [10, 0, 1, 13], true));
    now.set_endpoint("t7".into(), endpoint("Web", "t7", [10, 0, 1, 17], true));
    let moved =
        Peer { vtep: [192, 0, 2, 9].into(), ..Peer::clone(&now.endpoint(&"t2".into()).unwrap().peer) };
    now.set_endpoint(
        "t2".into(),
        Endpoint { peer: Arc::new(moved), ..endpoint("Web", "t2", [10, 0, 1, 12], true) },
    );
    now.set_virtual_ip("id-db".into(), virtual_ip("db", [10, 0, 1, 3]));

    let told = tellable(&now, &reachable);
    let ready = |book: &Book| -> Vec<String> {
        book.endpoints_of(&"id-Web".into()).filter(|(_, e)| e.ready).map(|(id, _)| id.to_string()).collect()
    };
    assert_eq!(ready(&told), ["t3"], "the only one that was in the tables as it is now");
    assert!(told.virtual_ip(&"id-db".into()).is_none() && told.virtual_ip(&"id-Web".into()).is_some());
    assert_eq!(tellable(&now, &now), now);
}

/// A service of `count` tasks whose name has `length` characters.
fn big(count: usize, length: usize) -> (World, String) {
    let (mut world, name) = (World::new(), "x".repeat(length));
    for number in 0..count {
        let [a, b] = u16::try_from(number).unwrap().to_be_bytes();
        world.books[0].set_endpoint(
            format!("b{number}").into(),
            endpoint(&name, &format!("b{number}"), [10, 9, a, b], true),
        );
    }
    (world, format!("tasks.{name}."))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// As many as fit are told, no message is longer than may be, and TC says when it is not all.
    #[test]
    fn replies_fit(
        count in prop_oneof![0..40usize, 100..400usize, Just(6000)],
        length in prop_oneof![1..63usize, Just(63)],
        payload in prop::option::of(prop_oneof![Just(0u16), 512..4200u16, Just(u16::MAX)]),
        tcp in any::<bool>(),
        random in any::<u32>(),
    ) {
        let (world, name) = big(count, length);
        let mut message = question(&name, RecordType::A);
        if let Some(payload) = payload {
            message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
        }
        let (transport, limit) = if tcp {
            (Transport::Tcp, 65_535)
        } else {
            (Transport::Udp, usize::from(payload.unwrap_or(512).clamp(512, 4096)))
        };
        let Decision::Reply(bytes) = decide(&message.to_vec().unwrap(), &world.view(), transport, random) else {
            // Nobody knows a service without tasks.
            prop_assert_eq!(count, 0);
            return Ok(());
        };
        prop_assert!(bytes.len() <= limit, "{} bytes, {limit} allowed", bytes.len());
        let reply = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(reply.edns.is_some(), payload.is_some());
        prop_assert!(reply.answers.len() == count || bytes.len() + 250 > limit, "{} of {count}", reply.answers.len());
        prop_assert_eq!(reply.metadata.truncation, reply.answers.len() < count && !tcp);
        let different: BTreeSet<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        prop_assert_eq!(different.len(), reply.answers.len());
        prop_assert!(reply.answers.iter().all(|record| record.ttl == 0 && matches!(record.data, RData::A(_))));
    }

    /// Whatever comes, nothing breaks, and a reply has the id of what it replies to.
    #[test]
    fn nothing_breaks_on_noise(mut bytes in prop::collection::vec(any::<u8>(), 0..80), damage in any::<(u8, u8)>()) {
        let world = World::new();
        let mut good = question("tasks.web.", RecordType::A).to_vec().unwrap();
        let place = usize::from(damage.0) % good.len();
        good[place] = damage.1;
        for message in [std::mem::take(&mut bytes), good] {
            if let Decision::Reply(reply) = decide(&message, &world.view(), Transport::Udp, 1) {
                prop_assert_eq!(&reply[..2], &message[..2]);
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
        }
    }

    /// The name of an address leads to the address again.
    #[test]
    fn pointers_are_names(host in 0..255u8, second in any::<bool>()) {
        let world = World::new();
        let address = IpAddr::from([10, 0, 1 + u8::from(second), host]);
        if let Pointer::Name(name) = world.view().pointer(address) {
            let found = world.view().addresses(&name.to_ascii_lowercase());
            prop_assert_eq!(found, Some(vec![address]), "{}", name);
        }
    }
}
