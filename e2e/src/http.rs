//! As much of HTTP/1.1 as pushing to a registry on loopback takes.
//!
//! One request per connection; bodies of answers are read to the end of the
//! connection and not interpreted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest wait for one read or write; a registry on loopback answers at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    head: String,
}

impl Answer {
    /// The value of a header, by its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value.trim()))
    }
}

/// Sends one request and reads the answer.
///
/// # Errors
/// If the server cannot be reached or does not answer in HTTP.
pub fn send(
    server: SocketAddr,
    method: &str,
    target: &str,
    content_type: &str,
    body: &[u8],
) -> Result<Answer> {
    let mut stream = TcpStream::connect(server).with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .with_context(|| format!("send {method} {target}"))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("read the answer to {method} {target}"))?;
    let text = String::from_utf8_lossy(&answer);
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Answer {
        status: status.with_context(|| format!("no status in the answer to {method} {target}"))?,
        head,
    })
}
