//! etcd's calls (etcd/api/etcdserverpb/rpc.proto), as far as they are needed.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::payload;

#[derive(Debug)]
pub struct Client(Grpc<Channel>);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NothingToSay {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotResponse {
    #[prost(bytes = "vec", tag = "3")]
    blob: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

impl Client {
    pub fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    pub async fn put(&mut self, name: &str) -> Result<(), String> {
        let put = PutRequest { key: name.into(), value: payload(name).into() };
        self.call::<_, PutResponse>("/etcdserverpb.KV/Put", put).await.map(|_| ())
    }

    /// Whether the member itself leads.
    pub async fn leads(&mut self) -> Result<bool, String> {
        let status: StatusResponse = self.call("/etcdserverpb.Maintenance/Status", NothingToSay {}).await?;
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    }

    pub async fn snapshot_bytes(&mut self) -> Result<usize, String> {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Snapshot");
        let codec = ProstCodec::<NothingToSay, SnapshotResponse>::default();
        let parts = self.0.server_streaming(tonic::Request::new(NothingToSay {}), path, codec).await;
        let mut parts = parts.map_err(|status| status.to_string())?.into_inner();
        let mut bytes = 0;
        while let Some(part) = parts.message().await.map_err(|status| status.to_string())? {
            bytes += part.blob.len();
        }
        Ok(bytes)
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.0.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }
}
