//! What is refused, and in which words.

use worker::runtime::{Error, Mount, MountKind, Propagation, Runtime, Verdict};

use crate::node::Node;

#[tokio::test(flavor = "multi_thread")]
async fn refused_at_creation() {
    let node = Node::start().await;
    let refused = async |adjust: &dyn Fn(&mut worker::runtime::ContainerConfig), message: &str| {
        let mut config = node.script("refused", "true");
        adjust(&mut config);
        let error = node.runtime().create(&config).await.unwrap_err();
        assert_eq!(error.report(), message);
        assert_eq!(error.verdict(), Verdict::Reject);
    };
    let bind = Mount {
        target: "/x".into(),
        read_only: true,
        kind: MountKind::Bind {
            source: "/does/not/exist".into(),
            propagation: Propagation::default(),
            recursive: true,
        },
    };
    refused(&|config| config.image = "nope".into(), "No such image: docker.io/library/nope:latest").await;
    refused(
        &|config| config.user = "ghost".into(),
        "invalid user: unable to find user ghost: no matching entries in passwd file",
    )
    .await;
    refused(&|config| config.mounts = vec![bind.clone()], "bind source path does not exist: /does/not/exist")
        .await;
    refused(&|config| config.dir = "x".into(), "invalid working directory: \"x\" is not an absolute path")
        .await;
    refused(
        &|config| config.resources.memory_bytes = Some(1),
        "invalid memory limit: 1 bytes is too little; use 6 MiB or more",
    )
    .await;
    refused(
        &|config| config.cap_add = vec!["FLY".into()],
        "invalid added capability: \"FLY\" is unknown; use a name such as NET_ADMIN, or ALL",
    )
    .await;
    assert_eq!(node.runtime().list().await.unwrap(), []);
    node.runtime().remove("refused").await.unwrap();
    assert!(!node.config.data_root.join("containers/refused").exists());
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_cannot_be_executed() {
    let node = Node::start().await;
    for (id, program, message) in [
        ("nowhere", "foo", r#"exec: "foo": executable file not found in $PATH"#),
        ("absent", "/nope", r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("text", "/etc/marker", r#"exec: "/etc/marker": permission denied"#),
    ] {
        let mut config = node.script(id, "");
        config.command = vec![program.into()];
        config.args = Vec::new();
        node.runtime().create(&config).await.unwrap();
        let error = node.runtime().start(id).await.unwrap_err();
        assert_eq!(error.report(), message);
        assert_eq!(error.verdict(), Verdict::Fail);
        node.runtime().remove(id).await.unwrap();
    }
    let mut config = node.script("netns", "true");
    config.netns = "/run/netns/does-not-exist".into();
    node.runtime().create(&config).await.unwrap();
    let error = node.runtime().start("netns").await.unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
    assert!(error.report().contains("does-not-exist"), "{}", error.report());
    node.runtime().remove("netns").await.unwrap();
    let missing = node.runtime().start("netns").await;
    assert!(matches!(missing, Err(Error::NoSuchContainer { .. })));
    node.runtime().shutdown().await;
}

#[tokio::test]
async fn a_node_that_cannot_run_containers_says_why() {
    let node = Node::stopped();
    let fails = async |adjust: &dyn Fn(&mut worker::runtime::containerd::Config), part: &str| {
        let mut config = node.config.clone();
        adjust(&mut config);
        let error = worker::runtime::containerd::Containerd::start(config).await.err().unwrap().report();
        assert!(error.contains(part), "{error}");
    };
    fails(&|config| config.logger = "/nope".into(), "invalid logger: /nope does not exist").await;
    fails(&|config| config.cgroup_parent = "x".into(), "invalid cgroup parent").await;
    fails(&|config| config.exec_root = format!("/tmp/rt/{}", "x".repeat(100)).into(), "is too long").await;
    fails(&|config| config.insecure_registries = vec!["http://x".into()], "invalid insecure registry").await;
}
