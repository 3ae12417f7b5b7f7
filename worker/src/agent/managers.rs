//! Which manager to ask next.
//!
//! Pure; the randomness comes in. A manager that runs on this very node comes first; of the others each has a chance
//! by its weight, but none is asked twice before all were asked.

use std::collections::BTreeSet;

use proto::model::NodeId;
use proto::wire::WeightedPeer;

#[derive(Debug, Clone)]
pub struct Managers {
    own: NodeId,
    known: Vec<WeightedPeer>,
    tried: BTreeSet<String>,
}

impl Managers {
    /// Those remembered from earlier sessions, and the addresses that the node was configured with.
    pub fn new(own: NodeId, remembered: Vec<WeightedPeer>, configured: &[String]) -> Self {
        let mut known = remembered;
        for addr in configured {
            if !known.iter().any(|manager| address(manager) == addr) {
                let peer = proto::wire::Peer { addr: addr.clone(), ..Default::default() };
                known.push(WeightedPeer { peer: Some(peer), weight: 1 });
            }
        }
        Self { own, known, tried: BTreeSet::new() }
    }

    /// A manager told the whole list; an empty one cannot be true and is passed over.
    pub fn replace(&mut self, managers: Vec<WeightedPeer>) -> bool {
        let named = managers.into_iter().filter(|manager| !address(manager).is_empty());
        let named: Vec<_> = named.collect();
        let differs = !named.is_empty() && named != self.known;
        if differs {
            self.known = named;
        }
        differs
    }

    pub fn known(&self) -> &[WeightedPeer] {
        &self.known
    }

    pub fn addresses(&self) -> Vec<String> {
        self.known.iter().map(|manager| address(manager).to_owned()).collect()
    }

    /// The next one to ask; `random` is in 0..1.
    pub fn choose(&mut self, random: f64) -> Option<String> {
        if self.known.iter().all(|manager| self.tried.contains(address(manager))) {
            self.tried.clear();
        }
        let untried = || self.known.iter().filter(|manager| !self.tried.contains(address(manager)));
        let own = untried().find(|manager| self.is_own(manager));
        let chosen = own.or_else(|| {
            let total: i64 = untried().map(weight).sum();
            let mut left = (random * total as f64) as i64;
            untried().find(|manager| {
                left -= weight(manager);
                left < 0
            })
        });
        let chosen = address(chosen?).to_owned();
        self.tried.insert(chosen.clone());
        Some(chosen)
    }

    /// `addr` answered. When its session ends, any other may be asked before it.
    pub fn answered(&mut self, addr: &str) {
        self.tried.retain(|tried| tried == addr);
    }

    fn is_own(&self, manager: &WeightedPeer) -> bool {
        manager.peer.as_ref().is_some_and(|peer| peer.node_id == self.own.as_str())
    }
}

fn address(manager: &WeightedPeer) -> &str {
    manager.peer.as_ref().map_or("", |peer| &peer.addr)
}

fn weight(manager: &WeightedPeer) -> i64 {
    manager.weight.clamp(1, 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(node: &str, addr: &str, weight: i64) -> WeightedPeer {
        let peer = proto::wire::Peer { node_id: node.into(), addr: addr.into() };
        WeightedPeer { peer: Some(peer), weight }
    }

    #[test]
    fn its_own_first_then_each_once() {
        let mut managers = Managers::new("n2".into(), vec![], &["seed:1".into()]);
        assert_eq!(managers.choose(0.9).as_deref(), Some("seed:1"));
        let list = vec![manager("n1", "a:1", 1), manager("n2", "b:1", 1), manager("n3", "c:1", 8)];
        assert!(managers.replace(list.clone()) && !managers.replace(list) && !managers.replace(vec![]));
        let asked: Vec<_> = [0.0, 0.5, 0.0, 0.0].map(|random| managers.choose(random).unwrap()).into();
        assert_eq!(asked, ["b:1", "c:1", "a:1", "b:1"]);
    }

    #[test]
    fn the_one_that_ended_a_session_comes_last() {
        let mut managers = Managers::new("n9".into(), vec![], &["a:1".into(), "b:1".into()]);
        assert_eq!(managers.choose(0.0).as_deref(), Some("a:1"));
        managers.answered("a:1");
        assert_eq!(managers.choose(0.0).as_deref(), Some("b:1"));
        assert_eq!(Managers::new("n9".into(), vec![], &[]).choose(0.5), None);
    }
}
