//! Calling cargo, and asking it what there is.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::shown;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// A cargo command in the root of the repository.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = detached(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// A command in the root of the repository that does not know that it comes from xtask.
///
/// `cargo run` hands xtask the variables that describe the xtask package. Build scripts that watch
/// them (ring's does) would run again with each change between `cargo test` and `cargo xtask test`,
/// and take everything above them along, so they are removed.
pub(crate) fn detached(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if PACKAGE_VARIABLES
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// A program that `cargo build` made.
#[derive(Debug)]
pub(crate) struct Executable {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
}

/// Runs a `cargo build` command and lists the programs it made or found fresh.
pub(crate) fn build(command: &mut Command) -> Result<Vec<Executable>> {
    println!("$ {}", shown(command));
    command.arg("--message-format=json-render-diagnostics");
    let messages = stdout(command)?;
    let mut executables = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cannot read cargo's messages")?;
        if let Some(path) = message["executable"].as_str() {
            executables.push(Executable {
                name: text(&message["target"]["name"])?,
                kind: text(&message["target"]["kind"][0])?,
                path: path.into(),
            });
        }
    }
    Ok(executables)
}

/// Names of a package's targets of one kind (`bin`, `example` …), in the manifest's order.
pub(crate) fn targets(manifest: &str, package: &str, kind: &str) -> Result<Vec<String>> {
    let mut command = cargo(&[
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--manifest-path",
    ]);
    let metadata: Value = serde_json::from_str(&stdout(command.arg(manifest))?)
        .context("cannot read cargo's metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let package = packages
        .iter()
        .find(|candidate| candidate["name"] == package)
        .with_context(|| format!("{manifest} has no package `{package}`"))?;
    let targets = package["targets"]
        .as_array()
        .context("cargo metadata lists no targets")?;
    targets
        .iter()
        .filter(|target| target["kind"][0] == kind)
        .map(|target| text(&target["name"]))
        .collect()
}

/// The target triple of this machine.
pub(crate) fn host() -> Result<String> {
    let version = stdout(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}",
        shown(command),
        output.status
    );
    String::from_utf8(output.stdout).context("cargo's output is not UTF-8")
}

fn text(value: &Value) -> Result<String> {
    Ok(value
        .as_str()
        .context("a name in cargo's output is not a string")?
        .to_owned())
}

const PACKAGE_VARIABLES: [&str; 5] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
];
