//! What a container costs in time and in CPU, of all processes that have to do with it. A measurement, for
//! `cargo test -p worker --test runtime cost -- --ignored --nocapture`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use worker::runtime::Runtime;

use crate::node::Node;

const COUNT: u32 = 20;

/// A control group that this process is in, with all that it starts and all containers.
struct Meter(PathBuf);

impl Meter {
    fn start(name: &str) -> Self {
        let first = Path::new("/sys/fs/cgroup/cpuacct");
        let root = if first.is_dir() { first } else { Path::new("/sys/fs/cgroup") };
        let group = root.join(name);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        Self(group)
    }

    fn cpu(&self) -> Duration {
        if let Ok(nanos) = fs::read_to_string(self.0.join("cpuacct.usage")) {
            return Duration::from_nanos(nanos.trim().parse().unwrap());
        }
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap();
        let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        Duration::from_micros(micros.parse().unwrap())
    }
}

fn own_cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros =
        [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(micros.iter().sum::<i64>().try_into().unwrap())
}

/// The mean proportional set size of the processes of that name.
fn memory_kib(pids: &[u32], program: &str) -> u64 {
    let comm = |pid: &&u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let sizes = pids.iter().filter(|pid| comm(pid).trim() == program).map(|pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let size = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default().to_owned();
        size.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default()
    });
    let sizes: Vec<u64> = sizes.collect();
    sizes.iter().sum::<u64>() / (sizes.len() as u64).max(1)
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = fs::write(self.0.parent().unwrap().join("cgroup.procs"), std::process::id().to_string());
        let name = self.0.file_name().unwrap();
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        for group in roots.map(|root| root.join(name)).chain([self.0.clone()]) {
            let _ = fs::remove_dir(group.join("containers"));
            let _ = fs::remove_dir(group);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn cost() {
    let name = format!("rt-cost-{}", std::process::id());
    let meter = Meter::start(&name);
    let node = Node::start_with(|config| config.cgroup_parent = format!("/{name}/containers")).await;
    // Once, for what is made only once.
    node.run(&node.script("first", "true")).await;
    let ids: Vec<_> = (0..COUNT).map(|number| format!("cost-{number}")).collect();
    let report = |what: &str, cpu: (Duration, Duration), begun: Instant| {
        let (all, own) = ((meter.cpu() - cpu.0) / COUNT, (own_cpu() - cpu.1) / COUNT);
        println!("{what}: {all:?} CPU, {own:?} of it in this process, {:?} each", begun.elapsed() / COUNT);
    };
    let (cpu, begun) = ((meter.cpu(), own_cpu()), Instant::now());
    for id in &ids {
        node.start_container(&node.script(id, "sleep 1000")).await;
    }
    report("create and start, one by one", cpu, begun);
    for program in ["containerd-shim", "swarm-logger", "containerd"] {
        println!("{program}: {} KiB each", memory_kib(&node.place.processes(), program));
    }
    let (cpu, begun) = ((meter.cpu(), own_cpu()), Instant::now());
    for id in &ids {
        node.runtime().remove(id).await.unwrap();
    }
    report("remove, one by one", cpu, begun);
    let (cpu, begun) = ((meter.cpu(), own_cpu()), Instant::now());
    futures_util::future::join_all(ids.iter().map(async |id| {
        node.start_container(&node.script(id, "sleep 1000")).await;
    }))
    .await;
    report("create and start, at once", cpu, begun);
    let (cpu, begun) = ((meter.cpu(), own_cpu()), Instant::now());
    futures_util::future::join_all(ids.iter().map(async |id| node.runtime().remove(id).await.unwrap())).await;
    report("remove, at once", cpu, begun);
    node.runtime().shutdown().await;
}
