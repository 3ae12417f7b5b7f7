//! What a container sees of its settings.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use worker::runtime::{
    Dns, HostEntry, Mount, MountKind, Propagation, Resources, Runtime, TmpfsOptions, Ulimit,
};

use crate::node::Node;

#[tokio::test(flavor = "multi_thread")]
async fn process_and_files() {
    let node = Node::start().await;
    let mut config = node.script(
        "settings",
        "id; pwd; hostname; echo $FROM-$OWN-$HOSTNAME; grep -c . /etc/resolv.conf; grep web2 /etc/hosts; \
         grep -E 'open files' /proc/self/limits; cat /proc/self/oom_score_adj; cat /etc/resolv.conf",
    );
    config.user = "web".into();
    config.groups = vec!["44".into()];
    config.hostname = "box".into();
    config.env = vec!["OWN=mine".into(), "FROM=me".into()];
    config.dir = "/made/here".into();
    config.oom_score_adj = Some(7);
    config.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
    config.hosts = vec![HostEntry { address: "10.1.2.3".parse().unwrap(), names: vec!["web2".into()] }];
    config.dns = Dns { search: vec![".".into()], options: vec!["ndots:0".into()] };
    let output = node.stdout_of(&config).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "uid=101(web) gid=102(www) groups=33(ssl),44", "{output}");
    assert_eq!(&lines[1..6], ["/made/here", "box", "me-mine-box", "2", "10.1.2.3\tweb2"]);
    assert_eq!(
        lines[6].split_whitespace().collect::<Vec<_>>(),
        ["Max", "open", "files", "100", "200", "files"]
    );
    assert_eq!(&lines[7..], ["7", "nameserver 127.0.0.11", "options ndots:0"]);

    let default = node.script("default", "hostname");
    assert_eq!(node.stdout_of(&default).await, "default\n");
    let replaced = worker::runtime::ContainerConfig {
        command: vec!["echo".into()],
        args: vec!["a b".into(), "c".into()],
        ..node.script("entry", "")
    };
    assert_eq!(node.stdout_of(&replaced).await, "a b c\n");
    let defaults = worker::runtime::ContainerConfig { args: Vec::new(), ..node.script("image", "") };
    assert_eq!(node.stdout_of(&defaults).await, "default\n");
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts() {
    let node = Node::start().await;
    let source = node.place.root.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "bound\n").unwrap();
    let bind = |target: &str, read_only: bool| Mount {
        target: target.into(),
        read_only,
        kind: MountKind::Bind {
            source: source.clone(),
            propagation: Propagation::default(),
            recursive: true,
        },
    };
    let volume = |target: &str, name: Option<&str>| Mount {
        target: target.into(),
        read_only: false,
        kind: MountKind::Volume { name: name.map(str::to_owned), copy: true },
    };
    let tmpfs = Mount {
        target: "/scratch".into(),
        read_only: false,
        kind: MountKind::Tmpfs(TmpfsOptions { size_bytes: Some(1 << 20), ..TmpfsOptions::default() }),
    };
    let mut config = node.script(
        "mounts",
        "cat /ro/file; touch /ro/x 2>&1; touch /rw/made; touch /x 2>&1; df -k /scratch | tail -n 1 | tr -s ' '; \
         df -k /dev/shm | tail -n 1 | tr -s ' '; stat -c %a /scratch; cat /www/index.html; \
         echo changed >/www/index.html; touch /anon/x; touch /proc/sys/kernel/hostname 2>&1; true",
    );
    config.read_only = true;
    config.mounts = vec![
        bind("/ro", true),
        bind("/rw", false),
        tmpfs,
        volume("/www", Some("web")),
        volume("/anon", None),
    ];
    let output = node.stdout_of(&config).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "bound", "{output}");
    for line in [1, 2, 7] {
        assert!(lines[line].ends_with("Read-only file system"), "{output}");
    }
    assert!(lines[3].starts_with("tmpfs 1024 "), "{output}");
    assert!(lines[4].starts_with("shm 65536 "), "{output}");
    assert_eq!((lines[5], lines[6]), ("1777", "hello"));
    assert_eq!(lines.len(), 8, "{output}");
    assert!(source.join("made").exists());
    assert!(node.config.data_root.join("containers/mounts/volumes").exists());
    node.runtime().remove("mounts").await.unwrap();
    assert!(!node.config.data_root.join("containers/mounts/volumes").exists());

    let mut again = node.script("again", "cat /www/index.html");
    again.mounts = vec![volume("/www", Some("web"))];
    assert_eq!(node.stdout_of(&again).await, "changed\n");
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_isolation() {
    let node = Node::start().await;
    let mut config = node.script("limits", "echo ready; sleep 1000");
    config.resources = Resources {
        nano_cpus: Some(500_000_000),
        memory_bytes: Some(64 << 20),
        pids: Some(50),
        reserved_nano_cpus: Some(250_000_000),
        reserved_memory_bytes: Some(32 << 20),
    };
    let pid = node.start_container(&config).await;
    node.wrote("limits", "ready").await;
    let value = |controller: &str, first: &str, second: &str| {
        let path = node.cgroup_file("limits", controller, first);
        let path = if path.exists() { path } else { node.cgroup_file("limits", controller, second) };
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    };
    let unified = !Path::new("/sys/fs/cgroup/memory").exists();
    assert_eq!(value("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(value("memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
    assert_eq!(value("pids", "pids.max", "pids.max"), "50");
    if unified {
        assert_eq!(value("cpu", "cpu.max", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(value("cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(value("cpu", "cpu.shares", ""), "256");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    assert_eq!(field("CapEff:"), "00000000a80425fb");
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "0"));
    let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino();
    assert_eq!(namespace, fs::metadata(node.netns.path()).unwrap().ino());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "0\n");

    let mut mount = node
        .script("seccomp", "mount -t tmpfs x /tmp 2>&1; cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    mount.cap_drop = vec!["ALL".into()];
    let output = node.stdout_of(&mount).await;
    assert!(output.contains("ermi") && output.ends_with("\n0\n"), "{output}");
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_wants_too_much_memory_is_killed() {
    let node = Node::start().await;
    let mut config = node.script("oom", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}");
    config.command = vec!["/bin/sh".into(), "-c".into()];
    config.resources.memory_bytes = Some(16 << 20);
    let (exit, _) = node.run(&config).await;
    assert_eq!((exit.code, exit.oom), (137, true));
    node.runtime().shutdown().await;
}
