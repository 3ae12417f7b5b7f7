//! What a task finds inside: what was asked for, and Docker's defaults for the rest.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::time::{Duration, Instant};

use e2e::{Inside, Lab, PATIENCE, wait};

/// Creates a service of one task, and enters it.
fn one(lab: &Lab, name: &str, arguments: &[&str], command: &[&str]) -> Inside {
    let image = lab.web();
    lab.host(1).ctl(&[&["service", "create", "--name", name], arguments, &[&image], command].concat()).ok();
    lab.enter(&lab.host(1).wait_running(name, 1)[0])
}

#[test]
fn a_task_is_what_its_service_says() {
    let lab = Lab::swarm("a task is what its service says", 1, 0);
    let given = lab.folder().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::write(given.join("file"), "from outside").unwrap();
    let bind = format!("type=bind,source={},target=/given,readonly", given.display());
    let asked = [
        "--env",
        "COLOUR=red",
        "--user",
        "web",
        "--workdir",
        "/home",
        "--hostname",
        "box",
        "--read-only",
        "--mount",
        "type=tmpfs,target=/scratch,tmpfs-size=1m",
        "--mount",
        &bind,
        "--container-label",
        "a=b",
        "--limit-memory",
        "64m",
        "--limit-cpu",
        "0.5",
        "--limit-pids",
        "50",
        "--reserve-memory",
        "32m",
    ];
    let inside = one(&lab, "asked", &asked, &["sleep", "1000"]);

    let environment = std::fs::read_to_string(format!("/proc/{}/environ", inside.pid)).unwrap();
    assert!(environment.split('\0').any(|line| line == "COLOUR=red"), "{environment}");
    assert!(environment.split('\0').any(|line| line == "VERSION=1"), "the image's own stays: {environment}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", inside.pid)).unwrap();
    assert!(status.contains("Uid:\t1000\t1000"), "{status}");
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", inside.pid)).unwrap().to_str(), Some("/home"));
    assert_eq!(inside.sh("hostname").ok(), "box");
    assert_eq!(inside.sh("cat /given/file").ok(), "from outside");
    assert!(!inside.sh("touch /given/other").succeeded(), "a read-only mount is written");
    assert!(!inside.sh("touch /file").succeeded(), "a read-only root is written");
    inside.sh("touch /scratch/file").ok();

    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", inside.pid)).unwrap();
    assert_eq!(limit(&groups, "memory", ["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(limit(&groups, "memory", ["memory.soft_limit_in_bytes", "memory.low"]), "33554432");
    assert_eq!(limit(&groups, "pids", ["pids.max", "pids.max"]), "50");
    let quota = limit(&groups, "cpu", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
}

/// The value of a limit in the task's cgroup, by its names in the two versions of cgroups.
fn limit(groups: &str, controller: &str, [one, two]: [&str; 2]) -> String {
    let path = |wanted: &dyn Fn(&str) -> bool| {
        let lines =
            groups.lines().filter_map(|line| line.split_once(':').and_then(|(_, rest)| rest.split_once(':')));
        lines.clone().find(|(controllers, _)| wanted(controllers)).map(|(_, path)| path.to_owned())
    };
    let separate = path(&|controllers| controllers.split(',').any(|name| name == controller));
    let file = match separate {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{one}"),
        None => format!("/sys/fs/cgroup{}/{two}", path(&str::is_empty).unwrap()),
    };
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

#[test]
fn a_task_has_dockers_defaults() {
    let lab = Lab::swarm("a task has dockers defaults", 1, 0);
    lab.host(1).create_network("net", "10.0.9.0/24");
    let inside = one(&lab, "plain", &["--network", "net"], &[]);

    let status = std::fs::read_to_string(format!("/proc/{}/status", inside.pid)).unwrap();
    // Docker's fourteen: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
    // net_raw, sys_chroot, mknod, audit_write, setfcap.
    assert!(status.contains("CapBnd:\t00000000a80425fb"), "{status}");
    assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    assert!(inside.sh("cat /etc/hosts").ok().contains("127.0.0.1"));
    inside.sh("cat /etc/resolv.conf").ok();
    assert_eq!(inside.sh("cat /etc/hostname").ok(), inside.sh("hostname").ok());
    assert_eq!(inside.sh("cat /proc/kcore 2>/dev/null | wc -c").ok(), "0", "masked paths");
    assert!(!inside.sh("echo 1 >/proc/sys/kernel/panic").succeeded(), "read-only paths");

    // What the bench runs inside has all capabilities: what a task may do only a task can tell.
    let script = "mount -t tmpfs none /tmp && echo mounted || echo not permitted; exec sleep 1000";
    one(&lab, "mounting", &[], &["sh", "-c", script]);
    wait("what became of the mount", PATIENCE, || {
        let logs = lab.host(1).ctl(&["service", "logs", "--raw", "mounting"]);
        assert!(!logs.stdout.contains("mounted"), "{logs}");
        if logs.stdout.contains("not permitted") { Ok(()) } else { Err(logs) }
    });
}

#[test]
fn a_task_that_needs_more_memory_than_it_may_is_ended_and_says_so() {
    let lab = Lab::swarm("a task that needs more memory", 1, 0);
    let (h1, image) = (lab.host(1), lab.web());
    let create = ["service", "create", "--detach", "--name", "hungry", "--limit-memory", "16m", &image];
    h1.ctl(&[&create[..], &["sh", "-c", "tail /dev/zero"]].concat()).ok();
    let error = h1.wait_tasks("a failed task", PATIENCE, "hungry", |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    });
    assert!(error.contains("137") || error.to_lowercase().contains("memory"), "{error}");
}

#[test]
fn reservations_beyond_every_node_make_a_task_wait_and_say_so() {
    let lab = Lab::swarm("reservations beyond every node", 1, 1);
    let (h1, image) = (lab.host(1), lab.web());
    h1.ctl(&["service", "create", "--detach", "--name", "big", "--reserve-memory", "9999g", &image]).ok();
    let error = h1.wait_tasks("an explanation", PATIENCE, "big", |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    });
    assert!(error.contains("2 nodes") && error.contains("insufficient memory"), "{error}");
}

#[test]
fn stopping_uses_the_signal_and_the_grace_period() {
    let lab = Lab::swarm("stopping uses the signal", 1, 0);
    let h1 = lab.host(1);
    let out = lab.folder().join("out");
    std::fs::create_dir(&out).unwrap();
    let bind = format!("type=bind,source={},target=/out", out.display());
    // One ends at its signal and tells; the other ignores all and is killed after the grace period.
    let polite = "trap 'echo bye >/out/said; exit 0' USR1; while :; do sleep 0.1; done";
    one(&lab, "polite", &["--stop-signal", "SIGUSR1", "--mount", &bind], &["sh", "-c", polite]);
    let stubborn =
        one(&lab, "stubborn", &["--stop-grace-period", "2s"], &["sh", "-c", "trap '' TERM; sleep 1000"]);

    h1.ctl(&["service", "rm", "polite"]).ok();
    wait("the polite task to say goodbye", Duration::from_secs(8), || {
        std::fs::read_to_string(out.join("said"))
    });

    let start = Instant::now();
    h1.ctl(&["service", "rm", "stubborn"]).ok();
    wait("the stubborn task to be killed", Duration::from_secs(8), || {
        match e2e::resident_kib(stubborn.pid) {
            None => Ok(()),
            Some(_) => Err("it runs"),
        }
    });
    assert!(start.elapsed() >= Duration::from_millis(1800), "killed after {:?}", start.elapsed());
}

#[test]
fn logs_show_both_streams_of_all_replicas_and_outlive_a_restart() {
    let lab = Lab::swarm("logs show both streams", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    let complete = || {
        wait("two lines of each task", PATIENCE, || {
            let logs = h1.ctl(&["service", "logs", "web"]);
            let enough = tasks.iter().all(|task| logs.stdout.contains(&task.name));
            let out = logs.stdout.matches("serving as").count();
            let both =
                logs.stdout.matches("standard error").count() + logs.stderr.matches("standard error").count();
            if enough && out == 2 && both == 2 { Ok(()) } else { Err(logs) }
        });
    };
    complete();
    lab.host(2).kill();
    lab.host(2).start();
    h1.wait_status("h2", "Ready", PATIENCE);
    complete();

    // What is written while the daemon is away is kept as well: the page's server logs nothing, so this asks one
    // task's own shell to write to what its process 1 has as standard output.
    let task = tasks.iter().find(|task| task.node == "h2").unwrap();
    lab.host(2).kill();
    lab.enter(task).sh("echo while away >/proc/1/fd/1").ok();
    lab.host(2).start();
    wait("the line written meanwhile", PATIENCE, || {
        let logs = h1.ctl(&["service", "logs", "web"]);
        if logs.stdout.contains("while away") { Ok(()) } else { Err(logs) }
    });
}

#[test]
fn an_image_can_be_taken_by_digest_and_loaded_from_an_archive() {
    let lab = Lab::swarm("an image by digest and from an archive", 1, 0);
    let h1 = lab.host(1);
    let accept = "Accept: application/vnd.oci.image.index.v1+json";
    let head = format!("curl -sSfI -H '{accept}' http://192.168.77.1:5000/v2/web/manifests/2");
    let headers = h1.sh(&head).ok();
    let digest =
        headers.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: ")).unwrap().trim();
    let image = lab.image(&format!("web@{digest}"));
    h1.ctl(&["service", "create", "--name", "by-digest", &image]).ok();
    let environment = lab.enter(&h1.wait_running("by-digest", 1)[0]).sh("cat /proc/1/environ").ok();
    assert!(environment.contains("VERSION=2"), "{environment}");

    // A registry that nobody runs: the image can only come from the archive.
    let archive = lab.archive("registry.invalid/loaded:2");
    let loaded = h1.ctl(&["image", "load", "--input", &archive.display().to_string()]).ok();
    assert!(loaded.contains("registry.invalid/loaded:2"), "{loaded}");
    let listed = h1.ctl(&["image", "ls"]).ok();
    assert!(listed.contains("web") && listed.contains("loaded"), "{listed}");
    h1.ctl(&["service", "create", "--name", "loaded", "registry.invalid/loaded:2"]).ok();
    h1.wait_running("loaded", 1);
}
