//! Codes and messages.

use std::path::PathBuf;
use std::sync::Arc;

use sandbox::controller::SandboxError;
use sandbox::protocol::{Failed, FailedKind};

use super::*;

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

fn hung() -> SandboxError {
    SandboxError::Hung { what: "start container c0".into(), seconds: 20 }
}

fn refused(kind: FailedKind) -> PodsError {
    SandboxError::Refused(Failed::new(kind, "x")).into()
}

fn prepare(source: io::Error) -> PodsError {
    PodsError::Prepare { path: PathBuf::from("/s/pods/1"), source }
}

#[test]
fn codes_of_pods() {
    let find = |error: FindError| PodsError::from(error);
    let request = |error: RequestError| PodsError::from(error);
    let (kind, id) = ("container", "c0".to_owned());
    for (error, code) in [
        (find(FindError::NotFound { kind, id: id.clone() }), Code::NotFound),
        (find(FindError::Ambiguous { kind, id: id.clone() }), Code::InvalidArgument),
        (find(FindError::Empty { kind }), Code::InvalidArgument),
        (request(RequestError::NoCommand), Code::InvalidArgument),
        (request(RequestError::NoImage { name: "x".into() }), Code::NotFound),
        (PodsError::NameTaken { kind, name: "n".into(), id: id.clone() }, Code::AlreadyExists),
        (
            PodsError::WrongState { what: "start", kind, id: id.clone(), state: "exited" },
            Code::FailedPrecondition,
        ),
        (PodsError::ExecTimeout { seconds: 1 }, Code::DeadlineExceeded),
        (PodsError::TooLong { what: "kill", id: id.clone(), seconds: 1 }, Code::DeadlineExceeded),
        (hung().into(), Code::Unavailable),
        (refused(FailedKind::Deadline), Code::DeadlineExceeded),
        (refused(FailedKind::NotFound), Code::NotFound),
        (refused(FailedKind::WrongState), Code::FailedPrecondition),
        (refused(FailedKind::Invalid), Code::InvalidArgument),
        (refused(FailedKind::Step), Code::Internal),
        (SandboxError::Lost.into(), Code::Internal),
        (PodsError::Gone { id }, Code::NotFound),
        (prepare(io::Error::from(io::ErrorKind::NotFound)), Code::Internal),
        (prepare(full()), Code::ResourceExhausted),
        (PodsError::Shared(Arc::new(prepare(full()))), Code::ResourceExhausted),
    ] {
        let text = format!("{error:?}");
        assert_eq!(Status::from(error).code(), code, "{text}");
    }
}

#[test]
fn the_message_has_each_cause_once() {
    let expected = format!("prepare /s/pods/1: {}", full());
    assert_eq!(Status::from(prepare(full())).message(), expected);
    let shared = PodsError::Shared(Arc::new(prepare(full())));
    assert_eq!(Status::from(shared).message(), expected);
    let transparent = PodsError::from(RequestError::NoCommand);
    assert_eq!(Status::from(transparent).message(), "the command is empty");
}

#[test]
fn the_kubelets_words_come_first() {
    let error = crate::pods::spec::MountError::RecursiveReadOnly(
        crate::pods::spec::RecursiveReadOnlyError::Unsupported { destination: "/m".into() },
    );
    let spec = crate::pods::spec::SpecError::from(error);
    let status = Status::from(PodsError::from(RequestError::from(spec)));
    assert_eq!(status.code(), Code::Unknown);
    assert!(status.message().starts_with("RROUnsupported: "), "{}", status.message());
}

#[test]
fn a_pull_that_was_given_up_may_be_repeated() {
    let reference = images::Reference::parse("busybox").unwrap();
    assert_eq!(Status::from(PullError::Cancelled(reference)).code(), Code::Unavailable);
}
