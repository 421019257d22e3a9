//! How long each RPC takes, and how it ends.
//!
//! The code of an RPC stands in the head of the answer when it failed at once, else in the
//! trailers. An RPC that nobody waits for any more counts as `Cancelled`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::http::{HeaderMap, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::metrics::Registry;

/// Upper bounds in seconds: from a list of pods (well below a millisecond) to a pull.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0];

/// The longest method name that becomes a label; no RPC of ours is longer.
const METHOD_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: String,
    code: &'static str,
}

type Durations = Family<Labels, Histogram, fn() -> Histogram>;

/// Measures every RPC that passes.
#[derive(Debug, Clone)]
pub(super) struct RequestMetricsLayer {
    durations: Durations,
}

impl RequestMetricsLayer {
    /// Declares `orlop_cri_request_duration_seconds{method,code}`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let durations: Durations = Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "cri_request_duration_seconds",
            "Time from the receipt of an RPC to the end of its answer, by gRPC code",
            durations.clone(),
        );
        Self { durations }
    }
}

impl<S> Layer<S> for RequestMetricsLayer {
    type Service = RequestMetrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestMetrics { inner, durations: self.durations.clone() }
    }
}

/// A service whose RPCs are measured.
#[derive(Debug, Clone)]
pub(super) struct RequestMetrics<S> {
    inner: S,
    durations: Durations,
}

impl<S> Service<Request<Body>> for RequestMetrics<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let measure = Measure {
            durations: self.durations.clone(),
            method: method(request.uri().path()),
            begun: Instant::now(),
            code: CANCELLED,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut measure = measure;
            let (head, body) = answer.await?.into_parts();
            if let Some(code) = code_in(&head.headers) {
                measure.code = code;
            }
            Ok(Response::from_parts(head, Body::new(MeasuredBody { body, measure })))
        })
    }
}

/// `Version` of `/runtime.v1.RuntimeService/Version`.
fn method(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.len() <= METHOD_BYTES_MAX { name.to_owned() } else { String::new() }
}

/// What an RPC counts as that nobody waited for.
const CANCELLED: &str = "Cancelled";

/// The gRPC codes by number.
const CODES: [&str; 17] = [
    "OK",
    CANCELLED,
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn code_in(headers: &HeaderMap) -> Option<&'static str> {
    let number: usize = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    CODES.get(number).copied()
}

/// Records itself when it goes, however that happens.
#[derive(Debug)]
struct Measure {
    durations: Durations,
    method: String,
    begun: Instant,
    code: &'static str,
}

impl Drop for Measure {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        tracing::debug!(method = self.method, code = self.code, seconds, "RPC");
        // Names that clients invent must not become labels.
        let known = self.code != "Unimplemented";
        let method = if known { std::mem::take(&mut self.method) } else { String::new() };
        let labels = Labels { method, code: self.code };
        self.durations.get_or_create(&labels).observe(seconds);
    }
}

#[derive(Debug)]
struct MeasuredBody {
    body: Body,
    measure: Measure,
}

impl hyper::body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(code) = frame.trailers_ref().and_then(code_in)
        {
            self.measure.code = code;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn ask() -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = hyper::Uri::from_static("/runtime.v1.RuntimeService/Version");
        request
    }

    fn counted(registry: &Registry, labels: &str) -> Result<bool, std::fmt::Error> {
        let line = format!("orlop_cri_request_duration_seconds_count{{{labels}}} 1\n");
        Ok(registry.encode()?.contains(&line))
    }

    #[tokio::test]
    async fn the_trailers_say_how_it_ended() -> Outcome {
        let mut registry = Registry::new();
        let layer = RequestMetricsLayer::register(&mut registry);
        let service = layer.layer(service_fn(|_: Request<Body>| async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 5.into());
            let frames = [Ok::<_, tonic::Status>(Frame::trailers(trailers))];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Ok::<_, Infallible>(Response::new(Body::new(body)))
        }));
        service.oneshot(ask()).await?.into_body().collect().await?;
        assert!(counted(&registry, r#"method="Version",code="NotFound""#)?, "{registry:?}");
        Ok(())
    }

    #[tokio::test]
    async fn the_head_says_it_too_and_invented_names_are_no_labels() -> Outcome {
        let mut registry = Registry::new();
        let layer = RequestMetricsLayer::register(&mut registry);
        let service = layer.layer(service_fn(|_: Request<Body>| async {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert("grpc-status", 12.into());
            Ok::<_, Infallible>(response)
        }));
        service.oneshot(ask()).await?;
        assert!(counted(&registry, r#"method="",code="Unimplemented""#)?, "{registry:?}");
        Ok(())
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_cancelled() -> Outcome {
        let mut registry = Registry::new();
        let layer = RequestMetricsLayer::register(&mut registry);
        let service = layer.layer(service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::new(Full::from("x"))))
        }));
        drop(service.oneshot(ask()).await?);
        assert!(counted(&registry, r#"method="Version",code="Cancelled""#)?, "{registry:?}");
        Ok(())
    }
}
