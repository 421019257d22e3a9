//! Limits belong to processes: the tests that set them run in a process of their own.

use std::process::Command;

use oci_spec::runtime::PosixRlimitBuilder;

use super::*;

#[test]
fn the_default_stays_under_the_hard_limit() {
    assert_eq!(default_nofile(None), (1024, 524_288));
    assert_eq!(default_nofile(Some(1 << 30)), (1024, 524_288));
    assert_eq!(default_nofile(Some(4096)), (1024, 4096));
    assert_eq!(default_nofile(Some(100)), (100, 100));
}

fn limit(kind: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap()
}

#[test]
#[ignore = "run by another test, in its own process"]
fn limited_process() {
    apply(&[limit(PosixRlimitType::RlimitCore, 0, 4096)]).unwrap();
    let core = getrlimit(Resource::Core);
    assert_eq!((core.current, core.maximum), (Some(0), Some(4096)));
    let files = getrlimit(Resource::Nofile);
    assert_eq!(files.current, Some(1024));

    apply(&[limit(PosixRlimitType::RlimitNofile, 64, 128)]).unwrap();
    let files = getrlimit(Resource::Nofile);
    assert_eq!((files.current, files.maximum), (Some(64), Some(128)));

    let wrong = apply(&[limit(PosixRlimitType::RlimitNofile, 128, 64)]).unwrap_err();
    assert!(matches!(wrong, LimitError::SetLimit { source: Errno::INVAL, .. }));

    // Without CAP_SYS_RESOURCE a hard limit is not raised, and that is said.
    rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        },
    )
    .unwrap();
    let raised = apply(&[limit(PosixRlimitType::RlimitNofile, 64, 4096)]).unwrap_err();
    assert!(matches!(raised, LimitError::SetLimit { source: Errno::PERM, .. }));
    assert!(raised.to_string().contains("4096"), "{raised}");

    // A higher score is taken; a lower one leaves the present one, without an error.
    assert_eq!(set_oom_score_adj(None, 500).unwrap(), 500);
    assert_eq!(set_oom_score_adj(None, -998).unwrap(), 500);
    assert_eq!(set_oom_score_adj(Some(rustix::process::getpid()), 600).unwrap(), 600);
    let wrong = set_oom_score_adj(None, 5000).unwrap_err();
    assert!(matches!(wrong, LimitError::WriteOomScore { value: 5000, .. }));
    println!("limited");
}

#[test]
fn a_process_gets_its_limits() {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(["--exact", "oci::builtin::rlimits::tests::limited_process", "--ignored"])
        .arg("--nocapture")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("limited"), "{text}");
}
