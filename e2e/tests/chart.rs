//! The Helm chart: it passes `helm lint`, and what it renders is written down.
//!
//! For each `charts/orlop/ci/NAME-values.yaml` there is `e2e/golden/chart-NAME.yaml`;
//! `ORLOP_REGENERATE=1` writes these files anew, to be read before they are committed.
//! `ORLOP_HELM` names the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// The version of Kubernetes that is rendered for; the default changes with helm's.
const KUBERNETES: &str = "1.36.0";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs helm on the chart; it finds nothing of this machine's own.
fn helm(arguments: &[&str]) -> Result<Output> {
    let program = std::env::var_os("ORLOP_HELM").context("ORLOP_HELM does not name helm")?;
    let home = tempfile::tempdir()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root().join("charts/orlop"));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home.path());
    }
    command.output().context("start helm")
}

fn text_of(output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

fn template(arguments: &[&str]) -> Result<Output> {
    let all = ["template", "orlop", ".", "--namespace=nodes", "--kube-version", KUBERNETES];
    helm(&[all.as_slice(), arguments].concat())
}

/// The files of values, by name.
fn values() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("charts/orlop/ci"))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let name = file.strip_suffix("-values.yaml").context("a file in ci/ has another name")?;
        found.push((name.to_owned(), format!("ci/{file}")));
    }
    found.sort();
    ensure!(!found.is_empty(), "there are no values");
    Ok(found)
}

#[test]
fn the_chart_has_no_fault() -> Result<()> {
    for (_, file) in values()? {
        text_of(helm(&["lint", "--strict", ".", "--values", &file])?)?;
    }
    Ok(())
}

#[test]
fn what_is_rendered_is_written_down() -> Result<()> {
    let mut differ = Vec::new();
    for (name, file) in values()? {
        let now = text_of(template(&["--values", &file])?)?;
        let golden = root().join(format!("e2e/golden/chart-{name}.yaml"));
        if std::env::var_os("ORLOP_REGENERATE").is_some() {
            fs::write(&golden, now)?;
        } else if fs::read_to_string(&golden).unwrap_or_default() != now {
            differ.push(golden.display().to_string());
        }
    }
    if !differ.is_empty() {
        bail!("ORLOP_REGENERATE=1 writes anew what differs: {}", differ.join(", "));
    }
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused() -> Result<()> {
    for (setting, complaint) in [
        ("installer.mode=reinstall", "/installer/mode"),
        ("installer.nodeselector.a=b", "nodeselector"),
        ("config.log.level=debug", "/config"),
        ("registries.a/b=x", "/registries"),
        ("image.repository=", "/image/repository"),
        ("runtimeClasses[0].name=orlop", "/runtimeClasses/0"),
    ] {
        let output = template(&["--set", setting])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{setting} is accepted");
        ensure!(said.contains(complaint), "{setting}: {said}");
    }
    Ok(())
}

/// The image that `hack/package` makes has the name that the chart asks for.
#[test]
fn the_chart_asks_for_the_image_that_is_made() -> Result<()> {
    let rendered = text_of(template(&[])?)?;
    let wanted = format!("image: \"localhost/orlop:{}\"", env!("CARGO_PKG_VERSION"));
    ensure!(rendered.contains(&wanted), "no {wanted} in:\n{rendered}");
    Ok(())
}
