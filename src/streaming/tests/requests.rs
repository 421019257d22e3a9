//! What is answered to requests that begin no session, and TLS.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::spdy_client::{SpdyClient, request};
use super::*;

const SPDY: [(&str, &str); 3] = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "spdy/3.1"),
    ("X-Stream-Protocol-Version", "v9.channel.k8s.io, v4.channel.k8s.io"),
];

async fn ask(
    url: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> Result<String, Box<dyn Error + Send + Sync>> {
    let (host, path) = split(url)?;
    let mut io = TcpStream::connect(host).await?;
    request(&mut io, method, &path, headers).await
}

/// Nothing but a good request uses a token up, and it does once.
#[tokio::test]
async fn a_token_survives_requests_that_begin_nothing() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(OUTPUT, &["true"])?;
    let foreign = [SPDY[0], SPDY[1], ("X-Stream-Protocol-Version", "v9.channel.k8s.io")];
    let old = [
        SPDY[0],
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (method, url, headers, code) in [
        ("GET", url.clone(), &SPDY[..0], "400"),
        ("GET", url.clone(), &SPDY[1..], "400"),
        ("GET", url.clone(), &old, "400"),
        ("POST", url.clone(), &foreign, "403"),
        ("PUT", url.clone(), &SPDY, "405"),
        ("GET", url.replace("/exec/", "/attach/"), &SPDY, "404"),
        ("GET", format!("{url}0"), &SPDY, "404"),
        ("GET", url.replace("/exec/", "/"), &SPDY, "404"),
        ("GET", url.clone(), &SPDY, "101"),
        ("GET", url.clone(), &SPDY, "404"),
    ] {
        let head = ask(&url, method, headers).await?;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {code} ")),
            "{method} {url} {headers:?}: {head}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_would_be_spoken_is_said() -> Outcome {
    let server = Running::start().await?;
    let url = server.port_forward(&[])?;
    let headers = [SPDY[0], SPDY[1], ("X-Stream-Protocol-Version", "x")];
    let head = ask(&url, "POST", &headers).await?.to_lowercase();
    assert!(head.contains("x-accepted-stream-protocol-versions: portforward.k8s.io"), "{head}");
    Ok(())
}

#[tokio::test]
async fn sessions_over_tls() -> Outcome {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    let directory = tempfile::tempdir()?;
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    std::fs::write(&certificate, cert.pem())?;
    std::fs::write(&key, signing_key.serialize_pem())?;
    let tls = Some(Tls { certificate, key });
    let server = Running::start_with(|config| config.tls = tls).await?;
    let url = server.exec(OUTPUT, &["echo", "safe"])?;
    assert!(url.starts_with("https://"), "{url}");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(cert.der().to_vec()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (host, path) = split(&url)?;
    let io = TcpStream::connect(host).await?;
    let name = ServerName::try_from("localhost")?;
    let io = TlsConnector::from(Arc::new(config)).connect(name, io).await?;
    let mut client = SpdyClient::upgrade(io, &path, "v4.channel.k8s.io").await?;
    let [_, stdout, _] = client.open_roles(["error", "stdout", "stderr"]).await?;
    assert_eq!(client.rest().await?[&stdout], (b"safe\n".to_vec(), true));
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_none_is_an_error() {
    let file = std::path::PathBuf::from("/dev/null");
    let tls = Some(Tls { certificate: file.clone(), key: file });
    let outcome = Running::start_with(|config| config.tls = tls).await.map(drop);
    assert!(matches!(outcome, Err(BindError::Tls(_))), "{outcome:?}");
}
