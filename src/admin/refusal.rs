//! Errors as answers: the whole story for the one who asked, and whose fault it is.

use std::error::Error;
use std::io::{self, ErrorKind};

use tonic::{Code, Status};

use crate::images::{ImportError, TransferError};

/// An error that can be answered.
pub(super) trait Refused: Error + Sized + 'static {
    /// Whose fault it is, as far as this type says.
    fn code(&self) -> Code;

    /// The answer.
    fn refusal(&self) -> Status {
        let code = match cause(self) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Code::ResourceExhausted,
            Some(_) if self.code() == Code::InvalidArgument => Code::Internal,
            Some(_) | None => self.code(),
        };
        let mut last = self.to_string();
        let mut message = last.clone();
        for cause in causes(self).into_iter().skip(1) {
            let words = cause.to_string();
            // Errors that pass others on repeat them.
            if words != last {
                message = format!("{message}: {words}");
            }
            last = words;
        }
        Status::new(code, message)
    }
}

impl Refused for TransferError {
    fn code(&self) -> Code {
        match self {
            Self::NoRoute { .. } | Self::NoTag(_) | Self::Reserved(_) | Self::Snapshot(_) => {
                Code::InvalidArgument
            }
            Self::NoImage(_) => Code::NotFound,
            Self::Ambiguous(_) => Code::FailedPrecondition,
            Self::Import(error) => match **error {
                ImportError::Transfer(_) => Code::InvalidArgument,
                ImportError::Cancelled => Code::Cancelled,
                _ => Code::Internal,
            },
            Self::NoOrigin(_) => Code::FailedPrecondition,
            Self::Pull(_)
            | Self::Repair { .. }
            | Self::Push { .. }
            | Self::Export { .. }
            | Self::Mirror { .. } => Code::Unknown,
            Self::Record { .. } | Self::Interrupted(_) | Self::Task(_) => Code::Internal,
        }
    }
}

/// The request itself is wrong.
pub(super) fn invalid(message: &str) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// What the operating system complained about, if it did.
fn cause(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    causes(error)
        .into_iter()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|cause| cause.raw_os_error().is_some())
        .map(io::Error::kind)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut all = vec![error];
    let mut last = error;
    loop {
        // An io::Error passes over what it wraps when asked for its source.
        let next: Option<&'a (dyn Error + 'static)> =
            match last.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => last.source(),
            };
        let Some(next) = next else { return all };
        all.push(next);
        last = next;
    }
}
