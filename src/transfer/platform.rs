//! Which of an index's images fits a machine.
//!
//! Invariant: an image for another operating system or architecture is never chosen; among
//! those that fit, the one built for the nearest variant is.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

use std::fmt;

/// An operating system, an architecture and its variant, in the words of the Go toolchain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`, ...; `None` where the architecture's usual one is meant.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, "")
    }

    /// A platform as written in an index or an image configuration, with the names that
    /// builders use for the same thing made one.
    #[must_use]
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le" | "ppc64le", other) => ("ppc64le", other),
            ("loongarch64" | "loong64", other) => ("loong64", other),
            (other, variant) => (other, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
        }
    }

    /// How well `image` runs on `self`: `None` when it does not, else less is better.
    #[must_use]
    pub fn distance(&self, image: &Self) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        if self.variant == image.variant {
            return Some(0);
        }
        // Only older variants of the same architecture run.
        let own = self.level()?;
        let other = image.level()?;
        own.checked_sub(other)
    }

    /// The variant as a number that grows with what the processor can do.
    fn level(&self) -> Option<u32> {
        let usual = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            _ => "v0",
        };
        let variant = self.variant.as_deref().unwrap_or(usual).strip_prefix('v')?;
        let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
        let major: u32 = major.parse().ok()?;
        let minor: u32 = minor.parse().ok()?;
        major.checked_mul(100)?.checked_add(minor)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests;
