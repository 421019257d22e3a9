//! From an HTTP request to a protocol: which carrier the client wants, and which version
//! of what is spoken on it.
//!
//! # References
//! - [Stream protocols](https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apimachinery/pkg/util/remotecommand/constants.go)
//! - [RFC 6455, 4.2](https://www.rfc-editor.org/rfc/rfc6455#section-4.2)

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::status::Report;
use super::websocket::Encoding;

/// By which clients of SPDY say what they speak, one protocol per value, best first, and
/// the server what it has chosen.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What would have been understood.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// How exec and attach speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandProtocol {
    /// Over SPDY. With `resizes` there is a stream for sizes of the terminal.
    Spdy { report: Report, resizes: bool },
    /// Over WebSocket. With `closes` the client may end its input.
    WebSocket { encoding: Encoding, report: Report, closes: bool },
}

/// How port-forward speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForwardProtocol {
    /// Over SPDY.
    Spdy,
    /// Over SPDY inside of WebSocket.
    Tunnel,
    /// Over WebSocket, with two channels for each port of the request.
    Channels(Encoding),
}

/// Why a connection is not upgraded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: StatusCode,
    pub(super) text: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(super) fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), headers: Vec::new() }
    }
}

/// Protocols by their names. The empty name is a client that names none.
pub(super) type Spoken<P> = &'static [(&'static str, P)];

/// What may be spoken for one kind of session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<P: 'static> {
    spdy: Spoken<P>,
    websocket: Spoken<P>,
}

pub(super) const COMMAND: Choice<CommandProtocol> = {
    use CommandProtocol::{Spdy, WebSocket};
    use Encoding::{Base64, Binary};
    use Report::{Status, Text};
    Choice {
        spdy: &[
            ("v5.channel.k8s.io", Spdy { report: Status, resizes: true }),
            ("v4.channel.k8s.io", Spdy { report: Status, resizes: true }),
            ("v3.channel.k8s.io", Spdy { report: Text, resizes: true }),
            ("v2.channel.k8s.io", Spdy { report: Text, resizes: false }),
            ("channel.k8s.io", Spdy { report: Text, resizes: false }),
            ("", Spdy { report: Text, resizes: false }),
        ],
        websocket: &[
            ("v5.channel.k8s.io", WebSocket { encoding: Binary, report: Status, closes: true }),
            ("v4.channel.k8s.io", WebSocket { encoding: Binary, report: Status, closes: false }),
            (
                "v4.base64.channel.k8s.io",
                WebSocket { encoding: Base64, report: Status, closes: false },
            ),
            ("channel.k8s.io", WebSocket { encoding: Binary, report: Text, closes: false }),
            ("base64.channel.k8s.io", WebSocket { encoding: Base64, report: Text, closes: false }),
            ("", WebSocket { encoding: Binary, report: Text, closes: false }),
        ],
    }
};

pub(super) const FORWARD: Choice<ForwardProtocol> = {
    use ForwardProtocol::{Channels, Spdy, Tunnel};
    Choice {
        spdy: &[("portforward.k8s.io", Spdy), ("", Spdy)],
        websocket: &[
            ("SPDY/3.1+portforward.k8s.io", Tunnel),
            ("v4.channel.k8s.io", Channels(Encoding::Binary)),
            ("v4.base64.channel.k8s.io", Channels(Encoding::Base64)),
            ("", Channels(Encoding::Binary)),
        ],
    }
};

/// Chooses how to speak, and the headers of the answer `101 Switching Protocols`.
///
/// # Errors
/// What to answer instead.
pub(super) fn negotiate<P: Copy>(
    method: &Method,
    headers: &HeaderMap,
    choice: Choice<P>,
) -> Result<(P, HeaderMap), Refused> {
    let upgrades =
        list(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade"));
    let wanted = list(headers, &UPGRADE);
    let wants = |name: &str| upgrades && wanted.iter().any(|word| word.eq_ignore_ascii_case(name));
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if wants("websocket") {
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept_key(method, headers)?);
        let protocol = choose(headers, &SEC_WEBSOCKET_PROTOCOL, choice.websocket, &mut answer)?;
        Ok((protocol, answer))
    } else if wants("SPDY/3.1") {
        answer.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        let protocol = choose(headers, &STREAM_PROTOCOL, choice.spdy, &mut answer)?;
        Ok((protocol, answer))
    } else {
        let text = "the connection must be upgraded to SPDY/3.1 or websocket";
        Err(Refused::new(StatusCode::BAD_REQUEST, text))
    }
}

/// The words of a header that is a list, however it is split over lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(','));
    words.map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn accept_key(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Refused> {
    let bad = |text: &str| Refused::new(StatusCode::BAD_REQUEST, text);
    if method != Method::GET {
        return Err(bad("a WebSocket begins with GET"));
    }
    if list(headers, &SEC_WEBSOCKET_VERSION) != ["13"] {
        let mut refused = bad("the version of WebSocket must be 13");
        refused.headers.push((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refused);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_impossible| bad("Sec-WebSocket-Key is no key"))
}

/// The first protocol of the client's list that is spoken here.
fn choose<P: Copy>(
    headers: &HeaderMap,
    name: &HeaderName,
    spoken: Spoken<P>,
    answer: &mut HeaderMap,
) -> Result<P, Refused> {
    let offered = list(headers, name);
    let find = |wanted: &str| spoken.iter().find(|(name, _)| *name == wanted).copied();
    if offered.is_empty()
        && let Some((_, protocol)) = find("")
    {
        return Ok(protocol);
    }
    if let Some((chosen, protocol)) = offered.iter().find_map(|offer| find(offer)) {
        answer.insert(name, HeaderValue::from_static(chosen));
        return Ok(protocol);
    }
    let known: Vec<_> =
        spoken.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let text = format!("none of {} is spoken here; {} are", offered.join(", "), known.join(", "));
    let mut refused = Refused::new(StatusCode::FORBIDDEN, text);
    for known in known {
        refused.headers.push((ACCEPTED, HeaderValue::from_static(known)));
    }
    Err(refused)
}
