//! The published package, in an environment of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::environment::{Environment, Stamp, Tools};
use super::only_wheel;
use crate::process::run;

/// How the published package is built, and where it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Not optimised, which would take twice the time.
    Tests,
    /// Optimised, as users get it.
    Benchmarks,
}

impl Purpose {
    /// Names a wheel that was built elsewhere.
    fn variable(self) -> &'static str {
        match self {
            Self::Tests => "LIGHTNING_PUBLISHED_WHEEL",
            Self::Benchmarks => "LIGHTNING_PUBLISHED_RELEASE_WHEEL",
        }
    }

    fn profile(self) -> &'static str {
        match self {
            Self::Tests => "dev",
            Self::Benchmarks => "release",
        }
    }

    /// The folders of the wheel and of the environment.
    fn folders(self) -> [&'static str; 2] {
        match self {
            Self::Tests => ["published", "published-venv"],
            Self::Benchmarks => ["published-release", "published-release-venv"],
        }
    }
}

/// Installs the wheel that the variable names, or else one that is built from the published
/// sources; does nothing where that was done before.
pub(super) fn prepare(folder: &Path, tools: &Tools, purpose: Purpose) -> Result<Environment> {
    let [wheels, environment] = purpose.folders();
    let variable = purpose.variable();
    let wheel = match env::var_os(variable) {
        Some(path) => {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{variable} names {}", path.display());
            path
        }
        None => build(&folder.join(wheels), tools, purpose)?,
    };
    let environment = Environment::at(folder.join(environment));
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
fn build(folder: &Path, tools: &Tools, purpose: Purpose) -> Result<PathBuf> {
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
    let profile = format!("--profile {}", purpose.profile());
    command.env("MATURIN_PEP517_ARGS", profile);
    command.env("CARGO_PROFILE_DEV_DEBUG", "false");
    if has_openssl() {
        command.env("OPENSSL_NO_VENDOR", "1");
    }
    run(&mut command).with_context(|| {
        format!(
            "{REQUIREMENT} is fetched and built once, which needs the network, and perl and make \
             where OpenSSL is not installed; {} can name a wheel that was built elsewhere",
            purpose.variable()
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
