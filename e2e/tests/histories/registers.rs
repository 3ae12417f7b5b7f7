//! Services as registers: what clients do with one name, and what they can be told.
//!
//! A service runs nothing; its value is a label, written with a number that is used once. An update names the version
//! that was read, so it is a compare-and-swap of values.

use crate::checker::Model;

/// What the service of a name is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// Number of the write that created the service: another one of the same name has another.
    pub born: u32,
    /// Number of the write that gave it its label.
    pub write: u32,
}

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Read(Option<Value>),
    /// Done, or nobody knows.
    Create(u32),
    /// There is one of that name.
    CreateRefused,
    Update {
        from: Value,
        write: u32,
    },
    /// The service that was read is not there any more.
    UpdateRefused(Value),
    /// Whatever value it has by then.
    Remove {
        born: u32,
    },
    RemoveRefused {
        born: u32,
    },
}

pub struct Registers;

impl Model for Registers {
    type State = Option<Value>;
    type Operation = Operation;

    fn step(state: &Option<Value>, operation: &Operation) -> Option<Option<Value>> {
        let born = state.map(|value| value.born);
        let (possible, after) = match *operation {
            Operation::Read(seen) => (seen == *state, *state),
            Operation::Create(write) => (state.is_none(), Some(Value { born: write, write })),
            Operation::CreateRefused => (state.is_some(), *state),
            Operation::Update { from, write } => (Some(from) == *state, Some(Value { write, ..from })),
            Operation::UpdateRefused(from) => (born != Some(from.born), *state),
            Operation::Remove { born: removed } => (born == Some(removed), None),
            Operation::RemoveRefused { born: removed } => (born != Some(removed), *state),
        };
        possible.then_some(after)
    }
}
