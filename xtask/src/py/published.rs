//! The published package, in an environment of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::environment::{Environment, Stamp, Tools};
use super::only_wheel;
use crate::process::run;

/// Installs the wheel that `LIGHTNING_PUBLISHED_WHEEL` names, or else one that is built from the
/// published sources; does nothing where that was done before.
pub(super) fn prepare(folder: &Path, tools: &Tools) -> Result<Environment> {
    let wheel = match env::var_os(VARIABLE) {
        Some(path) => {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{VARIABLE} names {}", path.display());
            path
        }
        None => build(&folder.join("published"), tools)?,
    };
    let environment = Environment::at(folder.join("published-venv"));
    let installed = wheel.display().to_string();
    let stamp = Stamp::new(environment.folder(), &tools.interpreter, &installed);
    if !stamp.is_there() {
        environment.make(&tools.interpreter)?;
        run(tools.packages.install(&environment).arg(&wheel))?;
        stamp.leave()?;
    }
    Ok(environment)
}

/// Builds the wheel, once: there is none to fetch that speaks today's protocol.
fn build(folder: &Path, tools: &Tools) -> Result<PathBuf> {
    let stamp = Stamp::new(folder, &tools.interpreter, REQUIREMENT);
    if stamp.is_there() {
        return only_wheel(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    println!("building {REQUIREMENT} takes minutes, the first time only");
    let target = folder.join("target");
    let mut command = tools.environment.command("pip");
    command.args(["wheel", "--quiet", "--no-deps", "--no-build-isolation"]);
    command.args(["--no-binary", ":all:", "--no-cache-dir", "--wheel-dir"]);
    command.arg(folder).arg(REQUIREMENT);
    command.env("CARGO_TARGET_DIR", &target);
    // Optimised it would take twice the time.
    command.env("MATURIN_PEP517_ARGS", "--profile dev");
    command.env("CARGO_PROFILE_DEV_DEBUG", "false");
    if has_openssl() {
        command.env("OPENSSL_NO_VENDOR", "1");
    }
    run(&mut command).with_context(|| {
        format!(
            "{REQUIREMENT} is fetched and built once, which needs the network, and perl and make \
             where OpenSSL is not installed; {VARIABLE} can name a wheel that was built elsewhere"
        )
    })?;
    fs::remove_dir_all(target)?;
    stamp.leave()?;
    only_wheel(folder)
}

/// Whether OpenSSL can be linked, so that the published package need not compile its own.
fn has_openssl() -> bool {
    let mut command = Command::new("pkg-config");
    command.args(["--exists", "openssl"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

const REQUIREMENT: &str = "btlightning==0.2.15";
const VARIABLE: &str = "LIGHTNING_PUBLISHED_WHEEL";
