//! Labels from policies and requests.

use cri_api::v1::LinuxContainerSecurityContext as Security;

use super::*;

const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\n\
                        content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                        file = \"system_u:object_r:container_file_t:s0\"\n";

fn asking(user: &str, kind: &str, level: &str) -> Security {
    let options = v1::SeLinuxOption {
        user: user.to_owned(),
        role: String::new(),
        r#type: kind.to_owned(),
        level: level.to_owned(),
    };
    Security { selinux_options: Some(options), ..Security::default() }
}

#[test]
fn the_policy_says_what_containers_are() {
    let node = SeLinux::parse(CONTEXTS, |_| true).unwrap();
    assert_eq!(node.files(Some("s0:c1,c2")), "system_u:object_r:container_file_t:s0:c1,c2");
    assert_eq!(node.files(None), "system_u:object_r:container_file_t:s0");
    let without_levels = SeLinux::parse("process=\"a:b:c\"\nfile=\"d:e:f\"", |_| true).unwrap();
    assert_eq!(without_levels.files(Some("s0:c1,c2")), "d:e:f");
    for odd in ["", "process = \"a:b:c:d\"", "process = \"a:b\"\nfile = \"a:b:c:d\""] {
        assert_eq!(SeLinux::parse(odd, |_| true), None, "{odd:?}");
    }
}

#[test]
fn labels() {
    let node = SeLinux::parse(CONTEXTS, |_| true).unwrap();
    let both = |security: Option<&Security>| {
        let process = process_label(security, Some(&node), Some("s0:c1,c2")).unwrap();
        (process.unwrap_or_default(), file_label(security, Some(&node), Some("s0:c1,c2")).unwrap())
    };
    let (process, file) = both(None);
    assert_eq!(process, "system_u:system_r:container_t:s0:c1,c2");
    assert_eq!(file.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
    let (process, file) = both(Some(&asking("u", "t", "s0-s1:c0.c1023")));
    assert_eq!(process, "u:system_r:t:s0-s1:c0.c1023");
    assert_eq!(file.as_deref(), Some("system_u:object_r:container_file_t:s0-s1:c0.c1023"));
    let (process, file) = both(Some(&Security { privileged: true, ..Security::default() }));
    assert_eq!(process, "system_u:system_r:spc_t:s0");
    assert_eq!(file.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
    let without = SeLinux::parse(CONTEXTS, |label| !label.contains("spc_t")).unwrap();
    let privileged = Security { privileged: true, ..Security::default() };
    assert_eq!(process_label(Some(&privileged), Some(&without), Some("s0:c1,c2")), Ok(None));
    assert_eq!(process_label(None, None, None), Ok(None));
    assert_eq!(file_label(None, None, None), Ok(None));
}

#[test]
fn malformed_parts_are_refused_where_selinux_is_off_too() {
    for level in [
        "s", "x0", "s0:", "s0:c", "s0:c5.c1", "s0:c1024", "s0,c1", "s0:c1:c2", "s0-", "s16",
        "s0:c+1",
    ] {
        let refused = process_label(Some(&asking("", "", level)), None, None).unwrap_err();
        assert_eq!(refused.to_string(), format!("SELinux level {level:?} is malformed"));
    }
    let refused = process_label(Some(&asking("a:b", "", "")), None, None).unwrap_err();
    assert_eq!(refused.to_string(), "SELinux user \"a:b\" is malformed");
}
