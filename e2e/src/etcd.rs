//! etcd on the hosts of a lab: the peer of the benchmarks of the replicated store.

use std::process::Child;

use nix::sys::signal::Signal;

use crate::command::{end, start_logged};
use crate::host::Host;
use crate::lab::Lab;

/// Clients come by a unix socket, as those of the other contenders do. Its name must look like an address.
const SOCKET: &str = "localhost:2379";

/// A cluster of etcd with its default settings, a member on each host of a lab.
#[derive(Debug)]
pub struct Etcd<'a> {
    lab: &'a Lab,
    members: Vec<Child>,
}

impl<'a> Etcd<'a> {
    /// Starts the members. They answer a moment later.
    pub fn form(lab: &'a Lab) -> Self {
        let members = lab.hosts().iter().map(|host| start(lab, host)).collect();
        Self { lab, members }
    }

    /// Paths of the sockets on which the members serve clients.
    pub fn sockets(&self) -> Vec<String> {
        self.lab.hosts().iter().map(|host| format!("{}/{SOCKET}", host.folder().display())).collect()
    }

    /// Ends member `number`, from 0, and waits for that.
    pub fn stop(&mut self, number: usize, signal: Signal) {
        end(&mut self.members[number], signal);
    }

    /// Starts it again after `stop`, without waiting.
    pub fn restart(&mut self, number: usize) {
        self.members[number] = start(self.lab, &self.lab.hosts()[number]);
    }

    pub fn pids(&self) -> Vec<i32> {
        self.members.iter().map(|member| member.id() as i32).collect()
    }
}

fn url(host: &Host) -> String {
    format!("http://{}:2380", host.addr())
}

fn start(lab: &Lab, host: &Host) -> Child {
    let member = |host: &Host| format!("{}={}", host.name(), url(host));
    let cluster = lab.hosts().iter().map(member).collect::<Vec<_>>().join(",");
    let (url, data) = (url(host), format!("{}/etcd", host.folder().display()));
    let clients = format!("unix://{SOCKET}");
    let mut command = host.command("etcd");
    command.args(["--name", host.name(), "--data-dir", &data]);
    command.args([
        "--listen-peer-urls",
        &url,
        "--initial-advertise-peer-urls",
        &url,
        "--initial-cluster",
        &cluster,
    ]);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.current_dir(host.folder());
    // One that was killed has left it, and the next one would not bind to it.
    let _ = std::fs::remove_file(host.folder().join(SOCKET));
    start_logged(&mut command, &host.log("etcd.log"))
}

impl Drop for Etcd<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}
