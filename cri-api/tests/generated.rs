//! The committed code is what the committed `.proto` generates.
//!
//! `ORLOP_REGENERATE=1 cargo test -p cri-api` writes it anew.

use std::path::Path;

#[test]
fn committed_code_is_current() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::env::temp_dir().join(format!("cri-api-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    let set = protox::compile(["runtime/v1/api.proto"], [root.join("proto")])?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(set)?;
    let new = std::fs::read_to_string(out.join("runtime.v1.rs"))?;
    std::fs::remove_dir_all(&out)?;
    let committed = root.join("src/runtime.v1.rs");
    if std::env::var_os("ORLOP_REGENERATE").is_some() {
        std::fs::write(&committed, &new)?;
    }
    let old = std::fs::read_to_string(&committed)?;
    assert!(old == new, "src/runtime.v1.rs is stale: run with ORLOP_REGENERATE=1");
    Ok(())
}
