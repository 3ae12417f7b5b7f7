//! What the store takes from its surroundings beside files and time: chance, threads and connections.
//!
//! In unit tests a simulated machine may stand in for the real one: `simulation::host` has the same names.

pub(crate) mod real;

#[cfg(not(test))]
pub(crate) use self::real::{Runtime, Wire, blocking, dial, random, task};
#[cfg(test)]
pub(crate) use crate::simulation::host::{Runtime, Wire, blocking, dial, random, task};
