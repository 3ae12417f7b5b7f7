//! Docker's `POST /configs/create`, by as much of HTTP/1.1 as that takes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::UnixStream;

use super::payload;

#[derive(Debug)]
pub struct Client(BufStream<UnixStream>);

impl Client {
    pub async fn connect(socket: &str) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).await;
        stream.map(|stream| Self(BufStream::new(stream))).map_err(|error| format!("{socket}: {error}"))
    }

    pub async fn create_config(&mut self, name: &str) -> Result<(), String> {
        let body = format!(r#"{{"Name":"{name}","Data":"{}"}}"#, BASE64_STANDARD.encode(payload(name)));
        let (status, answer) =
            self.post("/configs/create", &body).await.map_err(|error| error.to_string())?;
        if status == 201 { Ok(()) } else { Err(format!("{status}: {answer}")) }
    }

    async fn post(&mut self, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes()).await?;
        self.0.write_all(body.as_bytes()).await?;
        self.0.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> std::io::Result<(u16, String)> {
        let unexpected = |line: &str| std::io::Error::other(format!("unexpected answer {line:?}"));
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| unexpected(&first))?;
        let mut length = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| unexpected(&line))?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            }
        }
        let mut body = vec![0; length.ok_or_else(|| unexpected("no length"))?];
        self.0.read_exact(&mut body).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
