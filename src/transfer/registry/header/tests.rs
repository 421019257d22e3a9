//! Header values as registries write them.

use std::time::{Duration, SystemTime};

use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};

use super::{basic, content_digest, content_range, media_type, retry_after};

fn one(name: HeaderName, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
}

#[test]
fn a_secret_is_not_printed() {
    let header = basic("user", "secret").unwrap();
    assert_eq!(header, "Basic dXNlcjpzZWNyZXQ=");
    assert!(!format!("{header:?}").contains("dXNl"));
}

#[test]
fn reads_how_long_to_wait() {
    let epoch = SystemTime::UNIX_EPOCH;
    let wait = |value| retry_after(&one(RETRY_AFTER, value), epoch);
    assert_eq!(wait("7"), Some(Duration::from_secs(7)));
    assert_eq!(wait("Thu, 01 Jan 1970 00:00:09 GMT"), Some(Duration::from_secs(9)));
    assert_eq!(wait("soon"), None);
    let later = epoch + Duration::from_secs(60);
    let past = retry_after(&one(RETRY_AFTER, "Thu, 01 Jan 1970 00:00:09 GMT"), later);
    assert_eq!(past, Some(Duration::ZERO));
}

#[test]
fn reads_what_and_where() {
    let headers = one(CONTENT_TYPE, "Application/Vnd.OCI.image.index.v1+json; charset=utf-8");
    assert_eq!(media_type(&headers).as_deref(), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(content_range(&one(CONTENT_RANGE, "bytes 5-9/10")), Some((5, Some(10))));
    assert_eq!(content_range(&one(CONTENT_RANGE, "bytes 5-9/*")), Some((5, None)));
    assert_eq!(content_range(&one(CONTENT_RANGE, "bytes */10")), None);
    let name = HeaderName::from_static("docker-content-digest");
    assert!(content_digest(&HeaderMap::new()).unwrap().is_none());
    assert!(content_digest(&one(name, "sha256:beef")).is_err());
}
