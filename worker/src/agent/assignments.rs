//! Follows the stream of assignments: a complete set, then differences, each of which says what it applies to.
//!
//! Pure. Invariant: what comes out is applied to exactly the state for which the manager made it.

use proto::model::TaskId;
use proto::wire::AssignmentsMessage;
use proto::wire::assignment::Item;
use proto::wire::assignment_change::AssignmentAction;
use proto::wire::assignments_message::Type;

use crate::task::Instruction;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("assignments: a difference applies to {applies_to:?}, this node is at {at:?}")]
    OutOfOrder { applies_to: String, at: String },
    #[error("assignments: type {0} is not known")]
    Type(i32),
    #[error("assignments: action {0} is not known")]
    Action(i32),
    #[error("assignments: a complete set removes a task")]
    RemovedFromSet,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// What the last message resulted in; none before the first complete set.
    at: Option<String>,
}

impl Sequence {
    pub fn next(&mut self, message: AssignmentsMessage) -> Result<Instruction, Error> {
        let kind = Type::try_from(message.r#type).map_err(|_| Error::Type(message.r#type))?;
        if kind == Type::Incremental && self.at.as_ref() != Some(&message.applies_to) {
            let at = self.at.clone().unwrap_or_default();
            return Err(Error::OutOfOrder { applies_to: message.applies_to, at });
        }
        let (mut update, mut remove) = (Vec::new(), Vec::new());
        for change in message.changes {
            let action = AssignmentAction::try_from(change.action);
            let action = action.map_err(|_| Error::Action(change.action))?;
            // Kinds of assignments that this version does not know are not for it.
            let Some(Item::Task(task)) = change.assignment.and_then(|assignment| assignment.item) else {
                continue;
            };
            match action {
                AssignmentAction::Update => update.push(task),
                AssignmentAction::Remove => remove.push(TaskId::from(task.id)),
            }
        }
        self.at = Some(message.results_in);
        match kind {
            Type::Incremental => Ok(Instruction::Difference { update, remove }),
            Type::Complete if remove.is_empty() => Ok(Instruction::Complete(update)),
            Type::Complete => Err(Error::RemovedFromSet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::{Assignment, AssignmentChange, Task};

    fn names(tasks: &[Task]) -> Vec<&str> {
        tasks.iter().map(|task| task.id.as_str()).collect()
    }

    fn message(
        kind: Type,
        applies_to: &str,
        results_in: &str,
        tasks: &[(&str, AssignmentAction)],
    ) -> AssignmentsMessage {
        let change = |(id, action): &(&str, AssignmentAction)| AssignmentChange {
            assignment: Some(Assignment {
                item: Some(Item::Task(Task { id: (*id).into(), ..Default::default() })),
            }),
            action: (*action).into(),
        };
        AssignmentsMessage {
            r#type: kind.into(),
            applies_to: applies_to.into(),
            results_in: results_in.into(),
            changes: tasks.iter().map(change).collect(),
        }
    }

    #[test]
    fn a_set_then_differences_in_order() {
        use AssignmentAction::{Remove, Update};
        let mut sequence = Sequence::default();
        let early = sequence.next(message(Type::Incremental, "", "1", &[]));
        assert!(matches!(early, Err(Error::OutOfOrder { .. })));
        let set = sequence.next(message(Type::Complete, "", "1", &[("a", Update)]));
        assert!(matches!(set, Ok(Instruction::Complete(tasks)) if names(&tasks) == ["a"]));
        let next = sequence.next(message(Type::Incremental, "1", "2", &[("b", Update), ("a", Remove)]));
        let Ok(Instruction::Difference { update, remove }) = next else { panic!() };
        assert_eq!((names(&update), remove), (vec!["b"], vec![TaskId::from("a")]));
        let skipped = sequence.next(message(Type::Incremental, "3", "4", &[]));
        assert!(matches!(skipped, Err(Error::OutOfOrder { at, .. }) if at == "2"));
    }
}
