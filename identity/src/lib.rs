//! Who a node is, and how it proves it: root CA, node certificates, join tokens, TLS on both sides.
//!
//! This crate decides who a peer is ([`Peer`]); what a peer may call is the manager's access table. It decides how
//! certificates are made, checked, kept and renewed; when a node may have one is the manager's CA service.
//!
//! Invariant: no private key and no token secret appears in `Debug` output, errors or logs, and none leaves the node
//! that made it, except a token that is printed on purpose.

pub mod bootstrap;
pub mod certificate;
pub mod certificate_dir;
mod clock;
pub mod credentials;
mod cross_sign;
pub mod csr;
pub mod dial;
pub mod external;
pub mod issuance;
pub mod listener;
mod peer;
pub mod private_key;
pub mod renewal;
pub mod root;
pub mod root_ca;
mod socket;
pub mod tls;
pub mod token;
pub mod unlock_key;
pub mod verifier;

pub use certificate::{NodeCertificate, NodeIdentity, Subject, Validity};
pub use certificate_dir::CertificateDir;
pub use clock::Clock;
pub use credentials::Credentials;
pub use dial::Dialer;
pub use external::Signers;
pub use peer::{Connection, Peer};
pub use private_key::PrivateKey;
pub use root::{RootCertificate, RootDigest};
pub use root_ca::RootCa;
pub use token::JoinToken;
pub use unlock_key::UnlockKey;
