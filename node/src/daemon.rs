//! From start to SIGTERM: the container runtime, the node's membership, and the socket for clients.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use identity::{CertificateDir, listener};
use netdriver::Netdriver;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use proto::local::node_server::NodeServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use worker::runtime::Runtime;
use worker::runtime::containerd::{self, Containerd};

use crate::config::{Settings, Switch};
use crate::gate::{Gate, Serving};
use crate::info::Machine;
use crate::local_api::LocalApi;
use crate::membership::Actor;
use crate::snapshot::Desk;
use crate::swarm::Context;

/// Clients on this machine: root, and whoever is in the socket's group.
const SOCKET_MODE: u32 = 0o660;
/// Part of an archive that a client sends in one message, and some.
const LARGEST_REQUEST_BYTES: usize = 4 << 20;

#[tokio::main]
pub async fn run(settings: Settings) -> Result<()> {
    // One provider for every TLS library in the process; a second call would only find the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let terminated = CancellationToken::new();
    let mut signals = JoinSet::new();
    signals.spawn(await_signal(terminated.clone())?);

    private_dir(&settings.data_root)?;
    private_dir(&settings.exec_root)?;
    let _locks = [claim("data-root", &settings.data_root)?, claim("exec-root", &settings.exec_root)?];
    let socket = listen(&settings.socket).await?;
    let containerd = Arc::new(start_containerd(&settings).await?);
    let netdriver = Arc::new(open_network(&settings).await?);
    let warnings = examine(&netdriver, &containerd).await?;
    let machine = Arc::new(machine(&settings, containerd.version(), warnings));
    let runtime: Arc<dyn Runtime> = containerd.clone();
    let (serving, manager) = watch::channel(Serving::Starting);
    let certificates = CertificateDir::new(&settings.data_root);
    let context =
        Context { settings: settings.clone(), certificates, runtime: runtime.clone(), netdriver, serving };
    let stop = CancellationToken::new();
    let snapshots = Desk::new(context.scratch_dir(), stop.clone());
    let (mut actor, membership) = Actor::new(Arc::new(context));
    // Whoever connects meanwhile waits: no answer tells of a node that is half there.
    let _ = terminated.run_until_cancelled(actor.resume()).await;

    let mut tasks = JoinSet::new();
    tasks.spawn(actor.run(stop.clone()));
    let api = LocalApi::new(membership, runtime, machine, snapshots.clone());
    tasks.spawn(serve(socket, api, manager, stop.clone()));
    tracing::info!(socket = %settings.socket.display(), "ready");

    terminated.cancelled().await;
    tracing::info!("stopping; tasks go on");
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    snapshots.ended().await;
    containerd.shutdown().await;
    let _ = std::fs::remove_file(&settings.socket);
    Ok(())
}

fn await_signal(terminated: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        terminated.cancel();
    })
}

async fn start_containerd(settings: &Settings) -> Result<Containerd> {
    let logger = std::env::current_exe().context("cannot find this program")?.with_file_name("swarm-logger");
    let config = containerd::Config {
        containerd: settings.containerd.clone(),
        runtime_binary: settings.oci_runtime.clone(),
        cgroup_parent: settings.cgroup_parent.clone(),
        insecure_registries: settings.insecure_registries.clone(),
        ..containerd::Config::new(&settings.data_root, &settings.exec_root, logger)
    };
    Containerd::start(config).await.context("cannot start containerd")
}

async fn open_network(settings: &Settings) -> Result<Netdriver> {
    let config = netdriver::Config {
        vxlan_checksum_offload: settings.vxlan_checksum_offload == Switch::On,
        ..netdriver::Config::new(settings.exec_root.join("netns"))
    };
    Netdriver::open(config).await.context("cannot use this machine's networking")
}

/// What does not work on this machine, or not well. Without what every task needs it is no use to start.
async fn examine(netdriver: &Netdriver, containerd: &Containerd) -> Result<Vec<String>> {
    let lacks = netdriver.check().await;
    if let Some(lack) = lacks.iter().find(|lack| lack.fatal) {
        bail!("this machine cannot be a node: {lack}");
    }
    let mut warnings: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    if !containerd.shares_layers() {
        warnings.push(
            "overlayfs is not available to containerd: each container has a copy of its whole image"
                .to_owned(),
        );
    }
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(warnings)
}

fn machine(settings: &Settings, containerd_version: &str, warnings: Vec<String>) -> Machine {
    let description =
        worker::description::describe(&settings.hostname, Default::default(), None, String::new());
    Machine {
        hostname: settings.hostname.clone(),
        containerd_version: containerd_version.into(),
        data_root: settings.data_root.display().to_string(),
        architecture: description.platform.architecture.clone(),
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        nano_cpus: description.nano_cpus,
        memory_bytes: description.memory_bytes,
        warnings,
    }
}

fn private_dir(path: &Path) -> Result<()> {
    let shown = path.display();
    std::fs::create_dir_all(path).with_context(|| format!("cannot make directory {shown}"))?;
    // Others may pass through to what is theirs (sockets), but not look around.
    std::fs::set_permissions(path, Permissions::from_mode(0o711))
        .with_context(|| format!("cannot set the mode of {shown}"))
}

/// A folder is one daemon's, which the kernel knows also after that one was killed. Its children inherit no claim.
fn claim(flag: &str, folder: &Path) -> Result<Flock<File>> {
    let path = folder.join("swarmd.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            let folder = folder.display();
            anyhow!("--{flag} {folder}: another daemon uses it; give this one its own")
        }
        error => anyhow!("cannot lock {}: {error}", path.display()),
    })
}

/// Takes the place of a socket that a daemon left when it was killed, but not of one that is in use.
async fn listen(path: &Path) -> Result<UnixListener> {
    let shown = path.display();
    if UnixStream::connect(path).await.is_ok() {
        bail!("another daemon serves {shown}; give this one its own --host, --exec-root and --data-root");
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make directory {}", dir.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {shown}"));
        }
        _ => {}
    }
    let socket = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    Ok(socket)
}

async fn serve(
    socket: UnixListener,
    api: LocalApi,
    manager: watch::Receiver<Serving>,
    stop: CancellationToken,
) {
    let node = NodeServer::new(api).max_decoding_message_size(LARGEST_REQUEST_BYTES);
    let incoming = listener::incoming_local(socket);
    let server = Server::builder().serve_with_incoming(Gate::new(node, manager), incoming);
    // Clients that wait for something are not waited for.
    if let Some(Err(error)) = stop.run_until_cancelled(server).await {
        tracing::error!(error = %crate::error::chain(&error), "the socket for clients has failed");
    }
}
