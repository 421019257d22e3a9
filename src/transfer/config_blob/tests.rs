//! Configurations that fit their manifest, and those that do not.

use super::{ConfigError, parse};
use crate::transfer::platform::Platform;

const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn config(diff_ids: usize) -> String {
    let diff_ids = vec![format!("{DIFF_ID:?}"); diff_ids].join(",");
    format!(
        r#"{{"os":"linux","architecture":"arm64","variant":"v8","config":{{"Cmd":["sh"]}},
        "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
    )
}

#[test]
fn reads_platform_and_diff_ids() {
    let parsed = parse(config(2).as_bytes(), 2).unwrap();
    assert_eq!(parsed.platform, Some(Platform::normalised("linux", "arm64", "")));
    assert_eq!(parsed.diff_ids, vec![DIFF_ID.parse().unwrap(); 2]);
}

#[test]
fn takes_what_simple_builders_leave_out() {
    let parsed = parse(br#"{"rootfs":{"diff_ids":null}}"#, 0).unwrap();
    assert_eq!((parsed.platform, parsed.diff_ids), (None, vec![]));
}

#[test]
fn refuses_what_cannot_be_verified() {
    let counts = parse(config(2).as_bytes(), 3);
    assert!(matches!(counts, Err(ConfigError::LayerCount { diff_ids: 2, layers: 3 })));
    assert!(matches!(parse(b"{}", 0), Err(ConfigError::Parse(_))));
    let other = parse(br#"{"rootfs":{"type":"tree","diff_ids":[]}}"#, 0);
    assert!(matches!(other, Err(ConfigError::RootfsType(_))));
    let bad = parse(br#"{"rootfs":{"type":"layers","diff_ids":["md5:00"]}}"#, 1);
    assert!(matches!(bad, Err(ConfigError::Parse(_))));
}
