//! The committed code of orlop's own API is what its `.proto` generates.
//!
//! `ORLOP_REGENERATE=1 cargo test -p orlop --test admin_api` writes it anew.

use std::path::Path;

#[test]
fn committed_code_is_current() -> Result<(), Box<dyn std::error::Error>> {
    let admin = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let set = protox::compile(["orlop/admin/v1/admin.proto"], [admin.join("proto")])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(set)?;
    let new = std::fs::read_to_string(out.path().join("orlop.admin.v1.rs"))?;
    let committed = admin.join("orlop.admin.v1.rs");
    if std::env::var_os("ORLOP_REGENERATE").is_some() {
        std::fs::write(&committed, &new)?;
    }
    let old = std::fs::read_to_string(&committed)?;
    assert!(old == new, "{} is stale: run with ORLOP_REGENERATE=1", committed.display());
    Ok(())
}
