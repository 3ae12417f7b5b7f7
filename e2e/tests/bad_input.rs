//! Bad input: one clear error that names what is wrong, exit code 1, and nothing has changed.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::time::{Duration, Instant};

use e2e::{Host, Lab, Output, PATIENCE};

/// Checks many refusals on one swarm and reports all that are not as they should be.
struct Refusals<'a> {
    manager: &'a Host,
    wrong: Vec<String>,
}

impl<'a> Refusals<'a> {
    fn of(manager: &'a Host) -> Self {
        Self { manager, wrong: Vec::new() }
    }

    /// `arguments` are refused in words that contain all of `names`, and the cluster stays as it is.
    fn check(&mut self, arguments: &[&str], names: &[&str]) {
        self.check_on(self.manager, arguments, names);
    }

    fn check_on(&mut self, host: &Host, arguments: &[&str], names: &[&str]) {
        let before = self.manager.wishes();
        let output = host.ctl(arguments);
        let after = self.manager.wishes();
        if let Some(complaint) = complaint(&output, names) {
            self.wrong.push(format!("{complaint}\n  {output}"));
        }
        if before != after {
            self.wrong.push(format!("something changed: {before:?} became {after:?}\n  {output}"));
        }
    }
}

impl Drop for Refusals<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.wrong.is_empty(),
                "{} refusals are wrong:\n{}",
                self.wrong.len(),
                self.wrong.join("\n")
            );
        }
    }
}

fn complaint(output: &Output, names: &[&str]) -> Option<String> {
    if output.code != 1 {
        return Some(format!("exit code {} instead of 1", output.code));
    }
    if output.stderr.trim_end().lines().count() != 1 {
        return Some("not one line".to_owned());
    }
    let lower = output.stderr.to_lowercase();
    let missing: Vec<_> = names.iter().filter(|name| !lower.contains(&name.to_lowercase())).collect();
    (!missing.is_empty()).then(|| format!("does not say {missing:?}"))
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let lab = Lab::swarm("networks that cannot be", 1, 0);
    let h1 = lab.host(1);
    let overlay = ["network", "create", "--driver", "overlay", "--subnet"];
    h1.create_network("taken", "10.0.9.0/24");

    let mut refusals = Refusals::of(h1);
    let mut subnet =
        |subnet: &str, names: &[&str]| refusals.check(&[&overlay[..], &[subnet, "net"]].concat(), names);
    subnet("10.0.11.0/33", &["subnet", "10.0.11.0/33"]);
    subnet("next-door", &["subnet", "next-door"]);
    subnet("10.0.11.0", &["subnet", "10.0.11.0"]);
    subnet("10.0.11.7/24", &["subnet", "10.0.11.7/24", "10.0.11.0/24"]);
    subnet("10.0.9.128/25", &["subnet", "10.0.9.128/25", "overlaps", "taken"]);
    subnet("10.0.0.0/16", &["subnet", "10.0.0.0/16", "overlaps", "taken"]);
    subnet("10.0.11.0/31", &["subnet", "10.0.11.0/31", "small"]);
    subnet("10.0.11.0/32", &["subnet", "10.0.11.0/32", "small"]);

    refusals.check(&[&overlay[..], &["10.0.11.0/24", "taken"]].concat(), &["taken", "name"]);
    refusals.check(&["network", "create", "--driver", "teleport", "net"], &["driver", "teleport"]);
    refusals.check(
        &[
            "network",
            "create",
            "--driver",
            "overlay",
            "--subnet",
            "10.0.11.0/24",
            "--gateway",
            "10.0.12.1",
            "net",
        ],
        &["gateway", "10.0.12.1", "10.0.11.0/24"],
    );
    let mut create = |arguments: &[&str], names: &[&str]| {
        refusals.check(&[&overlay[..], arguments, &["net"]].concat(), names);
    };
    let apart = ["10.0.11.0/24", "--subnet", "10.0.12.0/24"];
    create(
        &["10.0.11.0/24", "--subnet", "10.0.11.128/25"],
        &["subnet", "10.0.11.128/25", "overlaps", "10.0.11.0/24"],
    );
    create(
        &[&apart[..], &["--gateway", "10.0.11.1", "--gateway", "10.0.11.2"]].concat(),
        &["gateway", "10.0.11.2"],
    );
    create(&["10.0.11.0/24", "--gateway", "10.0.11.255"], &["gateway", "10.0.11.255", "10.0.11.0/24"]);
    create(&["10.0.11.0/24", "--ip-range", "10.0.12.0/25"], &["ip-range", "10.0.12.0", "10.0.11.0/24"]);
    create(&["10.0.11.0/24", "--ip-range", "10.0.11.0/32"], &["range", "10.0.11.0/32"]);
    create(&["10.0.11.0/24", "--aux-address", "a=10.0.12.1"], &["aux-address", "10.0.12.1", "10.0.11.0/24"]);
    create(&["10.0.11.0/24", "--aux-address", "a=b"], &["aux-address", "a=b"]);
    create(&["fe80::/64"], &["subnet", "fe80::/64"]);
    create(&["fd00:9::/127"], &["subnet", "fd00:9::/127", "small"]);
    create(&["10.0.11.0/24", "--opt", "com.docker.network.driver.mtu=9"], &["mtu", "\"9\"", "68"]);
    create(&["fd00:9::/64", "--opt", "com.docker.network.driver.mtu=1000"], &["mtu", "1000", "1280"]);
    let vni = "com.docker.network.driver.overlay.vxlanid_list";
    create(&["10.0.11.0/24", "--opt", "colour=red"], &["options.colour", "red", "overlay knows encrypted"]);
    create(&["10.0.11.0/24", "--opt", &format!("{vni}=16777216")], &[vni, "16777216"]);
    create(&["10.0.11.0/24", "--opt", &format!("{vni}=4097")], &[vni, "4097", "taken"]);
    create(&["10.0.11.0/24", "--scope", "local"], &["scope", "local", "swarm"]);
    create(&["10.0.11.0/24", "--ipv4=false"], &["ipv4", "false"]);
    create(&["10.0.11.0/24", "--ipam-driver", "dhcp"], &["ipam", "driver"]);
    create(&["10.0.11.0/24", "--config-from", "taken"], &["10.0.11.0/24", "config"]);
    create(&["10.0.11.0/24", "--config-only", "--internal"], &["internal"]);
    refusals.check(
        &["network", "create", "--config-from", "taken", "net"],
        &["config_from", "taken", "config-only"],
    );
    refusals.check(&["network", "create", "--config-from", "nowhere", "net"], &["nowhere", "not found"]);
    refusals.check(&["network", "create", "--driver", "overlay", "no spaces"], &["name", "no spaces"]);
    refusals.check(&["network", "rm", "nowhere"], &["nowhere", "no such network"]);
    refusals.check(&["network", "inspect", "nowhere"], &["nowhere", "no such network"]);
}

#[test]
fn services_that_cannot_be_are_refused() {
    let lab = Lab::swarm("services that cannot be", 1, 1);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("net", "10.0.9.0/24");
    h1.create_web(&lab, "taken", "net", 1);

    let mut refusals = Refusals::of(h1);
    let mut create = |arguments: &[&str], names: &[&str]| {
        refusals.check(&[&["service", "create"], arguments].concat(), names);
    };
    create(&["--name", "taken", &image], &["taken", "name"]);
    create(&["--name", "web", "--network", "nowhere", &image], &["network", "nowhere"]);
    create(&["--name", "web", "UPPER//case"], &["image", "UPPER//case"]);
    create(&["--name", "web", "--constraint", "node.colour==red", &image], &["constraint", "node.colour"]);
    create(&["--name", "web", "--constraint", "node.role", &image], &["constraint", "node.role", "=="]);
    create(&["--name", "web", "--replicas", "-1", &image], &["replicas", "-1"]);
    create(&["--name", "web", "--replicas", "many", &image], &["replicas", "many"]);
    create(&["--name", "web", "--mode", "global", "--replicas", "2", &image], &["replicas", "global"]);
    create(&["--name", "no spaces", &image], &["name", "no spaces"]);
    create(&["--name", "web", "--limit-memory", "much", &image], &["limit-memory", "much"]);
    create(&["--name", "web", "--limit-memory", "1m", "--reserve-memory", "2m", &image], &["memory"]);
    create(&["--name", "web", "--mount", "type=bind,target=/x", &image], &["mount", "source"]);
    create(&["--name", "web", "--publish", "80:80", &image], &["publish"]);
    let check = ["--name", "web", "--health-cmd", "true"];
    let mut check =
        |arguments: &[&str], names: &[&str]| create(&[&check[..], arguments, &[&image]].concat(), names);
    check(&["--health-interval", "500us"], &["healthcheck.interval", "500µs", "1ms"]);
    check(&["--health-timeout", "soon"], &["health-timeout", "soon", "10s"]);
    check(&["--health-retries=-1"], &["healthcheck.retries", "-1", "0"]);
    check(&["--no-healthcheck"], &["--no-healthcheck", "--health-cmd"]);
    create(&["--name", "web", "--secret", "key", &image], &["secret"]);
    create(&["--name", "web", "--stop-signal", "SIGNONE", &image], &["stop", "SIGNONE"]);

    create(&["--name", "web", "--network", "name=net,ip=10.0.9", &image], &["ip=10.0.9"]);
    create(&["--name", "web", "--network", "name=net,ip6=10.0.9.7", &image], &["ip6=10.0.9.7", "IPv6"]);
    create(
        &["--name", "web", "--network", "name=net,ip=10.0.8.7", &image],
        &["addresses", "10.0.8.7", "10.0.9.0/24"],
    );
    create(
        &["--name", "web", "--network", "name=net,ip=10.0.9.1", &image],
        &["addresses", "10.0.9.1", "gateway"],
    );
    create(
        &["--name", "web", "--network", "name=net,ip=10.0.9.2", &image],
        &["addresses", "10.0.9.2", "taken"],
    );
    let seven = ["--name", "web", "--network", "name=net,ip=10.0.9.7"];
    create(&[&seven[..], &["--replicas", "2", &image]].concat(), &["addresses", "10.0.9.7", "replicas"]);
    create(&[&seven[..], &["--mode", "global", &image]].concat(), &["addresses", "10.0.9.7", "global"]);
    create(&[&seven[..], &["--update-order", "start-first", &image]].concat(), &["order", "start-first"]);

    refusals.check(&["service", "scale", "taken=-1"], &["replicas", "-1"]);
    refusals.check(&["service", "scale", "nobody=1"], &["nobody", "no such service"]);
    refusals.check(&["service", "rm", "nobody"], &["nobody", "no such service"]);
    refusals.check(&["network", "rm", "net"], &["net", "in use", "taken"]);
    refusals.check(&["node", "update", "--availability", "asleep", "h2"], &["availability", "asleep"]);
    refusals.check(&["node", "rm", "h2"], &["h2", "down"]);
    refusals.check(&["node", "demote", "h1"], &["h1", "manager"]);
    refusals.check_on(lab.host(2), &["node", "ls"], &["manager"]);
    refusals.check_on(lab.host(2), &["service", "create", "--name", "web", &image], &["manager"]);
}

/// The token with the character at `position` replaced by another of the same alphabet.
fn altered(token: &str, position: usize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    bytes[position] = if bytes[position] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn joins_that_cannot_be_are_refused() {
    let lab = Lab::new("joins that cannot be", 4);
    lab.hosts().iter().for_each(Host::launch);
    lab.hosts().iter().for_each(Host::wait_ready);
    let (h1, h2, stranger, other) = (lab.host(1), lab.host(2), lab.host(3), lab.host(4));
    h1.init(&[]);
    other.init(&[]);
    let token = h1.token("worker");
    h2.join(&token, h1).ok();
    h1.wait_nodes(2);

    let mut refusals = Refusals::of(h1);
    let mut join = |host: &Host, token: &str, address: &str, names: &[&str]| {
        refusals.check_on(host, &["swarm", "join", "--token", token, address], names);
    };
    let manager = "192.168.77.11:2377";
    let secret = token.rfind('-').unwrap() + 3;
    let digest = "SWMTKN-1-".len() + 5;
    join(stranger, &altered(&token, secret), manager, &["token", "not valid"]);
    join(stranger, &altered(&token, digest), manager, &["remote CA does not match"]);
    join(stranger, &other.token("worker"), manager, &["remote CA does not match"]);
    join(stranger, &token[..token.len() - 1], manager, &["token", "not valid"]);
    join(stranger, "nonsense", manager, &["token", "not valid"]);
    join(stranger, &token, "192.168.77.11:port", &["192.168.77.11:port", "address"]);
    join(h2, &token, manager, &["already", "swarm", "leave"]);
    join(h1, &token, manager, &["already", "swarm", "leave"]);
    refusals.check_on(h2, &["swarm", "init"], &["already", "swarm", "leave"]);
    refusals.check_on(stranger, &["swarm", "leave"], &["not", "swarm"]);
    refusals.check_on(stranger, &["node", "ls"], &["not", "swarm", "swarm init", "swarm join"]);
    // One that no interface has is fine: the address of a router that translates it, say.
    let init = |address: &'static str| ["swarm", "init", "--advertise-addr", address];
    refusals.check_on(stranger, &init("nowhere0"), &["advertise-addr", "nowhere0", "address"]);
    refusals.check_on(stranger, &init("0.0.0.0"), &["advertise-addr", "0.0.0.0", "address"]);
    let mut init = |arguments: &[&str], names: &[&str]| {
        refusals.check_on(stranger, &[&["swarm", "init"], arguments].concat(), names);
    };
    init(
        &["--advertise-addr", "fd77::13", "--listen-addr", "0.0.0.0:2377"],
        &["fd77::13", "listen-addr", "[::]:2377"],
    );
    init(&["--data-path-addr", "nowhere0"], &["data-path-addr", "nowhere0"]);
    init(&["--data-path-addr", "0.0.0.0"], &["data-path-addr", "0.0.0.0"]);
    init(&["--data-path-port", "80"], &["data-path-port", "80", "1024"]);
    init(&["--default-addr-pool", "10.20"], &["default-addr-pool", "10.20", "10.20.0.0/16"]);
    init(&["--default-addr-pool", "10.20.0.1/16"], &["default_addr_pool", "10.20.0.1/16", "10.20.0.0/16"]);
    init(&["--default-addr-pool", "10.20.0.0/26"], &["default_addr_pool", "10.20.0.0/26", "24"]);
    init(&["--default-addr-pool", "fd00:1::/72"], &["default_addr_pool", "fd00:1::/72", "64"]);
    init(&["--default-addr-pool", "10.0.0.0/8,10.1.0.0/16"], &["10.1.0.0/16", "overlaps", "10.0.0.0/8"]);
    init(&["--default-addr-pool-mask-length", "31"], &["mask_length", "31", "30"]);
    drop(refusals);

    // After all that it joins as if nothing had been.
    stranger.join(&token, h1).ok();
    h1.wait_nodes(3);
}

#[test]
fn a_manager_that_does_not_answer_is_given_up_in_bounded_time() {
    let lab = Lab::new("a manager that does not answer", 3);
    lab.host(1).start();
    lab.host(2).start();
    lab.host(1).init(&[]);
    let token = lab.host(1).token("worker");
    // h3 drops what it gets; nothing listens on h2; nobody has .99.
    lab.host(3).sh("nft add table inet t; nft add chain inet t in '{ type filter hook input priority 0; policy drop; }'").ok();

    for address in ["192.168.77.13:2377", "192.168.77.12:2377", "192.168.77.99:2377"] {
        let start = Instant::now();
        let error = lab.host(2).ctl(&["swarm", "join", "--token", &token, address]).refused();
        assert!(error.contains(address), "{error}");
        assert!(start.elapsed() < Duration::from_secs(25), "took {:?}: {error}", start.elapsed());
    }
    lab.host(2).join(&token, lab.host(1)).ok();
    lab.host(1).wait_nodes(2);
}

#[test]
fn an_image_that_does_not_exist_is_named_by_the_task_and_tried_with_pauses() {
    let lab = Lab::swarm("an image that does not exist", 1, 0);
    let (h1, image) = (lab.host(1), lab.image("web:none"));
    h1.ctl(&["service", "create", "--detach", "--restart-delay", "2s", "--name", "broken", &image]).ok();

    let error = h1.wait_tasks("a task that says so", PATIENCE, "broken", |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    });
    assert!(error.contains("web:none"), "{error}");

    // The delay, and then twice the delay.
    let start = Instant::now();
    h1.wait_tasks("three failed tasks", PATIENCE, "broken", |tasks| {
        (tasks.iter().filter(|task| !task.error.is_empty()).count() >= 3).then_some(())
    });
    assert!(start.elapsed() >= Duration::from_secs(5), "no pauses: {:?}", start.elapsed());

    // Waiting for it to converge ends with the reason.
    let create = ["service", "create", "--restart-condition", "none", "--name", "broken-too", &image];
    let output = h1.ctl_within(Duration::from_secs(60), &create);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("web:none"), "{output}");
}

#[test]
fn a_full_pool_makes_tasks_wait_and_say_so_until_an_address_is_free() {
    let lab = Lab::swarm("a full pool", 1, 0);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("small", "10.0.9.0/29");
    let create =
        ["service", "create", "--detach", "--network", "small", "--replicas", "9", "--name", "many", &image];
    h1.ctl(&create).ok();

    // Eight addresses, less those of the network, the broadcast, the gateway and the service.
    let error = h1.wait_tasks("four that run and five that wait", PATIENCE, "many", |tasks| {
        let running = tasks.iter().filter(|task| task.running()).count();
        let waiting: Vec<_> = tasks.iter().filter(|task| task.wanted() && !task.error.is_empty()).collect();
        (running == 4 && waiting.len() == 5).then(|| waiting[0].error.clone())
    });
    assert!(error.contains("small") && error.contains("10.0.9.0/29"), "{error}");

    // One ends, one of those that wait goes on.
    let first = h1.running("many").remove(0);
    let pid = lab.enter(&first).pid;
    h1.sh(&format!("kill -KILL {pid}")).ok();
    h1.wait_tasks("another to take the address", PATIENCE, "many", |tasks| {
        let running: Vec<_> = tasks.iter().filter(|task| task.running()).collect();
        (running.len() == 4 && running.iter().all(|task| task.id != first.id)).then_some(())
    });
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    let lab = Lab::new("what cannot be understood", 1);
    let h1 = lab.host(1);
    for arguments in [&["swarm", "dance"][..], &["service", "create"], &["node", "ls", "--no-such-flag"]] {
        let output = h1.ctl(arguments);
        assert_eq!(output.code, 2, "{output}");
    }
    // No daemon runs: the error names the socket.
    let error = h1.ctl(&["node", "ls"]).refused();
    assert!(error.contains("swarmd.sock"), "{error}");
    let version = h1.ctl(&["version"]);
    assert!(version.code == 1 && version.stdout.contains("Client"), "{version}");
}
