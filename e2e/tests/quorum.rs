//! Managers that are lost, and swarms that begin again from a snapshot.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeMap;

use e2e::{Host, Lab, PATIENCE, wait};

/// The processes of the running tasks of `web`, by task.
fn processes(lab: &Lab, manager: &Host, count: usize) -> BTreeMap<String, i32> {
    let tasks = manager.wait_running("web", count);
    tasks.iter().map(|task| (task.id.clone(), lab.enter(task).pid)).collect()
}

fn save(host: &Host, file: &str, more: &[&str]) -> std::path::PathBuf {
    let path = host.folder().join(file);
    let shown = path.display().to_string();
    host.ctl(&[&["swarm", "snapshot", "save"], more, &[&shown]].concat()).ok();
    path
}

#[test]
fn the_survivor_of_three_managers_goes_on_with_all_services() {
    let lab = Lab::swarm("the survivor of three managers", 3, 1);
    let [h1, h2, h3, h4] = [1, 2, 3, 4].map(|number| lab.host(number));
    h1.create_network("net", "10.0.9.0/24");
    let placed = "node.role==worker";
    let create = ["service", "create", "--replicas", "2", "--network", "net", "--constraint", placed];
    h1.ctl(&[&create[..], &["--name", "web", &lab.web()]].concat()).ok();
    let before = processes(&lab, h1, 2);

    // While a leader is heard nothing is forced, and never on a worker.
    let force = ["swarm", "init", "--force-new-cluster"];
    assert!(h1.ctl(&force).refused().contains("hears a leader"));
    assert!(h4.ctl(&force).refused().contains("not a manager"));

    h2.kill();
    h3.kill();
    let mut attempt = 0;
    wait("the loss to be noticed", PATIENCE, || {
        attempt += 1;
        let output = h1.ctl(&["node", "update", "--label-add", &format!("attempt={attempt}"), "h4"]);
        if output.succeeded() { Err(output) } else { Ok(()) }
    });
    // What is known is told.
    assert_eq!(h1.nodes().len(), 4);
    assert!(h1.ctl(&["service", "ls"]).ok().contains("web"));

    // What cannot be kept is not begun, and can be asked for again.
    let obstacle = h1.data_root().join("node.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let refused = h1.ctl(&force).refused();
    assert!(refused.contains("cannot write") && refused.contains("node.json"), "{refused}");
    std::fs::remove_dir(&obstacle).unwrap();

    let told = h1.ctl(&force).ok();
    assert!(told.contains("is now its only manager"), "{told}");
    assert_eq!(processes(&lab, h1, 2), before, "no task was touched");
    let managers: Vec<String> = h1
        .nodes()
        .into_iter()
        .filter(|node| !node.manager_status.is_empty())
        .map(|node| node.hostname)
        .collect();
    assert_eq!(managers, ["h1"]);
    h1.wait_status("h4", "Ready", PATIENCE);
    h1.ctl(&["service", "scale", "web=3"]).ok();
    h1.wait_running("web", 3);

    // One that was lost comes back as a worker, and can be made a manager again.
    h2.start();
    h1.wait_status("h2", "Ready", PATIENCE);
    wait("h2 to be a worker", PATIENCE, || {
        let refused = h2.ctl(&["node", "ls"]);
        if refused.to_string().contains("not a swarm manager") { Ok(()) } else { Err(refused) }
    });
    h1.ctl(&["node", "promote", "h2"]).ok();
    wait("h2 to be a manager that knows all", PATIENCE, || {
        let shown = h2.ctl(&["service", "ls"]);
        if shown.to_string().contains("3/3") { Ok(()) } else { Err(shown) }
    });
    wait("no manager to lack anything", PATIENCE, || {
        let shown = h2.ctl(&["node", "ls", "--format", "{{.Hostname}}:{{.Lag}}"]).ok();
        let lines: Vec<&str> = shown.lines().collect();
        if lines == ["h1:0", "h2:0", "h3:", "h4:"] { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn a_swarm_is_restored_from_a_snapshot() {
    let lab = Lab::swarm("a swarm is restored", 1, 1);
    let [h1, h2] = [1, 2].map(|number| lab.host(number));
    h1.create_network("net", "10.0.9.0/24");
    let create = ["service", "create", "--network", "net", "--constraint", "node.hostname==h2"];
    h1.ctl(&[&create[..], &["--name", "web", &lab.web()]].concat()).ok();
    let before = processes(&lab, h1, 1);
    let secret = h1.folder().join("passphrase");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let secret = secret.display().to_string();

    let file = save(h1, "sealed", &["--passphrase-file", &secret]);
    let open = save(h1, "open", &[]);
    let shown = file.display().to_string();
    let again = h1.ctl(&["swarm", "snapshot", "save", &shown]).refused();
    assert!(again.contains("exists") && again.contains("--force"), "{again}");
    let seen = h1.ctl(&["swarm", "snapshot", "inspect", &open.display().to_string()]).ok();
    for line in ["Sealed: no", "Nodes: 2", "Managers: 1", "Services: 1", "Networks: 1"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    // Its name is in the state, not in the file.
    assert!(!String::from_utf8_lossy(&std::fs::read(&open).unwrap()).contains("node.hostname"));

    // What cannot be read is refused, and changes nothing.
    let inspect = |file: &str, more: &[&str]| {
        h1.ctl(&[&["swarm", "snapshot", "inspect"], more, &[file]].concat()).refused()
    };
    let wrong = h1.folder().join("wrong");
    std::fs::write(&wrong, "wrong horse\n").unwrap();
    let wrong = wrong.display().to_string();
    assert!(inspect(&shown, &[]).contains("passphrase is needed"));
    assert!(inspect(&shown, &["--passphrase-file", &wrong]).contains("not the one"));
    let bytes = std::fs::read(&file).unwrap();
    let cut = h1.folder().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 9]).unwrap();
    let cut = cut.display().to_string();
    assert!(inspect(&cut, &["--passphrase-file", &secret]).contains("damaged"));
    assert!(inspect(&secret, &[]).contains("no snapshot"));
    let restore = ["swarm", "snapshot", "restore", "--passphrase-file", &secret];
    let member = h1.ctl(&[&restore[..], &[&shown]].concat()).refused();
    assert!(member.contains("already part of a swarm"), "{member}");

    // The manager's machine is lost with all that was on it; another one has its address.
    h1.ctl(&["swarm", "leave", "--force"]).ok();
    assert!(h1.ctl(&[&restore[..], &[&cut]].concat()).refused().contains("damaged"));
    h1.ctl(&[&restore[..], &["--advertise-addr", &h1.addr().to_string(), &shown]].concat()).ok();
    h1.wait_status("h2", "Ready", PATIENCE);
    assert_eq!(processes(&lab, h1, 1), before, "the worker's task was not touched");
    h1.ctl(&["service", "scale", "web=2"]).ok();
    h1.wait_running("web", 2);
    assert_eq!(h2.ctl(&["info"]).ok().matches("Error").count(), 0);
}
