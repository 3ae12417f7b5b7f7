//! Half-made states, restarts, many at once, and nothing leaked.

mod lab;

use std::time::{Duration, Instant};

use lab::*;
use netdriver::{Desired, NetworkKey, Sandbox, SandboxKey, Scope};

/// One sandbox on one network, with a way out, and a peer to reach.
async fn pair() -> (Vec<Host>, Switch, Vec<Desired>) {
    let (hosts, switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    desired.iter_mut().flat_map(|d| d.sandboxes.values_mut()).for_each(|sandbox| sandbox.outbound = true);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    (hosts, switch, desired)
}

fn works(host: &Host) -> bool {
    host.ping("t0", "10.9.0.11") && host.ping("t0", "fd00:9::11") && host.ping("t0", "192.168.77.254")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_half_made_state_is_mended() {
    let (mut hosts, _switch, desired) = pair().await;
    let file = |host: &Host, name: &str| host.dir().join(name).to_string_lossy().into_owned();
    let port = {
        let links = succeeded(&hosts[0].in_network("red", "ip -br link"));
        let port = links.lines().find(|line| line.starts_with('v') && !line.starts_with("vx0")).unwrap();
        port.split('@').next().unwrap().to_owned()
    };
    let damages: Vec<(&str, Box<dyn Fn(&Host)>)> = vec![
        ("network: no bridge", Box::new(|h| _ = succeeded(&h.in_network("red", "ip link del br0")))),
        ("network: no VXLAN", Box::new(|h| _ = succeeded(&h.in_network("red", "ip link del vx0")))),
        ("network: down", Box::new(|h| _ = succeeded(&h.in_network("red", "ip link set vx0 down")))),
        ("network: no master", Box::new(|h| _ = succeeded(&h.in_network("red", "ip link set vx0 nomaster")))),
        ("network: MTU", Box::new(|h| _ = succeeded(&h.in_network("red", "ip link set vx0 mtu 1280")))),
        (
            "network: a stray device",
            Box::new(|h| _ = succeeded(&h.in_network("red", "ip link add v0123456789ab type veth"))),
        ),
        (
            "network: tables",
            Box::new(|h| {
                succeeded(&h.in_network("red", "ip neigh flush dev vx0 nud permanent"));
                succeeded(&h.in_network("red", "bridge fdb del 02:42:0a:09:00:0b dev vx0 self"));
            }),
        ),
        (
            "port: gone",
            Box::new({
                let port = port.clone();
                move |h| _ = succeeded(&h.in_network("red", &format!("ip link del {port}")))
            }),
        ),
        (
            "port: no master, no entry",
            Box::new({
                let port = port.clone();
                move |h| _ = succeeded(&h.in_network("red", &format!("ip link set {port} nomaster")))
            }),
        ),
        (
            "port: only its entry gone",
            Box::new(move |h| {
                _ = succeeded(
                    &h.in_network("red", &format!("bridge fdb del 02:42:0a:09:00:0a dev {port} master")),
                )
            }),
        ),
        ("sandbox: down", Box::new(|h| _ = succeeded(&h.in_sandbox("t0", "ip link set eth0 down")))),
        ("sandbox: no address", Box::new(|h| _ = succeeded(&h.in_sandbox("t0", "ip addr flush dev eth0")))),
        ("sandbox: no route", Box::new(|h| _ = succeeded(&h.in_sandbox("t0", "ip route del default")))),
        ("sandbox: no leg", Box::new(|h| _ = succeeded(&h.in_sandbox("t0", "ip link del eth1")))),
        ("sandbox: a file only", Box::new(move |h| _ = run("umount", &["-l", &file(h, "s-t0")]))),
        (
            "network: a file only",
            Box::new(move |h| {
                // As after a crash between unmounting and unlinking; devices were deleted before that.
                succeeded(&h.in_network("red", "ip link del vx0"));
                run("umount", &["-l", &h.dir().join("n-red").to_string_lossy()]);
            }),
        ),
        ("a stray file", Box::new(|h| std::fs::write(h.dir().join("s-stray"), "").unwrap())),
    ];
    for (what, damage) in damages {
        damage(&hosts[0]);
        hosts[0].restart().await;
        let changes = ensure_all(&hosts[0], &desired[0]).await;
        assert!(!changes.is_empty(), "nothing was seen of: {what}");
        assert!(works(&hosts[0]), "not mended: {what}; did {changes:#?}");
        assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0], "not settled: {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_network_is_noticed_when_a_sandbox_needs_it() {
    let (hosts, _switch, mut desired) = pair().await;
    succeeded(&hosts[0].in_network("red", "ip link del br0"));
    let late = Sandbox { attachments: vec![attachment("red", 9, 50)], outbound: false };
    desired[0].sandboxes.insert("late".into(), late);
    ensure(&hosts[0], &desired[0], Scope::sandbox("late")).await;
    assert!(hosts[0].ping("late", "10.9.0.11"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_no_packet() {
    let (mut hosts, _switch, desired) = pair().await;
    let ping = hosts[0].start_in_sandbox("t0", "ping -q -i 0.01 -c 300 10.9.0.11");
    for _ in 0..5 {
        for (host, desired) in hosts.iter_mut().zip(&desired) {
            host.restart().await;
            assert_eq!(ensure_all(host, desired).await, [""; 0]);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let output = ping.wait_with_output().unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(summary.contains(" 0% packet loss"), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sandboxes_at_once() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let before = host.traces();
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.networks.insert("blue".into(), overlay(10, host.vtep));
    desired.sandboxes = (0..20)
        .map(|n| {
            // Both orders, so that locks taken in either would wait in a circle.
            let mut attachments = vec![attachment("red", 9, 100 + n), attachment("blue", 10, 100 + n)];
            attachments.rotate_left(usize::from(n) % 2);
            (SandboxKey::new(format!("t{n}")), Sandbox { attachments, outbound: true })
        })
        .collect();

    // Each by a call of its own, as tasks start; nothing was made beforehand.
    let start = Instant::now();
    let calls = desired.sandboxes.keys().map(|key| ensure(host, &desired, Scope::sandbox(key.clone())));
    futures_util::future::join_all(calls).await;
    eprintln!("20 sandboxes with 3 interfaces each: {:?}", start.elapsed());
    assert_eq!(ensure_all(host, &desired).await, [""; 0]);
    for n in 1..20 {
        assert!(host.ping("t0", &format!("10.9.0.{}", 100 + n)), "t{n}");
    }

    let calls = desired.sandboxes.keys().map(|key| {
        let rest = Desired { networks: desired.networks.clone(), ..Desired::default() };
        async move { ensure(host, &rest, Scope::sandbox(key.clone())).await }
    });
    futures_util::future::join_all(calls).await;
    ensure_all(host, &Desired::default()).await;
    assert_eq!(host.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_and_going_leaks_nothing() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = joined(&hosts, "red", 9).remove(0);
    ensure_all(host, &desired).await;
    let (sandbox, key) = (desired.sandboxes[&"t0".into()].clone(), SandboxKey::new("t1"));
    let round = async |desired: &mut Desired| {
        desired.sandboxes.insert(key.clone(), sandbox.clone());
        ensure(host, desired, Scope::sandbox(key.clone())).await;
        desired.sandboxes.remove(&key);
        ensure(host, desired, Scope::sandbox(key.clone())).await;
    };
    // Descriptors of this process that are ours: other tests run in it, too.
    let ours = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|to| to.starts_with(host.dir()))
            .count()
    };
    for _ in 0..100 {
        round(&mut desired).await;
    }
    assert_eq!(ours(), 0, "namespaces are held open");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = host.dir().to_string_lossy().into_owned();
    assert_eq!(mounts.matches(&dir).count(), 3, "the directory, the network and one sandbox");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_wanted_stays() {
    let (hosts, _switch, desired) = pair().await;
    let mut less = desired[0].clone();
    less.networks.insert(NetworkKey::new("blue"), overlay(10, hosts[0].vtep));
    less.sandboxes
        .insert("t9".into(), Sandbox { attachments: vec![attachment("blue", 10, 9)], outbound: false });
    ensure_all(&hosts[0], &less).await;
    ensure_all(&hosts[0], &desired[0]).await;
    assert!(works(&hosts[0]));
    assert!(!hosts[0].dir().join("n-blue").exists() && !hosts[0].dir().join("s-t9").exists());
}
