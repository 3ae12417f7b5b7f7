//! `swarmctl` as Docker's users know it: names, ids and prefixes, tables, `-q`, JSON.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use e2e::{Lab, PATIENCE, wait};

#[test]
fn objects_are_named_by_name_id_or_unique_prefix() {
    let lab = Lab::swarm("objects are named", 1, 0);
    let h1 = lab.host(1);
    let network = h1.create_network("net", "10.0.9.0/24");
    h1.create_web(&lab, "web", "net", 1);
    let service = h1.ctl(&["service", "ls", "-q"]).ok();

    for name in ["net", &network, &network[..8]] {
        assert_eq!(h1.inspect("network", name)["Id"], serde_json::json!(network));
    }
    for name in ["web", &service, &service[..8]] {
        assert_eq!(h1.inspect("service", name)["Spec"]["Name"], serde_json::json!("web"));
    }
    let node = h1.inspect("node", "self");
    assert_eq!(node["Description"]["Hostname"], serde_json::json!("h1"));
    assert_eq!(node["Spec"]["Role"], serde_json::json!("manager"));
}

#[test]
fn tables_have_dockers_columns() {
    let lab = Lab::swarm("tables have dockers columns", 1, 0);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    h1.create_web(&lab, "web", "net", 1);
    for (arguments, columns) in [
        (&["node", "ls"][..], "ID HOSTNAME STATUS AVAILABILITY MANAGER STATUS LAG ENGINE VERSION"),
        (&["service", "ls"], "ID NAME MODE REPLICAS IMAGE PORTS"),
        (&["service", "ps", "web"], "ID NAME IMAGE NODE DESIRED STATE CURRENT STATE ERROR PORTS"),
        (&["network", "ls"], "NETWORK ID NAME DRIVER SCOPE"),
    ] {
        let table = h1.ctl(arguments).ok();
        let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        // Columns of our own may follow.
        assert!(header.join(" ").starts_with(columns), "{header:?}");
    }
    // A table whose reader has gone is no error of ours.
    let piped = format!("{{ {} -H {} node ls; echo $? >&2; }} | true", swarmctl(), h1.socket());
    assert!(!h1.sh(&piped).stderr.contains("panicked"));
}

fn swarmctl() -> String {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("swarmctl").display().to_string()
}

#[test]
fn info_tells_the_state_of_the_node() {
    let lab = Lab::new("info tells the state", 1);
    let h1 = lab.host(1);
    h1.start();
    let info = |pointer: &str| h1.ctl_json(&["info"])[0].pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(info("/Swarm/LocalNodeState"), serde_json::json!("inactive"));
    h1.init(&[]);
    assert_eq!(info("/Swarm/LocalNodeState"), serde_json::json!("active"));
    assert_eq!(info("/Swarm/ControlAvailable"), serde_json::json!(true));
    assert_eq!(info("/Swarm/NodeAddr"), serde_json::json!("192.168.77.11"));
    assert_eq!(info("/Name"), serde_json::json!("h1"));
}

#[test]
fn managers_take_snapshots_as_the_swarm_is_set() {
    let lab = Lab::new("managers take snapshots", 1);
    let h1 = lab.host(1);
    h1.start();
    h1.init(&["--max-snapshots", "1"]);
    let raft = || h1.ctl_json(&["info"])[0].pointer("/Swarm/Cluster/Spec/Raft").cloned().unwrap();
    let settings = |interval: u64, older: u64, entries: u64| {
        serde_json::json!({
            "SnapshotInterval": interval,
            "KeepOldSnapshots": older,
            "LogEntriesForSlowFollowers": entries,
        })
    };
    assert_eq!(raft(), settings(10_000, 1, 500));
    let none = h1.ctl(&["swarm", "update", "--snapshot-interval", "0"]).refused();
    assert!(none.contains("spec.raft.snapshot_interval") && none.contains("1 to 1000000"), "{none}");
    let update = ["swarm", "update", "--snapshot-interval", "5", "--log-entries-for-slow-followers", "3"];
    h1.ctl(&update).ok();
    assert_eq!(raft(), settings(5, 1, 3));
    assert!(h1.ctl(&["info"]).ok().contains("Snapshot interval: 5"));
    for number in 0..12 {
        h1.ctl(&["node", "update", "--label-add", &format!("attempt={number}"), "h1"]).ok();
    }
    wait("two snapshots", PATIENCE, || {
        let names = h1.sh(&format!("ls {}", h1.data_root().join("raft").display())).stdout;
        let count = names.lines().filter(|name| name.starts_with("snapshot-")).count();
        if count == 2 { Ok(()) } else { Err(names) }
    });
}

#[test]
fn settings_come_from_flags_or_from_a_file() {
    let lab = Lab::new("settings come from a file", 1);
    let h1 = lab.host(1);
    let file = lab.folder().join("swarmd.toml");
    let folder = h1.folder().display();
    let text = format!(
        "data-root = '{folder}/data'\nexec-root = '{folder}/run'\nhost = '{}'\nhostname = 'from-file'\n\
         cgroup-parent = '/{}/h1'\nlog-format = 'json'\n",
        h1.socket(),
        lab.name(),
    );
    std::fs::write(&file, text).unwrap();
    h1.launch_with(&["--config", &file.display().to_string()]);
    h1.wait_ready();
    assert_eq!(h1.ctl_json(&["info"])[0]["Name"], serde_json::json!("from-file"));
    assert!(h1.terminate().success());

    std::fs::write(&file, "hostnam = 'typo'\n").unwrap();
    h1.launch_with(&["--config", &file.display().to_string()]);
    assert_eq!(h1.wait_exit().code(), Some(1), "a setting that does not exist is refused");
}

#[test]
fn completion_is_offered_for_the_usual_shells() {
    let lab = Lab::new("completion is offered", 1);
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.host(1).ctl(&["completion", shell]).ok().contains("swarmctl"));
    }
}
