//! Output of containers: both streams, rotation, following.

use futures_util::StreamExt;
use worker::logs::writer::Limits;
use worker::logs::{LogQuery, LogSource};
use worker::runtime::Runtime;

use crate::node::{Node, soon};

#[tokio::test(flavor = "multi_thread")]
async fn rotation_and_followers() {
    let limits = Limits { max_bytes: 100_000, max_files: 2 };
    let node = Node::start_with(|config| config.log_limits = limits).await;
    let runtime = node.runtime();
    // One that follows from before the start, and reads as fast as is written.
    let mut slow = node.script(
        "slow",
        "for i in $(seq 300); do echo line $i; [ $((i % 100)) = 0 ] && sleep 0.3; done; true",
    );
    slow.labels.clear();
    runtime.create(&slow).await.unwrap();
    let follower = runtime.logs("slow", LogQuery { follow: true, ..LogQuery::default() });
    runtime.start("slow").await.unwrap();
    let lines = soon(follower.map(Result::unwrap).collect::<Vec<_>>());
    let (lines, exit) = tokio::join!(lines, runtime.wait("slow"));
    assert_eq!(exit.unwrap().code, 0);
    assert_eq!(lines.len(), 300);
    assert!(lines.windows(2).all(|pair| pair[0].time <= pair[1].time));
    assert_eq!(lines[299].data, b"line 300\n");

    // One that writes much more than is kept.
    let much = node.script("much", "seq 20000; head -c 40000 /dev/zero | tr '\\0' y");
    let (exit, kept) = node.run(&much).await;
    assert_eq!(exit.code, 0);
    let directory = node.config.data_root.join("containers/much/log");
    let bytes: u64 =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!((50_000..=2 * 100_000).contains(&bytes), "{bytes}");
    let y: usize = kept.iter().map(|line| line.data.iter().filter(|byte| **byte == b'y').count()).sum();
    assert_eq!(y, 40_000);

    // One that writes no text.
    let (_, binary) = node.run(&node.script("binary", "printf '\\377\\n' >&2")).await;
    assert_eq!((binary.len(), binary[0].source, &*binary[0].data), (1, LogSource::Stderr, &b"\xff\n"[..]));

    let tail = runtime.logs("slow", LogQuery { tail: Some(2), ..LogQuery::default() });
    let tail: Vec<_> = tail.map(|line| line.unwrap().data).collect().await;
    assert_eq!(tail, [b"line 299\n", b"line 300\n"]);
    let since = LogQuery { since: Some(lines[298].time), ..LogQuery::default() };
    assert_eq!(
        runtime.logs("slow", since).count().await,
        2 + lines[..298].iter().filter(|line| line.time == lines[298].time).count()
    );
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_merges_the_streams() {
    let node = Node::start().await;
    let mut config = node.script("tty", "[ -t 1 ] && echo terminal; echo err >&2");
    config.tty = true;
    let output = node.stdout_of(&config).await;
    assert_eq!(output, "terminal\r\nerr\r\n");
    node.runtime().shutdown().await;
}
