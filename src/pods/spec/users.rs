//! Who the first process of a container is.
//!
//! A user comes from the request or from the image, as a number or as a name of the
//! image's `/etc/passwd`. Two rules keep a crafted image from becoming root: a string of
//! digits is always a number, never a name, and a number outside of `0..=2^31-1` is an
//! error, never another number (CVE-2024-40635, CVE-2026-46680). The primary group is
//! always among the supplementary groups, so that a set-group-id program cannot shed it
//! (CVE-2022-2995, CVE-2023-25173).
//!
//! # References
//! - [OCI image-spec, `User`](https://github.com/opencontainers/image-spec/blob/main/config.md#properties)
//! - [passwd(5)](https://man7.org/linux/man-pages/man5/passwd.5.html), [group(5)](https://man7.org/linux/man-pages/man5/group.5.html)

use std::{collections::BTreeSet, str::FromStr};

use cri_api::v1;

use super::UserFiles;

/// The highest user or group id: what fits a signed 32-bit number, as everywhere in the
/// field. Kubernetes admits no more either.
const MAX_ID: i64 = i32::MAX as i64;

/// The identity of a container's first process, and of every exec into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups with the primary group among them, ascending, each once.
    pub groups: Vec<u32>,
    /// The home directory in `/etc/passwd`, if the user is there and it is a clean path.
    pub home: Option<String>,
    /// The name in `/etc/passwd`, if the user is there.
    pub username: Option<String>,
}

/// A user or group that cannot be determined.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// A group makes no sense without a user.
    #[error("run_as_group is {gid} but neither run_as_user nor run_as_username is set")]
    GroupWithoutUser {
        /// The group that was asked for.
        gid: i64,
    },
    /// Two users were asked for.
    #[error("run_as_user is {uid} and run_as_username is {name:?}: only one may be set")]
    TwoUsers {
        /// The number.
        uid: i64,
        /// The name.
        name: String,
    },
    /// A number that is no id.
    #[error("{what} {value:?} is outside of 0..={MAX_ID}")]
    OutOfRange {
        /// Which id.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// A name that the image does not know.
    #[error("no user {name:?} in /etc/passwd of the image")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// A group name that the image does not know.
    #[error("no group {name:?} in /etc/group of the image")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// A policy newer than this version.
    #[error("supplemental groups policy {0} is unknown")]
    UnknownPolicy(i32),
}

/// Determines the user of a container: the request's if it names one, else the image's,
/// else root.
///
/// # Errors
/// [`UserError`] when the request contradicts itself, a name is unknown or a number out
/// of range.
pub fn resolve_user(
    security: Option<&v1::LinuxContainerSecurityContext>,
    image_user: &str,
    etc: UserFiles<'_>,
) -> Result<ResolvedUser, UserError> {
    let default = v1::LinuxContainerSecurityContext::default();
    let security = security.unwrap_or(&default);
    let wanted = Wanted::try_new(security, image_user)?;
    let entry = match &wanted.user {
        Principal::Id(uid) => passwd(etc.passwd).find(|entry| entry.uid == *uid),
        Principal::Name(name) => Some(
            passwd(etc.passwd)
                .find(|entry| entry.name == name.as_bytes())
                .ok_or_else(|| UserError::NoSuchUser { name: name.clone() })?,
        ),
    };
    let uid = match (&wanted.user, &entry) {
        (Principal::Id(uid), _) => *uid,
        (Principal::Name(_), Some(entry)) => entry.uid,
        (Principal::Name(name), None) => return Err(UserError::NoSuchUser { name: name.clone() }),
    };
    let gid = match &wanted.group {
        Some(Principal::Id(gid)) => *gid,
        Some(Principal::Name(name)) => {
            groups(etc.group)
                .find(|group| group.name == name.as_bytes())
                .ok_or_else(|| UserError::NoSuchGroup { name: name.clone() })?
                .gid
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    Ok(ResolvedUser {
        uid,
        gid,
        groups: supplementary(security, gid, entry.as_ref(), etc.group)?,
        home: entry
            .as_ref()
            .and_then(|entry| clean(entry.home))
            .filter(|home| home.starts_with('/')),
        username: entry.as_ref().and_then(|entry| clean(entry.name)),
    })
}

/// The user part of an image's `User` for `Image.uid` and `Image.username`: a number or a
/// name; the group part is cut off.
///
/// # Errors
/// [`UserError::OutOfRange`] for a number that is no id.
pub fn image_user(image_user: &str) -> Result<(Option<u32>, Option<String>), UserError> {
    let user = image_user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return Ok((None, None));
    }
    Ok(match Principal::parse("user id", user)? {
        Principal::Id(uid) => (Some(uid), None),
        Principal::Name(name) => (None, Some(name)),
    })
}

/// What the request, or else the image, asks for.
struct Wanted {
    user: Principal,
    group: Option<Principal>,
}

impl Wanted {
    fn try_new(
        security: &v1::LinuxContainerSecurityContext,
        image_user: &str,
    ) -> Result<Self, UserError> {
        let group = security.run_as_group.map(|gid| id("run_as_group", gid.value)).transpose()?;
        let user = match (security.run_as_user, security.run_as_username.as_str()) {
            (Some(uid), "") => Some(Principal::Id(id("run_as_user", uid.value)?)),
            (None, "") => None,
            (None, name) => Some(Principal::parse("run_as_username", name)?),
            (Some(uid), name) => {
                return Err(UserError::TwoUsers { uid: uid.value, name: name.to_owned() });
            }
        };
        match (user, group) {
            (Some(user), group) => Ok(Self { user, group: group.map(Principal::Id) }),
            (None, Some(gid)) => Err(UserError::GroupWithoutUser { gid: i64::from(gid) }),
            (None, None) => Self::from_image(image_user),
        }
    }

    /// `user`, `uid`, `user:group`, `uid:gid`, `uid:group`, `user:gid` or nothing.
    fn from_image(image_user: &str) -> Result<Self, UserError> {
        let (user, group) = match image_user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (image_user, None),
        };
        let user = match user {
            "" => Principal::Id(0),
            user => Principal::parse("the image's user id", user)?,
        };
        let group =
            group.map(|group| Principal::parse("the image's group id", group)).transpose()?;
        Ok(Self { user, group })
    }
}

/// A user or a group, by number or by name.
#[derive(Debug, PartialEq, Eq)]
enum Principal {
    Id(u32),
    Name(String),
}

impl Principal {
    fn parse(what: &'static str, value: &str) -> Result<Self, UserError> {
        let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(value.to_owned()));
        }
        parse_id(value.as_bytes())
            .map(Self::Id)
            .ok_or_else(|| UserError::OutOfRange { what, value: value.to_owned() })
    }
}

fn id(what: &'static str, value: i64) -> Result<u32, UserError> {
    u32::try_from(value)
        .ok()
        .filter(|id| i64::from(*id) <= MAX_ID)
        .ok_or_else(|| UserError::OutOfRange { what, value: value.to_string() })
}

fn parse_id(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    u32::from_str(digits).ok().filter(|id| i64::from(*id) <= MAX_ID)
}

fn supplementary(
    security: &v1::LinuxContainerSecurityContext,
    gid: u32,
    entry: Option<&Passwd<'_>>,
    group: &[u8],
) -> Result<Vec<u32>, UserError> {
    use v1::SupplementalGroupsPolicy as Policy;
    let unknown = security.supplemental_groups_policy;
    let policy = Policy::try_from(unknown).map_err(|_unknown| UserError::UnknownPolicy(unknown))?;
    let mut ids = BTreeSet::from([gid]);
    for value in &security.supplemental_groups {
        ids.insert(id("supplemental group", *value)?);
    }
    if let (Policy::Merge, Some(entry)) = (policy, entry) {
        ids.extend(groups(group).filter(|group| group.has(entry.name)).map(|group| group.gid));
    }
    Ok(ids.into_iter().collect())
}

/// A line of `/etc/passwd`.
struct Passwd<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// The well-formed lines of `/etc/passwd`; a line with an id out of range is none.
fn passwd(content: &[u8]) -> impl Iterator<Item = Passwd<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = parse_id(fields.nth(1)?)?;
        let gid = parse_id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid, gid, home })
    })
}

/// A line of `/etc/group`.
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl Group<'_> {
    fn has(&self, member: &[u8]) -> bool {
        self.members.split(|byte| *byte == b',').any(|name| name == member)
    }
}

/// The well-formed lines of `/etc/group`.
fn groups(content: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = parse_id(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// The text of a field, unless it has bytes that do not belong into an environment.
fn clean(field: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(field).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
