//! A DNS client, and a name server that is made up.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Longer than any look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// What came back: the code, and the addresses in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(pub ResponseCode, pub Vec<String>);

impl Found {
    pub fn addresses(addresses: &[&str]) -> Self {
        Self(ResponseCode::NoError, addresses.iter().map(|&address| address.to_owned()).collect())
    }

    pub fn code(code: ResponseCode) -> Self {
        Self(code, vec![])
    }

    fn read(question: &[u8], reply: &[u8]) -> Self {
        let message = Message::from_vec(reply).unwrap();
        assert_eq!(question[..2], reply[..2], "the reply is to another question");
        let mut addresses: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
        addresses.sort();
        Self(message.metadata.response_code, addresses)
    }
}

pub async fn ask(resolver: SocketAddr, name: &str) -> Found {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(resolver).await.unwrap();
    ask_on(&socket, name).await
}

pub async fn ask_on(socket: &UdpSocket, name: &str) -> Found {
    let question = question(name);
    socket.send(&question).await.unwrap();
    let mut reply = [0; 4096];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut reply)).await;
    let length = received.unwrap_or_else(|_| panic!("no reply about {name}")).unwrap();
    Found::read(&question, &reply[..length])
}

pub async fn ask_tcp(stream: &mut TcpStream, name: &str) -> Found {
    let question = question(name);
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &question].concat()).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await.unwrap();
    Found::read(&question, &reply)
}

/// What a name server does with every question.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    Answers([u8; 4]),
    Says(ResponseCode),
    /// With replies that nobody asked for before the right one.
    Lies([u8; 4]),
    Silent,
}

/// A name server at port 53 of `address`, which is its own: one of 127.0.0.0/8. It ends with the set.
pub async fn name_server(address: &str, manner: Manner) -> JoinSet<()> {
    let udp = UdpSocket::bind((address, 53)).await.unwrap();
    let tcp = TcpListener::bind((address, 53)).await.unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut question = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut question).await.unwrap();
            for reply in replies(&question[..length], manner) {
                udp.send_to(&reply, client).await.unwrap();
            }
        }
    });
    serving.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await.unwrap();
            for reply in replies(&question, manner) {
                let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &reply].concat()).await.unwrap();
            }
        }
    });
    serving
}

fn replies(question: &[u8], manner: Manner) -> Vec<Vec<u8>> {
    let right = |code, address: Option<[u8; 4]>| {
        let asked = Message::from_vec(question).unwrap();
        let mut reply = Message::error_msg(asked.metadata.id, OpCode::Query, code);
        reply.add_queries(asked.queries.iter().cloned());
        let name = asked.queries[0].name.clone();
        reply.add_answers(address.map(|address| Record::from_rdata(name, 60, RData::A(A(address.into())))));
        reply.to_vec().unwrap()
    };
    match manner {
        Manner::Answers(address) => vec![right(ResponseCode::NoError, Some(address))],
        Manner::Says(code) => vec![right(code, None)],
        Manner::Silent => vec![],
        Manner::Lies(address) => {
            let lie = right(ResponseCode::NoError, Some([6, 6, 6, 6]));
            let (mut other_id, mut other_name, mut no_reply) = (lie.clone(), lie.clone(), lie);
            other_id[0] ^= 1;
            other_name[13] ^= 1;
            no_reply[2] &= 0x7f;
            vec![other_id, other_name, no_reply, vec![0; 3], right(ResponseCode::NoError, Some(address))]
        }
    }
}
