//! Speaks to registries: which transport, which credentials, and what a refusal means to the user.
//!
//! HTTPS with verification, unless the registry is listed as insecure: then HTTPS without, then plain HTTP, and
//! what has worked comes first the next time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use oci_client::client::{
    Certificate, CertificateEncoding, Client as Oci, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use tokio::time::Instant;

use super::insecure::Insecure;
use super::manifest::{Descriptor, MANIFEST_TYPES};
use super::name::Name;
use crate::runtime::client::deepest;
use crate::runtime::{Error, RegistryAuth};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For a manifest, with all that it takes: name resolution, credentials, each transport.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);
/// The same when there is a local image to fall back to, and how long a registry that did not answer is then not
/// asked again: else each of many tasks would wait for it.
const FALLBACK_TIMEOUT: Duration = Duration::from_secs(5);
const FALLBACK_FOR: Duration = Duration::from_secs(60);
/// In the words of rustls.
const CERTIFICATE: &str = "invalid peer certificate";
/// Clients are kept because making one reads all root certificates.
const KEPT_CLIENTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Transport {
    Https,
    Unverified,
    Http,
}

pub(super) struct Registries {
    insecure: Insecure,
    certs_dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    worked: HashMap<String, Transport>,
    silent: HashMap<String, Instant>,
    clients: HashMap<(String, Transport, Option<RegistryAuth>), Oci>,
}

/// A registry that has answered for an image, ready to serve its blobs.
pub(super) struct Session {
    client: Oci,
    name: Name,
    auth: oci_client::secrets::RegistryAuth,
}

/// A document and its digest as the registry has them.
pub(super) struct Fetched {
    pub document: Vec<u8>,
    pub digest: String,
}

impl Registries {
    pub(super) fn new(insecure: &[String], certs_dir: PathBuf) -> Result<Self, Error> {
        // Fails if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { insecure: Insecure::parse(insecure)?, certs_dir, state: Mutex::default() })
    }

    /// Whether the registry still means `digest` by `name`. It is asked without fetching the manifest, which registries
    /// count against limits. Where that does not tell, `resolve` will.
    pub(super) async fn still_means(&self, name: &Name, auth: Option<&RegistryAuth>, digest: &str) -> bool {
        let registry = name.registry();
        let Some(transport) = self.lock().worked.get(registry).copied() else { return false };
        let (Ok(client), Ok(auth)) = (self.client(registry, transport, auth), credentials(auth)) else {
            return false;
        };
        let asked = client.fetch_manifest_digest(name.reference(), &auth);
        match tokio::time::timeout(FALLBACK_TIMEOUT, asked).await {
            Ok(found) => found.is_ok_and(|found| found == digest),
            Err(_) => {
                self.lock().silent.insert(registry.to_owned(), Instant::now());
                false
            }
        }
    }

    /// Asks the registry what `name` is. `fallback`: the image is here, only perhaps not the latest.
    pub(super) async fn resolve(
        &self,
        name: &Name,
        auth: Option<&RegistryAuth>,
        fallback: bool,
    ) -> Result<(Session, Fetched), Error> {
        let registry = name.registry();
        let unreachable = |reason: String| Error::Unreachable { registry: registry.to_owned(), reason };
        if fallback && self.lock().silent.get(registry).is_some_and(|since| since.elapsed() < FALLBACK_FOR) {
            return Err(unreachable("it did not answer a moment ago".to_owned()));
        }
        let timeout = if fallback { FALLBACK_TIMEOUT } else { RESOLVE_TIMEOUT };
        let outcome = match tokio::time::timeout(timeout, self.try_transports(name, auth)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unreachable(format!("no answer within {} s", timeout.as_secs()))),
        };
        let mut state = self.lock();
        match &outcome {
            Err(Error::Unreachable { .. }) => drop(state.silent.insert(registry.to_owned(), Instant::now())),
            _ => drop(state.silent.remove(registry)),
        }
        drop(state);
        outcome
    }

    async fn try_transports(
        &self,
        name: &Name,
        auth: Option<&RegistryAuth>,
    ) -> Result<(Session, Fetched), Error> {
        let mut last = None;
        for transport in self.transports(name.registry()) {
            let client = self.client(name.registry(), transport, auth)?;
            let session = Session { client, name: name.clone(), auth: credentials(auth)? };
            match session.manifest(None).await {
                Ok(fetched) => {
                    self.lock().worked.insert(name.registry().to_owned(), transport);
                    return Ok((session, fetched));
                }
                // Only a registry that does not speak this transport may speak the next.
                Err(error @ (Error::Unreachable { .. } | Error::PlainHttp { .. })) => {
                    self.forget(name.registry());
                    last = Some(self.with_remedy(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("there is at least one transport"))
    }

    /// The next attempt reads the CA certificates again, which may be why this one failed.
    fn forget(&self, registry: &str) {
        self.lock().clients.retain(|(of, ..), _| of != registry);
    }

    fn with_remedy(&self, error: Error) -> Error {
        match error {
            Error::Unreachable { registry, reason } if reason.contains(CERTIFICATE) => {
                let place = self.certs_dir.join(&registry).join("ca.crt");
                let reason = format!("{reason}; its CA may be put into {}", place.display());
                Error::Unreachable { registry, reason }
            }
            error => error,
        }
    }

    fn transports(&self, registry: &str) -> Vec<Transport> {
        if !self.insecure.allows(registry) {
            return vec![Transport::Https];
        }
        match self.lock().worked.get(registry) {
            Some(Transport::Http) => vec![Transport::Http, Transport::Unverified],
            _ => vec![Transport::Unverified, Transport::Http],
        }
    }

    fn client(
        &self,
        registry: &str,
        transport: Transport,
        auth: Option<&RegistryAuth>,
    ) -> Result<Oci, Error> {
        let key = (registry.to_owned(), transport, auth.cloned());
        if let Some(client) = self.lock().clients.get(&key) {
            return Ok(client.clone());
        }
        let config = ClientConfig {
            protocol: if transport == Transport::Http { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: transport == Transport::Unverified,
            extra_root_certificates: authorities(&self.certs_dir, registry)?,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("swarmd/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Oci::try_from(config).map_err(|error| Error::Unreachable {
            registry: registry.to_owned(),
            reason: format!("no client can be made: {}", deepest(&error)),
        })?;
        let mut state = self.lock();
        if state.clients.len() >= KEPT_CLIENTS {
            state.clients.clear();
        }
        state.clients.insert(key, client.clone());
        Ok(client)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Session {
    /// The manifest or index called `digest`, else the one that the image's name means. It is checked against
    /// the digest.
    pub(super) async fn manifest(&self, digest: Option<&str>) -> Result<Fetched, Error> {
        let reference = match digest {
            Some(digest) => self.name.reference().clone_with_digest(digest.to_owned()),
            None => self.name.reference().clone(),
        };
        let answer = self.client.pull_manifest_raw(&reference, &self.auth, &MANIFEST_TYPES).await;
        let (document, digest) = answer.map_err(|error| explain(&self.name, error))?;
        Ok(Fetched { document: document.to_vec(), digest })
    }

    pub(super) async fn blob(&self, blob: &Descriptor) -> Result<SizedStream, Error> {
        let descriptor = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size.try_into().unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let answer = self.client.pull_blob_stream(self.name.reference(), &descriptor).await;
        answer.map_err(|error| explain(&self.name, error))
    }
}

fn credentials(auth: Option<&RegistryAuth>) -> Result<oci_client::secrets::RegistryAuth, Error> {
    use oci_client::secrets::RegistryAuth as Oci;
    Ok(match auth {
        None => Oci::Anonymous,
        Some(auth) if !auth.registry_token.is_empty() => Oci::Bearer(auth.registry_token.clone()),
        Some(auth) if !auth.identity_token.is_empty() => {
            let reason = "identity tokens are not supported; log in to the registry with a password";
            return Err(Error::config("registry credentials", reason));
        }
        Some(auth) if auth.username.is_empty() => Oci::Anonymous,
        Some(auth) => Oci::Basic(auth.username.clone(), auth.password.clone()),
    })
}

/// The CA certificates in `<certs>/<registry>/*.crt`, as dockerd has them in `/etc/docker/certs.d`.
fn authorities(certs_dir: &Path, registry: &str) -> Result<Vec<Certificate>, Error> {
    let directory = certs_dir.join(registry);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&directory).map_err(Error::io("read", &directory))?;
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .map(|path| {
            let data = std::fs::read(&path).map_err(Error::io("read", &path))?;
            Ok(Certificate { encoding: CertificateEncoding::Pem, data })
        })
        .collect()
}

fn explain(name: &Name, error: OciDistributionError) -> Error {
    use OciDistributionError as E;
    let image = name.full();
    let denied = |reason: &str| Error::Denied { image: name.full(), reason: reason.to_owned() };
    match error {
        E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => Error::NoSuchImage { image },
        E::UnauthorizedError { .. } | E::ServerError { code: 401 | 403, .. } => {
            denied("it does not exist, or it needs other credentials (--with-registry-auth)")
        }
        E::AuthenticationFailure(_) => denied("the registry does not accept the credentials"),
        E::RegistryError { envelope, .. } => {
            let codes: Vec<_> = envelope.errors.iter().map(|error| &error.code).collect();
            let any = |wanted: &[OciErrorCode]| codes.iter().any(|code| wanted.contains(code));
            if any(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                return Error::NoSuchImage { image };
            }
            if any(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                return denied("it does not exist, or it needs other credentials (--with-registry-auth)");
            }
            let messages: Vec<_> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            let retry = any(&[OciErrorCode::Toomanyrequests]);
            Error::Pull { image, reason: messages.join("; "), retry }
        }
        E::RequestError(error) if error.is_timeout() => Error::Unreachable {
            registry: name.registry().to_owned(),
            reason: "it does not answer".to_owned(),
        },
        E::RequestError(error) => transport(name, &deepest(&error), error.is_connect()),
        E::ServerError { code, .. } => {
            Error::Pull { image, reason: format!("the registry answers {code}"), retry: code >= 500 }
        }
        error => Error::Pull { image, reason: deepest(&error), retry: false },
    }
}

/// What went wrong below HTTP. rustls tells a plain-text answer from a broken one only by these words.
fn transport(name: &Name, reason: &str, connecting: bool) -> Error {
    let registry = name.registry().to_owned();
    if reason.contains("InvalidContentType") {
        return Error::PlainHttp { registry };
    }
    match connecting || reason.contains(CERTIFICATE) {
        true => Error::Unreachable { registry, reason: reason.to_owned() },
        false => Error::Pull { image: name.full(), reason: reason.to_owned(), retry: true },
    }
}
