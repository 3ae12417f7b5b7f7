//! What clients are told of how current an answer is.

use proto::consistency::{ASKED, LINEARIZABLE, LOCAL, NO_QUORUM, STALE};
use proto::wire::control_client::ControlClient;
use proto::wire::{ListNetworksRequest, ListNetworksResponse};
use tonic::{Code, Request, Response, Status};

use crate::swarm::Swarm;

async fn list(swarm: &Swarm, asked: Option<&'static str>) -> Result<Response<ListNetworksResponse>, Status> {
    let mut request = Request::new(ListNetworksRequest::default());
    if let Some(asked) = asked {
        request.metadata_mut().insert(ASKED, asked.parse().unwrap());
    }
    ControlClient::new(swarm.local()).list_networks(request).await
}

#[tokio::test]
async fn with_a_leader_every_answer_is_current() {
    let swarm = Swarm::lead().await;
    for asked in [None, Some(LOCAL), Some(LINEARIZABLE)] {
        let answer = list(&swarm, asked).await.unwrap();
        assert!(answer.metadata().get(STALE).is_none(), "{asked:?}");
    }
    let refused = list(&swarm, Some("strict")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let line = "swarm-consistency has the value \"strict\": local or linearizable is needed";
    assert_eq!(refused.message(), line);
    swarm.stop().await;
}

#[tokio::test]
async fn without_a_leader_an_answer_is_marked_or_refused() {
    let swarm = Swarm::start().await;
    for asked in [None, Some(LOCAL)] {
        let answer = list(&swarm, asked).await.unwrap();
        assert_eq!(answer.metadata().get(STALE).unwrap(), NO_QUORUM);
    }
    let refused = list(&swarm, Some(LINEARIZABLE)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("most managers must be up"), "{refused}");
    swarm.stop().await;
}

/// Who may not call makes the managers do nothing, and learns nothing of them.
#[tokio::test]
async fn who_may_not_call_is_refused_for_that() {
    let swarm = Swarm::start().await;
    let mut request = Request::new(ListNetworksRequest::default());
    request.metadata_mut().insert(ASKED, LINEARIZABLE.parse().unwrap());
    let refused = ControlClient::new(swarm.client("anonymous - -")).list_networks(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.metadata().get(STALE).is_none());
    swarm.stop().await;
}
