//! This node's part in encrypted networks: what the managers told of them, who this node is on each, and how far it is
//! with what it was told.
//!
//! Pure: clock and randomness come in. Keys are kept in memory only. Each time that a network is made here, and each
//! time that an association was lost, the node draws an incarnation and reports it; a task's network counts as complete
//! once the managers tell it to the others.
//!
//! Invariant: an epoch is confirmed only when the kernel holds it and no earlier incarnation is sent with any more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netdriver::{Encryption, Handover, Incarnation, Secret};
use proto::model::{NetworkId, NodeId};
use proto::network as wire;
use tokio::time::Instant;

/// How long both sides receive under new incarnations before they send to them. The others are told at about the same
/// time, and one under load may take seconds to follow.
const RECEIVE: Duration = Duration::from_secs(5);
/// How long both sides go on receiving under the old ones. Both together are well within the time that a phase of a
/// rotation waits for a node.
const LINGER: Duration = Duration::from_secs(7);

/// Keys and members of a network, as the managers told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    keys: BTreeMap<u64, Secret>,
    sending: u64,
    epoch: u64,
    members: BTreeMap<NodeId, (IpAddr, Incarnation)>,
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
        for member in wire.members {
            match (member.vtep.parse(), member.incarnation.as_slice().try_into()) {
                (Ok(vtep), Ok(incarnation)) => {
                    members.insert(member.node_id.into(), (vtep, Incarnation(incarnation)));
                }
                _ => {
                    let node = member.node_id;
                    tracing::warn!(%network, node, "member of an encrypted network is not usable");
                }
            }
        }
        Ok(Self { keys, sending: wire.sending, epoch: wire.epoch, members })
    }
}

/// What this node reports of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysReport {
    pub incarnation: [u8; 16],
    /// The last epoch that was brought about; 0: none.
    pub epoch: u64,
    /// Differs when the same has to be told again.
    pub attempt: u64,
}

/// One encrypted network that is in use here.
#[derive(Debug)]
struct Part {
    incarnation: Incarnation,
    /// The managers have told the others of it.
    announced: bool,
    /// When that was, or when a node that was known already came with another incarnation.
    changed: Instant,
    /// The others, by VTEP.
    seen: BTreeMap<IpAddr, Incarnation>,
    confirmed: u64,
    attempt: u64,
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
    pub fn begin(&mut self, network: &NetworkId, drawn: Incarnation, now: Instant) {
        self.parts.entry(network.clone()).or_insert_with(|| Part {
            incarnation: drawn,
            announced: false,
            changed: now,
            seen: BTreeMap::new(),
            confirmed: 0,
            attempt: 0,
        });
    }

    pub fn end(&mut self, network: &NetworkId) {
        self.parts.remove(network);
    }

    /// What was sent with is lost: the keys must be others.
    pub fn draw_again(&mut self, network: &NetworkId, drawn: Incarnation, now: Instant) {
        if let Some(part) = self.parts.get_mut(network) {
            tracing::warn!(%network, "associations were lost: this node takes part anew");
            (part.incarnation, part.announced, part.changed, part.confirmed) = (drawn, false, now, 0);
        }
    }

    /// Takes note of what was told.
    pub fn hear(&mut self, network: &NetworkId, told: &Told, now: Instant) {
        let Some(part) = self.parts.get_mut(network) else { return };
        let others = told.members.iter().filter(|(node, _)| **node != self.own);
        let others: BTreeMap<IpAddr, Incarnation> = others.map(|(_, member)| *member).collect();
        let known = |(vtep, incarnation): (&IpAddr, &Incarnation)| {
            part.seen.get(vtep).is_some_and(|seen| seen != incarnation)
        };
        if others.iter().any(known) {
            part.changed = now;
        }
        part.seen = others;
        if !is_member(&self.own, told, part) {
            part.attempt += 1;
        } else if !part.announced {
            (part.announced, part.changed) = (true, now);
        }
    }

    /// How the network is to be encrypted; none unless it is in use here.
    pub fn encryption(&self, network: &NetworkId, told: &Told, now: Instant) -> Option<Encryption> {
        let part = self.parts.get(network)?;
        Some(Encryption {
            keys: told.keys.clone(),
            sending: told.sending,
            incarnation: part.incarnation,
            peers: part.seen.clone(),
            handover: part.handover(now),
        })
    }

    /// The managers tell the others of this node as it is.
    pub fn is_member(&self, network: &NetworkId, told: &Told) -> bool {
        self.parts.get(network).is_some_and(|part| is_member(&self.own, told, part))
    }

    /// What a pass that begins now can confirm once it is done.
    pub fn confirmable(&self, network: &NetworkId, told: &Told, now: Instant) -> Option<(Incarnation, u64)> {
        let part = self.parts.get(network)?;
        (part.handover(now) == Handover::Done).then_some((part.incarnation, told.epoch))
    }

    pub fn confirm(&mut self, network: &NetworkId, (incarnation, epoch): (Incarnation, u64)) {
        if let Some(part) = self.parts.get_mut(network).filter(|part| part.incarnation == incarnation) {
            part.confirmed = epoch;
        }
    }

    /// Networks of which the next step of a handover is due between `from` and `to`.
    pub fn due(&self, from: Instant, to: Instant) -> impl Iterator<Item = &NetworkId> {
        let due = move |part: &Part| part.steps().any(|step| from < step && step <= to);
        self.parts.iter().filter(move |(_, part)| due(part)).map(|(network, _)| network)
    }

    /// When the next step of a handover is due.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.parts.values().flat_map(Part::steps).filter(|step| *step > now).min()
    }

    pub fn reports(&self) -> BTreeMap<NetworkId, KeysReport> {
        let report = |part: &Part| KeysReport {
            incarnation: part.incarnation.0,
            epoch: part.confirmed,
            attempt: part.attempt,
        };
        self.parts.iter().map(|(network, part)| (network.clone(), report(part))).collect()
    }
}

impl Part {
    /// When it is to be sent to new incarnations, and when old ones are to be removed. Others cannot receive from one that
    /// they were not told of, however long that takes.
    fn steps(&self) -> impl Iterator<Item = Instant> + use<> {
        let steps = [self.changed + RECEIVE, self.changed + RECEIVE + LINGER];
        steps.into_iter().filter({
            let announced = self.announced;
            move |_| announced
        })
    }

    fn handover(&self, now: Instant) -> Handover {
        match self.steps().filter(|step| *step <= now).count() {
            0 => Handover::Receive,
            1 => Handover::Send,
            _ => Handover::Done,
        }
    }
}

fn is_member(own: &NodeId, told: &Told, part: &Part) -> bool {
    told.members.get(own).is_some_and(|(_, incarnation)| *incarnation == part.incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(epoch: u64, members: &[(&str, u8)]) -> Told {
        let members = members.iter().map(|(node, incarnation)| wire::Member {
            node_id: (*node).to_owned(),
            vtep: format!("192.0.2.{}", node.trim_start_matches('n')),
            incarnation: vec![*incarnation; 16],
        });
        let key = wire::NetworkKey { generation: 1, secret: vec![7; 32] };
        let wire = wire::Encryption { keys: vec![key], sending: 1, epoch, members: members.collect() };
        Told::read(&"net".into(), wire).unwrap()
    }

    fn incarnation(n: u8) -> Incarnation {
        Incarnation([n; 16])
    }

    #[test]
    fn unusable_keys_are_refused_and_unusable_members_passed_over() {
        let read = |wire| Told::read(&"net".into(), wire);
        let short = wire::NetworkKey { generation: 1, secret: vec![7; 31] };
        assert!(read(wire::Encryption { keys: vec![short], sending: 1, ..Default::default() }).is_err());
        assert!(read(wire::Encryption { sending: 1, ..Default::default() }).is_err());
        let key = wire::NetworkKey { generation: 1, secret: vec![7; 32] };
        let member = wire::Member { node_id: "n2".into(), vtep: "nowhere".into(), incarnation: vec![1; 16] };
        let wire =
            wire::Encryption { keys: vec![key], sending: 1, members: vec![member], ..Default::default() };
        assert!(read(wire).unwrap().members.is_empty());
    }

    #[test]
    fn a_node_is_a_member_once_the_managers_say_so() {
        let (mut parts, now, net) = (Parts::new("n1".into()), Instant::now(), NetworkId::from("net"));
        parts.begin(&net, incarnation(1), now);
        for (told, member) in
            [(told(1, &[]), false), (told(1, &[("n1", 9)]), false), (told(1, &[("n1", 1)]), true)]
        {
            let before = parts.reports()[&net];
            parts.hear(&net, &told, now);
            assert_eq!(parts.is_member(&net, &told), member);
            assert_eq!(parts.reports()[&net] != before, !member, "it is reported again until it is told");
        }
    }

    #[test]
    fn another_incarnation_is_handed_over_to_in_steps() {
        let (mut parts, start, net) = (Parts::new("n1".into()), Instant::now(), NetworkId::from("net"));
        parts.begin(&net, incarnation(1), start);
        let told_first = told(1, &[("n1", 1), ("n2", 2)]);
        parts.hear(&net, &told_first, start);
        let handover =
            |parts: &Parts, told: &Told, at: Instant| parts.encryption(&net, told, at).unwrap().handover;
        let settled = start + RECEIVE + LINGER;
        assert_eq!(handover(&parts, &told_first, settled), Handover::Done);
        assert_eq!(parts.next(settled), None);

        let told_more = told(1, &[("n1", 1), ("n2", 2), ("n3", 3)]);
        parts.hear(&net, &told_more, settled);
        assert_eq!(handover(&parts, &told_more, settled), Handover::Done, "nobody sends to a new peer yet");
        let told_other = told(1, &[("n1", 1), ("n2", 9), ("n3", 3)]);
        parts.hear(&net, &told_other, settled);
        assert_eq!(handover(&parts, &told_other, settled), Handover::Receive);
        assert_eq!(parts.confirmable(&net, &told_other, settled), None);
        let send = parts.next(settled).unwrap();
        assert_eq!(parts.due(settled, send).collect::<Vec<_>>(), [&net]);
        assert_eq!(handover(&parts, &told_other, send), Handover::Send);
        let done = parts.next(send).unwrap();
        assert_eq!(handover(&parts, &told_other, done), Handover::Done);
        assert_eq!(parts.confirmable(&net, &told_other, done), Some((incarnation(1), 1)));
    }

    #[test]
    fn nothing_is_handed_over_before_the_others_are_told() {
        let (mut parts, start, net) = (Parts::new("n1".into()), Instant::now(), NetworkId::from("net"));
        parts.begin(&net, incarnation(1), start);
        let (stale, late) = (told(1, &[("n1", 9), ("n2", 2)]), start + 10 * LINGER);
        parts.hear(&net, &stale, late);
        assert_eq!(parts.encryption(&net, &stale, late).unwrap().handover, Handover::Receive);
        assert_eq!((parts.next(late), parts.confirmable(&net, &stale, late)), (None, None));
        parts.hear(&net, &told(1, &[("n1", 1), ("n2", 2)]), late);
        assert_eq!(parts.next(late), Some(late + RECEIVE));
    }

    #[test]
    fn what_an_earlier_incarnation_brought_about_is_not_confirmed() {
        let (mut parts, now, net) = (Parts::new("n1".into()), Instant::now(), NetworkId::from("net"));
        parts.begin(&net, incarnation(1), now);
        parts.confirm(&net, (incarnation(1), 4));
        assert_eq!(parts.reports()[&net].epoch, 4);
        parts.draw_again(&net, incarnation(2), now);
        parts.confirm(&net, (incarnation(1), 5));
        assert_eq!((parts.reports()[&net].epoch, parts.reports()[&net].incarnation), (0, [2; 16]));
    }
}
