//! The rules: what a packet meets. They depend on nothing that changes; services are elements of maps.
//!
//! Each rule carries, as `nft` shows comments, a mark that follows from its text: that is how a rule of another
//! release is told, since the kernel does not give a rule back as it got it.

use super::operation::Family;
use crate::desired::RESOLVER_PORT;
use crate::name;
use crate::nfnetlink::Attributes;

/// Registers of four bytes each, of which the kernel has sixteen.
const FIRST: u32 = 8;
const VERDICT: u32 = 0;

/// Keys of the `meta` expression.
const META_OUT_TYPE: u32 = 9;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

/// Bases of the `payload` expression.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// 127.0.0.11
const RESOLVER: [u8; 4] = [127, 0, 0, 11];
const DNS_PORT: u16 = 53;
/// Protocol number, and where its checksum is.
const DNS_PROTOCOLS: [(u8, u32); 2] = [(UDP, 6), (TCP, 16)];
const UDP: u8 = 17;
const TCP: u8 = 6;

/// `NF_INET_LOCAL_OUT`: as a packet leaves its socket.
const OUTPUT: u32 = 3;
/// Before connections are tracked (`NF_IP_PRI_RAW`).
const RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`.
const NAT: i32 = -100;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;

#[derive(Debug)]
pub struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// Expressions, one after the other.
#[derive(Debug, Default)]
pub struct Rule(Attributes);

/// Rewrites both ways, as packets leave the client and as they leave the resolver.
pub fn resolver() -> Chain {
    let mut rules =
        vec![Rule::default().meta(META_OUT_TYPE, FIRST).unless(FIRST, &LOOPBACK.to_ne_bytes()).accept()];
    for protocol in DNS_PROTOCOLS {
        // Destination addresses begin at 16, sources at 12; destination ports at 2, sources at 0.
        rules.push(rewrite(protocol, (16, 2), (DNS_PORT, RESOLVER_PORT)));
        rules.push(rewrite(protocol, (12, 0), (RESOLVER_PORT, DNS_PORT)));
    }
    Chain {
        name: "resolver".to_owned(),
        hook: Some(Hook { kind: "filter", number: OUTPUT, priority: RAW }),
        rules,
    }
}

fn rewrite((protocol, checksum): (u8, u32), (address, port): (u32, u32), (from, to): (u16, u16)) -> Rule {
    Rule::default()
        .meta(META_FAMILY, FIRST)
        .when(FIRST, &[nfproto(Family::V4)])
        .load(NETWORK, address, 4, FIRST)
        .when(FIRST, &RESOLVER)
        .meta(META_PROTOCOL, FIRST)
        .when(FIRST, &[protocol])
        .load(TRANSPORT, port, 2, FIRST)
        .when(FIRST, &from.to_be_bytes())
        .expression("notrack", Attributes::default())
        .set(FIRST, &to.to_be_bytes())
        .store(TRANSPORT, port, 2, FIRST, checksum)
}

/// The chains that see packets to the services of a family.
pub fn of_family(family: Family) -> [Chain; 2] {
    [translation(family), refusal(family)]
}

/// Looks the destination up. Seen by the first packet of a connection only.
fn translation(family: Family) -> Chain {
    let rule = Rule::default().destination(family).look_up(&family.services(), FIRST, VERDICT);
    Chain {
        name: format!("{}_output", family.name()),
        hook: Some(Hook { kind: "nat", number: OUTPUT, priority: NAT }),
        rules: vec![rule],
    }
}

/// Refuses what is for a service without backends, as a host does on whose port nobody listens. By a chain of its own,
/// since what a chain for translation answers with does not get through.
fn refusal(family: Family) -> Chain {
    let refused = || Rule::default().when_new().destination(family).when_in(&family.refused(), FIRST);
    // TCP by a reset, since a socket that is just connecting may take no notice of an ICMP message.
    let rules =
        vec![refused().meta(META_PROTOCOL, FIRST).when(FIRST, &[TCP]).reset(), refused().unreachable()];
    Chain {
        name: format!("{}_refuse", family.name()),
        hook: Some(Hook { kind: "filter", number: OUTPUT, priority: FILTER }),
        rules,
    }
}

/// Chooses one of so many backends.
pub fn fan(family: Family, backends: u32) -> Chain {
    let choose = Rule::default()
        .destination(family)
        .random(FIRST + family.address_bytes() / 4, backends)
        .look_up(&family.backends(), FIRST, FIRST)
        .translate(family, FIRST);
    Chain { name: family.fan(backends), hook: None, rules: vec![choose] }
}

fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

impl Rule {
    pub fn expressions(&self) -> Attributes {
        self.0.clone()
    }

    /// A comment (type 0) with its length and its terminating zero.
    pub fn mark(&self) -> Vec<u8> {
        let text = format!("swarmd {:016x}\0", name::fnv_bytes(self.0.as_bytes()));
        let length = u8::try_from(text.len()).expect("24 characters");
        [&[0, length], text.as_bytes()].concat()
    }

    /// Of packets of the family, loads the destination.
    fn destination(self, family: Family) -> Self {
        let offset = match family {
            Family::V4 => 16,
            Family::V6 => 24,
        };
        let of_family = self.meta(META_FAMILY, FIRST).when(FIRST, &[nfproto(family)]);
        of_family.load(NETWORK, offset, family.address_bytes(), FIRST)
    }

    /// Goes on for packets of connections that are being opened.
    fn when_new(self) -> Self {
        const STATE: u32 = 0;
        const NEW: u32 = 1 << 3;
        let value = |value: u32| Attributes::default().bytes(1, &value.to_ne_bytes());
        let bits = Attributes::default().be32(1, FIRST).be32(2, FIRST).be32(3, 4);
        self.expression("ct", Attributes::default().be32(1, FIRST).be32(2, STATE))
            .expression("bitwise", bits.nest(4, &value(NEW)).nest(5, &value(0)))
            .unless(FIRST, &0_u32.to_ne_bytes())
    }

    /// Goes on if the set has the key.
    fn when_in(self, set: &str, key: u32) -> Self {
        self.expression("lookup", Attributes::default().text(1, set).be32(2, key))
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        let expression = Attributes::default().text(1, name).nest(2, &data);
        Self(self.0.nest(1, &expression))
    }

    fn meta(self, key: u32, to: u32) -> Self {
        self.expression("meta", Attributes::default().be32(1, to).be32(2, key))
    }

    fn load(self, base: u32, offset: u32, bytes: u32, to: u32) -> Self {
        let data = Attributes::default().be32(1, to).be32(2, base).be32(3, offset).be32(4, bytes);
        self.expression("payload", data)
    }

    /// Also mends the checksum, an internet checksum at `checksum`.
    fn store(self, base: u32, offset: u32, bytes: u32, from: u32, checksum: u32) -> Self {
        const INTERNET: u32 = 1;
        let data = Attributes::default().be32(5, from).be32(2, base).be32(3, offset).be32(4, bytes);
        self.expression("payload", data.be32(6, INTERNET).be32(7, checksum))
    }

    /// Goes on if the register has this value.
    fn when(self, register: u32, value: &[u8]) -> Self {
        self.compare(0, register, value)
    }

    fn unless(self, register: u32, value: &[u8]) -> Self {
        self.compare(1, register, value)
    }

    fn compare(self, operator: u32, register: u32, value: &[u8]) -> Self {
        let value = Attributes::default().bytes(1, value);
        self.expression("cmp", Attributes::default().be32(1, register).be32(2, operator).nest(3, &value))
    }

    fn set(self, register: u32, value: &[u8]) -> Self {
        let value = Attributes::default().bytes(1, value);
        self.expression("immediate", Attributes::default().be32(1, register).nest(2, &value))
    }

    fn accept(self) -> Self {
        const ACCEPT: u32 = 1;
        let verdict = Attributes::default().nest(2, &Attributes::default().be32(1, ACCEPT));
        self.expression("immediate", Attributes::default().be32(1, VERDICT).nest(2, &verdict))
    }

    /// Goes on if the map has the key.
    fn look_up(self, map: &str, key: u32, to: u32) -> Self {
        self.expression("lookup", Attributes::default().text(1, map).be32(2, key).be32(3, to))
    }

    fn random(self, to: u32, below: u32) -> Self {
        const RANDOM: u32 = 1;
        self.expression("numgen", Attributes::default().be32(1, to).be32(2, below).be32(3, RANDOM))
    }

    fn translate(self, family: Family, address: u32) -> Self {
        const DESTINATION: u32 = 1;
        let data =
            Attributes::default().be32(1, DESTINATION).be32(2, nfproto(family).into()).be32(3, address);
        self.expression("nat", data)
    }

    fn reset(self) -> Self {
        const RESET: u32 = 1;
        self.expression("reject", Attributes::default().be32(1, RESET))
    }

    /// As a port on which nobody listens.
    fn unreachable(self) -> Self {
        const ICMPX_UNREACHABLE: u32 = 2;
        const PORT: u8 = 1;
        self.expression("reject", Attributes::default().be32(1, ICMPX_UNREACHABLE).bytes(2, &[PORT]))
    }
}
