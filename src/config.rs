//! The configuration file: one TOML file and its drop-ins, read into checked values.
//!
//! Every key has a default, so a machine without a file runs. A key is declared once, in
//! `keys`: its name, its type, its default and its documentation; reading, the search for
//! a mistyped key's nearest neighbour and `orlop config default` all follow from there.
//! Reading collects *all* problems, each with file, line and key, and nothing on the host
//! is touched while there is one.
//!
//! `FILE.d/*.toml` beside `FILE` is read after it, in lexical order; a later value replaces
//! an earlier one, lists included, and tables are merged.
//!
//! Nobody imports this module but the entry layer: each component has a `Config` of its
//! own, and [`Settings`] is turned into those.
//!
//! # References
//! - [TOML](https://toml.io/en/v1.1.0)

mod check;
mod convert;
mod keys;
mod load;
mod scalar;
mod setting;

pub use keys::{
    CgroupDriver, ExecCpuAffinity, Forwarding, Images, Log, LogFormat, LogLevel, Metrics, Network,
    Pods, PrimaryAddress, Registry, RuntimeKind, RuntimeSettings, Settings, SnapshotDriver,
    Streaming, WhenUnconfigured,
};
pub use load::{Named, Overrides, load, load_with};
pub use scalar::{Absent, ByteSize};
pub use setting::{Invalid, Problem};

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/orlop/config.toml";

/// The default configuration as an annotated file, which reads back as itself.
#[must_use]
pub fn default_text() -> String {
    use setting::Setting as _;
    let mut out = String::from(
        "# The configuration of orlop: every key with its default.\n\
         # Values in FILE.d/*.toml, read in lexical order, replace those given here.\n\n",
    );
    Settings::default().print(&[], "", &mut out);
    out
}

#[cfg(test)]
mod tests;
