//! A store in memory with a clock that follows tokio's, and objects to put into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use manager::reconcile::{Plan, Scope};
use proto::model::*;
use raft_store::{Clock, Object, Store, Transaction};

pub struct World {
    pub store: Store,
    pub clock: Clock,
}

impl World {
    pub fn new() -> Self {
        let (wall, start) =
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000), tokio::time::Instant::now());
        let clock: Clock = Arc::new(move || wall + start.elapsed());
        Self { store: Store::in_memory_with_clock(clock.clone()), clock }
    }

    /// With a cluster object and so many ready nodes: n1, n2, …
    pub async fn with_nodes(count: usize) -> Self {
        let world = Self::new();
        world.put(cluster()).await;
        for n in 1..=count {
            world.put(node(&format!("n{n}"))).await;
        }
        world
    }

    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub async fn put(&self, object: impl Into<Object>) {
        let object = object.into();
        self.write(|tx| tx.create(object.clone())).await;
    }

    pub async fn write(&self, mut change: impl FnMut(&mut Transaction) + Send) {
        let write = |tx: &mut Transaction| {
            change(tx);
            Ok::<_, std::convert::Infallible>(())
        };
        self.store.update(write).await.expect("the test writes what the store admits");
    }

    pub async fn change_node(&self, id: &str, change: impl Fn(&mut Node) + Send + Sync) {
        let id = NodeId::from(id);
        self.write(|tx| {
            let mut node = Node::clone(tx.node(&id).expect("the node exists"));
            change(&mut node);
            tx.update(node);
        })
        .await;
    }

    /// As the API does it: a new version of the spec, and the status of the last update is void.
    pub async fn change_spec(&self, name: &str, change: impl Fn(&mut ServiceSpec) + Send + Sync) {
        self.write(|tx| {
            let mut service = Service::clone(tx.service_by_name(name).expect("the service exists"));
            let mut spec = ServiceSpec::clone(&service.spec);
            change(&mut spec);
            service.previous_spec = Some(service.spec);
            service.spec = Arc::new(spec);
            service.spec_version += 1;
            service.update_status = None;
            tx.update(service);
        })
        .await;
    }

    pub async fn scale(&self, name: &str, replicas: u64) {
        self.change_spec(name, |spec| spec.mode = Mode::Replicated { replicas }).await;
    }

    pub async fn change_task(&self, id: &TaskId, change: impl Fn(&mut Task) + Send + Sync) {
        self.write(|tx| {
            let mut task = Task::clone(tx.task(id).expect("the task exists"));
            change(&mut task);
            tx.update(task);
        })
        .await;
    }

    pub async fn observe(&self, id: &TaskId, state: TaskState) {
        let now = self.now();
        self.change_task(id, |task| {
            task.status.state = state;
            task.status.timestamp = now;
        })
        .await;
    }

    pub fn tasks(&self, service: &str) -> Vec<Arc<Task>> {
        let view = self.store.view();
        view.tasks().filter(|task| task.service.as_str() == service).cloned().collect()
    }

    /// Tasks that shall live, in the order of their slots.
    pub fn live(&self, service: &str) -> Vec<Arc<Task>> {
        let mut live = self.tasks(service);
        live.retain(|task| task.desired <= TaskState::Running);
        live.sort_by_key(|task| (task.slot, task.node.clone()));
        live
    }

    pub fn actions<P: Plan>(&self, plan: &P) -> Vec<P::Action> {
        plan.plan(&self.store.view(), &Scope::All, self.now()).actions
    }

    /// Plans and commits once, and says how many actions there were. Afterwards there must be none left.
    pub async fn settle<P: Plan>(&self, plan: &P) -> usize {
        let actions = self.actions(plan);
        let now = self.now();
        self.write(|tx| actions.iter().for_each(|action| plan.commit(action, now, tx))).await;
        let again = self.actions(plan);
        assert!(again.is_empty(), "{} plans again: {again:?}", P::NAME);
        actions.len()
    }
}

pub fn cluster() -> Cluster {
    Cluster {
        id: "cluster".into(),
        meta: Meta::default(),
        spec: ClusterSpec::default(),
        root_ca: RootCa::default(),
        default_address_pools: vec!["10.0.0.0/8".parse().unwrap()],
        unlock_key: None,
        subnet_size: 24,
        vxlan_port: 4789,
    }
}

pub fn node(id: &str) -> Node {
    Node {
        id: id.into(),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: Some(NodeDescription {
            hostname: id.into(),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 4_000_000_000,
            memory_bytes: 8 << 30,
            engine: EngineDescription::default(),
            tls: None,
        }),
        status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
        manager: None,
        certificate: Certificate::default(),
        role: Role::Worker,
    }
}

/// Replicated; its id is its name.
pub fn service(name: &str, replicas: u64) -> Service {
    Service {
        id: name.into(),
        meta: Meta::default(),
        spec: Arc::new(ServiceSpec {
            annotations: Annotations { name: name.into(), ..Annotations::default() },
            task: Arc::new(TaskSpec::default()),
            mode: Mode::Replicated { replicas },
            update: UpdateConfig::default(),
            rollback: None,
            endpoint: EndpointMode::Vip,
        }),
        spec_version: 1,
        previous_spec: None,
        endpoint: Endpoint::default(),
        update_status: None,
        pending_delete: false,
    }
}

pub fn spec_of(service: &mut Service) -> &mut ServiceSpec {
    Arc::make_mut(&mut service.spec)
}

pub fn task_spec_of(service: &mut Service) -> &mut TaskSpec {
    Arc::make_mut(&mut spec_of(service).task)
}

pub fn set_image(spec: &mut ServiceSpec, image: &str) {
    Arc::make_mut(&mut spec.task).container.image = image.into();
}

pub fn attach(service: &mut Service, network: &str) {
    task_spec_of(service).networks.push(AttachmentConfig {
        network: network.into(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        options: BTreeMap::new(),
    });
}

/// Its id is its name.
pub fn network(name: &str, subnets: &[&str]) -> Network {
    let config = |subnet: &&str| IpamConfig {
        subnet: subnet.parse().unwrap(),
        range: None,
        gateway: None,
        reserved: BTreeMap::new(),
    };
    Network {
        id: name.into(),
        meta: Meta::default(),
        spec: NetworkSpec {
            annotations: Annotations { name: name.into(), ..Annotations::default() },
            ipam: subnets.iter().map(config).collect(),
            ..NetworkSpec::default()
        },
        state: None,
        pending_delete: false,
    }
}

pub fn addresses_of(task: &Task) -> Vec<String> {
    task.attachments.iter().flat_map(|a| &a.addresses).map(ToString::to_string).collect()
}
