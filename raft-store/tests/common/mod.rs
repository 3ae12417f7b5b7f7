//! Stores that replicate over TCP on the loopback device, each with a server of its own.

#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub mod objects;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::model::NodeId;
use raft_store::{Dial, Options, Store};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// Long enough for a loaded machine; nothing waits so long when all is well.
pub const BOUND: Duration = Duration::from_secs(30);

/// Without certificates: who dials says who he is.
pub struct Tcp(pub String);

impl Dial for Tcp {
    fn channel(&self, addr: &str) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        let endpoint = endpoint.user_agent(self.0.clone()).unwrap();
        endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
    }
}

fn with_caller(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    let agent = request.metadata().get("user-agent").unwrap().to_str().unwrap();
    let caller = NodeId::from(agent.split(' ').next().unwrap());
    request.extensions_mut().insert(caller);
    Ok(request)
}

/// With a runtime of its own, so that it can die as a process does: everything at once.
pub struct Manager {
    pub name: String,
    pub addr: String,
    pub store: Store,
    runtime: Option<Runtime>,
}

impl Manager {
    pub async fn start(dir: &Path, name: &str) -> Self {
        Self::start_with(dir, name, "127.0.0.1:0", |_| {}).await
    }

    pub async fn start_with(dir: &Path, name: &str, addr: &str, adjust: impl FnOnce(&mut Options)) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let mut options = Options::new(dir.join(name), name.into(), addr.clone(), Arc::new(Tcp(name.into())));
        adjust(&mut options);
        let serve = async move {
            let store = Store::open(options).await.unwrap();
            let incoming =
                TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
            let service = store.raft_service(|extensions| extensions.get::<NodeId>().cloned());
            let service = InterceptedService::new(service, with_caller);
            let server = Server::builder().add_service(service).serve_with_incoming(incoming);
            (store, server)
        };
        let (store, server) = runtime.spawn(serve).await.unwrap();
        // Ends with the runtime.
        runtime.spawn(server);
        Self { name: name.into(), addr, store, runtime: Some(runtime) }
    }

    /// Without a word to the others.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(BOUND)).await.unwrap();
    }

    pub async fn stop(self) {
        self.store.shutdown().await;
        self.kill().await;
    }

    pub fn leads(&self) -> bool {
        self.store.leadership().borrow().leading.is_some()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until `condition` holds and says what was missing if it does not.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {BOUND:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("not within {BOUND:?}: {what}"))
}

/// `names` as one group; the first one made it.
pub async fn group(dir: &Path, names: &[&str]) -> Vec<Manager> {
    let mut managers = Vec::new();
    for name in names {
        let manager = Manager::start(dir, name).await;
        match managers.first() {
            None => manager.store.bootstrap(vec![objects::cluster().into()]).await.unwrap(),
            Some(first) => {
                let first: &Manager = first;
                first.store.membership().add((*name).into(), manager.addr.clone()).await.unwrap();
            }
        }
        managers.push(manager);
    }
    managers
}

pub async fn leader(managers: &[Manager]) -> usize {
    eventually("a leader", || managers.iter().position(Manager::leads)).await
}

pub async fn create_node(store: &Store, id: &str) {
    let create = |tx: &mut raft_store::Transaction| {
        tx.create(objects::node(id));
        Ok::<_, std::convert::Infallible>(())
    };
    bounded("an update", store.update(create)).await.unwrap();
}

/// Log entries between snapshots, older snapshots beside the newest, and log entries behind it.
pub async fn set_snapshots(store: &Store, interval: u64, older: u64, for_slow_followers: u64) {
    let change = |tx: &mut raft_store::Transaction| {
        let mut cluster = proto::model::Cluster::clone(tx.cluster().unwrap());
        cluster.spec = objects::cluster_with_snapshots(interval, older, for_slow_followers).spec;
        tx.update(cluster);
        Ok::<_, std::convert::Infallible>(())
    };
    bounded("other settings", store.update(change)).await.unwrap();
}

/// The files of a manager whose names begin so, in order.
pub fn files(dir: &Path, manager: &str, start: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir.join(manager)).unwrap().map(|file| file.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).collect();
    paths.sort();
    paths
}

pub async fn has_node(store: &Store, id: &str) {
    eventually(&format!("node {id}"), || store.view().node(&id.into()).map(|_| ())).await;
}
