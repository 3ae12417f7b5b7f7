//! The test bench itself: what the stories rely on, shown with plain processes.

use std::time::Duration;

use e2e::{Lab, clean, wait};

fn reaches(lab: &Lab, from: usize, to: usize) -> bool {
    let address = lab.host(to).addr();
    lab.host(from).sh(&format!("ping -n -c1 -W1 {address}")).succeeded()
}

/// Neighbours that have just failed to find a host look again only after a second.
fn wait_reaches(lab: &Lab, from: usize, to: usize) {
    wait("the host to answer", Duration::from_secs(5), || {
        if reaches(lab, from, to) { Ok(()) } else { Err("no answer") }
    });
}

#[test]
fn hosts_reach_each_other_unless_cut_off() {
    let lab = Lab::new("hosts reach each other unless cut off", 3);
    assert!(reaches(&lab, 1, 2) && reaches(&lab, 2, 3));

    lab.host(2).cut();
    assert!(!reaches(&lab, 1, 2) && !reaches(&lab, 2, 3));
    assert!(reaches(&lab, 1, 3));
    let carrier = lab.host(2).sh("cat /sys/class/net/eth0/carrier || ip link show eth0").ok();
    assert!(!carrier.contains("NO-CARRIER"), "a cut is silent: {carrier}");

    lab.host(2).heal();
    wait_reaches(&lab, 1, 2);
}

#[test]
fn a_host_that_was_switched_off_comes_back_with_its_address() {
    let lab = Lab::new("a host that was switched off comes back", 2);
    lab.host(2).power_off();
    assert!(!reaches(&lab, 1, 2));
    lab.host(2).power_on();
    wait_reaches(&lab, 1, 2);
}

#[test]
fn the_registry_serves_both_versions_of_the_image() {
    let lab = Lab::new("the registry serves both versions", 1);
    let manifests = "http://192.168.77.1:5000/v2/web/manifests";
    for tag in ["1", "2", "latest"] {
        let accept = "Accept: application/vnd.oci.image.index.v1+json";
        let index = lab.host(1).sh(&format!("curl -sSf -H '{accept}' {manifests}/{tag}")).ok();
        assert!(index.contains("s390x") && index.contains("linux"), "{index}");
    }
    let missing = lab.host(1).sh(&format!("curl -s -o /dev/null -w '%{{http_code}}' {manifests}/3"));
    assert_eq!(missing.ok(), "404");
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let lab = Lab::new("a lab leaves nothing behind", 1);
    let (name, folder) = (lab.name().to_owned(), lab.folder().to_owned());
    let mount = folder.join("h1/run/netns/some");
    // A daemon that left its parent, a mount, and a process that knows nothing of the lab but its cgroup.
    let script = format!(
        "mkdir -p {0} && mount -t tmpfs none {0}
         cg=/sys/fs/cgroup; [ -d $cg/pids ] && cg=$cg/pids; cg=$cg/{name}/h1/task; mkdir -p $cg
         setsid sh -c 'echo $$ >'$cg'/cgroup.procs; exec sleep 1000' &
         setsid sh -c 'sleep 1001; : {folder}/h1/data' >/dev/null 2>&1 &",
        mount.display(),
        folder = folder.display()
    );
    lab.host(1).sh(&format!("exec >/dev/null 2>&1 </dev/null\n{script}")).ok();
    drop(lab);

    assert!(!folder.exists());
    // By an environment variable, so that the search does not find itself.
    let search = "ls -d /run/netns/$NAME-* /sys/fs/cgroup/*/$NAME; pgrep -fa $NAME; mount | grep $NAME";
    let left = std::process::Command::new("sh").args(["-c", search]).env("NAME", &name).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

#[test]
fn a_kept_lab_runs_until_it_is_removed() {
    let lab = Lab::new("a kept lab runs until it is removed", 1);
    lab.host(1).start();
    let (name, folder, socket) = (lab.name().to_owned(), lab.folder().to_owned(), lab.host(1).socket());
    lab.keep();
    clean::sweep();
    let answers = std::os::unix::net::UnixStream::connect(socket.trim_start_matches("unix://"));
    clean::remove(&name);
    assert!(answers.is_ok(), "{answers:?}");
    assert!(!folder.exists());
}

#[test]
fn two_labs_do_not_see_each_other() {
    let one = Lab::new("two labs, the first", 1);
    let two = Lab::new("two labs, the second", 2);
    assert_ne!(one.name(), two.name());
    assert!(!reaches_address(&one, two.host(2).addr()));
    assert!(reaches_address(&two, two.host(2).addr()));
    clean::sweep();
    assert!(one.folder().exists(), "a lab in use is not swept away");
}

fn reaches_address(lab: &Lab, address: std::net::Ipv4Addr) -> bool {
    lab.host(1).sh(&format!("ping -n -c1 -W1 {address}")).succeeded()
}
