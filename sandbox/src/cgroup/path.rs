//! Paths of groups: absolute within every hierarchy, without any way out of it.

use std::fmt;
use std::path::Path;

/// A path that is no path of a group.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} is not a cgroup path")]
pub struct InvalidCgroupPath {
    path: String,
}

/// A group's path below the root of each hierarchy, such as `/kubepods/pod1/0123`.
///
/// It begins with `/`, has no empty, `.` or `..` element, and no control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Reads the `cgroupsPath` of a spec or a `cgroup_parent` of the kubelet. A relative path is
    /// taken from the root; doubled and trailing slashes are dropped.
    ///
    /// # Errors
    /// [`InvalidCgroupPath`] when the path is the root itself, leaves it, or cannot be a file name.
    pub fn parse(text: &str) -> Result<Self, InvalidCgroupPath> {
        let refuse = || InvalidCgroupPath { path: text.to_owned() };
        let mut path = String::with_capacity(text.len() + 1);
        for element in text.split('/').filter(|element| !element.is_empty() && *element != ".") {
            if element == ".." || element.chars().any(char::is_control) || element.len() > 255 {
                return Err(refuse());
            }
            path.push('/');
            path.push_str(element);
        }
        if path.is_empty() { Err(refuse()) } else { Ok(Self(path)) }
    }

    /// The group `id` below this one.
    ///
    /// # Errors
    /// [`InvalidCgroupPath`] when `id` is not exactly one name.
    pub fn child(&self, id: &str) -> Result<Self, InvalidCgroupPath> {
        if id.contains('/') {
            return Err(InvalidCgroupPath { path: id.to_owned() });
        }
        Self::parse(id).map(|below| Self(format!("{}{}", self.0, below.0)))
    }

    /// The group above, or `None` when that is the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some(("", _)) | None => None,
            Some((above, _)) => Some(Self(above.to_owned())),
        }
    }

    /// Whether this group is somewhere below `ancestor`.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        self.0.strip_prefix(&ancestor.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The path as text, beginning with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path relative to the mount of a hierarchy.
    pub(super) fn relative(&self) -> &Path {
        Path::new(self.0.trim_start_matches('/'))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::CgroupPath;

    #[test]
    fn parses_what_the_kubelet_sends() {
        for (text, path) in [
            ("/kubepods/pod1", "/kubepods/pod1"),
            ("kubepods", "/kubepods"),
            ("//a///b/", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/system.slice/x:y:z", "/system.slice/x:y:z"),
        ] {
            assert_eq!(CgroupPath::parse(text).unwrap().as_str(), path);
        }
    }

    #[test]
    fn refuses_what_leaves_the_hierarchy() {
        for text in ["", "/", "..", "/a/../b", "/a\nb", "/a\0b", "/."] {
            assert!(CgroupPath::parse(text).is_err(), "{text:?}");
        }
        let path = CgroupPath::parse("/a").unwrap();
        for id in ["", "b/c", "..", "."] {
            assert!(path.child(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn walks_up_and_compares() {
        let (a, abc) = (CgroupPath::parse("/a").unwrap(), CgroupPath::parse("/a/b/c").unwrap());
        assert_eq!(abc.parent().unwrap().as_str(), "/a/b");
        assert_eq!(a.parent(), None);
        assert!(abc.is_below(&a));
        assert!(!a.is_below(&a));
        assert!(!CgroupPath::parse("/ab").unwrap().is_below(&a));
        assert_eq!(a.child("b").unwrap().child("c").unwrap(), abc);
    }
}
