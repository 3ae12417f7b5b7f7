//! A worker with a runtime, a kernel and managers that are all made up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::network::Endpoint;
use proto::wire;
use tokio::sync::watch;
use tonic::transport::Channel;
use worker::runtime::fake::Fake;
use worker::{Config, Dial, Worker};

use super::kernel::FakeKernel;
use super::manager::Manager;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Plain;

impl Dial for Plain {
    fn channel(&self, addr: &str) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Channel::from_shared(format!("http://{addr}"))?.connect_lazy())
    }
}

pub struct Node {
    pub dir: tempfile::TempDir,
    pub runtime: Arc<Fake>,
    pub kernel: Arc<FakeKernel>,
}

impl Node {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runtime: Arc::new(Fake::new()), kernel: FakeKernel::new() }
    }

    pub fn start(&self, managers: &[&Manager]) -> Worker {
        Worker::start(Config {
            node_id: "n1".into(),
            hostname: "h1".into(),
            labels: BTreeMap::new(),
            dial: Arc::new(Plain),
            managers: managers.iter().map(|manager| manager.addr.to_string()).collect(),
            runtime: self.runtime.clone(),
            kernel: self.kernel.clone(),
            data_root: self.dir.path().to_owned(),
            data_path_addr: None,
            tls: tokio::sync::watch::channel(Default::default()).1,
            parallel_starts: 4,
        })
        .unwrap()
    }

    pub fn database(&self) -> std::path::PathBuf {
        Path::new(self.dir.path()).join("worker/tasks.db")
    }
}

/// Waits until `find` finds something in a watched value.
pub async fn seen<T, U>(sender: &watch::Sender<T>, what: &str, find: impl Fn(&T) -> Option<U>) -> U {
    let mut receiver = sender.subscribe();
    let waiting = async {
        loop {
            if let Some(found) = find(&receiver.borrow_and_update()) {
                return found;
            }
            receiver.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// Waits until a condition that nothing announces holds.
pub async fn holds(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never held: {what}"));
}

/// A task on network `net1` with the address 10.0.9.`host`, to be run.
pub fn task(id: &str, host: u8) -> wire::Task {
    let container = wire::ContainerSpec { image: "nginx".into(), ..Default::default() };
    wire::Task {
        id: id.into(),
        service_id: "s1".into(),
        slot: 1,
        node_id: "n1".into(),
        annotations: Some(wire::Annotations { name: format!("web.1.{id}"), ..Default::default() }),
        service_annotations: Some(wire::Annotations { name: "web".into(), ..Default::default() }),
        spec: Some(wire::TaskSpec {
            runtime: Some(wire::task_spec::Runtime::Container(container)),
            ..Default::default()
        }),
        status: Some(wire::TaskStatus { state: wire::TaskState::Assigned.into(), ..Default::default() }),
        desired_state: wire::TaskState::Running.into(),
        networks: vec![wire::NetworkAttachment {
            network: Some(network("net1")),
            addresses: vec![format!("10.0.9.{host}/24")],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn desired(mut task: wire::Task, state: wire::TaskState) -> wire::Task {
    task.desired_state = state.into();
    task
}

pub fn container(task: &mut wire::Task) -> &mut wire::ContainerSpec {
    let wire::task_spec::Runtime::Container(container) =
        task.spec.as_mut().unwrap().runtime.as_mut().unwrap();
    container
}

fn network(id: &str) -> wire::Network {
    let vni = ("com.docker.network.driver.overlay.vxlanid_list".to_owned(), "4097".to_owned());
    let config =
        wire::IpamConfig { subnet: "10.0.9.0/24".into(), gateway: "10.0.9.1".into(), ..Default::default() };
    wire::Network {
        id: id.into(),
        spec: Some(wire::NetworkSpec {
            annotations: Some(wire::Annotations { name: "front".into(), ..Default::default() }),
            ..Default::default()
        }),
        driver_state: Some(wire::Driver { name: "overlay".into(), options: BTreeMap::from([vni]) }),
        ipam: Some(wire::IpamOptions { driver: None, configs: vec![config] }),
        ..Default::default()
    }
}

pub fn endpoint(task: &str, node: &str, vtep: &str, host: u8) -> Endpoint {
    Endpoint {
        task_id: task.into(),
        node_id: node.into(),
        vtep: vtep.into(),
        mac: vec![2, 0x42, 10, 0, 9, host],
        addresses: vec![format!("10.0.9.{host}")],
        ..Default::default()
    }
}
