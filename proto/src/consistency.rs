//! How current a read is, and which requests are one: what client and manager say of it in headers beside the calls of
//! `Control`.

/// In a request: how current the answer must be.
pub const ASKED: &str = "swarm-consistency";

/// What the manager that is asked has now. The default.
pub const LOCAL: &str = "local";

/// With everything that was committed, through whichever manager, when the request came.
pub const LINEARIZABLE: &str = "linearizable";

/// In a request that creates something: 32 hexadecimal digits, chosen at random by the client. However often the
/// request is sent, and to whichever manager, what it asks for is made once.
pub const REQUEST_ID: &str = "swarm-request-id";

/// In an answer: it may lack what was committed elsewhere, for the reason that follows.
pub const STALE: &str = "swarm-stale";

/// The manager hears no leader, or leads and reaches no majority.
pub const NO_QUORUM: &str = "no-quorum";
