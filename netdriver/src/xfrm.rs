//! IPsec state of the kernel (XFRM): security associations and outgoing policies.
//!
//! Ours are told by the request id, which carries the network's VNI below a byte of ours, and equals the mark by which
//! nftables leads a network's packets to its policies. Extended sequence numbers are always on: every kernel with ESP
//! has had them since 2011, both ends must agree on them, and without them 2^32 packets are sent within an hour.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_xfrm::constants::{AF_INET, AF_INET6};
use netlink_packet_xfrm::policy::{DelGetMessage as PolicyId, ModifyMessage as PolicyMessage};
use netlink_packet_xfrm::state::{DelGetMessage as StateId, GetDumpMessage, ModifyMessage as StateMessage};
use netlink_packet_xfrm::{
    Address, AlgAead, Mark, ReplayEsn, Selector, UserTemplate, XFRM_ALG_AEAD_NAME_LEN, XfrmAttrs, XfrmMessage,
};
use netlink_proto::ConnectionHandle;
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{AsyncSocket, SocketAddr};
use tokio::task::JoinSet;

use crate::esp::Material;
use crate::netlink::{self, Refusal};
use crate::netns;

const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
const ICV_BITS: u32 = 128;
const ESP: u8 = 50;
const UDP: u8 = 17;
/// `XFRM_MODE_TRANSPORT`, `XFRM_POLICY_OUT` and `XFRM_STATE_ESN` of linux/xfrm.h.
const TRANSPORT: u8 = 0;
const OUT: u8 = 1;
const EXTENDED_SEQUENCE: u8 = 128;
/// Packets of one association that may overtake each other; RFC 4303 recommends 64 and more for high speeds.
const REPLAY_WINDOW: u32 = 1024;

/// Marks what is ours among request ids and packet marks: this byte, then the VNI.
const OURS: u32 = 0x53 << 24;
const VNI: u32 = (1 << 24) - 1;

/// The request id, and packet mark, of a network.
pub fn reqid(vni: u32) -> u32 {
    OURS | vni
}

fn vni(reqid: u32) -> Option<u32> {
    (reqid & !VNI == OURS).then_some(reqid & VNI)
}

/// What the kernel tells associations apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssociationId {
    pub destination: IpAddr,
    pub spi: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    pub id: AssociationId,
    pub source: IpAddr,
    pub vni: u32,
    /// Lets only packets to this port through. `None`: not looked at.
    pub port: Option<u16>,
    /// `None`: the kernel waits for somebody to make it, or it is of another algorithm.
    pub material: Option<Material>,
}

/// What is to be done with packets of a network to one peer: they go through the association with this SPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub vni: u32,
    pub spi: u32,
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "association 0x{:08x} to {}", self.spi, self.destination)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} to {} through 0x{:08x}", self.vni, self.destination, self.spi)
    }
}

pub struct Xfrm {
    handle: ConnectionHandle<XfrmMessage>,
    /// Polls the socket; aborted, and the socket closed, when this is dropped.
    _driver: JoinSet<()>,
}

impl Xfrm {
    /// Opens a socket in `namespace`, or in the process's own.
    pub async fn open(namespace: Option<&File>) -> io::Result<Self> {
        let open = || netlink_proto::new_connection::<XfrmMessage>(NETLINK_XFRM);
        let (mut connection, handle, _) = netns::within(namespace, open).await??;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { handle, _driver: driver })
    }

    /// The associations and policies of ours.
    pub async fn read(&self) -> Result<(Vec<Association>, Vec<Policy>), Refusal> {
        let states = self.exchange(XfrmMessage::GetDumpSa(GetDumpMessage::default()), NLM_F_DUMP).await?;
        let policies = self.exchange(XfrmMessage::GetPolicy(PolicyId::default()), NLM_F_DUMP).await?;
        Ok((
            states.iter().filter_map(parse_association).collect(),
            policies.iter().filter_map(parse_policy).collect(),
        ))
    }

    /// Refuses if there is one.
    pub async fn add(&self, association: &Association) -> Result<(), Refusal> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.exchange(XfrmMessage::AddSa(state(association)), flags).await.map(|_| ())
    }

    pub async fn remove(&self, id: &AssociationId) -> Result<(), Refusal> {
        let mut message = StateId::default();
        message.user_sa_id.destination(&id.destination);
        message.user_sa_id.spi = id.spi;
        message.user_sa_id.proto = ESP;
        self.exchange(XfrmMessage::DeleteSa(message), NLM_F_ACK).await.map(|_| ())
    }

    /// Also replaces.
    pub async fn put_policy(&self, policy: &Policy) -> Result<(), Refusal> {
        let mut message = PolicyMessage::default();
        message.user_policy_info.selector = selector(policy.source, policy.destination, policy.port);
        message.user_policy_info.direction = OUT;
        let mut template = UserTemplate::default();
        template.source(&policy.source);
        template.destination(&policy.destination);
        template.protocol(ESP);
        template.mode(TRANSPORT);
        template.spi(policy.spi);
        template.reqid(reqid(policy.vni));
        message.nlas = vec![mark(policy.vni), XfrmAttrs::Template(vec![template])];
        self.exchange(XfrmMessage::UpdatePolicy(message), NLM_F_ACK).await.map(|_| ())
    }

    pub async fn remove_policy(&self, policy: &Policy) -> Result<(), Refusal> {
        let mut message = PolicyId::default();
        message.user_policy_id.selector = selector(policy.source, policy.destination, policy.port);
        message.user_policy_id.direction = OUT;
        message.nlas = vec![mark(policy.vni)];
        self.exchange(XfrmMessage::DeletePolicy(message), NLM_F_ACK).await.map(|_| ())
    }

    /// Asks for an association with no encryption at all, which needs nothing of the kernel but ESP.
    pub async fn try_plain_esp(&self, between: (IpAddr, IpAddr)) -> Result<(), Refusal> {
        let id = AssociationId { destination: between.1, spi: 0x1001 };
        let none = Association { id, source: between.0, vni: 1, port: None, material: None };
        let mut message = state(&none);
        let name = |text: &[u8]| padded(text);
        message.nlas = vec![
            XfrmAttrs::EncryptionAlg(netlink_packet_xfrm::Alg {
                alg_name: name(b"ecb(cipher_null)"),
                alg_key_len: 0,
                alg_key: Vec::new(),
            }),
            XfrmAttrs::AuthenticationAlg(netlink_packet_xfrm::Alg {
                alg_name: name(b"digest_null"),
                alg_key_len: 0,
                alg_key: Vec::new(),
            }),
        ];
        message.user_sa_info.flags = 0;
        self.exchange(XfrmMessage::AddSa(message), NLM_F_ACK).await.map(|_| ())
    }

    async fn exchange(&self, message: XfrmMessage, flags: u16) -> Result<Vec<XfrmMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let handle = self.handle.clone();
        let kernel = SocketAddr::new(0, 0);
        netlink::collect(handle.request(request, kernel).map_err(|_| Refusal::Closed)?).await
    }
}

fn state(association: &Association) -> StateMessage {
    let mut message = StateMessage::default();
    let info = &mut message.user_sa_info;
    info.source(&association.source);
    info.destination(&association.id.destination);
    info.id.proto = ESP;
    info.id.spi = association.id.spi;
    info.mode = TRANSPORT;
    info.reqid = reqid(association.vni);
    info.flags = EXTENDED_SEQUENCE;
    if let Some(port) = association.port {
        info.selector = selector(association.source, association.id.destination, port);
    }
    let replay = ReplayEsn {
        bmp_len: REPLAY_WINDOW.div_ceil(u32::BITS),
        replay_window: REPLAY_WINDOW,
        ..ReplayEsn::default()
    };
    message.nlas = vec![XfrmAttrs::ReplayStateEsn(replay)];
    if let Some(material) = &association.material {
        message.nlas.push(XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: padded(ALGORITHM),
            alg_key_len: u32::try_from(material.expose().len() * 8).expect("a key has few bytes"),
            alg_icv_len: ICV_BITS,
            alg_key: material.expose().to_vec(),
        }));
    }
    message
}

fn padded(text: &[u8]) -> [u8; XFRM_ALG_AEAD_NAME_LEN] {
    std::array::from_fn(|i| text.get(i).copied().unwrap_or(0))
}

/// Packets of UDP from one address to a port of the other.
fn selector(source: IpAddr, destination: IpAddr, port: u16) -> Selector {
    let bits = if source.is_ipv4() { 32 } else { 128 };
    let mut selector = Selector::default();
    selector.source_prefix(&source, bits);
    selector.destination_prefix(&destination, bits);
    selector.proto = UDP;
    selector.dport = port;
    selector.dport_mask = u16::MAX;
    selector
}

fn mark(vni: u32) -> XfrmAttrs {
    XfrmAttrs::Mark(Mark { value: reqid(vni), mask: u32::MAX })
}

fn parse_association(message: &XfrmMessage) -> Option<Association> {
    let XfrmMessage::AddSa(message) = message else { return None };
    let info = &message.user_sa_info;
    let vni = vni(info.reqid).filter(|_| info.id.proto == ESP)?;
    let destination = address(&info.id.daddr, info.family)?;
    let material = message.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::EncryptionAlgAead(aead)
            if aead.alg_name == padded(ALGORITHM) && aead.alg_icv_len == ICV_BITS =>
        {
            Material::read(&aead.alg_key)
        }
        _ => None,
    });
    Some(Association {
        id: AssociationId { destination, spi: info.id.spi },
        source: address(&info.saddr, info.family)?,
        vni,
        port: (info.selector.dport_mask != 0).then_some(info.selector.dport),
        material,
    })
}

fn parse_policy(message: &XfrmMessage) -> Option<Policy> {
    let XfrmMessage::AddPolicy(message) = message else { return None };
    let info = &message.user_policy_info;
    let template = message.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::Template(templates) => templates.first(),
        _ => None,
    })?;
    let vni = vni(template.reqid).filter(|_| info.direction == OUT)?;
    Some(Policy {
        source: address(&info.selector.saddr, info.selector.family)?,
        destination: address(&info.selector.daddr, info.selector.family)?,
        port: info.selector.dport,
        vni,
        spi: template.id.spi,
    })
}

fn address(address: &Address, family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => Some(address.to_ipv4().into()),
        AF_INET6 => Some(address.to_ipv6().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_by_the_request_id() {
        assert_eq!(vni(reqid(4097)), Some(4097));
        assert_eq!(vni(reqid(VNI)), Some(VNI));
        // Docker's, and those that other key daemons count up.
        assert!([13_681_891, 1, 16384].iter().all(|reqid| vni(*reqid).is_none()));
    }
}
