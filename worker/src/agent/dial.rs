//! How a manager is reached: with mutual TLS in a swarm, over plain TCP in tests.

use tonic::transport::Channel;

/// Makes channels to managers.
pub trait Dial: Send + Sync + 'static {
    /// A channel to `addr` (`host:port`) that connects with its first call.
    fn channel(&self, addr: &str) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>>;

    /// Why a call never reached its manager, if the connection was at fault.
    fn reason(&self, _status: &tonic::Status) -> Option<String> {
        None
    }
}

impl Dial for identity::Dialer {
    fn channel(&self, addr: &str) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self::channel(self, addr)?)
    }

    fn reason(&self, status: &tonic::Status) -> Option<String> {
        identity::dial::reason(status).map(|error| super::report(error))
    }
}
