//! Nodes with their kernels, and messages that arrive whenever they like: what a node does with what it is told is what
//! `worker` and `netdriver` do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proto::model::{Keyring, NodeId};
use proto::network::Handover;

use super::tests::{id, keyring};
use super::{Concerned, Report, between, enter, is_over};

type Incarnation = u16;
/// Own incarnation, peer, and the peer's incarnation: both directions.
type Association = (Incarnation, usize, Incarnation);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Swarmd starts again; the kernel lives on.
    Restart(usize),
    /// The machine starts again, or somebody has flushed what it had.
    Reboot(usize),
    /// Its last task ends.
    Leave(usize),
    Forget(usize),
    Return(usize),
    /// What the managers think, rightly or not.
    Down(usize, bool),
    Tell(usize),
    Hear(usize),
    Pass(usize),
    Report(usize),
    /// Any of the reports that are under way.
    Deliver(usize),
    /// All of these of one node, in order and at once.
    Round(usize),
    /// A key is forgotten, once nothing is handed over any more.
    Settle,
}

#[derive(Clone, Debug)]
struct View {
    own: Option<Incarnation>,
    roster: u64,
    members: BTreeMap<usize, (Incarnation, Handover, bool)>,
}

#[derive(Debug, Default)]
struct Node {
    takes_part: bool,
    is_down: bool,
    incarnation: Incarnation,
    told: Option<View>,
    coming: VecDeque<View>,
    is_to_be_told: bool,
    receives: u64,
    sends: u64,
    passed_over: BTreeSet<NodeId>,
    associations: BTreeSet<Association>,
    policies: BTreeMap<usize, (Incarnation, Incarnation)>,
    spent: BTreeSet<Association>,
}

struct Model {
    keyring: Keyring,
    nodes: Vec<Node>,
    drawn: Incarnation,
    reports: Vec<(usize, Report)>,
}

fn bytes(incarnation: Incarnation) -> [u8; 16] {
    let [high, low] = incarnation.to_be_bytes();
    std::array::from_fn(|i| if i == 0 { high } else { low })
}

fn number(bytes: [u8; 16]) -> Incarnation {
    Incarnation::from_be_bytes([bytes[0], bytes[1]])
}

impl Model {
    fn new(count: usize) -> Self {
        let nodes = (0..count).map(|_| Node::default()).collect();
        let mut model = Self { keyring: keyring(), nodes, drawn: 0, reports: Vec::new() };
        (0..count).for_each(|node| model.take(Step::Return(node)));
        model.settle();
        model
    }

    fn change(&mut self, write: impl FnOnce(&mut Keyring)) {
        let before = self.keyring.clone();
        write(&mut self.keyring);
        let concerned = Concerned::by(&before, &self.keyring);
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.is_to_be_told |= concerned.has(&id(number));
        }
    }

    fn tell_all(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.is_to_be_told = true);
    }

    fn draw(&mut self, node: usize) {
        self.drawn += 1;
        let node = &mut self.nodes[node];
        (node.incarnation, node.receives, node.sends) = (self.drawn, 0, 0);
        node.passed_over.clear();
    }

    /// A process that knows nothing.
    fn begin(&mut self, node: usize) {
        self.draw(node);
        let node = &mut self.nodes[node];
        (node.told, node.is_to_be_told) = (None, true);
        node.coming.clear();
        // A new process of swarmd does not know what an earlier one has sent with: it draws.
        node.spent.clear();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Restart(node) if self.nodes[node].takes_part => self.begin(node),
            Step::Reboot(node) if self.nodes[node].takes_part => {
                self.nodes[node].associations.clear();
                self.nodes[node].policies.clear();
                self.begin(node);
            }
            Step::Leave(node) if self.nodes[node].takes_part => {
                self.nodes[node].takes_part = false;
                self.nodes[node].associations.clear();
                self.nodes[node].policies.clear();
                self.tell_all();
            }
            Step::Forget(node) if !self.nodes[node].takes_part => {
                self.change(|keyring| _ = keyring.members.remove(&id(node)));
            }
            Step::Return(node) if !self.nodes[node].takes_part => {
                self.nodes[node].takes_part = true;
                self.begin(node);
                self.tell_all();
            }
            Step::Down(node, is_down) => {
                self.nodes[node].is_down = is_down;
                self.tell_all();
            }
            Step::Tell(node) if self.nodes[node].takes_part && self.nodes[node].is_to_be_told => {
                let view = self.view(node);
                self.nodes[node].is_to_be_told = false;
                self.nodes[node].coming.push_back(view);
            }
            Step::Hear(node) => {
                if let Some(view) = self.nodes[node].coming.pop_front() {
                    self.nodes[node].told = Some(view);
                }
            }
            Step::Pass(node) if self.nodes[node].takes_part && !self.nodes[node].pass() => self.draw(node),
            Step::Report(node) if self.nodes[node].takes_part => {
                let report = self.nodes[node].report();
                self.reports.extend(report.map(|report| (node, report)));
            }
            Step::Deliver(which) if !self.reports.is_empty() => {
                let (node, report) = self.reports.remove(which % self.reports.len());
                if self.nodes[node].takes_part {
                    self.change(|keyring| enter(keyring, &id(node), &report));
                }
            }
            Step::Round(node) => {
                let steps = [Step::Tell(node), Step::Hear(node), Step::Pass(node), Step::Report(node)];
                steps.into_iter().for_each(|step| self.take(step));
                self.take(Step::Deliver(self.reports.len().saturating_sub(1)));
            }
            Step::Settle => {
                let up = |node: &&Node| node.takes_part && !node.is_down;
                let ids: Vec<NodeId> =
                    (0..self.nodes.len()).filter(|n| up(&&self.nodes[*n])).map(id).collect();
                let members = ids.iter().all(|id| self.keyring.members.contains_key(id));
                // Nodes that are down lose what they had of the old key.
                if members && ids.len() == self.nodes.len() && is_over(&self.keyring, &ids.iter().collect()) {
                    self.change(|keyring| keyring.settled = keyring.roster);
                }
            }
            _ => {}
        }
    }

    fn view(&self, recipient: usize) -> View {
        let incarnation = |node: usize| {
            let member = self.keyring.members.get(&id(node)).filter(|_| self.nodes[node].takes_part);
            member.map(|member| number(member.incarnation))
        };
        let others = (0..self.nodes.len()).filter(|node| *node != recipient);
        let members = others.filter_map(|node| {
            let handover = between(&self.keyring, &id(recipient), &id(node));
            Some((node, (incarnation(node)?, handover, self.nodes[node].is_down)))
        });
        View { own: incarnation(recipient), roster: self.keyring.roster, members: members.collect() }
    }

    /// Whether what `from` sends arrives at `to`.
    fn arrives(&self, from: usize, to: usize) -> bool {
        let sent = self.nodes[from].policies.get(&to);
        sent.is_some_and(|(own, peer)| self.nodes[to].associations.contains(&(*peer, from, *own)))
    }

    fn arriving(&self) -> BTreeSet<(usize, usize)> {
        let pairs = (0..self.nodes.len()).flat_map(|from| (0..self.nodes.len()).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to && self.arrives(*from, *to)).collect()
    }

    /// Everything is delivered until nothing more comes of it.
    fn settle(&mut self) {
        for _ in 0..12 {
            while !self.reports.is_empty() {
                self.take(Step::Deliver(0));
            }
            for node in 0..self.nodes.len() {
                self.take(Step::Tell(node));
                while !self.nodes[node].coming.is_empty() {
                    self.take(Step::Hear(node));
                }
                self.take(Step::Pass(node));
                self.take(Step::Report(node));
            }
        }
    }

    fn assert_settled(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let peers = || self.nodes.iter().enumerate().filter(|(other, _)| *other != number);
            let wanted: BTreeSet<Association> =
                peers().map(|(other, peer)| (node.incarnation, other, peer.incarnation)).collect();
            assert_eq!(node.associations, wanted, "node {number}: {:?}", self.keyring.members);
            for (other, _) in peers() {
                assert_eq!(between(&self.keyring, &id(number), &id(other)), Handover::Done);
                assert!(self.arrives(number, other));
            }
        }
    }
}

impl Node {
    /// False: the keys must be others.
    fn pass(&mut self) -> bool {
        let Some(told) = self.told.clone() else { return true };
        let is_member = told.own == Some(self.incarnation);
        let handover = |peer: &usize| if is_member { told.members[peer].1 } else { Handover::Receive };
        let wanted: BTreeSet<Association> = told
            .members
            .iter()
            .map(|(peer, (incarnation, ..))| (self.incarnation, *peer, *incarnation))
            .collect();
        let missing: Vec<_> = wanted.difference(&self.associations).copied().collect();
        if missing.iter().any(|association| self.spent.contains(association)) {
            return false;
        }
        self.spent.extend(missing.iter());
        self.associations.extend(missing);
        self.policies.retain(|peer, _| told.members.contains_key(peer));
        for (own, peer, incarnation) in &wanted {
            let keeps = self.policies.get(peer).is_some_and(|(own, incarnation)| {
                let old = (*own, *peer, *incarnation);
                handover(peer) == Handover::Receive
                    && !wanted.contains(&old)
                    && self.associations.contains(&old)
            });
            if !keeps {
                self.policies.insert(*peer, (*own, *incarnation));
            }
        }
        self.associations.retain(|association| {
            let peer = &association.1;
            let stays = told.members.contains_key(peer) && handover(peer) != Handover::Done;
            wanted.contains(association) || stays
        });
        self.receives = told.roster;
        let waits = told.members.iter().filter(|(_, (_, handover, _))| *handover == Handover::Receive);
        if is_member && waits.clone().all(|(_, (.., down))| *down) {
            self.sends = told.roster;
            self.passed_over = waits.map(|(peer, _)| id(*peer)).collect();
        }
        true
    }

    fn report(&self) -> Option<Report> {
        Some(Report {
            incarnation: bytes(self.incarnation),
            instead_of: Some(self.told.as_ref()?.own.map(bytes)),
            epoch: 1,
            receives: self.receives,
            sends: self.sends,
            passed_over: self.passed_over.clone(),
        })
    }
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    let node = move || 0..nodes;
    prop_oneof![
        2 => node().prop_map(Step::Restart),
        1 => node().prop_map(Step::Reboot),
        1 => node().prop_map(Step::Leave),
        1 => node().prop_map(Step::Forget),
        2 => node().prop_map(Step::Return),
        2 => (node(), any::<bool>()).prop_map(|(node, down)| Step::Down(node, down)),
        6 => node().prop_map(Step::Tell),
        6 => node().prop_map(Step::Hear),
        6 => node().prop_map(Step::Pass),
        6 => node().prop_map(Step::Report),
        6 => any::<usize>().prop_map(Step::Deliver),
        20 => node().prop_map(Step::Round),
        1 => Just(Step::Settle),
    ]
}

fn history() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (2..5usize).prop_flat_map(|nodes| (Just(nodes), prop::collection::vec(step(nodes), 1..150)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever comes when: what arrived goes on to arrive, unless a kernel has lost what it had or a node has left. And in
    /// the end nothing is left of earlier incarnations.
    #[test]
    fn nothing_is_sent_that_cannot_be_received((count, steps) in history()) {
        let mut model = Model::new(count);
        model.assert_settled();
        for step in steps {
            let before = model.arriving();
            model.take(step);
            let after = model.arriving();
            let lost = before.difference(&after);
            let lost: Vec<_> = match step {
                Step::Reboot(node) | Step::Leave(node) => {
                    lost.filter(|(from, to)| *from != node && *to != node).collect()
                }
                _ => lost.collect(),
            };
            prop_assert!(lost.is_empty(), "{lost:?} by {step:?}: {:?}\n{:#?}", model.keyring.members, model.nodes);
        }
        for node in 0..count {
            model.take(Step::Return(node));
            model.take(Step::Down(node, false));
        }
        model.settle();
        model.assert_settled();
    }
}
