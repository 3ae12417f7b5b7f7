//! A registry of its own for a test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use crate::image::{Image, MANIFEST};
use crate::node::{LIMIT, until};

/// `user:secret` (bcrypt, 5 rounds).
const PASSWORDS: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub struct Registry {
    pub host: String,
    pub directory: PathBuf,
    tls: bool,
    process: Child,
}

impl Registry {
    /// Without TLS, open to all.
    pub async fn start(directory: PathBuf) -> Self {
        Self::start_with(directory, false, false).await
    }

    pub async fn start_with(directory: PathBuf, tls: bool, passwords: bool) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let shown = directory.display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {shown}/store\nhttp:\n  addr: {address}\n"
        );
        if tls {
            certificate(&directory);
            config += &format!("  tls:\n    certificate: {shown}/cert.pem\n    key: {shown}/key.pem\n");
        }
        if passwords {
            std::fs::write(directory.join("passwords"), PASSWORDS).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {shown}/passwords\n");
        }
        let path = directory.join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        until("the registry listens", || TcpStream::connect(address).is_ok()).await;
        Self { host: address.to_string(), directory, tls, process }
    }

    pub async fn push(&self, name: &str, image: &Image) {
        let config = ClientConfig {
            protocol: if self.tls { ClientProtocol::Https } else { ClientProtocol::Http },
            accept_invalid_certificates: true,
            ..ClientConfig::default()
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(config);
        let reference: Reference = format!("{}/{name}", self.host).parse().unwrap();
        let auth = RegistryAuth::Basic("user".into(), "secret".into());
        client.auth(&reference, &auth, oci_client::RegistryOperation::Push).await.unwrap();
        for blob in image.layers.iter().chain([&image.config]) {
            client.push_blob(&reference, blob.clone(), &crate::image::digest(blob)).await.unwrap();
        }
        let content_type = MANIFEST.parse().unwrap();
        client.push_manifest_raw(&reference, image.manifest.clone(), content_type).await.unwrap();
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn certificate(directory: &std::path::Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(directory.join("key.pem"))
        .arg("-out")
        .arg(directory.join("cert.pem"))
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl is installed").success());
}

/// A server that takes connections and never answers.
pub fn silent() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}

/// Makes sure that the registry is one: used to see that a test reaches what it thinks it does.
pub fn answers_http(host: &str) -> bool {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n").unwrap();
    let mut start = [0; 5];
    stream.read_exact(&mut start).is_ok() && start == *b"HTTP/"
}
