//! Labels, profiles and guarded paths, as tables.

use super::*;

type Context = v1::LinuxContainerSecurityContext;

fn profile(kind: ProfileType, localhost_ref: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.to_owned() })
}

#[test]
#[expect(deprecated, reason = "the string is still understood")]
fn apparmor() {
    use ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let on = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let context = |apparmor| Context { apparmor, ..Context::default() };
    let old = |name: &str| Context { apparmor_profile: name.to_owned(), ..Context::default() };
    let ok = |name: &str| Ok(Some(name.to_owned()));
    let off =
        Err("AppArmor profile \"p\" is asked for but AppArmor is off on this node".to_owned());
    let missing = Err("AppArmor profile \"p\" is not loaded".to_owned());
    for (context, profiles, expected) in [
        (context(None), None, Ok(None)),
        (context(profile(RuntimeDefault, "")), None, Ok(None)),
        (context(profile(Unconfined, "")), None, Ok(None)),
        (context(profile(Localhost, "p")), None, off.clone()),
        (old("localhost/p"), None, off),
        (context(None), on(&[]), Ok(None)),
        (context(None), on(&[DEFAULT_APPARMOR_PROFILE]), ok(DEFAULT_APPARMOR_PROFILE)),
        (
            context(profile(RuntimeDefault, "")),
            on(&["p"]),
            Err("AppArmor profile \"orlop-default\" is not loaded".to_owned()),
        ),
        (old("runtime/default"), on(&[DEFAULT_APPARMOR_PROFILE]), ok(DEFAULT_APPARMOR_PROFILE)),
        (context(profile(Unconfined, "")), on(&["p"]), ok("unconfined")),
        (context(profile(Localhost, "p")), on(&["p"]), ok("p")),
        (context(profile(Localhost, "localhost/p")), on(&["p"]), ok("p")),
        (context(profile(Localhost, "p")), on(&["q"]), missing),
        (old("strange"), None, Err("AppArmor profile \"strange\" is unknown".to_owned())),
        (Context { privileged: true, ..context(profile(Localhost, "p")) }, None, Ok(None)),
        (
            context(Some(v1::SecurityProfile { profile_type: 7, ..Default::default() })),
            None,
            Err("AppArmor profile type 7 is unknown".to_owned()),
        ),
    ] {
        let apparmor = if profiles.is_some() { AppArmor::On } else { AppArmor::Off };
        let loaded = || profiles.clone().unwrap_or_default();
        let made = apparmor_profile(Some(&context), apparmor, &loaded);
        let made = made.map_err(|error| error.to_string());
        assert_eq!(made, expected, "{context:?} {profiles:?}");
    }
}

#[test]
fn guarded() {
    let (masked, readonly) = guarded_paths(None, Privilege::Ordinary).unwrap();
    assert!(masked.contains(&"/proc/kcore".to_owned()));
    assert!(readonly.contains(&"/proc/sys".to_owned()));

    let empty = guarded_paths(Some(&Context::default()), Privilege::Ordinary).unwrap();
    assert_eq!(empty, (vec![], vec![]), "an empty list is a wish");

    let given = Context {
        masked_paths: vec!["/proc/kcore".to_owned()],
        readonly_paths: vec!["/proc/sys".to_owned()],
        ..Context::default()
    };
    let both = guarded_paths(Some(&given), Privilege::Ordinary).unwrap();
    assert_eq!(both, (vec!["/proc/kcore".to_owned()], vec!["/proc/sys".to_owned()]));
    assert_eq!(guarded_paths(Some(&given), Privilege::Privileged).unwrap(), (vec![], vec![]));

    for path in ["proc", "/proc/../etc", "/a\0"] {
        let bad = Context { masked_paths: vec![path.to_owned()], ..Context::default() };
        assert!(guarded_paths(Some(&bad), Privilege::Ordinary).is_err(), "{path:?}");
    }
}

#[test]
fn privileged_needs_a_privileged_pod() {
    let container = |privileged| v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(Context { privileged, ..Context::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod = |privileged| v1::PodSandboxConfig {
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                privileged,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(privilege(&pod(false), &container(false)), Ok(Privilege::Ordinary));
    assert_eq!(privilege(&pod(true), &container(false)), Ok(Privilege::Ordinary));
    assert_eq!(privilege(&pod(true), &container(true)), Ok(Privilege::Privileged));
    for pod in [pod(false), v1::PodSandboxConfig::default()] {
        let refused = Err(SecurityError::PrivilegedInOrdinaryPod);
        assert_eq!(privilege(&pod, &container(true)), refused);
    }
}
