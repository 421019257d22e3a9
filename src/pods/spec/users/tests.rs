//! Users, as a table.

use super::*;

const PASSWD: &[u8] = b"# comment\n\
    root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:2000::/home/app:/bin/sh\n\
    big:x:4294967296:0::/:/bin/sh\n\
    4294967296:x:7:7::/:/bin/sh\n\
    1234:x:8:8::/:/bin/sh\n\
    short:x:9\n\
    odd:x:10:10::/home/\x01odd:/bin/sh\n\
    \n\
    last:x:11:12";
const GROUP: &[u8] =
    b"root:x:0:\nstaff:x:50:app,other\nwheel:x:10:app\nnear:x:51:apple\nhuge:x:9999999999:app\n";
const ETC: UserFiles<'static> = UserFiles { passwd: PASSWD, group: GROUP };

fn security() -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext::default()
}

fn value(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// uid, gid, groups and home, or the error's text.
fn outcome(
    security: Option<&v1::LinuxContainerSecurityContext>,
    image_user: &str,
) -> Result<(u32, u32, Vec<u32>, Option<String>), String> {
    resolve_user(security, image_user, ETC)
        .map(|user| (user.uid, user.gid, user.groups, user.home))
        .map_err(|error| error.to_string())
}

#[test]
fn users_of_images() {
    let home = |path: &str| Some(path.to_owned());
    for (user, uid, gid, groups, expected_home) in [
        ("", 0, 0, vec![0], home("/root")),
        ("0", 0, 0, vec![0], home("/root")),
        ("app", 1000, 2000, vec![10, 50, 2000], home("/home/app")),
        ("app:", 1000, 2000, vec![10, 50, 2000], home("/home/app")),
        ("1000", 1000, 2000, vec![10, 50, 2000], home("/home/app")),
        ("1000:7", 1000, 7, vec![7, 10, 50], home("/home/app")),
        ("app:staff", 1000, 50, vec![10, 50], home("/home/app")),
        (":staff", 0, 50, vec![50], home("/root")),
        ("77", 77, 0, vec![0], None),
        ("77:88", 77, 88, vec![88], None),
        ("1234", 1234, 0, vec![0], None),
        ("0042", 42, 0, vec![0], None),
        ("2147483647", 2_147_483_647, 0, vec![0], None),
        ("odd", 10, 10, vec![10], None),
        ("last", 11, 12, vec![12], None),
    ] {
        assert_eq!(outcome(None, user), Ok((uid, gid, groups, expected_home)), "{user:?}");
    }
}

#[test]
fn users_of_images_that_are_refused() {
    for (user, expected) in [
        ("nobody", "no user \"nobody\" in /etc/passwd of the image"),
        ("big", "no user \"big\" in /etc/passwd of the image"),
        ("short", "no user \"short\" in /etc/passwd of the image"),
        ("root:x", "no group \"x\" in /etc/group of the image"),
        ("root:huge", "no group \"huge\" in /etc/group of the image"),
        ("4294967296", "the image's user id \"4294967296\" is outside of 0..=2147483647"),
        ("2147483648", "the image's user id \"2147483648\" is outside of 0..=2147483647"),
        ("-1", "the image's user id \"-1\" is outside of 0..=2147483647"),
        ("+5", "the image's user id \"+5\" is outside of 0..=2147483647"),
        (
            "99999999999999999999999",
            "the image's user id \"99999999999999999999999\" is outside of 0..=2147483647",
        ),
        ("0:4294967296", "the image's group id \"4294967296\" is outside of 0..=2147483647"),
    ] {
        assert_eq!(outcome(None, user), Err(expected.to_owned()), "{user:?}");
    }
}

#[test]
fn the_request_wins_over_the_image() {
    let by_id = v1::LinuxContainerSecurityContext { run_as_user: value(1000), ..security() };
    let by_name =
        v1::LinuxContainerSecurityContext { run_as_username: "app".to_owned(), ..security() };
    let with_group =
        v1::LinuxContainerSecurityContext { run_as_group: value(3), ..by_name.clone() };
    for (request, gid, groups) in [
        (by_id, 2000, vec![10, 50, 2000]),
        (by_name, 2000, vec![10, 50, 2000]),
        (with_group, 3, vec![3, 10, 50]),
    ] {
        let home = Some("/home/app".to_owned());
        assert_eq!(outcome(Some(&request), "last:root"), Ok((1000, gid, groups, home)));
    }
}

#[test]
fn supplemental_groups_merge_or_stand_alone() {
    let merge = v1::LinuxContainerSecurityContext {
        run_as_user: value(1000),
        supplemental_groups: vec![1234, 50, 1234],
        ..security()
    };
    let strict = v1::LinuxContainerSecurityContext {
        supplemental_groups_policy: v1::SupplementalGroupsPolicy::Strict.into(),
        ..merge.clone()
    };
    assert_eq!(resolve_user(Some(&merge), "", ETC).unwrap().groups, [10, 50, 1234, 2000]);
    assert_eq!(resolve_user(Some(&strict), "", ETC).unwrap().groups, [50, 1234, 2000]);
}

#[test]
fn requests_that_contradict_themselves() {
    let base = security();
    for (request, expected) in [
        (
            v1::LinuxContainerSecurityContext { run_as_group: value(5), ..base.clone() },
            "run_as_group is 5 but neither run_as_user nor run_as_username is set",
        ),
        (
            v1::LinuxContainerSecurityContext {
                run_as_user: value(5),
                run_as_username: "app".to_owned(),
                ..base.clone()
            },
            "run_as_user is 5 and run_as_username is \"app\": only one may be set",
        ),
        (
            v1::LinuxContainerSecurityContext { run_as_user: value(-1), ..base.clone() },
            "run_as_user \"-1\" is outside of 0..=2147483647",
        ),
        (
            v1::LinuxContainerSecurityContext { run_as_user: value(1 << 32), ..base.clone() },
            "run_as_user \"4294967296\" is outside of 0..=2147483647",
        ),
        (
            v1::LinuxContainerSecurityContext {
                supplemental_groups: vec![1 << 40],
                ..base.clone()
            },
            "supplemental group \"1099511627776\" is outside of 0..=2147483647",
        ),
        (
            v1::LinuxContainerSecurityContext { supplemental_groups_policy: 9, ..base },
            "supplemental groups policy 9 is unknown",
        ),
    ] {
        assert_eq!(outcome(Some(&request), "app"), Err(expected.to_owned()));
    }
}

#[test]
fn no_user_database() {
    let user = resolve_user(None, "1000:1000", UserFiles::default()).unwrap();
    assert_eq!((user.uid, user.gid, user.groups), (1000, 1000, vec![1000]));
    assert!(resolve_user(None, "root", UserFiles::default()).is_err());
}

#[test]
fn user_part_of_an_image() {
    assert_eq!(image_user("1002:50").unwrap(), (Some(1002), None));
    assert_eq!(image_user("www-data:x").unwrap(), (None, Some("www-data".to_owned())));
    assert_eq!(image_user("").unwrap(), (None, None));
    assert!(image_user("4294967296").is_err());
}
