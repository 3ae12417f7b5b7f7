//! Shows the main job on this machine: three hosts, a swarm, an overlay network, replicas that reach each other.
//!
//! `demo` shows it and cleans up, `demo --keep` leaves it running, `demo --clean` removes what was left,
//! `demo --sweep` removes what interrupted runs left. `scripts/demo` is the way to call it.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::{env, fs};

use e2e::{Host, Lab, PATIENCE, TaskRow, clean, wait};

const NETWORK: &str = "my-multi-host-network";
const SERVICE: &str = "my-web";
const PREFIX: &str = "10.0.9.";

fn main() -> Result<(), Box<dyn Error>> {
    let argument = env::args().nth(1);
    match argument.as_deref() {
        None => show(false),
        Some("--keep") => {
            // Only one can be remembered.
            remove_kept()?;
            show(true)
        }
        Some("--clean") => remove_kept(),
        Some("--sweep") => {
            clean::sweep();
            Ok(())
        }
        Some(other) => {
            Err(format!("unknown argument {other:?}: there are --keep, --clean and --sweep").into())
        }
    }
}

fn show(keep: bool) -> Result<(), Box<dyn Error>> {
    let lab = Lab::new("demo", 3);
    title("Three hosts on one network, a swarmd on each");
    lab.hosts().iter().for_each(Host::launch);
    for host in lab.hosts() {
        host.wait_ready();
        println!("{} has the address {}", host.name(), host.addr());
    }

    let tasks = main_job(&lab);
    show_hosts(&lab);
    show_traffic(&lab, &tasks);
    if keep {
        return leave_running(lab);
    }

    title("The service goes, and with it every trace of the network");
    typed(lab.host(1), &["service", "rm", SERVICE]);
    typed(lab.host(1), &["network", "rm", NETWORK]);
    wait("the namespaces to be gone", PATIENCE, || {
        let left: Vec<_> = lab.hosts().iter().flat_map(Host::namespaces).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    show_hosts(&lab);
    Ok(())
}

/// The commands of the README; returns the tasks of the service.
fn main_job(lab: &Lab) -> Vec<TaskRow> {
    let (h1, image) = (lab.host(1), lab.web());
    title("A swarm");
    let told = typed(h1, &["swarm", "init", "--advertise-addr", &h1.addr().to_string()]);
    let join = told.lines().map(str::trim).find(|line| line.starts_with("swarmctl swarm join"));
    let join: Vec<&str> =
        join.unwrap_or_else(|| panic!("no join command in: {told}")).split(' ').skip(1).collect();
    for host in &lab.hosts()[1..] {
        typed(host, &join);
    }
    h1.wait_nodes(3);
    typed(h1, &["node", "ls"]);

    title("A network, and a service with two replicas on it");
    typed(h1, &["network", "create", "--driver", "overlay", "--subnet", "10.0.9.0/24", NETWORK]);
    let create = ["service", "create", "--replicas", "2", "--network", NETWORK, "--name", SERVICE, &image];
    typed(h1, &create);
    let tasks = h1.wait_running(SERVICE, 2);
    typed(h1, &["service", "ps", SERVICE]);
    typed(h1, &["task", "ls"]);
    tasks
}

fn show_hosts(lab: &Lab) {
    title("What exists on each host");
    for host in lab.hosts() {
        println!("\n{}:", host.name());
        print_indented(&host.sh("ip -brief link show").ok());
        let namespaces = host.namespaces();
        if namespaces.is_empty() {
            println!("  no namespaces of networks or tasks");
        }
        for namespace in namespaces {
            println!("  namespace {}", namespace.display());
            let look = format!("nsenter --net={} ip -brief address show", namespace.display());
            print_indented(&host.sh(&look).ok());
        }
    }
}

fn show_traffic(lab: &Lab, tasks: &[TaskRow]) {
    let [one, two] = tasks else { panic!("not two tasks: {tasks:#?}") };
    let to = two.address(PREFIX).to_string();
    title(&format!("From {} on {} to {} on {}", one.name, one.node, two.name, two.node));
    println!("# ping -c 3 {to}");
    println!("{}", lab.enter(one).net("ping", &["-c", "3", "-i", "0.2", &to]).ok());
    println!("\n# wget -qO- http://{to}/");
    println!("{}", lab.enter(one).get(&to).ok());
}

/// Runs `swarmctl` on `host` and shows the command and what it printed.
fn typed(host: &Host, arguments: &[&str]) -> String {
    println!("\n{}# swarmctl {}", host.name(), arguments.join(" "));
    let output = host.ctl(arguments).ok();
    println!("{output}");
    output
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn print_indented(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}

fn leave_running(lab: Lab) -> Result<(), Box<dyn Error>> {
    for host in lab.hosts() {
        let script = lab.folder().join(format!("on-{}", host.name()));
        let path = programs()?.display().to_string();
        let text = format!(
            "#!/bin/sh\nexport SWARMCTL_HOST={}\nexport PATH={path}:$PATH\n\
             exec nsenter --net={} \"$@\"\n",
            host.socket(),
            host.netns(),
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(kept_file()?, lab.name())?;

    title("It goes on running");
    println!("Each host has a script that runs a command on it:\n");
    println!("    {}/on-h1 swarmctl service scale {SERVICE}=3", lab.folder().display());
    println!("    {}/on-h1 swarmctl task ls", lab.folder().display());
    println!("    {}/on-h3 ip address", lab.folder().display());
    println!("\nRemove it with `make demo-clean`.");
    lab.keep();
    Ok(())
}

fn remove_kept() -> Result<(), Box<dyn Error>> {
    let file = kept_file()?;
    let Ok(name) = fs::read_to_string(&file) else {
        return Ok(());
    };
    clean::remove(&name);
    fs::remove_file(file)?;
    println!("Removed the demo {name}.");
    Ok(())
}

/// The folder of the built programs, this one among them.
fn programs() -> Result<PathBuf, Box<dyn Error>> {
    let own = env::current_exe()?;
    Ok(own.parent().ok_or("this program is in no folder")?.to_owned())
}

/// Names the lab that was left running.
fn kept_file() -> Result<PathBuf, Box<dyn Error>> {
    Ok(programs()?.join("demo.kept"))
}
