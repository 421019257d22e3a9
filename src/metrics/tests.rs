//! The exporter over a real connection.

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

async fn ask(request: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut registry = Registry::new();
    let counter = Counter::<u64>::default();
    registry.register("test_things", "Things.", counter.clone());
    counter.inc();
    let exporter = Exporter::bind(([127, 0, 0, 1], 0).into(), registry).await?;
    let mut stream = TcpStream::connect(exporter.address()?).await?;
    let exporting = tokio::spawn(exporter.run());
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    exporting.abort();
    Ok(answer)
}

#[tokio::test]
async fn metrics_are_served() -> Result<(), Box<dyn std::error::Error>> {
    let answer = ask("GET /metrics").await?;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\norlop_test_things_total 1\n"), "{answer}");
    assert!(answer.contains("\nprocess_resident_memory_bytes "), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn nothing_else_is_served() -> Result<(), Box<dyn std::error::Error>> {
    assert!(ask("GET /").await?.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").await?.starts_with("HTTP/1.1 405"));
    Ok(())
}
