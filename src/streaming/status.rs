//! How a session ends, as the client reads it on the error stream.
//!
//! # References
//! - [Status](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/)

use bytes::Bytes;
use serde_json::json;

use super::target::TargetError;

/// What the client's protocol understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// Up to version 3: a text if something went wrong, nothing otherwise.
    Text,
    /// From version 4 on: a `Status` in JSON, always.
    Status,
}

impl Report {
    /// What to send when the program ended; nothing if there is nothing to say.
    pub(super) fn of(self, ended: &Result<i32, TargetError>) -> Option<Bytes> {
        let text = match (self, ended) {
            (Self::Text, Ok(0)) => return None,
            (Self::Text, Ok(code)) => format!("command terminated with exit code {code}"),
            (Self::Text, Err(error)) => error.to_string(),
            (Self::Status, Ok(0)) => json!({ "metadata": {}, "status": "Success" }).to_string(),
            (Self::Status, Ok(code)) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: {code}"),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            })
            .to_string(),
            (Self::Status, Err(error)) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": error.to_string(),
                "details": { "causes": [{ "message": error.to_string() }] },
                "code": 500,
            })
            .to_string(),
        };
        Some(text.into())
    }
}
