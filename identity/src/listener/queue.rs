//! Who has to go when there are too many: what has stood longest of the address that has the most.
//!
//! So a crowd from one machine, however many and however fast, pushes out nobody but itself, and places for others are
//! always left. Of IPv6 the first 64 bits count: whoever has one address there has them all (RFC 4291).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// In the order in which they came. `T` knows whether it is over.
#[derive(Debug)]
pub(super) struct Queue<T> {
    most: usize,
    standing: HashMap<IpAddr, VecDeque<(u64, T)>>,
    count: usize,
    arrivals: u64,
}

/// What stands in a queue, and may have ended by itself.
pub(super) trait Stands {
    fn is_over(&self) -> bool;
}

impl<T: Stands> Queue<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, standing: HashMap::new(), count: 0, arrivals: 0 }
    }

    /// Adds one; the answer is the one that has to go for it, if any.
    pub(super) fn push(&mut self, from: IpAddr, one: T) -> Option<T> {
        if self.count >= self.most {
            self.sweep();
        }
        let out = if self.count >= self.most { self.pop() } else { None };
        self.arrivals += 1;
        self.standing.entry(place(from)).or_default().push_back((self.arrivals, one));
        self.count += 1;
        out
    }

    fn sweep(&mut self) {
        self.standing.retain(|_, queue| {
            queue.retain(|(_, one)| !one.is_over());
            !queue.is_empty()
        });
        self.count = self.standing.values().map(VecDeque::len).sum();
    }

    /// Of two addresses with as many, that with the older one.
    fn pop(&mut self) -> Option<T> {
        let heaviest = self.standing.iter().max_by_key(|(_, queue)| {
            let oldest = queue.front().map_or(0, |(arrival, _)| *arrival);
            (queue.len(), std::cmp::Reverse(oldest))
        });
        let address = *heaviest?.0;
        let queue = self.standing.get_mut(&address)?;
        let (_, out) = queue.pop_front()?;
        if queue.is_empty() {
            self.standing.remove(&address);
        }
        self.count -= 1;
        Some(out)
    }
}

fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number, and whether it is over.
    #[derive(Debug, PartialEq)]
    struct One(u32, bool);

    impl Stands for One {
        fn is_over(&self) -> bool {
            self.1
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_crowd_pushes_out_itself_alone() {
        let (crowd, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let mut queue = Queue::new(4);
        assert_eq!(queue.push(other, One(0, false)), None);
        for number in 1..=3 {
            assert_eq!(queue.push(crowd, One(number, false)), None);
        }
        for number in 4..100 {
            assert_eq!(queue.push(crowd, One(number, false)), Some(One(number - 3, false)));
        }
        assert_eq!(queue.push(other, One(100, false)), Some(One(97, false)));
        // Now they have as many, and the other's is the oldest.
        assert_eq!(queue.push(crowd, One(101, false)), Some(One(0, false)));
    }

    #[test]
    fn what_is_over_goes_first() {
        let from = ip("192.0.2.1");
        let mut queue = Queue::new(2);
        queue.push(from, One(1, false));
        queue.push(from, One(2, true));
        assert_eq!(queue.push(from, One(3, false)), None);
        assert_eq!(queue.push(from, One(4, false)), Some(One(1, false)));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        assert_eq!(place(ip("2001:db8::1:2:3:4")), place(ip("2001:db8::5")));
        assert_ne!(place(ip("2001:db8::1")), place(ip("2001:db8:0:1::1")));
        assert_eq!(place(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }
}
