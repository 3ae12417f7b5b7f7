//! The connection to the daemon on this machine.

use std::error::Error as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use proto::local::node_client::NodeClient;
use proto::network::diagnosis_client::DiagnosisClient;
use proto::network::keys_client::KeysClient;
use proto::wire::ca_client::CaClient;
use proto::wire::control_client::ControlClient;
use proto::wire::logs_client::LogsClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::service_fn;

use crate::reading::{Line, Reading};

/// Most that an answer may hold: a list of some ten thousand tasks.
const LARGEST_ANSWER_BYTES: usize = 256 << 20;

#[derive(Clone)]
pub struct Client {
    channel: Channel,
    control: Line,
}

impl Client {
    /// Connects to `unix://<path>`.
    pub async fn connect(host: &str) -> Result<Self> {
        let Some(path) = host.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute())
        else {
            bail!("--host {host:?}: expected unix://<absolute path>");
        };
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The URI is never looked at: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://swarmd.local");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| anyhow!("{}", cause(&error))).with_context(|| {
            format!(
                "cannot connect to the daemon at {host}; is swarmd running? Another socket is named by --host"
            )
        })?;
        Ok(Self { control: Line::new(channel.clone()), channel })
    }

    /// The same connection, for a command that reads.
    pub fn reading(&self, how: Reading) -> Self {
        Self { channel: self.channel.clone(), control: self.control.reading(how) }
    }

    /// The same, for one that reads only if it does not change something.
    pub fn reading_unless(&self, changes: bool, how: Reading) -> Self {
        if changes { self.clone() } else { self.reading(how) }
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER_BYTES)
    }

    pub fn control(&self) -> ControlClient<Line> {
        ControlClient::new(self.control.clone()).max_decoding_message_size(LARGEST_ANSWER_BYTES)
    }

    pub fn ca(&self) -> CaClient<Channel> {
        CaClient::new(self.channel.clone())
    }

    pub fn keys(&self) -> KeysClient<Channel> {
        KeysClient::new(self.channel.clone())
    }

    pub fn diagnosis(&self) -> DiagnosisClient<Channel> {
        DiagnosisClient::new(self.channel.clone())
    }

    pub fn logs(&self) -> LogsClient<Channel> {
        LogsClient::new(self.channel.clone())
    }
}

/// Takes the message out of an answer, or the daemon's words out of a refusal.
pub trait Answer<T> {
    fn answer(self) -> Result<T>;
}

impl<T> Answer<T> for std::result::Result<Response<T>, Status> {
    fn answer(self) -> Result<T> {
        self.map(Response::into_inner).map_err(explain)
    }
}

/// The daemon's own sentence; its transport's only where it has none.
pub fn explain(status: Status) -> anyhow::Error {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            anyhow!("the daemon does not know this request; is it of another version?")
        }
        (code, "") => anyhow!("the daemon refused the request: {code}"),
        (_, message) => anyhow!("{message}"),
    }
}

fn cause(error: &tonic::transport::Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
