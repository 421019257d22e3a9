//! The default profile, asked like the kernel asks it.

use std::collections::BTreeSet;

use super::*;
use crate::pods::spec::fixture::Security;

/// What the profile answers to a call: the last word of a rule that matches, else the
/// default. Rules for one call are alternatives.
fn answer(profile: &LinuxSeccomp, name: &str, argument: u64) -> (Action, Option<u32>) {
    let rules = profile.syscalls().as_ref().unwrap();
    let matches = |rule: &&LinuxSyscall| {
        rule.names().iter().any(|named| named == name)
            && rule.args().iter().flatten().all(|arg| match arg.op() {
                Op::ScmpCmpEq => argument == arg.value(),
                Op::ScmpCmpMaskedEq => argument & arg.value() == arg.value_two().unwrap(),
                other => panic!("{other:?} is not used"),
            })
    };
    match rules.iter().find(matches) {
        Some(rule) => (rule.action(), rule.errno_ret()),
        None => (profile.default_action(), profile.default_errno_ret()),
    }
}

const ALLOWED: (Action, Option<u32>) = (Action::ScmpActAllow, None);
const DENIED: (Action, Option<u32>) = (Action::ScmpActErrno, Some(EPERM));
const ABSENT: (Action, Option<u32>) = (Action::ScmpActErrno, Some(ENOSYS));

fn profile(capabilities: &[Capability]) -> LinuxSeccomp {
    default_profile(&capabilities.iter().copied().collect()).unwrap()
}

#[test]
fn ordinary_calls_are_allowed() {
    let profile = profile(&[]);
    for name in ["read", "openat", "execve", "futex", "mmap", "epoll_pwait2", "ptrace", "statx"] {
        assert_eq!(answer(&profile, name, 0), ALLOWED, "{name}");
    }
}

#[test]
fn dangerous_calls_are_denied() {
    let profile = profile(&[]);
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "mount",
        "umount2",
        "setns",
        "unshare",
        "pivot_root",
        "open_tree",
        "fsopen",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "open_by_handle_at",
        "settimeofday",
        "iopl",
        "acct",
        "chroot",
        "quotactl",
        "syslog",
        "sethostname",
        "kcmp",
        "vhangup",
        "nfsservctl",
        "uselib",
        "a_call_of_tomorrow",
    ] {
        assert_eq!(answer(&profile, name, 0), DENIED, "{name}");
    }
}

#[test]
fn io_uring_is_never_allowed() {
    use Capability::*;
    let all = profile(&[
        Bpf,
        DacReadSearch,
        NetAdmin,
        Perfmon,
        SysAdmin,
        SysBoot,
        SysChroot,
        SysModule,
        SysNice,
        SysPacct,
        SysPtrace,
        SysRawio,
        SysTime,
        SysTtyConfig,
        Syslog,
    ]);
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert_eq!(answer(&all, name, 0), DENIED, "{name}");
    }
    assert_eq!(answer(&all, "socket", 38), DENIED);
}

#[test]
fn capabilities_open_their_calls() {
    use Capability::*;
    for (capability, name) in [
        (SysAdmin, "mount"),
        (SysAdmin, "setns"),
        (SysAdmin, "bpf"),
        (SysAdmin, "clone3"),
        (Bpf, "bpf"),
        (Perfmon, "perf_event_open"),
        (Syslog, "syslog"),
        (SysChroot, "chroot"),
        (SysTime, "clock_settime"),
        (SysPtrace, "userfaultfd"),
        (SysModule, "finit_module"),
        (SysNice, "mbind"),
        (SysBoot, "reboot"),
        (DacReadSearch, "open_by_handle_at"),
    ] {
        assert_eq!(answer(&profile(&[capability]), name, 0), ALLOWED, "{capability} {name}");
    }
}

#[test]
fn socket_families() {
    let profile = profile(&[Capability::NetAdmin]);
    for name in ["socket", "socketpair"] {
        for family in 0..46 {
            let expected = if [38, 40].contains(&family) { DENIED } else { ALLOWED };
            assert_eq!(answer(&profile, name, family), expected, "{name} {family}");
            // The kernel looks at 32 bits, so a high bit must not change the answer.
            let high = family | 1 << 32;
            assert_eq!(answer(&profile, name, high), expected, "{name} {family} with a high bit");
        }
    }
    for operation in 1..=20 {
        let expected = if operation == 1 { DENIED } else { ALLOWED };
        assert_eq!(answer(&profile, "socketcall", operation), expected, "{operation}");
        assert_eq!(answer(&profile, "socketcall", operation | 1 << 40), expected);
    }
}

#[test]
fn new_namespaces_need_the_capability() {
    const THREAD: u64 = 0x003d_0f00;
    let (ordinary, admin) = (profile(&[]), profile(&[Capability::SysAdmin]));
    assert_eq!(answer(&ordinary, "clone", THREAD), ALLOWED);
    assert_eq!(answer(&ordinary, "clone", 17), ALLOWED);
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        assert_eq!(answer(&ordinary, "clone", 1 << bit | 17), DENIED, "{bit}");
        assert_eq!(answer(&admin, "clone", 1 << bit | 17), ALLOWED, "{bit}");
    }
    assert_eq!(answer(&ordinary, "clone3", 0), ABSENT);
}

#[test]
fn personalities() {
    let profile = profile(&[]);
    for domain in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(answer(&profile, "personality", domain), ALLOWED);
    }
    // No ADDR_NO_RANDOMIZE, no READ_IMPLIES_EXEC.
    for domain in [0x4_0000, 0x40_0000, 0x1_0000_0000] {
        assert_eq!(answer(&profile, "personality", domain), DENIED);
    }
}

#[test]
fn the_table_names_each_call_once() {
    let mut seen = BTreeSet::new();
    for name in table::ALWAYS.concat() {
        assert!(seen.insert(name), "{name} twice");
    }
    for (capability, groups) in table::WITH_CAPABILITY {
        for name in groups.concat() {
            assert!(!seen.contains(name), "{name} needs {capability} and does not");
        }
    }
}

#[test]
fn profiles_of_the_request() {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let context = |kind: i32, path: &str| Security {
        seccomp: Some(v1::SecurityProfile { profile_type: kind, localhost_ref: path.into() }),
        ..Default::default()
    };
    let made = |context: &Security, privilege, content: Option<&str>| {
        seccomp(Some(context), privilege, &HashSet::new(), content.map(str::as_bytes))
            .map(|profile| profile.map(|profile| profile.default_action()))
            .map_err(|error| error.to_string())
    };
    let good = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}"#;
    use Privilege::{Ordinary, Privileged};
    for (context, privilege, content, expected) in [
        (Security::default(), Ordinary, None, Ok(None)),
        (context(Unconfined.into(), ""), Ordinary, None, Ok(None)),
        (context(RuntimeDefault.into(), ""), Ordinary, None, Ok(Some(Action::ScmpActErrno))),
        (context(RuntimeDefault.into(), ""), Privileged, None, Ok(None)),
        (
            context(Localhost.into(), "/p.json"),
            Ordinary,
            Some(good),
            Ok(Some(Action::ScmpActAllow)),
        ),
        (context(Localhost.into(), "/p.json"), Privileged, None, Ok(None)),
        (
            context(Localhost.into(), "p.json"),
            Ordinary,
            Some(good),
            Err("seccomp profile \"p.json\" is not an absolute path"),
        ),
        (
            context(Localhost.into(), "/p.json"),
            Ordinary,
            None,
            Err("seccomp profile \"/p.json\" is not available"),
        ),
        (
            context(Localhost.into(), "/p.json"),
            Ordinary,
            Some("{}"),
            Err("seccomp profile \"/p.json\" is not in the form of the OCI runtime spec"),
        ),
        (context(9, ""), Ordinary, None, Err("seccomp profile type 9 is unknown")),
    ] {
        let expected = expected.map_err(str::to_owned);
        assert_eq!(made(&context, privilege, content), expected, "{context:?}");
    }
    assert_eq!(localhost_path(&context(Localhost.into(), "/p.json")), Some("/p.json"));
    assert_eq!(localhost_path(&context(RuntimeDefault.into(), "/p.json")), None);
    let privileged = Security { privileged: true, ..context(Localhost.into(), "/p.json") };
    assert_eq!(localhost_path(&privileged), None);
}

#[test]
fn the_builtin_oci_runtime_compiles_it() {
    use sandbox::oci::builtin::seccomp::Filter;
    for capabilities in [&[][..], &[Capability::SysAdmin], &[Capability::Bpf, Capability::SysTime]]
    {
        let filter = Filter::compile(&profile(capabilities)).unwrap();
        assert!(!filter.instructions().is_empty());
    }
}
