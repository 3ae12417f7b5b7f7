//! How current what is shown is, and what is said where that is not known.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::time::Duration;

use e2e::{Host, Lab, Output, PATIENCE, wait};

const LINEARIZABLE: &str = "--consistency=linearizable";
const NOTICE: &str = "warning: this manager reaches no quorum; what is shown may be stale\n";

/// From a question that cannot be answered to the error.
const AT_ONCE: Duration = Duration::from_secs(5);

fn wait_managers(asked: &Host, count: usize) {
    wait(&format!("{count} managers"), PATIENCE, || {
        let nodes = asked.nodes();
        let part = nodes.iter().filter(|n| ["Leader", "Reachable"].contains(&n.manager_status.as_str()));
        if part.count() == count { Ok(()) } else { Err(format!("{nodes:#?}")) }
    });
}

fn networks(asked: &Host, more: &[&str]) -> Output {
    asked.ctl(&[&["network", "ls", "--format", "{{.Name}}"], more].concat())
}

/// Waits until the manager says with what it shows that it may be stale.
fn wait_notice(asked: &Host) {
    wait("a notice", PATIENCE, || {
        let shown = asked.ctl(&["node", "ls"]);
        if shown.succeeded() && shown.stderr == NOTICE { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn without_a_quorum_what_is_known_is_shown_with_a_notice() {
    let lab = Lab::swarm("without a quorum", 3, 0);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    wait_managers(h1, 3);
    h1.create_network("net", "10.0.9.0/24");
    let shown = h1.ctl(&["node", "ls", LINEARIZABLE]);
    assert!(shown.succeeded() && shown.stderr.is_empty(), "{shown}");

    h2.kill();
    h3.kill();
    wait_notice(h1);
    for read in [
        &["node", "ls", "--format", "json"][..],
        &["node", "inspect", "self"],
        &["network", "ls"],
        &["network", "inspect", "net"],
        &["service", "ls"],
        &["task", "ls"],
        &["node", "ps"],
        &["swarm", "join-token", "-q", "worker"],
    ] {
        let shown = h1.ctl(read);
        assert!(shown.succeeded() && shown.stderr == NOTICE, "{shown}");
        let refused = h1.ctl(&[read, &[LINEARIZABLE]].concat());
        assert!(refused.took < AT_ONCE, "{refused}");
        let error = refused.refused();
        assert!(error.contains("most managers must be up"), "{error}");
    }
    // Programs read standard output and are not disturbed.
    assert_eq!(h1.nodes().len(), 3);
    assert_eq!(networks(h1, &[]).ok(), "net");

    h2.start();
    wait("a linearizable read", PATIENCE, || {
        let shown = networks(h1, &[LINEARIZABLE]);
        if shown.succeeded() && shown.stderr.is_empty() { Ok(()) } else { Err(shown) }
    });
    assert_eq!(networks(h2, &[]).stderr, "");
}

#[test]
fn a_linearizable_read_sees_every_acknowledged_write_and_a_local_one_may_not() {
    let lab = Lab::swarm("a linearizable read", 3, 0);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    wait_managers(h1, 3);
    for (number, writer) in lab.hosts().iter().cycle().take(6).enumerate() {
        let name = format!("net{number}");
        writer.create_network(&name, &format!("10.1.{number}.0/24"));
        for reader in lab.hosts() {
            let shown = networks(reader, &[LINEARIZABLE]).ok();
            assert!(shown.lines().any(|line| line == name), "{} lacks {name}: {shown}", reader.name());
        }
    }

    // One that hears nothing of it shows what it had, whether it led or not, and says so once it has noticed.
    h3.cut();
    wait("a write without h3", PATIENCE, || {
        let create = ["network", "create", "--driver", "overlay", "--subnet", "10.1.99.0/24", "later"];
        let created = h1.ctl_within(Duration::from_secs(5), &create);
        if created.succeeded() || created.stderr.contains("exists") { Ok(()) } else { Err(created) }
    });
    assert!(!networks(h3, &[]).ok().contains("later"));
    assert!(networks(h2, &[LINEARIZABLE]).ok().contains("later"));
    let refused = networks(h3, &[LINEARIZABLE]);
    assert!(refused.took < AT_ONCE, "{refused}");
    assert!(refused.refused().contains("most managers must be up"));
    wait_notice(h3);

    h3.heal();
    wait("h3 to be back", PATIENCE, || {
        let shown = networks(h3, &[LINEARIZABLE]);
        if shown.succeeded() { Ok(shown.stdout) } else { Err(shown) }
    });
    assert!(networks(h3, &[]).ok().contains("later"));
}
