//! Health checks: a task is called once it is healthy, and no more when it is not.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::{Host, Inside, Lab, Load, PATIENCE, TaskRow, wait};
use serde_json::json;

const PREFIX: &str = "10.0.9.";
/// Twice in a second, and once is enough.
const OFTEN: [&str; 6] = ["--health-interval", "500ms", "--health-retries", "1", "--restart-delay", "0s"];

/// The virtual address of a service.
fn vip(host: &Host, service: &str) -> IpAddr {
    let shown = host.inspect("service", service);
    let address = shown.pointer("/Endpoint/VirtualIPs/0/Addr").and_then(|address| address.as_str());
    let address = address.unwrap_or_else(|| panic!("{service} has no virtual address: {shown:#}"));
    address.split('/').next().unwrap().parse().unwrap()
}

fn create(host: &Host, name: &str, options: &[&str], program: &[&str]) {
    let create = ["service", "create", "--detach", "--network", "net", "--name", name];
    host.ctl(&[&create[..], options, program].concat()).ok();
}

/// One client on each host.
fn clients(lab: &Lab) -> Vec<Inside> {
    let (h1, image, hosts) = (lab.host(1), lab.web(), lab.hosts().len());
    create(h1, "client", &["--mode", "global"], &[&image]);
    h1.wait_running("client", hosts).iter().map(|task| lab.enter(task)).collect()
}

/// Waits until so many tasks run and their check has failed.
fn wait_unready(host: &Host, service: &str, count: usize) -> Vec<TaskRow> {
    host.wait_tasks("tasks that are not healthy yet", PATIENCE, service, |tasks| {
        let unready = |task: &&TaskRow| {
            task.current_state.starts_with("Starting") && task.error.contains("its check exits with 1")
        };
        let unready: Vec<_> = tasks.iter().filter(unready).cloned().collect();
        (unready.len() == count).then_some(unready)
    })
}

/// Waits until these tasks and no others are found by the service's name and at its address, from everywhere.
fn wait_called(clients: &[Inside], service: &str, address: IpAddr, tasks: &[TaskRow]) {
    let mut expected: Vec<_> = tasks.iter().map(|task| task.address(PREFIX).to_string()).collect();
    expected.sort();
    let name = format!("tasks.{service}.");
    for client in clients {
        client.wait_lookup("the healthy tasks to be known", PATIENCE, &name, |answer| {
            answer.records == expected
        });
        wait("the healthy tasks to be called", PATIENCE, || {
            let answers = (0..8 * tasks.len().max(1)).map(|_| client.get(address));
            let answers: Vec<_> = answers.map(|output| output.stdout).collect();
            let by = |task: &TaskRow| answers.iter().any(|answer| answer.contains(&task.id[..12]));
            let others =
                answers.iter().filter(|answer| !tasks.iter().any(|task| answer.contains(&task.id[..12])));
            let answered = others.filter(|answer| !answer.is_empty()).count();
            if tasks.iter().all(by) && answered == 0 { Ok(()) } else { Err(format!("{answers:?}")) }
        });
    }
}

#[test]
fn a_task_is_called_from_its_first_success_on() {
    let lab = Lab::swarm("a task is called once healthy", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let clients = clients(&lab);
    let image = lab.web();
    let check = ["--health-cmd", "test -e /tmp/ok", "--health-start-interval", "500ms"];
    let patient = ["--health-start-period", "1h", "--replicas", "2"];
    create(h1, "web", &[&check[..], &patient].concat(), &[&image]);
    let unready = wait_unready(h1, "web", 2);
    let address = vip(h1, "web");
    for client in &clients {
        assert_eq!(client.lookup("tasks.web.").records, [""; 0], "no task is healthy");
        let begun = Instant::now();
        assert!(
            !client.get(address).succeeded() && begun.elapsed() < Duration::from_secs(2),
            "refused at once"
        );
    }
    let shown = h1.inspect("task", &unready[0].id);
    let health = shown.pointer("/Status/ContainerStatus/Health").unwrap();
    assert_eq!(
        (&health["Status"], &health["Log"][0]["ExitCode"]),
        (&json!("starting"), &json!(1)),
        "{shown:#}"
    );

    for healthy in 1..=2 {
        lab.enter(&unready[healthy - 1]).sh("touch /tmp/ok").ok();
        h1.wait_tasks("healthy tasks", PATIENCE, "web", |tasks| {
            (tasks.iter().filter(|task| task.running()).count() == healthy).then_some(())
        });
        wait_called(&clients, "web", address, &unready[..healthy]);
    }
    let shown = h1.inspect("task", &unready[0].id);
    assert_eq!(shown.pointer("/Status/ContainerStatus/Health/Status"), Some(&json!("healthy")), "{shown:#}");

    // An image's own check counts, unless the service has none.
    let image = lab.checked_image();
    create(h1, "checked", &[], &[&image]);
    create(h1, "unchecked", &["--no-healthcheck"], &[&image]);
    h1.wait_running("unchecked", 1);
    let task = h1.wait_tasks("a task that is not healthy yet", PATIENCE, "checked", |tasks| {
        tasks
            .iter()
            .find(|task| task.current_state.starts_with("Starting") && !task.error.is_empty())
            .cloned()
    });
    lab.enter(&task).sh("touch /tmp/ok").ok();
    assert_eq!(h1.wait_running("checked", 1)[0].id, task.id);
}

#[test]
fn an_unhealthy_task_is_called_no_more_and_replaced_without_losing_a_request() {
    let lab = Lab::swarm("an unhealthy task is replaced", 1, 2);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let steady = lab.steady_image() + ":1";
    let check = ["--health-cmd", "if test -e /tmp/broken; then echo it is broken; exit 1; fi"];
    create(h1, "steady", &[&check[..], &OFTEN, &["--replicas", "3"]].concat(), &[&steady, "/bin/steady"]);
    let tasks = h1.wait_running("steady", 3);
    let (clients, address) = (clients(&lab), vip(h1, "steady"));
    wait_called(&clients, "steady", address, &tasks);
    let load = Load::start(&clients, address);

    // A daemon that was away goes on with the tasks that it finds.
    let broken = tasks.iter().find(|task| task.node == "h2").unwrap();
    let host = lab.host_named("h2");
    host.kill();
    host.start();
    h1.wait_status("h2", "Ready", PATIENCE);
    assert_eq!(h1.wait_running("steady", 3).iter().filter(|task| task.id == broken.id).count(), 1);

    lab.enter(broken).sh("touch /tmp/broken").ok();
    let error = h1.wait_tasks("the task to have failed", PATIENCE, "steady", |tasks| {
        let failed = tasks.iter().find(|task| task.id == broken.id)?;
        failed.current_state.starts_with("Failed").then(|| failed.error.clone())
    });
    assert_eq!(error, "unhealthy container: it is broken");
    let replaced = h1.wait_running("steady", 3);
    assert!(replaced.iter().all(|task| task.id != broken.id));
    wait_called(&clients, "steady", address, &replaced);
    let tally = load.finish();
    assert_eq!(tally.failures, [""; 0], "of {} requests", tally.answered);
}

/// Waits until the update of `steady` is in this state; what is said of it.
fn wait_update(host: &Host, state: &str) -> String {
    wait("the update", PATIENCE, || {
        let status = host.inspect("service", "steady")["UpdateStatus"].clone();
        if status["State"] == json!(state) {
            Ok(status["Message"].to_string())
        } else {
            Err(format!("{status:#}"))
        }
    })
}

#[test]
fn a_rolling_update_waits_for_each_task_to_be_healthy() {
    let lab = Lab::swarm("a rolling update waits for health", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let image = lab.steady_image();
    // It takes a while to listen; who calls it before is refused.
    let program = ["/bin/sh", "-c", "sleep 2; exec /bin/steady"];
    let check =
        ["--health-cmd", "wget -q -O /dev/null http://127.0.0.1/", "--health-start-interval", "300ms"];
    let patient = ["--health-start-period", "1m", "--health-interval", "5s", "--replicas", "2"];
    let first = format!("{image}:1");
    create(h1, "steady", &[&check[..], &patient].concat(), &[&[first.as_str()], &program[..]].concat());
    let tasks = h1.wait_running("steady", 2);
    let address = vip(h1, "steady");
    let load = Load::start(&clients(&lab), address);
    wait("requests to be answered", PATIENCE, || if load.answered() > 200 { Ok(()) } else { Err("few are") });

    let update = ["service", "update", "--update-monitor", "1s", "--image", &format!("{image}:2"), "steady"];
    h1.ctl(&[&update[..], &["--detach"]].concat()).ok();
    wait_update(h1, "completed");
    let updated = h1.wait_running("steady", 2);
    assert!(updated.iter().all(|task| tasks.iter().all(|old| old.id != task.id)));
    let answered = load.answered();
    wait("the new tasks to answer", PATIENCE, || {
        if load.answered() > answered + 200 { Ok(()) } else { Err("few do") }
    });
    let tally = load.finish();
    assert_eq!(tally.failures, [""; 0], "of {} requests", tally.answered);
    assert_eq!(tally.answers.len(), 4, "{:#?}", tally.answers);

    // One that never becomes healthy holds the update up, and the others go on.
    let update =
        ["service", "update", "--detach", "--health-cmd", "echo never; false", "--health-retries", "1"];
    let soon = ["--health-start-period", "1ms", "--health-interval", "300ms", "--stop-grace-period", "1s"];
    h1.ctl(&[&update[..], &soon, &["steady"]].concat()).ok();
    let message = wait_update(h1, "paused");
    assert!(message.contains("unhealthy container: never"), "{message}");
    let sound = h1.running("steady");
    assert!(sound.iter().any(|task| updated.iter().any(|old| old.id == task.id)), "{sound:#?}");
}
