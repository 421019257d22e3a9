//! The binary as a new user meets it: exit codes, and one clear sentence.

use std::path::Path;
use std::process::{Command, Output, Stdio};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn orlop(arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.args(arguments).stdin(Stdio::null()).output()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_version_is_the_packages() -> Outcome {
    let output = orlop(&["version"])?;
    assert!(output.status.success());
    assert_eq!(output.stdout, format!("orlop {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    Ok(())
}

#[test]
fn the_default_configuration_passes_the_check() -> Outcome {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.toml");
    std::fs::write(&file, orlop(&["config", "default"])?.stdout)?;
    let output = orlop(&["config", "check", "--config", &file.to_string_lossy()])?;
    assert!(output.status.success(), "{}", said(&output));
    Ok(())
}

#[test]
fn a_wrong_configuration_is_64_for_the_check_and_for_the_daemon() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (file, root) = (directory.path().join("config.toml"), directory.path().join("root"));
    std::fs::write(&file, "[network]\nplugin_dir = []\n[log]\nlevel = \"loud\"\n")?;
    let (file, root) = (file.to_string_lossy(), root.to_string_lossy());
    for arguments in [
        vec!["config", "check", "--config", &file],
        vec!["daemon", "--config", &file, "--root", &root],
    ] {
        let output = orlop(&arguments)?;
        assert_eq!(output.status.code(), Some(64));
        let said = said(&output);
        assert!(said.contains(":2: unknown key `network.plugin_dir`"), "{said}");
        assert!(said.contains("did you mean `network.plugin_dirs`?"), "{said}");
        assert!(said.contains(":4: `log.level`: expected one of"), "{said}");
    }
    assert!(!Path::new(&*root).exists(), "nothing may be touched");
    Ok(())
}

#[test]
fn a_configuration_that_was_named_must_exist() -> Outcome {
    let output = orlop(&["config", "check", "--config", "/nonexistent/config.toml"])?;
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("/nonexistent/config.toml: cannot be read"));
    Ok(())
}

#[test]
fn a_daemon_that_is_not_there_is_named() -> Outcome {
    let output = orlop(&["image", "ls", "--address", "/nonexistent/orlop.sock"])?;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        said(&output),
        "orlop: cannot reach the daemon at /nonexistent/orlop.sock: \
         No such file or directory (os error 2)\n"
    );
    Ok(())
}

#[test]
fn the_help_does_not_offer_a_shim() -> Outcome {
    let output = orlop(&["--help"])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("daemon") && !text.contains("shim"), "{text}");
    Ok(())
}
