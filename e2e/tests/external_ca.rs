//! A swarm whose certificates somebody else signs.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

#[path = "../../identity/tests/support/signer.rs"]
mod signer;

use std::fs::{self, File};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use e2e::{Host, Lab, PATIENCE, wait};
use identity::{CertificateDir, RootCa, RootCertificate};
use nix::sched::{CloneFlags, setns};
use proto::model::Role;
use signer::{Conduct, Signer};

/// In the network between the hosts.
const ADDRESS: &str = "192.168.77.1:8888";

/// An external CA that runs until it is dropped.
struct External {
    conduct: mpsc::Sender<Conduct>,
    running: Option<JoinHandle<usize>>,
}

impl External {
    fn start(lab: &Lab, ca: &RootCa, clients: &[&RootCertificate]) -> Self {
        let (ca, namespace) = (ca.clone(), lab.bridge());
        let clients: Vec<RootCertificate> = clients.iter().copied().cloned().collect();
        let (conduct, orders) = mpsc::channel::<Conduct>();
        let (ready, begun) = mpsc::channel();
        let running = std::thread::spawn(move || {
            setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            // Its own threads are in the namespace too, as this one makes them.
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
            let clients: Vec<&RootCertificate> = clients.iter().collect();
            let signer = runtime.block_on(Signer::start(&ca, &clients, ADDRESS));
            ready.send(()).unwrap();
            while let Ok(order) = orders.recv() {
                signer.conduct(order);
            }
            signer.requests().len()
        });
        begun.recv().unwrap();
        Self { conduct, running: Some(running) }
    }

    fn conduct(&self, conduct: Conduct) {
        self.conduct.send(conduct).unwrap();
    }

    /// Ends it; how often it was asked.
    fn stop(mut self) -> usize {
        drop(std::mem::replace(&mut self.conduct, mpsc::channel().0));
        self.running.take().unwrap().join().unwrap()
    }
}

fn root(host: &Host) -> String {
    host.ctl(&["swarm", "ca"]).ok()
}

fn wait_role(host: &Host, role: Role) {
    wait(&format!("{} to be a {role:?}", host.name()), PATIENCE, || {
        let (identity, _) = CertificateDir::new(&host.data_root()).load().unwrap().unwrap();
        let found = identity.subject().role;
        if found == role { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn an_external_ca_signs_for_joins_roles_and_roots() {
    let mut lab = Lab::swarm("an external ca", 2, 0);
    lab.add_host();
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    h3.start();
    let first = RootCertificate::from_pem(&format!("{}\n", root(h1))).unwrap();
    let ca = RootCa::generate(SystemTime::now()).unwrap();
    let file = lab.folder().join("ca.pem").display().to_string();
    fs::write(&file, ca.certificate().pem()).unwrap();
    let url = format!("https://{ADDRESS}/api/v1/cfssl/sign");
    let signer = format!("protocol=cfssl,url={url}");
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &file, "--external-ca", &signer];

    // Nobody listens: nothing happens.
    let refused = h1.ctl(&rotate).refused();
    assert!(refused.contains(&format!("external CA {url}: cannot connect")), "{refused}");
    assert_eq!(root(h2), first.pem().trim());
    let external = External::start(&lab, &ca, &[&first, ca.certificate()]);
    let output = h2.ctl(&rotate);
    assert_eq!(output.ok(), ca.certificate().pem().trim());
    let asked = external.stop();
    assert!(asked >= 3, "the two nodes and the try: {asked}");

    // While it is down nobody joins, and that is said; nothing is left of it.
    let token = h1.token("worker");
    let refused = h3.join(&token, h1).refused();
    assert!(refused.contains(&format!("external CA {url}: cannot connect")), "{refused}");
    assert_eq!(h1.nodes().len(), 2);
    h1.create_network("meanwhile", "10.0.9.0/24");
    let external = External::start(&lab, &ca, &[ca.certificate()]);
    external.conduct(Conduct::Role(Role::Manager));
    wait("the signer to be asked again", PATIENCE, || {
        let refused = h3.join(&token, h1).refused();
        let is_wrong = refused.contains("\"swarm-worker\" was asked for");
        if is_wrong { Ok(()) } else { Err(refused) }
    });
    assert_eq!(h1.nodes().len(), 2);
    external.conduct(Conduct::Honest);
    h3.join(&token, h2).ok();
    h1.wait_nodes(3);

    // A manager that was restarted needs no key for it either, nor does a change of role.
    h1.kill();
    h1.start();
    h1.wait_nodes(3);
    h1.ctl(&["node", "promote", "h3"]).ok();
    wait_role(h3, Role::Manager);
    h1.ctl(&["node", "demote", "h3"]).ok();
    wait_role(h3, Role::Worker);
    let refused = h1.ctl(&["swarm", "update", "--external-ca-rm"]).refused();
    assert!(refused.contains("managers do not have the key of the root"), "{refused}");

    // Back to a root of the managers' own, for which the external CA vouches.
    let output = h1.ctl(&["swarm", "ca", "--rotate"]);
    let own = output.ok();
    assert_ne!(own, ca.certificate().pem().trim());
    external.stop();
    h3.ctl(&["swarm", "leave"]).ok();
    h3.join(&h2.token("manager"), h2).ok();
    wait_role(h3, Role::Manager);
}

#[test]
fn bad_external_cas_are_refused_before_anything_is_made() {
    let lab = Lab::new("bad external cas", 1);
    let h1 = lab.host(1);
    h1.start();
    let init = |signer: &str| {
        let advertise = h1.addr().to_string();
        h1.ctl(&["swarm", "init", "--advertise-addr", &advertise, "--external-ca", signer]).refused()
    };
    assert!(init("protocol=acme,url=https://ca").contains("\"acme\" is unknown"));
    assert!(init("protocol=cfssl,url=https://ca").contains("cacert=<file> must name the root"));
    assert!(init("protocol=cfssl,url=https://ca,cacert=/no/such/file").contains("cannot read /no/such/file"));
    assert!(h1.ctl(&["swarm", "ca"]).refused().contains("not a swarm manager"));

    h1.init(&[]);
    let update = |signer: &str| h1.ctl(&["swarm", "update", "--external-ca", signer]).refused();
    let refused = update("protocol=cfssl,url=http://ca/sign");
    assert!(refused.contains("\"http://ca/sign\": only https is allowed"), "{refused}");
    let rubbish = lab.folder().join("rubbish.pem").display().to_string();
    fs::write(&rubbish, "rubbish").unwrap();
    let refused = update(&format!("protocol=cfssl,url=https://ca/sign,cacert={rubbish}"));
    assert!(refused.contains("neither the swarm's root nor the next one"), "{refused}");
    let refused = h1.ctl(&["swarm", "ca", "--rotate", "--ca-cert", &rubbish]).refused();
    assert!(refused.contains("--ca-key"), "{refused}");
}
