//! The processes that take part, the namespaces that stand for hosts, and the tables made by hand.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that answers each line with one.
pub struct Part {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Part {
    pub fn start(part: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("DIRECTORY_PART", part).envs(settings.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    pub fn ask(&mut self, line: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the process has ended at {line:?}");
        answer.trim().to_owned()
    }

    /// Until so many changes were made in the kernel's tables.
    pub fn wait_entries(&mut self, entries: usize) {
        let begun = Instant::now();
        loop {
            let made: usize = self.ask("entries").parse().unwrap();
            if made >= entries {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{made} of {entries} entries");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory.
    pub fn mebibytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Seconds of processor so far, with those that the kernel spent for it.
    pub fn busy(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / 100.0
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Answers lines until there are no more.
pub fn serve(mut answer: impl FnMut(&[&str]) -> String) {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        println!("{}", answer(&line.split(' ').collect::<Vec<_>>()));
    }
}

pub struct Namespace {
    name: String,
    path: String,
}

pub fn namespace(role: &str) -> Namespace {
    let name = format!("directory-bench-{role}-{}", std::process::id());
    run("ip", &["netns", "add", &name]);
    run("ip", &["-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", "wire"]);
    run("ip", &["-n", &name, "addr", "add", "192.0.2.1/16", "dev", "eth0"]);
    run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
    Namespace { path: format!("/run/netns/{name}"), name }
}

impl Namespace {
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// The last two octets of the address of an endpoint in 10.0.0.0/16, after those of the services.
pub fn host(number: usize) -> [u8; 2] {
    u16::try_from(1024 + number).unwrap().to_be_bytes()
}

/// Seconds that the two programs take for the entries of so many endpoints.
pub fn by_hand(namespace: &Namespace, endpoints: usize) -> f64 {
    let name = &namespace.name;
    let link =
        ["-n", name, "link", "add", "vx0", "type", "vxlan", "id", "9", "dstport", "4789", "nolearning"];
    run("ip", &link);
    run("ip", &["-n", name, "link", "set", "vx0", "up"]);
    let (mut fdb, mut neighbours) = (String::new(), String::new());
    for number in 0..endpoints {
        let [a, b] = host(number);
        let mac = format!("02:42:0a:00:{a:02x}:{b:02x}");
        writeln!(fdb, "fdb replace {mac} dev vx0 dst 192.0.3.{} self permanent", 1 + number % 100).unwrap();
        writeln!(neighbours, "neigh replace 10.0.{a}.{b} lladdr {mac} dev vx0 nud permanent").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let files = [("fdb", &fdb), ("neighbours", &neighbours)].map(|(file, lines)| {
        let path = dir.path().join(file);
        std::fs::write(&path, lines).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let begun = Instant::now();
    run("bridge", &["-n", name, "-batch", &files[0]]);
    run("ip", &["-n", name, "-batch", &files[1]]);
    begun.elapsed().as_secs_f64()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}
