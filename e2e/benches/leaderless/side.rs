//! One side of the contest: which of its members leads, and how one goes and comes back.

use std::time::Duration;

use e2e::etcd::Etcd;
use e2e::peer::Peer;
use e2e::{Lab, wait};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::writers::Group;

const BOUND: Duration = Duration::from_secs(60);

pub struct Side<'a> {
    lab: &'a Lab,
    daemons: Daemons<'a>,
    /// How often it was made sure of that all are there: names must not repeat.
    looks: usize,
}

pub enum Daemons<'a> {
    Swarmd,
    Etcd(Etcd<'a>),
    Docker(Peer<'a>),
}

impl<'a> Side<'a> {
    pub fn new(lab: &'a Lab, daemons: Daemons<'a>) -> Self {
        Self { lab, daemons, looks: 0 }
    }

    pub fn lab(&self) -> &Lab {
        self.lab
    }

    pub fn group(&self) -> Group {
        match &self.daemons {
            Daemons::Swarmd => Group::of_swarmd(self.lab),
            Daemons::Etcd(etcd) => Group::of_etcd(etcd),
            Daemons::Docker(peer) => Group::of_docker(peer),
        }
    }

    /// Waits until each member takes a write; returns a word that was not used in a name yet.
    pub fn wait_whole(&mut self, runtime: &Runtime) -> String {
        let group = self.group();
        for number in 0..group.sockets.len() {
            wait(&format!("member {number} of {} to take a write", group.name), BOUND, || {
                self.looks += 1;
                let name = format!("look-{}", self.looks);
                runtime.block_on(async { group.connect(number).await?.create(&name).await })
            });
        }
        format!("probe-{}", self.looks)
    }

    /// The member that leads, from 0.
    pub fn leader(&self, runtime: &Runtime) -> usize {
        wait(&format!("a leader of {}", self.group().name), BOUND, || {
            let found = match &self.daemons {
                Daemons::Swarmd => {
                    let rows = self.lab.host(1).nodes();
                    let leads = rows.into_iter().find(|row| row.manager_status == "Leader");
                    leads.and_then(|row| self.lab.hosts().iter().position(|host| host.name() == row.hostname))
                }
                Daemons::Etcd(_) => runtime.block_on(self.group().etcd_leader()),
                Daemons::Docker(peer) => peer.daemons().iter().position(|daemon| {
                    let format = "{{.Self}} {{.ManagerStatus}}";
                    daemon.docker(&["node", "ls", "--format", format]).stdout.contains("true Leader")
                }),
            };
            found.ok_or("nobody leads")
        })
    }

    pub fn stop(&mut self, number: usize, signal: Signal) {
        match &mut self.daemons {
            Daemons::Swarmd if signal == Signal::SIGKILL => self.lab.hosts()[number].kill(),
            Daemons::Swarmd => drop(self.lab.hosts()[number].terminate()),
            Daemons::Etcd(etcd) => etcd.stop(number, signal),
            Daemons::Docker(peer) => peer.daemons_mut()[number].stop(signal),
        }
    }

    pub fn restart(&mut self, number: usize) {
        match &mut self.daemons {
            Daemons::Swarmd => self.lab.hosts()[number].launch_plain(),
            Daemons::Etcd(etcd) => etcd.restart(number),
            Daemons::Docker(peer) => peer.daemons_mut()[number].restart(),
        }
    }
}
