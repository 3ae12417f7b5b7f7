//! Where the log's requests are served: by a thread of its own, so that the Raft core never waits for a disk.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::writer::{Request, Writer};
use crate::disk;

pub(super) struct Serving {
    /// None only while the log is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    simulated: Option<crate::simulation::LogTask>,
}

impl Serving {
    pub(super) fn start(writer: Writer, dir: &Path) -> Result<Self, disk::Error> {
        let (requests, receiver) = mpsc::channel();
        let requests = Some(requests);
        #[cfg(test)]
        if let Some(task) = crate::simulation::LogTask::new() {
            task.spawn(writer.run_simulated(receiver, task.clone()));
            return Ok(Self { requests, thread: None, simulated: Some(task) });
        }
        let thread = std::thread::Builder::new().name("raft-log".into()).spawn(move || writer.run(&receiver));
        let thread = Some(thread.map_err(disk::at(dir))?);
        Ok(Self {
            requests,
            thread,
            #[cfg(test)]
            simulated: None,
        })
    }

    pub(super) fn send(&self, request: Request) -> io::Result<()> {
        let requests = self.requests.as_ref().expect("the log is alive");
        let sent = requests.send(request);
        #[cfg(test)]
        self.simulated.iter().for_each(crate::simulation::LogTask::wake);
        sent.map_err(|_| io::Error::other("the thread that writes the log has ended"))
    }
}

/// Waits until everything is written.
impl Drop for Serving {
    fn drop(&mut self) {
        self.requests = None;
        #[cfg(test)]
        self.simulated.iter().for_each(crate::simulation::LogTask::wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the log has panicked");
        }
    }
}
