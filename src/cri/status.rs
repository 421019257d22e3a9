//! What an error is over the wire: the one place that knows gRPC codes.
//!
//! The message is the error with all its causes, outermost first. Codes lose their types
//! on the way to a pod's status, so the kubelet looks for a few words at the *start* of a
//! message; they go with the code `Unknown`, the only one that is cut off before it looks.
//!
//! # References
//! - [Codes](https://grpc.io/docs/guides/status-codes/)
//! - [Kubelet error names](https://github.com/kubernetes/cri-api/blob/master/pkg/errors/errors.go)

use std::error::Error;
use std::io;

use tonic::{Code, Status};

use super::convert::request::InvalidRequest;
use super::lists::TooLong;
use crate::images::{self, CredentialsError, PullError, PullFailure, ReferenceError, RemoveError};
use crate::pods::{
    CdiError, CheckpointError, FindError, LimitError, PodsError, Refusal, RelabelError,
    RequestError, RestoreError, Silence,
};
use crate::streaming::TokenError;

impl From<InvalidRequest> for Status {
    fn from(error: InvalidRequest) -> Self {
        said(Code::InvalidArgument, &error)
    }
}

impl From<FindError> for Status {
    fn from(error: FindError) -> Self {
        said(of_find(&error), &error)
    }
}

impl From<PodsError> for Status {
    fn from(error: PodsError) -> Self {
        of_pods(&error)
    }
}

impl From<TooLong> for Status {
    fn from(error: TooLong) -> Self {
        said(Code::ResourceExhausted, &error)
    }
}

impl From<Silence> for Status {
    fn from(error: Silence) -> Self {
        let code = match error {
            Silence::Missed { .. } => Code::ResourceExhausted,
            Silence::Ending => Code::Unavailable,
        };
        said(code, &error)
    }
}

impl From<images::FindError> for Status {
    fn from(error: images::FindError) -> Self {
        said(Code::InvalidArgument, &error)
    }
}

impl From<ReferenceError> for Status {
    fn from(error: ReferenceError) -> Self {
        said(Code::InvalidArgument, &error)
    }
}

impl From<CredentialsError> for Status {
    fn from(error: CredentialsError) -> Self {
        said(Code::InvalidArgument, &error)
    }
}

impl From<PullError> for Status {
    fn from(error: PullError) -> Self {
        if let PullError::Cancelled(_) = error {
            return said(Code::Unavailable, &error);
        }
        let code = match error.failure() {
            PullFailure::RegistryUnavailable => return known("RegistryUnavailable", &error),
            PullFailure::Unsigned => return known("SignatureValidationFailed", &error),
            PullFailure::NotFound => Code::NotFound,
            PullFailure::Unauthorized | PullFailure::Blocked => Code::PermissionDenied,
            PullFailure::Corrupt => Code::DataLoss,
            PullFailure::Unusable => Code::FailedPrecondition,
            PullFailure::DiskFull => Code::ResourceExhausted,
            PullFailure::Local => Code::Internal,
        };
        said(code, &error)
    }
}

impl From<RemoveError> for Status {
    fn from(error: RemoveError) -> Self {
        let code = match &error {
            RemoveError::Ambiguous(_) => Code::InvalidArgument,
            RemoveError::Record { .. }
            | RemoveError::Collect(_)
            | RemoveError::Interrupted { .. } => local(&error),
        };
        said(code, &error)
    }
}

impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::TooMany => Code::ResourceExhausted,
            TokenError::Random(_) => Code::Internal,
        };
        said(code, &error)
    }
}

fn of_pods(error: &PodsError) -> Status {
    let code = match error {
        PodsError::Shared(first) => return of_pods(first),
        PodsError::Request(request) => match reason(request) {
            Some(word) => return known(word, error),
            None => of_request(request),
        },
        PodsError::Find(find) => of_find(find),
        PodsError::NameTaken { .. } => Code::AlreadyExists,
        PodsError::WrongState { .. } => Code::FailedPrecondition,
        PodsError::ExecTimeout { .. } | PodsError::TooLong { .. } | PodsError::Late(_) => {
            Code::DeadlineExceeded
        }
        PodsError::Sandbox(_) => match error.refusal() {
            Some(Refusal::NotFound) => Code::NotFound,
            Some(Refusal::WrongState) => Code::FailedPrecondition,
            Some(Refusal::Invalid) => Code::InvalidArgument,
            // Deadlines are told above.
            Some(Refusal::Step | Refusal::Deadline) | None => local(error),
        },
        PodsError::Resources { source, .. } => of_limits(source),
        PodsError::PortForward { .. } => Code::Unavailable,
        // Not `DeadlineExceeded`: to the kubelet's probes that is a program that hangs,
        // which it kills, while here the shim does.
        PodsError::ShimHangs(_) => Code::Unavailable,
        PodsError::Gone { .. } => Code::NotFound,
        PodsError::Relabel(RelabelError::OfTheSystem(_)) => Code::InvalidArgument,
        PodsError::Checkpoint(checkpoint) => of_checkpoint(checkpoint),
        PodsError::Restore(restore) => of_restore(restore),
        PodsError::Prepare { .. }
        | PodsError::CreateNetns(_)
        | PodsError::RemoveNetns(_)
        | PodsError::Attach(_)
        | PodsError::Detach(_)
        | PodsError::Snapshot(_)
        | PodsError::View(_)
        | PodsError::ReadImage { .. }
        | PodsError::ExecPipes(_)
        | PodsError::Record(_)
        | PodsError::Volume { .. }
        | PodsError::Cgroup { .. }
        | PodsError::Scope { .. }
        | PodsError::Relabel(RelabelError::File { .. })
        | PodsError::Interrupted { .. }
        | PodsError::Metadata(_) => local(error),
    };
    said(code, error)
}

fn of_request(error: &RequestError) -> Code {
    match error {
        RequestError::NoImage { .. } => Code::NotFound,
        RequestError::Cdi(CdiError::TooLong { .. }) => Code::DeadlineExceeded,
        RequestError::NoMetadata { .. }
        | RequestError::UnknownHandler { .. }
        | RequestError::NoUserNamespaces { .. }
        | RequestError::CgroupParent { .. }
        | RequestError::Namespace(_)
        | RequestError::Sysctl(_)
        | RequestError::File(_)
        | RequestError::LogPath(_)
        | RequestError::StopSignal(_)
        | RequestError::User(_)
        | RequestError::Bandwidth(_)
        | RequestError::Spec(_)
        | RequestError::Cdi(_)
        | RequestError::SeccompProfile { .. }
        | RequestError::Image(_)
        | RequestError::TargetElsewhere { .. }
        | RequestError::NoCommand
        | RequestError::AttachTerminal { .. } => Code::InvalidArgument,
    }
}

fn of_checkpoint(error: &CheckpointError) -> Code {
    match error {
        // With the words that the kubelet's tests look for goes this code.
        CheckpointError::NotAvailable | CheckpointError::NoCriu { .. } => Code::Unknown,
        CheckpointError::Location { .. }
        | CheckpointError::UnknownOption { .. }
        | CheckpointError::NoContainers { .. }
        | CheckpointError::Twice { .. }
        | CheckpointError::Foreign { .. } => Code::InvalidArgument,
        CheckpointError::Output { .. } | CheckpointError::Unnamed { .. } => {
            Code::FailedPrecondition
        }
        CheckpointError::Late { .. } => Code::DeadlineExceeded,
        CheckpointError::GivenUp { .. } => Code::Cancelled,
        CheckpointError::File { .. } | CheckpointError::Diff { .. } => local(error),
    }
}

fn of_restore(error: &RestoreError) -> Code {
    match error {
        RestoreError::UnknownOption { .. }
        | RestoreError::Path { .. }
        | RestoreError::NoSuchContainer { .. }
        | RestoreError::Twice { .. }
        | RestoreError::Unnamed { .. } => Code::InvalidArgument,
        RestoreError::Unsupported { .. } => Code::Unimplemented,
        RestoreError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Code::NotFound
        }
        RestoreError::Unsafe { .. } => Code::PermissionDenied,
        RestoreError::Damaged { .. } => Code::DataLoss,
        RestoreError::Differs { .. } => Code::FailedPrecondition,
        RestoreError::GivenUp { .. } => Code::Cancelled,
        // Else the archive is not what was written.
        RestoreError::Unpack { .. } => match local(error) {
            Code::ResourceExhausted => Code::ResourceExhausted,
            _ => Code::DataLoss,
        },
        RestoreError::File { .. } | RestoreError::Copy { .. } => local(error),
    }
}

fn of_limits(error: &LimitError) -> Code {
    match error {
        LimitError::InvalidValue { .. }
        | LimitError::NotInVersion { .. }
        | LimitError::NoController { .. }
        | LimitError::NoSuchSetting { .. }
        | LimitError::Devices { .. } => Code::InvalidArgument,
        LimitError::BelowUsage { .. } => Code::FailedPrecondition,
        // A value that the kernel does not take.
        LimitError::Write { source } if source.is_invalid() => Code::InvalidArgument,
        LimitError::Write { .. } | LimitError::Restore { .. } | LimitError::ReadPresent { .. } => {
            local(error)
        }
    }
}

fn of_find(error: &FindError) -> Code {
    match error {
        FindError::NotFound { .. } => Code::NotFound,
        FindError::Ambiguous { .. } | FindError::Empty { .. } => Code::InvalidArgument,
    }
}

/// The kubelet's word for it, if it has one.
fn reason(error: &RequestError) -> Option<&'static str> {
    match error {
        RequestError::Spec(spec) => spec.kubelet_reason(),
        _ => None,
    }
}

/// This machine's fault; a full disk is told from the others.
fn local(error: &(dyn Error + 'static)) -> Code {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded));
    if full { Code::ResourceExhausted } else { Code::Internal }
}

/// An error that the kubelet recognises by its first word.
fn known(word: &str, error: &(dyn Error + 'static)) -> Status {
    Status::unknown(format!("{word}: {}", chain(error)))
}

fn said(code: Code, error: &(dyn Error + 'static)) -> Status {
    Status::new(code, chain(error))
}

fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (*cause).source())
}

#[cfg(test)]
mod tests;
