//! Names that no network of a task knows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use proto::wire;
use tokio::net::{TcpStream, UdpSocket};
use worker::network::Wish;

use super::lab::{container, task};
use super::names::{Names, web, wish};
use super::question::{Found, Manner, ask, ask_tcp, name_server, question};

/// Attached to `net1`, with name servers of its own.
fn wish_with(servers: &[&str]) -> Wish {
    let mut task = task("t1", 3);
    let nameservers = servers.iter().map(|&server| server.to_owned()).collect();
    container(&mut task).dns_config =
        Some(wire::container_spec::DnsConfig { nameservers, ..Default::default() });
    Wish::read(&task).unwrap()
}

async fn resolver(servers: &[&str]) -> (Names, SocketAddr) {
    Names::with_task(wish_with(servers), vec![web("t9", 9, true)]).await
}

#[tokio::test]
async fn what_nobody_here_knows_is_asked_and_the_answer_given_back() {
    let _server = name_server("127.77.1.1", Manner::Lies([192, 0, 2, 7])).await;
    let (_node, resolver) = resolver(&["127.77.1.1"]).await;
    assert_eq!(ask(resolver, "example.com.").await, Found::addresses(&["192.0.2.7"]));
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.9"]), "known here");
}

#[tokio::test]
async fn over_tcp_it_is_asked_over_tcp() {
    let _server = name_server("127.77.2.1", Manner::Answers([192, 0, 2, 7])).await;
    let (_node, resolver) = resolver(&["127.77.2.1"]).await;
    let mut stream = TcpStream::connect(resolver).await.unwrap();
    assert_eq!(ask_tcp(&mut stream, "example.com.").await, Found::addresses(&["192.0.2.7"]));
    assert_eq!(ask_tcp(&mut stream, "tasks.web.").await, Found::addresses(&["10.0.9.9"]));
}

#[tokio::test]
async fn another_server_stands_in_for_one_that_is_silent_gone_or_refuses() {
    let _silent = name_server("127.77.3.1", Manner::Silent).await;
    let _refuses = name_server("127.77.3.2", Manner::Says(ResponseCode::Refused)).await;
    let _answers = name_server("127.77.3.4", Manner::Answers([192, 0, 2, 7])).await;
    // Nobody is at 127.77.3.3.
    let (_node, resolver) = resolver(&["127.77.3.1", "127.77.3.2", "127.77.3.3", "127.77.3.4"]).await;
    assert_eq!(ask(resolver, "example.com.").await, Found::addresses(&["192.0.2.7"]));
}

#[tokio::test]
async fn the_first_definite_answer_counts_and_else_the_first_at_all() {
    let _unknown = name_server("127.77.4.1", Manner::Says(ResponseCode::NXDomain)).await;
    let _answers = name_server("127.77.4.2", Manner::Answers([192, 0, 2, 7])).await;
    let _refuses = name_server("127.77.4.3", Manner::Says(ResponseCode::Refused)).await;
    let (_node, definite) = resolver(&["127.77.4.1", "127.77.4.2"]).await;
    assert_eq!(ask(definite, "example.com.").await, Found::code(ResponseCode::NXDomain));
    let (_node, refused) = resolver(&["127.77.4.3", "127.77.4.9"]).await;
    assert_eq!(ask(refused, "example.com.").await, Found::code(ResponseCode::Refused));
    let (_node, nobody) = resolver(&["127.77.4.9"]).await;
    assert_eq!(ask(nobody, "example.com.").await, Found::code(ResponseCode::ServFail));
}

#[tokio::test]
async fn a_client_hears_of_silence_before_it_gives_up() {
    let _silent = name_server("127.77.5.1", Manner::Silent).await;
    let (_node, resolver) = resolver(&["127.77.5.1"]).await;
    let begun = Instant::now();
    assert_eq!(ask(resolver, "example.com.").await, Found::code(ResponseCode::ServFail));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_flood_of_questions_is_bounded_and_names_of_the_swarm_go_on() {
    let _silent = name_server("127.77.6.1", Manner::Silent).await;
    let (_node, resolver) = resolver(&["127.77.6.1"]).await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    flood.connect(resolver).await.unwrap();
    let begun = Instant::now();
    for number in 0..100 {
        flood.send(&question(&format!("{number}.example."))).await.unwrap();
    }
    // All beyond the first 64 are told at once.
    let mut reply = [0; 512];
    for _ in 64..100 {
        let length = flood.recv(&mut reply).await.unwrap();
        assert_eq!((reply[3] & 0x0f, length > 12), (2, true), "SERVFAIL");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.9"]));
}

#[tokio::test]
async fn a_task_on_internal_networks_only_asks_nobody_but_whom_it_names() {
    let _server = name_server("127.77.7.1", Manner::Answers([192, 0, 2, 7])).await;
    let internal = |wish: Wish| {
        let mut wish = wish;
        for place in &mut wish.places {
            std::sync::Arc::make_mut(&mut place.network).internal = true;
        }
        wish
    };
    let (_node, resolver) = Names::with_task(internal(wish()), vec![web("t9", 9, true)]).await;
    assert_eq!(ask(resolver, "example.com.").await, Found::code(ResponseCode::NXDomain));
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.9"]));
    // From its own namespace, so nothing that it could not reach by itself.
    let (_node, named) = Names::with_task(internal(wish_with(&["127.77.7.1"])), vec![]).await;
    assert_eq!(ask(named, "example.com.").await, Found::addresses(&["192.0.2.7"]));
}

#[test]
fn a_server_that_is_no_address_is_refused_by_name() {
    let mut task = task("t1", 3);
    let dns_config = wire::container_spec::DnsConfig { nameservers: vec!["ns".into()], ..Default::default() };
    container(&mut task).dns_config = Some(dns_config);
    let error = Wish::read(&task).unwrap_err().to_string();
    assert!(error.contains("dns_config.nameservers") && error.contains("\"ns\""), "{error}");
}
