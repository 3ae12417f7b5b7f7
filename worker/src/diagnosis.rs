//! Answers what managers ask for a trace: what this node was told, what its kernel has, what a probe met.
//!
//! Answers for tasks of this node and their networks only, and changes nothing. What the answers mean is decided by the
//! manager. Nothing happens here while nobody asks.
//!
//! Invariant: at most [`AT_ONCE`] questions are worked on and [`EARS`] probes listened for, each for a bounded time.

mod facts;
mod name;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netdriver::{Ears, Probe, Trail, Tunnel};
use proto::model::{NetworkId, TaskId};
use proto::network::question::Kind;
use proto::network::questions_client::QuestionsClient;
use proto::network::{self as wire, Answer, AnswerRequest, Question, QuestionsRequest, answer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::agent::{SessionError, next};
use crate::network::{Known, Networks, network_key, sandbox_key};

const AT_ONCE: usize = 16;
const EARS: usize = 32;
/// How long a probe is listened for if nobody asks what was heard.
const LISTENING: Duration = Duration::from_secs(20);
/// How long an answer may take; managers wait a little longer.
const PATIENCE: Duration = Duration::from_secs(14);

/// By token, with the time from which on nobody will ask any more.
type Listening = Arc<Mutex<BTreeMap<u16, (Instant, Ears)>>>;

/// Serves the questions of a session until it ends.
pub(crate) async fn serve(
    networks: &Networks,
    channel: Channel,
    session_id: &str,
) -> Result<Infallible, SessionError> {
    const CALL: &str = "Questions.Watch";
    let mut client = QuestionsClient::new(channel);
    let request = QuestionsRequest { session_id: session_id.to_owned() };
    let mut questions = match client.watch(request).await {
        Ok(questions) => questions.into_inner(),
        // Another implementation: it asks nothing.
        Err(status) if status.code() == Code::Unimplemented => return pending().await,
        Err(status) => return Err(SessionError::call(CALL, status)),
    };
    let (mut answers, listening) = (JoinSet::new(), Listening::default());
    loop {
        tokio::select! {
            question = next(CALL, &mut questions), if answers.len() < AT_ONCE => {
                let witness = Witness { networks: networks.clone(), listening: listening.clone() };
                answers.spawn(tell(witness, client.clone(), session_id.to_owned(), question?));
            }
            Some(_) = answers.join_next() => {}
            () = until_forgotten(&listening) => {}
        }
    }
}

/// Returns when a probe was listened for in vain, having forgotten it; it keeps a task's namespace alive.
async fn until_forgotten(listening: &Listening) {
    let first = locked(listening).values().map(|(until, _)| *until).min();
    let Some(first) = first else { return pending().await };
    sleep_until(first).await;
    locked(listening).retain(|_, (until, _)| *until > first);
}

fn locked(listening: &Listening) -> MutexGuard<'_, BTreeMap<u16, (Instant, Ears)>> {
    // Nothing that runs under the lock leaves the table half changed.
    listening.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn tell(
    witness: Witness,
    mut client: QuestionsClient<Channel>,
    session_id: String,
    question: Question,
) {
    let question_id = question.id;
    let answer = timeout(PATIENCE, witness.answer(question)).await;
    let answer = answer.unwrap_or_else(|_| refusal("it takes too long"));
    let request = AnswerRequest { session_id, question_id, answer: Some(answer) };
    if let Err(error) = client.answer(request).await {
        tracing::debug!(%error, "a manager does not take an answer");
    }
}

fn refusal(reason: impl Into<String>) -> Answer {
    Answer { refusal: reason.into(), kind: None }
}

struct Witness {
    networks: Networks,
    listening: Listening,
}

impl Witness {
    async fn answer(&self, question: Question) -> Answer {
        let task = TaskId::from(question.task_id);
        let kind = match question.kind {
            Some(Kind::Resolve(resolve)) => self.resolve(&task, &resolve.name).await,
            Some(Kind::Look(look)) => self.look(&task, look).await,
            Some(Kind::Listen(listen)) => self.listen(&task, listen.trail.unwrap_or_default()).await,
            Some(Kind::Heard(heard)) => self.heard(heard.token),
            Some(Kind::Probe(probe)) => self.probe(&task, probe).await,
            None => Err("this node does not understand the question".to_owned()),
        };
        match kind {
            Ok(kind) => Answer { refusal: String::new(), kind: Some(kind) },
            Err(reason) => refusal(reason),
        }
    }

    async fn known(&self, task: &TaskId, network: Option<&NetworkId>) -> Result<Known, String> {
        let known = self.networks.known(task, network).await;
        known.ok_or_else(|| "it has no such task, or none with a network".to_owned())
    }

    async fn resolve(&self, task: &TaskId, name: &str) -> Result<answer::Kind, String> {
        let known = self.known(task, None).await?;
        let reply = name::ask(&**self.networks.kernel(), &sandbox_key(task), name).await;
        let resolver = self.networks.resolver();
        let knows = resolver.knows(task, &known.wish, name).unwrap_or_default();
        Ok(answer::Kind::Resolved(wire::Resolved {
            code: reply.code,
            addresses: reply.addresses.iter().map(ToString::to_string).collect(),
            known: knows,
            forwarded_to: resolver
                .forwards_to(&known.wish)
                .iter()
                .map(|server| server.ip().to_string())
                .collect(),
        }))
    }

    async fn look(&self, task: &TaskId, look: wire::Look) -> Result<answer::Kind, String> {
        let network = NetworkId::from(look.network_id.as_str());
        let known = self.known(task, Some(&network)).await?;
        let view = facts::view(task, &network, &known, &look)?;
        let sight = self.networks.kernel().look(&view).await?;
        Ok(answer::Kind::Facts(facts::facts(&known, &look, &view, &sight)))
    }

    async fn listen(&self, task: &TaskId, trail: wire::Trail) -> Result<answer::Kind, String> {
        let trail = self.trail(task, trail).await?;
        if locked(&self.listening).len() >= EARS {
            return Err("it listens for too many probes at once: try again".to_owned());
        }
        let ears = self.networks.kernel().listen(&trail).await?;
        locked(&self.listening).insert(trail.token, (Instant::now() + LISTENING, ears));
        Ok(answer::Kind::Listening(wire::Listening {}))
    }

    fn heard(&self, token: u32) -> Result<answer::Kind, String> {
        let ears = u16::try_from(token).ok().and_then(|token| locked(&self.listening).remove(&token));
        let (_, ears) = ears.ok_or("it does not listen for this probe any more")?;
        Ok(answer::Kind::Heard(facts::heard(ears.hear())))
    }

    async fn probe(&self, task: &TaskId, probe: wire::Probe) -> Result<answer::Kind, String> {
        let trail = self.trail(task, probe.trail.unwrap_or_default()).await?;
        let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is no address"));
        let virtual_ip = Some(&probe.virtual_ip).filter(|text| !text.is_empty());
        let sent = Probe {
            sandbox: trail.sandbox.clone(),
            address: address(&probe.address)?,
            token: trail.token,
            full_bytes: trail.full_bytes,
            port: u16::try_from(probe.port).ok().filter(|port| *port > 0),
            virtual_ip: virtual_ip.map(|text| address(text)).transpose()?,
        };
        let kernel = self.networks.kernel();
        let ears = kernel.listen(&trail).await?;
        let probed = kernel.probe(&sent).await?;
        Ok(answer::Kind::Probed(facts::probed(&probed, ears.hear())))
    }

    async fn trail(&self, task: &TaskId, trail: wire::Trail) -> Result<Trail, String> {
        let network = NetworkId::from(trail.network_id.as_str());
        let known = self.known(task, Some(&network)).await?;
        let place = facts::place(&known, &network)?.1;
        let underlay = known.underlay.ok_or("it knows no tunnel end of its own yet")?;
        let encrypted = place.network.encrypted;
        Ok(Trail {
            sandbox: sandbox_key(task),
            network: network_key(&network),
            token: u16::try_from(trail.token).map_err(|_| "a token has 16 bits")?,
            ipv6: trail.ipv6,
            full_bytes: usize::try_from(trail.full_bytes).unwrap_or_default().clamp(84, 65_535),
            tunnel: (!trail.local).then_some(Tunnel {
                ipv6: underlay.local.is_ipv6(),
                port: underlay.port,
                vni: place.network.vni,
                spis: encrypted.then_some((trail.request_spis, trail.reply_spis)),
            }),
        })
    }
}
