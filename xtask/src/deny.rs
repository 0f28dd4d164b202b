//! Licences, sources, bans and advisories of every dependency, by cargo-deny.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cargo::{cargo, root};
use crate::fuzz;
use crate::process::run;

/// Checks both workspaces against `deny.toml`; installs cargo-deny first where it is missing.
///
/// The advisory database is fetched over the network and changes from day to day, so it is
/// consulted only on demand.
pub(crate) fn check(advisories: bool) -> Result<()> {
    let tool = install()?;
    for manifest in ["Cargo.toml", fuzz::MANIFEST] {
        let mut command = Command::new(&tool);
        command.current_dir(root());
        command.args([
            "--config",
            "deny.toml",
            "--manifest-path",
            manifest,
            "check",
        ]);
        command.args([
            "--hide-inclusion-graph",
            "--allow",
            "unused-wrapper",
            "bans",
            "licenses",
            "sources",
        ]);
        if advisories {
            command.arg("advisories");
        }
        run(&mut command)?;
    }
    Ok(())
}

fn install() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let tool = tools.join("bin/cargo-deny");
    let installed = Command::new(&tool).arg("--version").output();
    let wanted = format!("cargo-deny {VERSION}");
    if !installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == wanted) {
        let version = format!("={VERSION}");
        let mut command = cargo(&["install", "cargo-deny", "--locked", "--version", &version]);
        run(command.arg("--root").arg(&tools))?;
    }
    Ok(tool)
}

const VERSION: &str = "0.20.2";
