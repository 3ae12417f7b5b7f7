//! What a node answers to managers that trace, and for whom.

use proto::network::question::Kind;
use proto::network::{Answer, Heard, Look, Question};
use proto::wire::TaskState;

use super::lab::{Node, endpoint, seen, task};
use super::manager::Manager;

async fn answer(manager: &Manager, id: u64, task_id: &str, kind: Kind) -> Answer {
    let question = Question { id, task_id: task_id.into(), kind: Some(kind) };
    manager.told.question.send_replace(Some(question));
    seen(&manager.told.answers, "answer", |answers| {
        let answered = answers.iter().find(|answer| answer.question_id == id)?;
        answered.answer.clone()
    })
    .await
}

#[tokio::test]
async fn it_answers_for_its_own_tasks_on_their_networks_only() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    manager.endpoints(vec![endpoint("t1", "n1", "127.0.0.1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    let look = |network: &str| Kind::Look(Look { network_id: network.into(), ..Look::default() });
    let cases = [
        ("t2", look("net1"), "it has no such task, or none with a network"),
        ("t1", look("net2"), "it has the task, but not on that network"),
        ("t1", Kind::Heard(Heard { token: 7 }), "it does not listen for this probe any more"),
        // As far as a kernel that is made up goes.
        ("t1", look("net1"), "this node's networking cannot be looked at"),
    ];
    for (id, (task, kind, expected)) in (1..).zip(cases) {
        assert_eq!(answer(&manager, id, task, kind).await.refusal, expected);
    }
    worker.stop().await;
}
