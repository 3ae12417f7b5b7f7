//! Whether a history of one object is linearizable: whether its operations, each at one moment between its call and its
//! return, explain each other.
//!
//! The search of Wing and Gong with Lowe's memory of what was tried, as Porcupine does it; histories are checked one
//! object at a time, which is enough (Herlihy and Wing: linearizability is local). An operation whose outcome is not
//! known may have happened at any time after its call, or never.
//!
//! Our own, since no crate fits: `stateright` has a tester that remembers nothing of what it tried, so that it takes
//! exponential time, and comes with a model checker and its web server; `todc-utils` cannot express an operation
//! without an outcome, has one release and no dependents; `lincheck` runs the code under test itself, in threads on
//! `loom`.

use std::collections::HashSet;
use std::fmt::{Debug, Write as _};
use std::hash::Hash;
use std::time::Duration;

/// Partial explanations that are tried, and remembered, before the search is given up: far more than any history
/// needed.
const MOST_TRIED: usize = 300_000;

/// What an object does, one operation at a time.
pub trait Model {
    type State: Clone + Default + Eq + Hash + Debug;
    type Operation: Debug;

    /// The state after the operation; none if it cannot have had its outcome in `state`. An operation whose outcome
    /// is not known does what it can.
    fn step(state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;
}

/// Times count from the beginning of the history.
#[derive(Clone, Debug)]
pub struct Call<O> {
    pub client: usize,
    pub called: Duration,
    /// None: nobody knows whether it happened.
    pub returned: Option<Duration>,
    pub operation: O,
}

/// The history, with the longest part that can be explained.
#[derive(Debug)]
pub struct Violation {
    pub explanation: String,
}

/// One operation that was put in its place, and the state before it.
struct Placed<S> {
    call: usize,
    before: S,
}

pub fn check<M: Model>(mut calls: Vec<Call<M::Operation>>) -> Result<(), Violation> {
    calls.sort_by_key(|call| call.called);
    let mut tried = HashSet::new();
    let mut placed: Vec<Placed<M::State>> = Vec::new();
    let mut longest: (Vec<usize>, M::State) = Default::default();
    let mut done = vec![false; calls.len()];
    let mut state = M::State::default();
    // The operation to be tried next, in the order of `candidates`.
    let mut next = 0;
    loop {
        if calls.iter().zip(&done).all(|(call, done)| *done || call.returned.is_none()) {
            return Ok(());
        }
        if tried.len() > MOST_TRIED {
            let Violation { explanation } = explain::<M>(&calls, &longest);
            return Err(Violation {
                explanation: format!("undecided after {MOST_TRIED} attempts\n{explanation}"),
            });
        }
        let candidates = candidates(&calls, &done);
        let fits = candidates.iter().enumerate().skip(next).find_map(|(position, call)| {
            let after = M::step(&state, &calls[*call].operation)?;
            done[*call] = true;
            let is_new = tried.insert((done.clone(), after.clone()));
            if !is_new {
                done[*call] = false;
            }
            is_new.then_some((position, *call, after))
        });
        match fits {
            Some((_, call, after)) => {
                placed.push(Placed { call, before: std::mem::replace(&mut state, after) });
                if placed.len() > longest.0.len() {
                    longest = (placed.iter().map(|placed| placed.call).collect(), state.clone());
                }
                next = 0;
            }
            None => {
                let Some(last) = placed.pop() else { return Err(explain::<M>(&calls, &longest)) };
                done[last.call] = false;
                state = last.before;
                let again = self::candidates(&calls, &done);
                next = again.iter().position(|call| *call == last.call).unwrap_or_default() + 1;
            }
        }
    }
}

/// Operations that may be the next: called before any that is left has returned. Those whose outcome is known come
/// first.
fn candidates<O>(calls: &[Call<O>], done: &[bool]) -> Vec<usize> {
    let left = || calls.iter().enumerate().filter(|(index, _)| !done[*index]);
    let first_return = left().filter_map(|(_, call)| call.returned).min();
    let may = |call: &Call<O>| first_return.is_none_or(|first| call.called <= first);
    let mut candidates: Vec<usize> = left().filter(|(_, call)| may(call)).map(|(index, _)| index).collect();
    candidates.sort_by_key(|index| calls[*index].returned.is_none());
    candidates
}

fn explain<M: Model>(calls: &[Call<M::Operation>], longest: &(Vec<usize>, M::State)) -> Violation {
    let mut text = String::new();
    for (index, call) in calls.iter().enumerate() {
        let place = longest.0.iter().position(|placed| *placed == index);
        let place = place.map_or("     ".to_owned(), |place| format!("[{place:3}]"));
        let returned = call.returned.map_or("never".to_owned(), |at| format!("{:.6}", at.as_secs_f64()));
        let (client, called, operation) = (call.client, call.called.as_secs_f64(), &call.operation);
        let _ = writeln!(text, "{place} client {client:2} {called:.6} - {returned}: {operation:?}");
    }
    let _ = writeln!(text, "the longest part that can be explained, [in this order], leaves {:?}", longest.1);
    Violation { explanation: text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register that is 0 at first.
    struct Register;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u32),
        Read(u32),
        /// From one value to another, if it is the one.
        Swap(u32, u32),
    }
    use Op::{Read, Swap, Write};

    impl Model for Register {
        type State = u32;
        type Operation = Op;

        fn step(state: &u32, operation: &Op) -> Option<u32> {
            match *operation {
                Write(value) => Some(value),
                Read(value) => (value == *state).then_some(value),
                Swap(from, to) => (from == *state).then_some(to),
            }
        }
    }

    /// (client, called, returned or 0 for never, operation)
    fn verdict(history: &[(usize, u64, u64, Op)]) -> Result<(), Violation> {
        let call = |(client, called, returned, operation): &(usize, u64, u64, Op)| Call {
            client: *client,
            called: Duration::from_secs(*called),
            returned: (*returned > 0).then(|| Duration::from_secs(*returned)),
            operation: operation.clone(),
        };
        check::<Register>(history.iter().map(call).collect())
    }

    #[test]
    fn histories_that_can_be_explained() {
        for history in [
            &[][..],
            &[(0, 1, 2, Write(7)), (1, 3, 4, Read(7))],
            // At the same time: before or after.
            &[(0, 1, 9, Write(7)), (1, 2, 3, Read(0)), (1, 4, 5, Read(7))],
            &[(0, 1, 9, Write(7)), (1, 1, 9, Write(8)), (2, 1, 9, Read(8)), (3, 1, 9, Read(7))],
            // Without an outcome: never, late, or at once.
            &[(0, 1, 0, Write(7)), (1, 2, 3, Read(0)), (1, 4, 5, Read(0))],
            &[(0, 1, 0, Write(7)), (1, 2, 3, Read(0)), (1, 4, 5, Read(7))],
            &[(0, 1, 0, Write(7)), (1, 2, 3, Swap(7, 8)), (1, 4, 5, Read(8))],
            &[(0, 1, 0, Swap(5, 6)), (1, 2, 3, Write(5)), (1, 4, 5, Read(5)), (1, 6, 7, Read(6))],
        ] {
            assert!(verdict(history).is_ok(), "{history:?}");
        }
    }

    #[test]
    fn histories_that_cannot() {
        for history in [
            // A stale read.
            &[(0, 1, 2, Write(7)), (1, 3, 4, Read(0))][..],
            // Back in time.
            &[(0, 1, 9, Write(7)), (1, 2, 3, Read(7)), (2, 4, 5, Read(0))],
            // A lost update.
            &[(0, 1, 9, Swap(0, 7)), (1, 1, 9, Swap(0, 8))],
            // A value that nobody wrote.
            &[(0, 1, 2, Write(7)), (1, 1, 9, Read(8))],
            // A write that was lost, though its client was told.
            &[(0, 1, 2, Write(7)), (0, 3, 0, Write(8)), (1, 9, 10, Read(0))],
            // Two readers who disagree about the order.
            &[
                (0, 1, 20, Write(7)),
                (1, 1, 20, Write(8)),
                (2, 2, 3, Read(7)),
                (2, 4, 5, Read(8)),
                (3, 6, 7, Read(7)),
            ],
            // An outcome that came too late for what was seen.
            &[(0, 5, 0, Write(7)), (1, 1, 2, Read(7))],
            // Done twice.
            &[(0, 1, 0, Swap(0, 7)), (1, 2, 3, Read(7)), (1, 4, 5, Write(0)), (1, 6, 7, Read(7))],
        ] {
            let violation = verdict(history).expect_err(&format!("{history:?}"));
            assert!(violation.explanation.contains("leaves"), "{}", violation.explanation);
        }
    }

    /// Hundreds in all, some of them without an outcome, take no exponential time.
    #[test]
    fn a_long_history_is_checked_in_no_time() {
        let mut history = Vec::new();
        for number in 1..400_u64 {
            let value = u32::try_from(number).unwrap();
            let at = number * 10;
            history.push((0, at, at + 15, Swap(value - 1, value)));
            history.push((1, at + 5, at + 18, Read(value)));
            if number % 100 == 0 {
                history.push((2, at, 0, Write(100_000 + value)));
            }
        }
        assert!(verdict(&history).is_ok());
        history.push((1, 9000, 9001, Read(3)));
        assert!(verdict(&history).is_err());
    }
}
