//! Names and numbers; and threads that give up what they hold. Credentials belong to threads, so
//! each test that changes them does so in a thread of its own.

use std::collections::HashMap;

use oci_spec::runtime::LinuxCapabilitiesBuilder;

use super::*;

#[test]
fn numbers_are_those_of_the_kernel() {
    for (index, capability) in ALL.into_iter().enumerate() {
        assert_eq!(usize::from(number(capability)), index);
    }
    assert_eq!(CapabilitySet::CHOWN, bit(Capability::Chown));
    assert_eq!(CapabilitySet::SYS_ADMIN, bit(Capability::SysAdmin));
    assert_eq!(CapabilitySet::MAC_OVERRIDE, bit(Capability::MacOverride));
    assert_eq!(CapabilitySet::CHECKPOINT_RESTORE, bit(Capability::CheckpointRestore));
}

#[test]
fn names_are_read_as_clients_write_them() {
    for text in ["CAP_NET_RAW", "NET_RAW", "net_raw", "cap_net_raw"] {
        assert_eq!(parse(text), Some(Capability::NetRaw));
    }
    for text in ["ALL", "CAP_", "", "CAP_CAP_CHOWN", "CHOWN "] {
        assert_eq!(parse(text), None, "{text:?}");
    }
    for capability in ALL {
        assert_eq!(parse(name(capability)), Some(capability));
        // The names that go into a spec are these.
        assert_eq!(serde_json::to_value(capability).unwrap(), name(capability));
    }
}

#[test]
fn absent_sets_are_empty() {
    let none = ProcessCapabilities::from_oci(None);
    assert_eq!(
        none,
        ProcessCapabilities {
            bounding: CapabilitySet::empty(),
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
            ambient: CapabilitySet::empty(),
        }
    );
}

#[test]
fn what_is_not_held_is_not_given() {
    let one = HashSet::from([Capability::Chown, Capability::SysAdmin]);
    let spec = LinuxCapabilitiesBuilder::default()
        .bounding(one.clone())
        .effective(one.clone())
        .permitted(one)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .unwrap();
    let sets = ProcessCapabilities::from_oci(Some(&spec)).sets_given(CapabilitySet::CHOWN);
    assert_eq!(sets.permitted, CapabilitySet::CHOWN);
    assert_eq!(sets.effective, CapabilitySet::CHOWN);
    assert_eq!(sets.inheritable, CapabilitySet::empty());
}

#[test]
fn ids_that_mean_no_change_are_refused_before_any_change() {
    for (uid, gid, groups) in [(u32::MAX, 0, vec![]), (0, u32::MAX, vec![]), (0, 0, vec![u32::MAX])]
    {
        let error = set_ids(uid, gid, &groups).unwrap_err();
        assert!(matches!(error, CredentialError::InvalidId { id: u32::MAX, .. }), "{error}");
    }
}

/// The lines of this thread's status that speak of credentials.
fn status() -> HashMap<String, String> {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().replace('\t', " ")))
        .collect()
}

fn sets(capabilities: &[Capability], more: &[Capability]) -> ProcessCapabilities {
    let set: HashSet<Capability> = capabilities.iter().copied().collect();
    let more: HashSet<Capability> = more.iter().copied().collect();
    let spec = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(more.clone())
        .ambient(more)
        .build()
        .unwrap();
    ProcessCapabilities::from_oci(Some(&spec))
}

/// Sets credentials in a thread of its own and returns what it has then.
fn become_user(
    capabilities: ProcessCapabilities,
    uid: u32,
    groups: &[u32],
) -> HashMap<String, String> {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let groups = groups.to_vec();
    std::thread::spawn(move || {
        capabilities.drop_bounding().unwrap();
        set_ids(uid, 2000, &groups).unwrap();
        capabilities.apply_sets().unwrap();
        status()
    })
    .join()
    .unwrap()
}

fn hex(capabilities: &[Capability]) -> String {
    let bits: u64 = capabilities.iter().map(|one| 1 << number(*one)).sum();
    format!("{bits:016x}")
}

#[test]
fn root_a_user_holds_exactly_what_the_spec_says() {
    let some = [Capability::Chown, Capability::NetBindService];
    let status = become_user(sets(&some, &[]), 1000, &[7, 8]);
    assert_eq!(status["Uid"], "1000 1000 1000 1000");
    assert_eq!(status["Gid"], "2000 2000 2000 2000");
    assert_eq!(status["Groups"], "7 8");
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(status[set], hex(&some), "{set}");
    }
    assert_eq!(status["CapInh"], hex(&[]));
    assert_eq!(status["CapAmb"], hex(&[]));
}

#[test]
fn root_ambient_capabilities_are_raised_when_inheritable() {
    let some = [Capability::NetBindService, Capability::Chown];
    let status = become_user(sets(&some, &[Capability::NetBindService]), 1000, &[]);
    let one = hex(&[Capability::NetBindService]);
    assert_eq!((&status["CapAmb"], &status["CapInh"]), (&one, &one));
    assert_eq!(status["Groups"], "");
}

#[test]
fn root_no_capabilities_is_none() {
    let status = become_user(ProcessCapabilities::from_oci(None), 0, &[]);
    for set in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status[set], hex(&[]), "{set}");
    }
}

/// "ALL" on a host that lacks some: all that is there, and no error.
#[test]
fn root_all_means_what_the_host_has() {
    let all: Vec<Capability> = bounding_set().unwrap().into_iter().collect();
    let status = become_user(sets(&ALL, &[]), 0, &[]);
    assert_eq!(status["CapEff"], hex(&all));
    assert_eq!(status["CapBnd"], hex(&all));
}
