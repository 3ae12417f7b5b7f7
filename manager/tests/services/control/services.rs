//! Services and their tasks.

use proto::model::TaskState;
use proto::wire::{self, service_spec};
use tonic::Code;

use super::*;
use crate::fixtures::{in_state, manager, node, put, task, task_id};

/// Also when somebody else has removed meanwhile what it made.
#[tokio::test]
async fn a_request_that_is_sent_again_is_done_once() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let request = |id: &str, name: &str| {
        let mut request =
            tonic::Request::new(wire::CreateServiceRequest { spec: Some(service_spec(name, &[])) });
        request.metadata_mut().insert(proto::consistency::REQUEST_ID, id.parse().unwrap());
        request
    };
    let (one, other) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee");
    let first = control.create_service(request(one, "web")).await.unwrap().into_inner().service.unwrap();
    let again = control.create_service(request(one, "web")).await.unwrap().into_inner().service.unwrap();
    assert_eq!(first, again);
    let taken = control.create_service(request(other, "web")).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    control.remove_service(wire::RemoveServiceRequest { service_id: first.id }).await.unwrap();
    control.create_service(request(one, "web")).await.unwrap();
    assert_eq!(swarm.store.view().services().count(), 0, "what was removed stays so");
    let refused = control.create_service(request("77", "web")).await.unwrap_err();
    assert!(refused.message().contains("32 hexadecimal digits are needed"), "{refused}");
    swarm.stop().await;
}

#[tokio::test]
async fn bad_services_are_refused() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    create_service(&mut control, service_spec("web", &[])).await.unwrap();
    let index = swarm.store.view().index();
    let with = |change: &dyn Fn(&mut wire::ServiceSpec)| {
        let mut spec = service_spec("other", &[]);
        change(&mut spec);
        spec
    };
    let limit = |memory_bytes| wire::ResourceRequirements {
        limits: Some(wire::Resources { memory_bytes, ..Default::default() }),
        ..Default::default()
    };
    let too_many = wire::ReplicatedService { replicas: u64::MAX };
    let port = wire::PortConfig { target_port: 80, ..Default::default() };
    let port = wire::EndpointSpec { ports: vec![port], ..Default::default() };
    let gpu = wire::GenericResource::default();
    let gpu = wire::Resources { generic: vec![gpu], ..Default::default() };
    for (spec, code, says) in [
        (service_spec("web", &[]), Code::AlreadyExists, "service \"web\" exists already"),
        (service_spec("a.b", &[]), Code::InvalidArgument, "spec.annotations.name has the value \"a.b\""),
        (service_spec("other", &["nope"]), Code::NotFound, "network \"nope\" was not found"),
        (with(&|s| container(s).image = String::new()), Code::InvalidArgument, "an image is needed"),
        (
            with(&|s| container(s).image = "NGINX".into()),
            Code::InvalidArgument,
            "spec.task.container.image has the value",
        ),
        (
            with(&|s| placement(s).constraints.push("node.colour==red".into())),
            Code::InvalidArgument,
            "\"node.colour\"",
        ),
        (
            with(&|s| s.task.as_mut().unwrap().resources = Some(limit(-1))),
            Code::InvalidArgument,
            "memory_bytes",
        ),
        (
            with(&|s| s.task.as_mut().unwrap().resources = Some(limit(1024))),
            Code::InvalidArgument,
            "at least 4 MiB",
        ),
        (
            with(&|s| s.mode = Some(service_spec::Mode::Replicated(too_many))),
            Code::InvalidArgument,
            "spec.mode.replicated.replicas",
        ),
        (with(&|s| s.mode = None), Code::InvalidArgument, "spec.mode is missing"),
        (with(&|s| s.task = None), Code::InvalidArgument, "spec.task is missing"),
        (
            with(&|s| s.endpoint = Some(port.clone())),
            Code::InvalidArgument,
            "published ports are not supported",
        ),
        (
            with(&|s| container(s).secrets.push(wire::SecretReference::default())),
            Code::InvalidArgument,
            "secrets are not supported",
        ),
        (
            with(&|s| {
                let reservations = Some(gpu.clone());
                let requirements = wire::ResourceRequirements { reservations, ..Default::default() };
                s.task.as_mut().unwrap().resources = Some(requirements);
            }),
            Code::InvalidArgument,
            "generic resources are not supported",
        ),
        (
            with(&|s| s.annotations.as_mut().unwrap().labels.extend([("a".into(), "x".repeat(5000))])),
            Code::InvalidArgument,
            "spec.annotations.labels[a]",
        ),
        (
            with(&|s| container(s).env = vec!["A=x".repeat(1000); 900]),
            Code::InvalidArgument,
            "at most 1048576 bytes",
        ),
    ] {
        let result = create_service(&mut control, spec).await;
        refused(&swarm, index, result, code, says);
    }
    let nothing = control.create_service(wire::CreateServiceRequest { spec: None }).await;
    refused(&swarm, index, nothing, Code::InvalidArgument, "spec is missing");
    swarm.stop().await;
}

#[tokio::test]
async fn an_update_needs_the_version_that_it_is_about() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let first = create_service(&mut control, service_spec("web", &[])).await.unwrap();
    let mut spec = service_spec("web", &[]);
    container(&mut spec).image = "nginx:2".into();
    let second = update_service(&mut control, &first, spec.clone()).await.unwrap();
    assert_eq!(second.spec_version.unwrap().index, 2);
    let previous = second.previous_spec.clone().unwrap();
    assert_eq!(previous, first.spec.clone().unwrap());

    let index = swarm.store.view().index();
    let late = update_service(&mut control, &first, spec.clone()).await;
    refused(&swarm, index, late, Code::Aborted, "update out of sequence");
    // What changes nothing replaces no task.
    let same = update_service(&mut control, &second, spec.clone()).await.unwrap();
    assert_eq!(same.spec_version, second.spec_version);

    spec.mode = Some(service_spec::Mode::Global(wire::GlobalService {}));
    let mode = update_service(&mut control, &second, spec.clone()).await;
    refused(&swarm, index, mode, Code::InvalidArgument, "a service keeps its mode, which is replicated");
    let renamed = update_service(&mut control, &second, service_spec("web2", &[])).await;
    refused(&swarm, index, renamed, Code::InvalidArgument, "a service keeps its name");
    swarm.stop().await;
}

#[tokio::test]
async fn a_rollback_takes_the_previous_spec() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let first = create_service(&mut control, service_spec("web", &[])).await.unwrap();
    let rollback = |service: &wire::Service| wire::UpdateServiceRequest {
        service_id: service.id.clone(),
        service_version: service.meta.as_ref().unwrap().version,
        spec: None,
        rollback: Rollback::Previous.into(),
    };
    let index = swarm.store.view().index();
    let none = control.update_service(rollback(&first)).await;
    refused(&swarm, index, none, Code::FailedPrecondition, "has no previous spec");
    let mut spec = service_spec("web", &[]);
    container(&mut spec).image = "nginx:2".into();
    let second = update_service(&mut control, &first, spec).await.unwrap();
    let back = control.update_service(rollback(&second)).await.unwrap().into_inner().service.unwrap();
    assert_eq!((back.spec, back.previous_spec), (first.spec, second.spec));
    swarm.stop().await;
}

#[tokio::test]
async fn lists_take_filters() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1), manager(2, "192.0.2.2:2377")]).await;
    let web = fixtures::service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(1, &web, 1, &[]), task(2, &web, 2, &[])]).await;

    let roles = vec![wire::NodeRole::Manager.into()];
    let filters = wire::list_nodes_request::Filters { roles, ..Default::default() };
    let nodes = control
        .list_nodes(wire::ListNodesRequest { filters: Some(filters) })
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].id, "node2");
    let names = vec!["host1".into()];
    let filters = wire::list_nodes_request::Filters { names, ..Default::default() };
    let nodes = control
        .list_nodes(wire::ListNodesRequest { filters: Some(filters) })
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes[0].id, "node1");

    let filters = wire::list_tasks_request::Filters {
        service_ids: vec!["service1".into()],
        node_ids: vec!["node2".into()],
        desired_states: vec![wire::TaskState::Running.into()],
        up_to_date: true,
        ..Default::default()
    };
    let tasks = control
        .list_tasks(wire::ListTasksRequest { filters: Some(filters) })
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(tasks.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["task2"]);

    let services = wire::ListServiceStatusesRequest { services: vec!["service1".into()] };
    let statuses = control.list_service_statuses(services).await.unwrap().into_inner().statuses;
    assert_eq!((statuses[0].desired_tasks, statuses[0].running_tasks), (2, 0));
    swarm.stop().await;
}

#[tokio::test]
async fn a_task_that_may_run_is_told_to_go() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1)]).await;
    let web = fixtures::service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(1, &web, 1, &[]), in_state(task(2, &web, 1, &[]), TaskState::Failed)]).await;
    for task_id in ["task1", "task2"] {
        control.remove_task(wire::RemoveTaskRequest { task_id: task_id.into() }).await.unwrap();
    }
    let view = swarm.store.view();
    assert_eq!(view.task(&task_id(1)).unwrap().desired, TaskState::Remove);
    assert!(view.task(&task_id(2)).is_none());
    swarm.stop().await;
}
