//! One step of a trace as it is told.

use proto::network::TraceStep;
use proto::network::trace_step::{Seen, State};

/// A step under way: it is well until something wrong is found, of which the first counts.
#[derive(Debug)]
pub struct Step(TraceStep);

impl Step {
    pub fn new(name: &str) -> Self {
        Self(TraceStep { name: name.into(), ..TraceStep::default() })
    }

    /// Something was seen, so it is known.
    pub fn saw(&mut self, node: &str, text: impl Into<String>) -> &mut Self {
        self.0.seen.push(Seen { node: node.into(), text: text.into() });
        if self.0.state() == State::Unknown {
            self.0.set_state(State::Ok);
        }
        self
    }

    /// For what could not be looked at, or does not apply.
    pub fn unknown(mut self, why: impl Into<String>) -> TraceStep {
        self.0.seen.push(Seen { node: String::new(), text: why.into() });
        self.0.set_state(State::Unknown);
        self.0
    }

    pub fn wrong(&mut self, fault: impl Into<String>, remedy: impl Into<String>) -> &mut Self {
        if self.0.state() != State::Wrong {
            self.0.set_state(State::Wrong);
            (self.0.fault, self.0.remedy) = (fault.into(), remedy.into());
        }
        self
    }

    pub fn is_wrong(&self) -> bool {
        self.0.state() == State::Wrong
    }

    pub fn done(self) -> TraceStep {
        self.0
    }
}

/// The number of the first step that is wrong.
pub fn first_wrong(steps: &[TraceStep]) -> Option<usize> {
    steps.iter().position(|step| step.state() == State::Wrong)
}
