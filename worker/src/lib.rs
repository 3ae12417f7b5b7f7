//! What every node runs: the session with a manager, the tasks, their containers and networks.

pub mod logs;
pub mod runtime;
