//! Calls from one host to another, under a certificate that the story holds.

use e2e::Host;
use identity::{CertificateDir, Credentials, Dialer};
use tonic::transport::Channel;

/// What the host shows of itself now; it may show something else later.
pub fn credentials(host: &Host) -> Credentials {
    let (identity, root) = CertificateDir::new(&host.folder().join("data")).load().unwrap().unwrap();
    Credentials::new(identity, root).unwrap()
}

/// Does `story` in the host's network, where the managers are reached.
pub fn inside<T: Send>(host: &Host, story: impl Future<Output = T> + Send) -> T {
    host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story)
    })
}

/// A connection to the manager `to` under these credentials.
pub fn channel(credentials: &Credentials, to: &Host) -> Channel {
    Dialer::new(credentials.clone()).channel(&format!("{}:2377", to.addr())).unwrap()
}
