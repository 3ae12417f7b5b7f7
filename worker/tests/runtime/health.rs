//! Health checks in real containers.

use std::fs;
use std::io::Cursor;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use worker::runtime::containerd::Containerd;
use worker::runtime::{ContainerConfig, Error, HealthCheck, HealthSettings, Probed, Runtime};

use crate::image::Image;
use crate::node::{Node, soon, until};

fn shell(line: &str) -> HealthCheck {
    HealthCheck {
        command: ["/bin/sh", "-c", line].map(str::to_owned).into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
    }
}

async fn probe(node: &Node, id: &str, line: &str) -> Probed {
    soon(node.runtime().probe(id, &shell(line))).await.unwrap()
}

/// A container whose first process reaps, as a good one does.
async fn container(node: &Node, id: &str) -> u32 {
    node.start_container(&node.script(id, "while :; do sleep 0.05; done")).await
}

/// Names of the processes in a container, but for its own, with Z for those that have ended and are not reaped.
fn others(node: &Node, id: &str, own: u32) -> Vec<String> {
    let group = node.cgroup_file(id, "pids", "cgroup.procs");
    let pids = fs::read_to_string(group).unwrap();
    let pids = pids.lines().filter(|pid| pid.parse() != Ok(own));
    let stats = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let names = stats.map(|stat| stat.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" "));
    names.filter(|name| !name.contains("sleep") || name.ends_with('Z')).collect()
}

fn left(node: &Node, id: &str) -> Vec<std::ffi::OsString> {
    let files = fs::read_dir(node.config.data_root.join("containers").join(id).join("etc")).unwrap();
    files.map(|file| file.unwrap().file_name()).filter(|name| name == "health").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_run_as_the_container_itself() {
    let node = Node::start().await;
    let config = ContainerConfig {
        user: "web".into(),
        dir: "/tmp".into(),
        env: vec!["COLOUR=red".into()],
        ..node.script("as-itself", "while :; do sleep 0.05; done")
    };
    node.start_container(&config).await;
    let told =
        probe(&node, "as-itself", "id -u; pwd; echo $COLOUR; hostname; cat /proc/1/comm; exit 3").await;
    assert_eq!(told, Probed { exit_code: Some(3), output: "101\n/tmp\nred\nas-itself\nsh".into() });
    let both = probe(&node, "as-itself", "echo out; echo err >&2").await;
    assert_eq!(both.exit_code, Some(0));
    let mut lines: Vec<_> = both.output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);

    let absent = HealthCheck { command: vec!["/bin/none".into()], ..shell("") };
    let told = node.runtime().probe("as-itself", &absent).await.unwrap();
    assert_eq!(told.exit_code, None);
    assert!(told.output.contains("/bin/none") && told.output.contains("no such file"), "{}", told.output);
    assert!(left(&node, "as-itself").is_empty());
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_is_cut_and_holds_nothing_up() {
    let node = Node::start().await;
    container(&node, "much").await;
    let told = probe(&node, "much", "head -c 50000000 /dev/zero | tr '\\0' x; exit 1").await;
    assert_eq!((told.exit_code, told.output.len()), (Some(1), 4096));
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_long_is_ended_with_all_that_it_has_started() {
    let node = Node::start().await;
    let own = container(&node, "long").await;
    let check = HealthCheck {
        timeout: Duration::from_millis(300),
        ..shell("(while :; do :; done) & (exec cat /dev/zero >/dev/null) & echo begun; while :; do :; done")
    };
    for _ in 0..3 {
        let begun = Instant::now();
        let told = soon(node.runtime().probe("long", &check)).await.unwrap();
        assert_eq!((told.exit_code, told.output.as_str()), (None, "it takes longer than 300ms: begun"));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        until("nothing is left of the check", || others(&node, "long", own).is_empty()).await;
    }
    assert_eq!(probe(&node, "long", "true").await.exit_code, Some(0));
    // As many shims as containers, and nothing of the check in containerd or on disk.
    let shims = node.place.processes().into_iter().filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().starts_with("containerd-shim")
    });
    assert_eq!(shims.count(), 1);
    assert!(left(&node, "long").is_empty());
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_call_has_left_is_ended_first() {
    let node = Node::start().await;
    let own = container(&node, "again").await;
    let endless = shell("while :; do :; done");
    let running = |what: &[String]| what.iter().any(|name| name.contains("(sh)"));
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::from_secs(2), node.runtime().probe("again", &endless));
        assert!(given_up.await.is_err());
        assert!(running(&others(&node, "again", own)), "it was begun");
        assert_eq!(probe(&node, "again", "true").await.exit_code, Some(0));
        until("only one at a time", || !running(&others(&node, "again", own))).await;
    }
    // A container ends with a check under way.
    let given_up = tokio::time::timeout(Duration::from_secs(1), node.runtime().probe("again", &endless));
    assert!(given_up.await.is_err());
    soon(node.runtime().stop("again", None, Duration::ZERO)).await.unwrap();
    let ended = node.runtime().probe("again", &endless).await;
    assert!(matches!(ended, Err(Error::NotRunning { .. })), "{ended:?}");
    soon(node.runtime().remove("again")).await.unwrap();
    let absent = node.runtime().probe("again", &endless).await;
    assert!(matches!(absent, Err(Error::NoSuchContainer { .. })), "{absent:?}");
    assert_eq!(node.place.processes(), [node.runtime().containerd_pid().unwrap()]);
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_containerd_is_no_failure_of_the_container() {
    let node = Node::start().await;
    let own = container(&node, "outlives").await;
    let runtime = node.runtime();
    let old = runtime.containerd_pid().unwrap();
    let endless = shell("while :; do :; done");
    let (told, ()) = tokio::join!(soon(runtime.probe("outlives", &endless)), async {
        until("the check runs", || others(&node, "outlives", own).iter().any(|name| name.contains("(sh)")))
            .await;
        kill(Pid::from_raw(old.try_into().unwrap()), Signal::SIGKILL).unwrap();
    });
    assert!(told.is_err(), "{told:?}");
    until("another containerd runs", || runtime.containerd_pid().is_some_and(|pid| pid != old)).await;
    let again = async {
        loop {
            match runtime.probe("outlives", &shell("true")).await {
                Ok(told) => return told,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    assert_eq!(soon(again).await.exit_code, Some(0));
    until("the first is gone", || !others(&node, "outlives", own).iter().any(|name| name.contains("(sh)")))
        .await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_check_is_completed_by_the_containers_and_kept_with_it() {
    let mut node = Node::start().await;
    let image = Image::new(json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Shell": ["/bin/sh", "-ec"],
        "Healthcheck": {"Test": ["CMD-SHELL", "false; true"], "Interval": 2_000_000_000_i64, "Retries": 7},
    }));
    let archive = image.docker_archive("test/checked:v1");
    node.runtime().load_image(Box::new(Cursor::new(archive))).await.unwrap();
    let config = |id: &str, health| ContainerConfig {
        image: "test/checked:v1".into(),
        health,
        ..node.script(id, "while :; do sleep 0.05; done")
    };
    let own = HealthSettings { retries: 2, timeout: Duration::from_secs(9), ..HealthSettings::default() };
    let none = HealthSettings { test: vec!["NONE".into()], ..HealthSettings::default() };
    let (own, none) = (config("own", own), config("none", none));
    for (config, is_checked) in [(&own, true), (&none, false), (&node.script("plain", "sleep 100"), false)] {
        node.runtime().create(config).await.unwrap();
        assert_eq!(node.runtime().start(&config.id).await.unwrap().is_checked, is_checked, "{}", config.id);
    }
    assert_eq!(node.runtime().health_check("none").await.unwrap(), None);

    // Also for the process that comes after this one.
    node.runtime().shutdown().await;
    node.runtime = Some(Containerd::start(node.config.clone()).await.unwrap());
    let check = node.runtime().health_check("own").await.unwrap().unwrap();
    assert_eq!(check.command, ["/bin/sh", "-ec", "false; true"]);
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(2), Duration::from_secs(9)));
    assert_eq!((check.retries, check.start_interval), (2, Duration::from_secs(5)));
    assert_eq!(soon(node.runtime().probe("own", &check)).await.unwrap().exit_code, Some(1));
    node.runtime().shutdown().await;
}
