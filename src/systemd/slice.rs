//! Slices: a name says its place, `a-b.slice` is below `a.slice`.
//!
//! # References
//! - [systemd.slice(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.slice.html)

/// What is no name of a slice.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not the name of a slice")]
pub struct InvalidSlice {
    name: String,
}

/// The cgroup of a slice, `/a.slice/a-b.slice` for `a-b.slice`.
///
/// # Errors
/// [`InvalidSlice`] also for the root slice, in which nothing but slices should be.
pub fn slice_cgroup(name: &str) -> Result<String, InvalidSlice> {
    let refuse = || InvalidSlice { name: name.to_owned() };
    let stem = name.strip_suffix(".slice").ok_or_else(refuse)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.len() > 255 || !stem.chars().all(allowed) || stem.split('-').any(str::is_empty) {
        return Err(refuse());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.filter_map(|end| stem.get(..end)).map(|part| format!("/{part}.slice")).collect())
}

#[cfg(test)]
mod tests {
    use super::slice_cgroup;

    #[test]
    fn a_name_says_its_place() {
        for (name, cgroup) in [
            ("system.slice", "/system.slice"),
            ("a-b.slice", "/a.slice/a-b.slice"),
            (
                "kubepods-burstable-pod0123_4567.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0123_4567.slice",
            ),
        ] {
            assert_eq!(slice_cgroup(name).unwrap(), cgroup);
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let long = format!("{}.slice", "a".repeat(250));
        for name in [
            "",
            ".slice",
            "-.slice",
            "a",
            "a.scope",
            "a/b.slice",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            &long,
        ] {
            assert!(slice_cgroup(name).is_err(), "{name:?}");
        }
    }
}
