//! A node that starts again finds what it left, and disturbs nothing.

use netdriver::SandboxKey;
use proto::network::Endpoint;
use proto::wire::TaskState;
use worker::runtime::fake::Call;
use worker::runtime::{ContainerConfig, Runtime, Status};

use super::lab::{Node, container, endpoint, holds, seen, task};
use super::manager::Manager;
use super::question::{Found, ask};

fn stranger() -> ContainerConfig {
    ContainerConfig { id: "stranger".into(), ..ContainerConfig::default() }
}

#[tokio::test]
async fn tasks_are_adopted_without_a_manager_and_untouched() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let tasks = vec![task("runs", 3), task("ends", 4)];
    manager.assign(tasks.clone());
    let worker = node.start(&[&manager]);
    manager.reported("runs", TaskState::Running).await;
    manager.reported("ends", TaskState::Running).await;
    worker.stop().await;
    drop(manager);
    assert!(node.runtime.calls().iter().all(|(call, _)| !matches!(call, Call::Stop | Call::Remove)));

    node.runtime.exit("ends", 7);
    node.runtime.put(stranger(), Status::Running { pid: 99 });
    let network = node.kernel.world().networks.into_values().next();
    let worker = node.start(&[]);
    // What ended meanwhile is cleared away although no manager is there; the network that the other needs stays.
    node.runtime.called(Call::Remove, "ends").await;
    assert_eq!(node.kernel.world().networks.into_values().next(), network);
    assert!(node.kernel.world().sandboxes.contains_key(&SandboxKey::new("runs")));
    assert!(node.runtime.config("stranger").is_some(), "no manager has said yet that it is none of ours");
    holds("adopted", || worker.stats().tasks == 2).await;
    worker.stop().await;

    let manager = Manager::start("m1").await;
    manager.assign(tasks);
    let worker = node.start(&[&manager]);
    let ended = manager.reported("ends", TaskState::Failed).await;
    assert_eq!(ended.err, "task: non-zero exit (7)");
    manager.reported("runs", TaskState::Running).await;
    node.runtime.called(Call::Remove, "stranger").await;
    holds("the stranger is gone", || node.runtime.config("stranger").is_none()).await;
    let calls = node.runtime.calls();
    let about = |call, id: &str| calls.iter().filter(|made| **made == (call, id.to_owned())).count();
    assert_eq!((about(Call::Start, "runs"), about(Call::Start, "ends")), (1, 1));
    assert_eq!((about(Call::Stop, "runs"), about(Call::Remove, "runs")), (0, 0));
    worker.stop().await;
}

/// Stopped or killed: what was told some seconds before is there.
#[tokio::test]
async fn names_are_answered_without_a_manager_and_the_first_one_goes_on_from_what_is_known() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let other = Endpoint {
        ready: true,
        service_name: "db".into(),
        service_id: "s2".into(),
        ..endpoint("t9", "n2", "192.0.2.2", 9)
    };
    manager.endpoints(vec![other.clone()]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    worker.stop().await;
    drop(manager);

    node.kernel.resolvers.send_replace(Default::default());
    let desired = node.kernel.world();
    let worker = node.start(&[]);
    let key = SandboxKey::new("t1");
    let resolver = seen(&node.kernel.resolvers, "resolver", |all| all.get(&key).copied()).await;
    assert_eq!(ask(resolver, "db").await, Found::addresses(&["10.0.9.9"]));
    assert_eq!(node.kernel.world(), desired, "the kernel may have been told more than was kept");
    worker.stop().await;

    let manager = Manager::start("m1").await;
    manager.assign(vec![task("t1", 3)]);
    manager.endpoints(vec![other]);
    let worker = node.start(&[&manager]);
    let asked = seen(&manager.told.asked, "directory stream", |asked| asked.first().cloned()).await;
    let [known] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((known.network_id.as_str(), known.moment.map(|moment| moment.mark)), ("net1", Some(1)));
    worker.stop().await;
}

#[tokio::test]
async fn after_the_machine_was_switched_off_tasks_have_failed() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    worker.stop().await;
    let config = node.runtime.config("t1").unwrap();
    node.runtime.put(config, Status::Created);
    node.kernel.put(netdriver::Desired::default());

    let worker = node.start(&[&manager]);
    assert!(manager.reported("t1", TaskState::Failed).await.err.contains("restarted"));
    let starts = node.runtime.calls().into_iter().filter(|(call, _)| *call == Call::Start).count();
    assert_eq!(starts, 1);
    worker.stop().await;
}

#[tokio::test]
async fn what_the_first_set_does_not_name_is_stopped_and_removed() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("stays", 3), task("goes", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("stays", TaskState::Running).await;
    manager.reported("goes", TaskState::Running).await;
    worker.stop().await;
    manager.assign(vec![task("stays", 3)]);
    let worker = node.start(&[&manager]);
    node.runtime.called(Call::Stop, "goes").await;
    holds("only one is left", || worker.stats().tasks == 1).await;
    assert!(node.runtime.config("goes").is_none() && node.runtime.config("stays").is_some());
    node.kernel.until("sandbox gone", |world| world.sandboxes.len() == 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn registry_credentials_are_used_and_not_kept() {
    const SECRET: &str = "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==";
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let mut private = task("t1", 3);
    let registry_auth = SECRET.to_owned();
    container(&mut private).pull_options = Some(proto::wire::container_spec::PullOptions { registry_auth });
    manager.assign(vec![private]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    worker.stop().await;
    let bytes = std::fs::read(node.database()).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"nginx") && !holds(SECRET.as_bytes()));
}

#[tokio::test]
async fn a_node_that_lost_its_memory_adopts_what_the_managers_name() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let mut tasks = vec![task("runs", 3), task("gone", 4)];
    manager.assign(tasks.clone());
    let worker = node.start(&[&manager]);
    manager.reported("runs", TaskState::Running).await;
    manager.reported("gone", TaskState::Running).await;
    worker.stop().await;
    std::fs::remove_file(node.database()).unwrap();
    node.runtime.remove("gone").await.unwrap();

    for task in &mut tasks {
        task.status.as_mut().unwrap().state = TaskState::Running.into();
    }
    let manager = Manager::start("m1").await;
    manager.assign(tasks);
    let worker = node.start(&[&manager]);
    manager.reported("runs", TaskState::Running).await;
    assert!(manager.reported("gone", TaskState::Failed).await.err.contains("its container is gone"));
    let starts = node.runtime.calls().into_iter().filter(|(call, _)| *call == Call::Start).count();
    assert_eq!(starts, 2, "each once, before the memory was lost");
    worker.stop().await;
}
