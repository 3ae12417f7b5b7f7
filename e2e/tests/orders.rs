//! Managers are promoted, demoted, leave and are removed in one order after the other, also the leader, also while
//! another is down, and while the processes that see to it die half-way: at the end certificates, the Raft group and
//! what each node does agree.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod inside;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use e2e::{Host, Lab, PATIENCE, wait};
use identity::CertificateDir;
use inside::{channel, credentials, inside};
use proto::model::Role;
use proto::raft::MembersRequest;
use proto::raft::raft_client::RaftClient;

const BOUND: Duration = Duration::from_secs(10);

type Names<'a> = BTreeSet<&'a str>;

fn role(host: &Host) -> Option<Role> {
    let certificate = CertificateDir::new(&host.data_root()).certificate().ok().flatten()?;
    Some(certificate.subject().role)
}

fn info(host: &Host, pointer: &str) -> String {
    let info = host.ctl_json(&["info"]).remove(0);
    info.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

/// The nodes with a vote, as whoever of `managers` leads knows them.
fn voters(managers: &[&Host]) -> BTreeSet<String> {
    let asked = managers.iter().flat_map(|host| {
        let credentials = credentials(host);
        let members = inside(host, async {
            RaftClient::new(channel(&credentials, host)).members(MembersRequest {}).await
        });
        members.map(|answer| answer.into_inner().members).unwrap_or_default()
    });
    let voters = asked.filter(|member| member.voter).filter_map(|member| member.member);
    voters.map(|member| member.node_id).collect()
}

/// What is not yet as it has to be if exactly `managers` are managers; hosts without a daemon cannot be asked.
fn disagreement(lab: &Lab, managers: &Names<'_>) -> String {
    let mut found = String::new();
    let up = |host: &&Host| !host.has_exited() && host.ctl_within(BOUND, &["info"]).succeeded();
    let up: Vec<&Host> = lab.hosts().iter().filter(up).collect();
    let (led, others): (Vec<&Host>, Vec<&Host>) =
        up.into_iter().partition(|host| managers.contains(host.name()));
    for host in &led {
        let row = "{{.Hostname}}:{{.ManagerStatus}}";
        let shown = host.ctl_within(BOUND, &["node", "ls", "--format", row, "--consistency=linearizable"]);
        let rows = shown.stdout.lines().filter_map(|line| line.split_once(':'));
        let seen: Names<'_> = rows.filter(|(_, status)| !status.is_empty()).map(|(name, _)| name).collect();
        if seen != *managers || role(host) != Some(Role::Manager) {
            let _ = writeln!(found, "{} with {:?}: {shown}", host.name(), role(host));
        }
    }
    for host in &others {
        let shown = host.ctl_within(BOUND, &["node", "ls"]);
        let left = host.data_root().join("raft").exists();
        if !shown.stderr.contains("not a swarm manager") || role(host) == Some(Role::Manager) || left {
            let _ = writeln!(found, "{} with {:?}, replica: {left}: {shown}", host.name(), role(host));
        }
    }
    if found.is_empty() {
        let ids: BTreeSet<String> = led.iter().map(|host| info(host, "/Swarm/NodeID")).collect();
        let voters = voters(&led);
        // Those that are down have a vote as well.
        if !ids.is_subset(&voters) || voters.len() != managers.len() {
            let _ = writeln!(found, "{voters:?} have a vote, not {managers:?}: {ids:?}");
        }
    }
    found
}

#[track_caller]
fn agree(lab: &Lab, managers: &[&str]) {
    let managers = managers.iter().copied().collect();
    wait(&format!("{managers:?} to be the managers"), PATIENCE, || {
        let found = disagreement(lab, &managers);
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

fn leader<'a>(lab: &'a Lab, asked: &Host) -> &'a Host {
    wait("a leader", PATIENCE, || {
        let nodes = asked.nodes();
        let leader = nodes.iter().find(|node| node.manager_status == "Leader");
        leader.map(|node| lab.host_named(&node.hostname)).ok_or_else(|| format!("{nodes:#?}"))
    })
}

#[test]
fn managers_come_and_go_in_every_order() {
    let lab = Lab::swarm("managers come and go", 3, 1);
    let [h1, h2, h3, h4] = [1, 2, 3, 4].map(|number| lab.host(number));
    agree(&lab, &["h1", "h2", "h3"]);

    // The leader, and back again.
    assert_eq!(leader(&lab, h1).name(), "h1");
    h1.ctl(&["node", "demote", "h1"]).ok();
    agree(&lab, &["h2", "h3"]);
    h2.ctl(&["node", "promote", "h1"]).ok();
    agree(&lab, &["h1", "h2", "h3"]);

    // While one is down the others are needed, and it is not.
    h3.kill();
    wait("the loss to be seen", PATIENCE, || {
        let node = h1.node("h3");
        if node.manager_status == "Unreachable" { Ok(()) } else { Err(format!("{node:?}")) }
    });
    for (by, demoted) in [(h1, "h2"), (h2, "h1"), (h1, "h1")] {
        let refused = by.ctl(&["node", "demote", demoted]).refused();
        assert!(refused.contains("only 1 of 2 managers would be reachable"), "{refused}");
    }
    assert!(h1.ctl(&["node", "rm", "--force", "h3"]).refused().contains("demote it first"));
    h1.ctl(&["node", "demote", "h3"]).ok();
    agree(&lab, &["h1", "h2"]);
    h1.ctl(&["node", "rm", "--force", "h3"]).ok();
    h3.start();
    wait("h3 to say that it was removed", PATIENCE, || {
        let (state, error) = (info(h3, "/Swarm/LocalNodeState"), info(h3, "/Swarm/Error"));
        if state == "error" && error.contains("was removed") {
            Ok(())
        } else {
            Err(format!("{state}: {error}"))
        }
    });
    h3.ctl(&["swarm", "leave"]).ok();
    h3.join(&h1.token("manager"), h1).ok();
    agree(&lab, &["h1", "h2", "h3"]);

    // The leader leaves without being asked to.
    let left = leader(&lab, h1);
    let stays = lab.hosts().iter().take(3).find(|host| host.name() != left.name()).unwrap();
    assert!(left.ctl(&["swarm", "leave"]).refused().contains("--force"));
    left.ctl(&["swarm", "leave", "--force"]).ok();
    let refused = stays.ctl(&["node", "rm", left.name()]).refused();
    assert!(refused.contains("demote it first"), "{refused}");
    stays.ctl(&["node", "demote", left.name()]).ok();
    wait("the node that has left to be removed", PATIENCE, || {
        let removed = stays.ctl(&["node", "rm", "--force", left.name()]);
        if removed.succeeded() { Ok(()) } else { Err(removed) }
    });
    let two: Vec<&str> = ["h1", "h2", "h3"].into_iter().filter(|name| *name != left.name()).collect();
    agree(&lab, &two);
    left.join(&stays.token("worker"), stays).ok();
    // It is known by its name once it has a session.
    stays.wait_nodes(4);
    stays.ctl(&["node", "promote", left.name(), "h4"]).ok();
    agree(&lab, &["h1", "h2", "h3", "h4"]);

    // Of four one may be down while another goes, the leader too.
    let down = if leader(&lab, h1).name() == "h4" { h3 } else { h4 };
    down.kill();
    let leads = wait("one to lead who lives", PATIENCE, || {
        let leads = leader(&lab, h1);
        if leads.name() == down.name() { Err("the dead one is said to") } else { Ok(leads) }
    });
    leads.ctl(&["node", "demote", leads.name()]).ok();
    let three: Vec<&str> =
        ["h1", "h2", "h3", "h4"].into_iter().filter(|name| *name != leads.name()).collect();
    agree(&lab, &three);

    // One that is put out while it is down learns of it when it comes back, though its own replica says otherwise.
    let asked =
        lab.hosts().iter().find(|host| three.contains(&host.name()) && host.name() != down.name()).unwrap();
    asked.ctl(&["node", "demote", down.name()]).ok();
    let two: Vec<&str> = three.into_iter().filter(|name| *name != down.name()).collect();
    agree(&lab, &two);
    down.start();
    agree(&lab, &two);
    for host in lab.hosts().iter().filter(|host| two.contains(&host.name())) {
        let number = host.addr().octets()[3];
        host.create_network(&format!("by-{}", host.name()), &format!("10.9.{number}.0/24"));
    }
}

/// Starts `host` anew, to die at a step.
fn arm(host: &Host, step: &str) {
    host.kill();
    host.launch_dying(step);
    host.wait_ready();
}

/// Starts whoever dies anew, until `managers` agree. Returns who died.
#[track_caller]
fn mend<'a>(lab: &'a Lab, managers: &[&str]) -> Names<'a> {
    let managers = managers.iter().copied().collect();
    let mut died = Names::new();
    wait(&format!("{managers:?} to be the managers after deaths"), PATIENCE, || {
        for host in lab.hosts().iter().filter(|host| host.has_exited()) {
            host.wait_exit();
            host.launch();
            died.insert(host.name());
        }
        let found = disagreement(lab, &managers);
        // One that dies only now was not asked.
        if found.is_empty() && !lab.hosts().iter().any(Host::has_exited) { Ok(()) } else { Err(found) }
    });
    died
}

/// The steps of the managers' part and of the node's own, as `failpoint` names them; each once, and two at a time
/// where both die in one change.
#[test]
fn a_change_of_role_goes_on_after_a_death_in_the_middle() {
    let lab = Lab::swarm("a death in the middle of a change of role", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let promotions = [
        ("roles: Promote", "role: open the replica"),
        ("member: caught up", "role: ask to join"),
        ("roles: joined", ""),
    ];
    let demotions = [("roles: Remove", ""), ("roles: Demote", ""), ("", "role: remove the replica")];
    for (promotion, demotion) in promotions.into_iter().zip(demotions) {
        arm(h1, promotion.0);
        arm(h2, promotion.1);
        // The daemon may die before it answers.
        let _ = h1.ctl_within(BOUND, &["node", "promote", "h2"]);
        let died = mend(&lab, &["h1", "h2"]);
        let expected = if promotion.1.is_empty() { vec!["h1"] } else { vec!["h1", "h2"] };
        assert_eq!(died, expected.into_iter().collect(), "{promotion:?}");

        // Whoever leads takes the managers' part.
        let of_h2 = if demotion.1.is_empty() { demotion.0 } else { demotion.1 };
        arm(h2, of_h2);
        arm(h1, demotion.0);
        wait("both to take part", PATIENCE, || {
            let shown = h1.ctl_within(BOUND, &["node", "ls", "--consistency=linearizable"]);
            if shown.succeeded() { Ok(()) } else { Err(shown) }
        });
        let _ = h1.ctl_within(BOUND, &["node", "demote", "h2"]);
        let died = mend(&lab, &["h1"]);
        assert!(!died.is_empty(), "nobody died at {demotion:?}");
    }
}
