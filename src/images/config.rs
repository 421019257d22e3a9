//! The image configuration, and the user that it names.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/config.md>

use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value};

/// The user that an image's process runs as, without the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// The image does not say, which means root.
    Unset,
    /// A number that is a user id.
    Uid(u32),
    /// Anything else; a number too large for a user id is a name that nobody has.
    Name(String),
}

impl ImageUser {
    /// Reads `user`, `uid`, `user:group` and so on.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let user = text.split(':').next().unwrap_or_default();
        // `parse` takes a plus sign, which no user id has.
        let digits = user.bytes().all(|byte| byte.is_ascii_digit());
        match user.parse::<u32>() {
            _ if user.is_empty() => Self::Unset,
            Ok(uid) if digits && uid != u32::MAX => Self::Uid(uid),
            Ok(_) | Err(_) => Self::Name(user.to_owned()),
        }
    }
}

/// The bytes are no image configuration.
#[derive(Debug, thiserror::Error)]
#[error("image configuration is malformed")]
pub struct ConfigError(#[source] serde_json::Error);

/// Reads a configuration. Builders leave out members that the specification requires and that
/// nothing here needs.
pub(super) fn parse(bytes: &[u8]) -> Result<ImageConfiguration, ConfigError> {
    let mut members: Map<String, Value> = serde_json::from_slice(bytes).map_err(ConfigError)?;
    for (name, default) in [
        ("architecture", Value::from("")),
        ("os", Value::from("linux")),
        ("rootfs", serde_json::json!({ "type": "layers", "diff_ids": [] })),
    ] {
        let member = members.entry(name).or_insert(Value::Null);
        if member.is_null() {
            *member = default;
        }
    }
    if let Some(Value::Object(rootfs)) = members.get_mut("rootfs")
        && rootfs.get("diff_ids").is_none_or(Value::is_null)
    {
        rootfs.insert("diff_ids".to_owned(), Value::Array(Vec::new()));
    }
    serde_json::from_value(Value::Object(members)).map_err(ConfigError)
}
