//! A trace across managers and nodes, of which the test plays the nodes.

use proto::model::TaskState;
use proto::network::diagnosis_client::DiagnosisClient;
use proto::network::question::Kind;
use proto::network::questions_client::QuestionsClient;
use proto::network::trace_step::State;
use proto::network::{
    Answer, AnswerRequest, Facts, Listening, Question, QuestionsRequest, RelayRequest, Resolved,
    TraceRequest, TraceResponse, answer,
};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{NodeDescription, SessionMessage, SessionRequest};
use tonic::{Code, Streaming};

use crate::fixtures::{in_state, manager, network, node, node_id, put, service, store, task};
use crate::swarm::{Client, Swarm, soon};

/// A node with a session, which is asked things.
struct Node {
    client: QuestionsClient<Client>,
    questions: Streaming<Question>,
    session_id: String,
    _session: Streaming<SessionMessage>,
}

impl Node {
    async fn join(swarm: &Swarm, number: u8) -> Self {
        let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(number)));
        let description = NodeDescription { hostname: format!("host{number}"), ..Default::default() };
        let request = SessionRequest { description: Some(description), ..Default::default() };
        let mut session = dispatcher.session(request).await.unwrap().into_inner();
        let session_id = session.message().await.unwrap().unwrap().session_id;
        let mut client = QuestionsClient::new(swarm.worker(&node_id(number)));
        let wrong = client.watch(QuestionsRequest { session_id: "x".into() }).await.unwrap_err();
        assert_eq!(wrong.code(), Code::NotFound);
        let questions = client.watch(QuestionsRequest { session_id: session_id.clone() }).await.unwrap();
        Self { client, questions: questions.into_inner(), session_id, _session: session }
    }

    async fn next(&mut self) -> Question {
        soon("a question", self.questions.message()).await.unwrap().unwrap()
    }

    async fn answer(&mut self, question: &Question, kind: answer::Kind) {
        let answer = Some(Answer { refusal: String::new(), kind: Some(kind) });
        let request = AnswerRequest { session_id: self.session_id.clone(), question_id: question.id, answer };
        self.client.answer(request).await.unwrap();
    }

    /// Answers whatever comes as a node that is well but has no interface, so that nothing is sent.
    async fn answer_all(mut self, address: &str) {
        loop {
            let question = self.next().await;
            let kind = match question.kind.as_ref().unwrap() {
                Kind::Resolve(_) => answer::Kind::Resolved(Resolved {
                    code: "NOERROR".into(),
                    addresses: vec![address.into()],
                    known: true,
                    forwarded_to: vec![],
                }),
                Kind::Look(_) => answer::Kind::Facts(Facts::default()),
                _ => answer::Kind::Listening(Listening {}),
            };
            self.answer(&question, kind).await;
        }
    }
}

/// Task 1 on node 1 and task 2 on node 2, of two services on one network.
async fn two_services(swarm: &Swarm) {
    put(&swarm.store, [node(1), node(2)]).await;
    put(&swarm.store, [network(1)]).await;
    let (client, web) = (service(1, &[1]), service(2, &[1]));
    put(&swarm.store, [client.clone(), web.clone()]).await;
    let running = |number, of, node| in_state(task(number, of, node, &[1]), TaskState::Running);
    put(&swarm.store, [running(1, &client, 1), running(2, &web, 2)]).await;
}

async fn trace(swarm: &Swarm, destination: &str) -> TraceResponse {
    let mut client = DiagnosisClient::new(swarm.local());
    let request = TraceRequest { source: "svc1".into(), destination: destination.into() };
    soon("the trace", client.trace(request)).await.unwrap().into_inner()
}

fn wrong(traced: &TraceResponse) -> (&str, &str) {
    let wrong = traced.steps.iter().find(|step| step.state() == State::Wrong).expect("a step is wrong");
    (&wrong.name, &wrong.fault)
}

#[tokio::test]
async fn nodes_are_asked_and_what_they_lack_is_named() {
    let swarm = Swarm::start().await;
    two_services(&swarm).await;
    let (one, two) = (Node::join(&swarm, 1).await, Node::join(&swarm, 2).await);
    let tracing = trace(&swarm, "svc2:80");
    let traced = tokio::select! {
        traced = tracing => traced,
        _ = async { tokio::join!(one.answer_all("10.0.1.202"), two.answer_all("")) } => unreachable!(),
    };
    let names: Vec<&str> = traced.steps.iter().map(|step| step.name.as_str()).collect();
    let expected = [
        "source",
        "network",
        "destination",
        "name",
        "service",
        "backend",
        "nodes",
        "directory",
        "interface",
        "tunnel",
        "neighbour",
        "forwarding",
        "underlay",
        "probe",
        "mtu",
        "port",
        "virtual address",
    ];
    assert_eq!(names, expected);
    assert_eq!(traced.source, "svc1.1 on host1");
    // The facts of the test are empty.
    assert_eq!(wrong(&traced), ("service", "host1 was not told yet of 10.0.1.4 (svc2.2) behind 10.0.1.202"));
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_without_session_is_a_finding() {
    let swarm = Swarm::start().await;
    two_services(&swarm).await;
    let traced = trace(&swarm, "svc2").await;
    let (step, fault) = wrong(&traced);
    assert_eq!(step, "nodes");
    assert!(fault.starts_with("node host1 does not answer for svc1.1: it has no session"), "{fault}");
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_of_another_manager_is_asked_through_that_one() {
    let store = store().await;
    let (one, two) = (Swarm::start_on(store.clone(), "node8").await, Swarm::start_on(store, "node9").await);
    put(&one.store, [manager(8, &one.addr.to_string()), manager(9, &two.addr.to_string())]).await;
    two_services(&one).await;
    let mut node = Node::join(&two, 1).await;
    let mut relay = QuestionsClient::new(two.manager(&node_id(8)));
    let question = Question {
        id: 0,
        task_id: "task1".into(),
        kind: Some(Kind::Resolve(proto::network::Resolve { name: "svc2".into() })),
    };
    let request = RelayRequest { node_id: node_id(1).to_string(), question: Some(question.clone()) };
    let asking = relay.relay(request);
    let answering = async {
        let question = node.next().await;
        assert_eq!(question.task_id, "task1");
        node.answer(&question, answer::Kind::Listening(Listening {})).await;
    };
    let both = Box::pin(async { tokio::join!(asking, answering) });
    let (answer, ()) = soon("the answer", both).await;
    assert!(answer.unwrap().into_inner().answer.unwrap().kind.is_some());
    let request = RelayRequest { node_id: node_id(2).to_string(), question: Some(question) };
    assert_eq!(relay.relay(request).await.unwrap_err().code(), Code::NotFound);
    one.stop().await;
    two.stop().await;
}
