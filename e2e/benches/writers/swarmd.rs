//! Our side: the call behind `service create`.

use std::collections::BTreeMap;

use proto::wire::control_client::ControlClient;
use proto::wire::{
    Annotations, ContainerSpec, CreateServiceRequest, ReplicatedService, ServiceSpec, TaskSpec, service_spec,
    task_spec,
};
use tonic::transport::Channel;

use super::payload;

#[derive(Debug)]
pub struct Client(ControlClient<Channel>);

impl Client {
    pub fn new(channel: Channel) -> Self {
        Self(ControlClient::new(channel))
    }

    pub async fn create_service(&mut self, name: &str) -> Result<(), String> {
        let request = CreateServiceRequest { spec: Some(spec(name)) };
        self.0.create_service(request).await.map(|_| ()).map_err(|status| status.to_string())
    }
}

/// A service without replicas: no task follows.
fn spec(name: &str) -> ServiceSpec {
    let labels = BTreeMap::from([("payload".to_owned(), payload(name))]);
    let container = ContainerSpec { image: "web".to_owned(), ..Default::default() };
    ServiceSpec {
        annotations: Some(Annotations { name: name.to_owned(), labels }),
        task: Some(TaskSpec {
            runtime: Some(task_spec::Runtime::Container(container)),
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(ReplicatedService { replicas: 0 })),
        ..Default::default()
    }
}
