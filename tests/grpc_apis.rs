//! The committed code of the gRPC APIs beside CRI is what their `.proto` files generate.
//!
//! `ORLOP_REGENERATE=1 cargo test -p orlop --test grpc_apis` writes it anew.

use std::path::Path;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn orlops_own_api_is_current() -> Outcome {
    is_current("src/admin", "orlop/admin/v1/admin.proto", "orlop.admin.v1.rs", true)
}

#[test]
fn the_api_of_remote_snapshotters_is_current() -> Outcome {
    let proto = "containerd/services/snapshots/v1/snapshots.proto";
    is_current("src/snapshots/remote", proto, "containerd.services.snapshots.v1.rs", false)
}

fn is_current(directory: &str, proto: &str, name: &str, served: bool) -> Outcome {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let set = protox::compile([proto], [directory.join("proto")])?;
    let out = tempfile::tempdir()?;
    let generator = tonic_prost_build::configure().build_server(served);
    generator.out_dir(out.path()).compile_fds(set)?;
    let new = std::fs::read_to_string(out.path().join(name))?;
    let committed = directory.join(name);
    if std::env::var_os("ORLOP_REGENERATE").is_some() {
        std::fs::write(&committed, &new)?;
    }
    let old = std::fs::read_to_string(&committed)?;
    assert!(old == new, "{} is stale: run with ORLOP_REGENERATE=1", committed.display());
    Ok(())
}
