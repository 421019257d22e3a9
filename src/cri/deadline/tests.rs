//! Deadlines as clients send them.

use std::convert::Infallible;

use tower::{ServiceExt as _, service_fn};

use super::*;

fn asked(timeout: &str) -> Request<Body> {
    Request::builder().header("grpc-timeout", timeout).body(Body::empty()).unwrap()
}

#[test]
fn units() {
    for (text, expected) in [
        ("2H", Some(Duration::from_secs(7200))),
        ("2M", Some(Duration::from_secs(120))),
        ("2S", Some(Duration::from_secs(2))),
        ("999984u", Some(Duration::from_micros(999_984))),
        ("1m", Some(Duration::from_millis(1))),
        ("99999999n", Some(Duration::from_nanos(99_999_999))),
        ("999999999n", None),
        ("m", None),
        ("", None),
        ("+1m", None),
        ("1s", None),
        ("1é", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        assert_eq!(limit(&headers), expected, "{text}");
    }
    assert_eq!(limit(&HeaderMap::new()), None);
}

#[tokio::test]
async fn a_late_answer_is_deadline_exceeded() {
    let never = service_fn(|_: Request<Body>| std::future::pending::<Result<_, Infallible>>());
    let response = DeadlineLayer.layer(never).oneshot(asked("1m")).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_early_one_is_left_alone() {
    let answer =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    let response = DeadlineLayer.layer(answer).oneshot(asked("1H")).await.unwrap();
    assert!(Status::from_header_map(response.headers()).is_none());
}

/// A service whose RPCs never end.
#[derive(Clone)]
struct Endless;

impl tonic::server::NamedService for Endless {
    const NAME: &'static str = "test.Endless";
}

impl Service<Request<Body>> for Endless {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test]
async fn the_transport_does_not_answer_first() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio_stream::StreamExt as _;

    let (here, there) = tokio::io::duplex(1 << 16);
    let connections = tokio_stream::once(Ok::<_, std::io::Error>(there));
    let serving = tonic::transport::Server::builder()
        .layer(DeadlineLayer)
        .add_service(Endless)
        .serve_with_incoming(connections.chain(tokio_stream::pending()));
    let asking = async {
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(here))
                .await
                .unwrap();
        let calls = async {
            for _ in 0..50 {
                let mut request = asked("1m");
                *request.uri_mut() = "http://test/test.Endless/Call".parse().unwrap();
                let headers = client.send_request(request).await.unwrap().into_parts().0.headers;
                assert_eq!(headers["grpc-status"], "4", "{headers:?}");
            }
        };
        tokio::select! {
            () = calls => {}
            ended = connection => panic!("{ended:?}"),
        }
    };
    tokio::select! {
        () = asking => {}
        ended = serving => panic!("{ended:?}"),
    }
}
