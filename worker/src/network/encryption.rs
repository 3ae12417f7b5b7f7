//! This node's part in encrypted networks: what the managers told of them, who this node is on each, and how far it is
//! with what it was told.
//!
//! Pure: randomness comes in. Keys are kept in memory only. Each time that a network is made here, and each time that an
//! association was lost, the node draws an incarnation and reports it; a task's network counts as complete once the
//! managers tell it to the others. How far each pair of nodes is in handing over from one incarnation to the next is
//! worked out by the managers from what both report.
//!
//! Invariant: what is reported was brought into the kernel by a pass that did not fail for the network, and by this
//! incarnation. An epoch is confirmed only when the kernel holds it and no node that is up is sent to on an association
//! of an earlier incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netdriver::{Counterpart, Encryption, Handover, Incarnation, Secret};
use proto::model::{NetworkId, NodeId};
use proto::network as wire;

/// Keys and members of a network, as the managers told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    keys: BTreeMap<u64, Secret>,
    sending: u64,
    epoch: u64,
    roster: u64,
    members: BTreeMap<NodeId, Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    vtep: IpAddr,
    incarnation: Incarnation,
    handover: Handover,
    down: bool,
}

impl Told {
    /// A member that cannot be read must not cost the node all the others: it is passed over and logged.
    pub fn read(network: &NetworkId, wire: wire::Encryption) -> Result<Self, String> {
        let keys = wire.keys.into_iter().map(|key| {
            let secret = key.secret.as_slice().try_into();
            secret.map(|bytes| (key.generation, Secret::new(bytes)))
        });
        let keys: BTreeMap<u64, Secret> =
            keys.collect::<Result<_, _>>().map_err(|_| "a key has not 32 bytes".to_owned())?;
        if !keys.contains_key(&wire.sending) {
            return Err(format!("generation {} is to be sent with, and is no key", wire.sending));
        }
        let mut members = BTreeMap::new();
        for wire in wire.members {
            match Member::read(&wire) {
                Some(member) => _ = members.insert(wire.node_id.into(), member),
                None => {
                    let node = wire.node_id;
                    tracing::warn!(%network, node, "member of an encrypted network is not usable");
                }
            }
        }
        Ok(Self { keys, sending: wire.sending, epoch: wire.epoch, roster: wire.roster, members })
    }

    fn others(&self, own: &NodeId) -> impl Iterator<Item = (&NodeId, &Member)> + Clone {
        self.members.iter().filter(move |(node, _)| *node != own)
    }

    fn incarnation_of(&self, node: &NodeId) -> Option<Incarnation> {
        self.members.get(node).map(|member| member.incarnation)
    }
}

impl Member {
    fn read(wire: &wire::Member) -> Option<Self> {
        let incarnation = wire.incarnation.as_slice().try_into().ok()?;
        let handover = match wire.handover() {
            wire::Handover::Receive => Handover::Receive,
            wire::Handover::Send => Handover::Send,
            wire::Handover::Done => Handover::Done,
        };
        Some(Self {
            vtep: wire.vtep.parse().ok()?,
            incarnation: Incarnation(incarnation),
            handover,
            down: wire.down,
        })
    }
}

/// What this node reports of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysReport {
    pub incarnation: [u8; 16],
    /// As the managers have told this node itself; none if it was no member.
    pub instead_of: Option<[u8; 16]>,
    /// The last epoch that was brought about; 0: none.
    pub epoch: u64,
    /// The last roster of which every member is received from.
    pub receives: u64,
    /// The last one of which no earlier incarnation is sent to, but of members that are down.
    pub sends: u64,
    /// Those that were down.
    pub passed_over: BTreeSet<NodeId>,
    /// Differs when the same has to be told again.
    pub attempt: u64,
}

/// What the kernel has once a pass is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    incarnation: Incarnation,
    roster: u64,
    /// And who was passed over; unless some member that is up is still sent to on an earlier association.
    epoch: Option<(u64, BTreeSet<NodeId>)>,
}

/// One encrypted network that is in use here.
#[derive(Debug)]
struct Part {
    incarnation: Incarnation,
    /// As the managers have told this node itself last, once they have told anything.
    told: Option<Option<Incarnation>>,
    epoch: u64,
    receives: u64,
    sends: u64,
    passed_over: BTreeSet<NodeId>,
    attempt: u64,
}

impl Part {
    fn new(incarnation: Incarnation) -> Self {
        let passed_over = BTreeSet::new();
        Self { incarnation, told: None, epoch: 0, receives: 0, sends: 0, passed_over, attempt: 0 }
    }

    /// Reported only once it is known whose place it takes.
    fn report(&self) -> Option<KeysReport> {
        Some(KeysReport {
            incarnation: self.incarnation.0,
            instead_of: self.told?.map(|incarnation| incarnation.0),
            epoch: self.epoch,
            receives: self.receives,
            sends: self.sends,
            passed_over: self.passed_over.clone(),
            attempt: self.attempt,
        })
    }
}

#[derive(Debug)]
pub(super) struct Parts {
    own: NodeId,
    parts: BTreeMap<NetworkId, Part>,
}

impl Parts {
    pub fn new(own: NodeId) -> Self {
        Self { own, parts: BTreeMap::new() }
    }

    /// The network begins to be used here, unless it is already.
    pub fn begin(&mut self, network: &NetworkId, drawn: Incarnation) {
        self.parts.entry(network.clone()).or_insert_with(|| Part::new(drawn));
    }

    pub fn end(&mut self, network: &NetworkId) {
        self.parts.remove(network);
    }

    /// What was sent with is lost: the keys must be others.
    pub fn draw_again(&mut self, network: &NetworkId, drawn: Incarnation) {
        if let Some(part) = self.parts.get_mut(network) {
            tracing::warn!(%network, "associations were lost: this node takes part anew");
            *part = Part { told: part.told, attempt: part.attempt, ..Part::new(drawn) };
        }
    }

    /// Takes note of what was told.
    pub fn hear(&mut self, network: &NetworkId, told: &Told) {
        let Some(part) = self.parts.get_mut(network) else { return };
        part.told = Some(told.incarnation_of(&self.own));
        if part.told != Some(Some(part.incarnation)) {
            part.attempt += 1;
        }
    }

    /// How the network is to be encrypted; none unless it is in use here.
    pub fn encryption(&self, network: &NetworkId, told: &Told) -> Option<Encryption> {
        let part = self.parts.get(network)?;
        let is_member = self.is_member(network, told);
        let mut others: Vec<&Member> = told.others(&self.own).map(|(_, member)| member).collect();
        // Of two nodes at one address the one counts that is up.
        others.sort_by_key(|member| !member.down);
        let peers = others.into_iter().map(|member| {
            // Until they are told of this one, the others cannot receive from it.
            let handover = if is_member { member.handover } else { Handover::Receive };
            (member.vtep, Counterpart { incarnation: member.incarnation, handover })
        });
        Some(Encryption {
            keys: told.keys.clone(),
            sending: told.sending,
            incarnation: part.incarnation,
            peers: peers.collect(),
        })
    }

    /// The managers tell the others of this node as it is.
    pub fn is_member(&self, network: &NetworkId, told: &Told) -> bool {
        let part = self.parts.get(network);
        part.is_some_and(|part| told.incarnation_of(&self.own) == Some(part.incarnation))
    }

    /// What the kernel has once a pass that begins now is done.
    pub fn confirmable(&self, network: &NetworkId, told: &Told) -> Option<Held> {
        let part = self.parts.get(network)?;
        let others = told.others(&self.own);
        let waits = others.filter(|(_, member)| member.handover == Handover::Receive);
        let has_switched = self.is_member(network, told) && waits.clone().all(|(_, member)| member.down);
        Some(Held {
            incarnation: part.incarnation,
            roster: told.roster,
            epoch: has_switched.then(|| (told.epoch, waits.map(|(node, _)| node.clone()).collect())),
        })
    }

    pub fn confirm(&mut self, network: &NetworkId, held: Held) {
        let part = self.parts.get_mut(network);
        let Some(part) = part.filter(|part| part.incarnation == held.incarnation) else { return };
        part.receives = held.roster;
        if let Some((epoch, passed_over)) = held.epoch {
            (part.epoch, part.sends, part.passed_over) = (epoch, held.roster, passed_over);
        }
    }

    pub fn reports(&self) -> BTreeMap<NetworkId, KeysReport> {
        let reports = self.parts.iter();
        reports.filter_map(|(network, part)| Some((network.clone(), part.report()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members by number, incarnation and how far they are with this node, which is the first.
    fn told(epoch: u64, roster: u64, members: &[(u8, u8, wire::Handover)]) -> Told {
        let members = members.iter().map(|(node, incarnation, handover)| wire::Member {
            node_id: format!("n{node}"),
            vtep: format!("192.0.2.{node}"),
            incarnation: vec![*incarnation; 16],
            handover: (*handover).into(),
            down: *node == DOWN,
        });
        let members = members.collect();
        let key = wire::NetworkKey { generation: 1, secret: vec![7; 32] };
        Told::read(&net(), wire::Encryption { keys: vec![key], sending: 1, epoch, members, roster }).unwrap()
    }

    const DOWN: u8 = 9;
    const SELF: (u8, u8, wire::Handover) = (1, 1, wire::Handover::Done);

    fn net() -> NetworkId {
        "net".into()
    }

    fn incarnation(n: u8) -> Incarnation {
        Incarnation([n; 16])
    }

    fn begun() -> Parts {
        let mut parts = Parts::new("n1".into());
        parts.begin(&net(), incarnation(1));
        parts
    }

    /// Hears it, and brings it about; (epoch, receives, sends) as then reported.
    fn pass(parts: &mut Parts, told: &Told) -> (u64, u64, u64) {
        parts.hear(&net(), told);
        let held = parts.confirmable(&net(), told).unwrap();
        parts.confirm(&net(), held);
        let report = parts.reports()[&net()].clone();
        (report.epoch, report.receives, report.sends)
    }

    fn handover(parts: &Parts, told: &Told, node: u8) -> Handover {
        parts.encryption(&net(), told).unwrap().peers[&IpAddr::from([192, 0, 2, node])].handover
    }

    #[test]
    fn unusable_keys_are_refused_and_unusable_members_passed_over() {
        let read = |wire| Told::read(&net(), wire);
        let short = wire::NetworkKey { generation: 1, secret: vec![7; 31] };
        assert!(read(wire::Encryption { keys: vec![short], sending: 1, ..Default::default() }).is_err());
        assert!(read(wire::Encryption { sending: 1, ..Default::default() }).is_err());
        let key = wire::NetworkKey { generation: 1, secret: vec![7; 32] };
        let member = wire::Member {
            node_id: "n2".into(),
            vtep: "nowhere".into(),
            incarnation: vec![1; 16],
            ..Default::default()
        };
        let wire =
            wire::Encryption { keys: vec![key], sending: 1, members: vec![member], ..Default::default() };
        assert!(read(wire).unwrap().members.is_empty());
    }

    #[test]
    fn a_node_is_a_member_once_the_managers_say_so() {
        let mut parts = begun();
        assert!(parts.reports().is_empty(), "whose place it takes is not known");
        let other = (1, 8, wire::Handover::Done);
        for (told, instead_of, member) in [
            (told(1, 0, &[]), None, false),
            (told(1, 0, &[other]), Some([8; 16]), false),
            (told(1, 1, &[SELF]), Some([1; 16]), true),
        ] {
            let before = parts.reports().get(&net()).map_or(0, |report| report.attempt);
            parts.hear(&net(), &told);
            let report = parts.reports()[&net()].clone();
            assert_eq!((parts.is_member(&net(), &told), report.instead_of), (member, instead_of));
            assert_eq!(report.attempt != before, !member, "it is reported again until it is told");
        }
    }

    #[test]
    fn nothing_new_is_sent_with_before_the_others_are_told_of_this_node() {
        let mut parts = begun();
        let stale = told(1, 3, &[(1, 8, wire::Handover::Done), (2, 2, wire::Handover::Done)]);
        assert_eq!(pass(&mut parts, &stale), (0, 3, 0));
        assert_eq!(handover(&parts, &stale, 2), Handover::Receive);
        let present = told(1, 4, &[SELF, (2, 2, wire::Handover::Done)]);
        assert_eq!(handover(&parts, &present, 2), Handover::Done);
        assert_eq!(pass(&mut parts, &present), (1, 4, 4));
    }

    #[test]
    fn what_is_sent_with_is_reported_once_all_that_are_up_receive() {
        let mut parts = begun();
        let (receive, send) = (wire::Handover::Receive, wire::Handover::Send);
        assert_eq!(pass(&mut parts, &told(1, 1, &[SELF, (2, 2, receive), (3, 3, send)])), (0, 1, 0));
        assert_eq!(pass(&mut parts, &told(1, 2, &[SELF, (2, 2, send), (DOWN, 3, receive)])), (1, 2, 2));
        assert_eq!(parts.reports()[&net()].passed_over, [NodeId::from("n9")].into());
        let later = told(2, 3, &[SELF, (2, 2, receive), (3, 3, receive)]);
        assert_eq!(pass(&mut parts, &later), (1, 3, 2), "another one has come");
        assert_eq!([2, 3].map(|node| handover(&parts, &later, node)), [Handover::Receive; 2]);
    }

    #[test]
    fn of_two_nodes_at_one_address_the_one_counts_that_is_up() {
        let parts = begun();
        let mut told = told(1, 1, &[SELF, (2, 2, wire::Handover::Done), (DOWN, 3, wire::Handover::Receive)]);
        let vtep = told.members[&NodeId::from("n2")].vtep;
        told.members.get_mut(&NodeId::from("n9")).unwrap().vtep = vtep;
        assert_eq!(parts.encryption(&net(), &told).unwrap().peers[&vtep].incarnation, incarnation(2));
    }

    #[test]
    fn what_an_earlier_incarnation_brought_about_is_not_confirmed() {
        let mut parts = begun();
        let told = told(4, 3, &[SELF]);
        assert_eq!(pass(&mut parts, &told), (4, 3, 3));
        let held = parts.confirmable(&net(), &told).unwrap();
        parts.draw_again(&net(), incarnation(2));
        parts.confirm(&net(), held);
        let report = parts.reports()[&net()].clone();
        assert_eq!((report.incarnation, report.instead_of), ([2; 16], Some([1; 16])));
        assert_eq!((report.epoch, report.receives, report.sends), (0, 0, 0));
    }
}
