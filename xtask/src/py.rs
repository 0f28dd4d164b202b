//! The Python package: built as a wheel, installed as a user installs it, and tested there.
//!
//! Everything is kept in `target/py`: what pip fetched, so that only the first run needs the
//! network, the wheel, and the virtual environments.

mod bench;
mod bittensor;
mod environment;
mod interpreter;
mod published;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub(crate) use self::bench::interpreters;
use self::environment::{Environment, Tools};
use self::interpreter::{Build, Interpreter};
use self::published::Purpose;
use crate::cargo::root;
use crate::process::{run, run_within};
use crate::report::Report;

/// How to build the extension module, and what to test.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cargo profile of the extension module.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PROFILE)]
    profile: String,
    /// The same as `--profile release`: what is published and measured.
    #[arg(long, conflicts_with = "profile")]
    release: bool,
    /// Builds for a CPython without the GIL, and tests under it.
    #[arg(long)]
    free_threaded: bool,
    /// Only builds the wheel, in `target/py/wheels`.
    #[arg(long)]
    wheel_only: bool,
    /// Passed on to pytest.
    #[arg(last = true, value_name = "PYTEST ARGUMENTS")]
    pytest: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: DEFAULT_PROFILE.to_owned(),
            release: false,
            free_threaded: false,
            wheel_only: false,
            pytest: Vec::new(),
        }
    }
}

impl Options {
    fn profile(&self) -> &str {
        if self.release {
            "release"
        } else {
            &self.profile
        }
    }
}

/// Builds the wheel, installs it into a fresh virtual environment, and checks and tests it there.
///
/// The interpreter is the one that the variable `PYTHON` names, or the first on the path that is
/// new enough.
pub(crate) fn py(report: &mut Report, options: &Options) -> Result<()> {
    let build = Build::new(options.free_threaded);
    let folder = root().join("target/py").join(build.folder());
    let mut tools = None;
    report.step("py tools", || {
        let interpreter = Interpreter::find(build)?;
        println!("{interpreter}");
        tools = Some(Tools::prepare(&folder, interpreter)?);
        Ok(())
    })?;
    let tools = tools.context("the tools were not prepared")?;

    let mut made = PathBuf::new();
    report.step("py wheel", || {
        made = wheel(&tools, &folder.join("wheels"), options.profile(), build)?;
        println!("{}", made.display());
        Ok(())
    })?;
    if options.wheel_only {
        return Ok(());
    }

    let environment = Environment::at(folder.join("test-venv"));
    report.step("py install", || {
        environment.make(&tools.interpreter)?;
        run(tools.packages.install_all(&environment).arg(&made))
    })?;
    report.step("py lint", || lint(&environment, &folder))?;
    report.step("py stubs", || stubs(&environment))?;

    let mut tests = pytest(&environment, &folder);
    report.step("py others", || {
        let published = published::prepare(&folder, &tools, Purpose::Tests)?;
        tests.env("LIGHTNING_PUBLISHED_PYTHON", published.program("python"));
        let bittensor = bittensor::prepare(&folder, &tools, &made)?;
        tests.env("LIGHTNING_BITTENSOR_PYTHON", bittensor.program("python"));
        Ok(())
    })?;
    report.step("py tests", || {
        run_within(tests.args(&options.pytest), TEST_LIMIT)
    })
}

/// Builds the wheel and checks that it fits what it claims to fit.
fn wheel(tools: &Tools, folder: &Path, profile: &str, build: Build) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let mut command = tools.environment.command("maturin");
    command
        .args(["build", "--manifest-path"])
        .arg(root().join(PACKAGE).join("Cargo.toml"));
    command.args(["--profile", profile, "--interpreter"]);
    command.arg(tools.environment.program("python"));
    run(command.arg("--out").arg(folder))?;
    let wheel = only_wheel(folder)?;
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    ensure!(
        build.fits(&name),
        "{name} is not a wheel for {}",
        build.described()
    );
    Ok(wheel)
}

/// The one wheel in a folder.
fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    ensure!(
        wheels.len() == 1,
        "{} holds {} wheels in place of one",
        folder.display(),
        wheels.len()
    );
    Ok(wheels.remove(0))
}

/// Rules, formatting and types of the Python sources; rules and formatting of tests and benchmarks.
fn lint(environment: &Environment, folder: &Path) -> Result<()> {
    let package = root().join(PACKAGE);
    for subcommand in [["check"].as_slice(), &["format", "--check"]] {
        let mut command = environment.command("ruff");
        command.current_dir(&package).args(subcommand);
        command.arg("--cache-dir").arg(folder.join("cache/ruff"));
        command.args(["python", "tests"]);
        run(command.arg(root().join(BENCHMARKS)))?;
    }
    let mut command = environment.command("mypy");
    command.current_dir(&package).args(["--strict"]);
    command.arg("--cache-dir").arg(folder.join("cache/mypy"));
    run(command.arg("python"))
}

/// The stubs of the extension module, against the module that was built.
fn stubs(environment: &Environment) -> Result<()> {
    let mut command = environment.command("stubtest");
    // Not in the package's folder: the stubs that were installed are what users get.
    command.args(["btlightning._native", "--mypy-config-file"]);
    command.arg(root().join(PACKAGE).join("pyproject.toml"));
    let allowlist = root().join(PACKAGE).join("tests/stubtest-allowlist.txt");
    command.arg("--allowlist").arg(allowlist);
    // What an entry is about may depend on the version of CPython.
    run(command.arg("--ignore-unused-allowlist"))
}

/// The tests. The other packages that they need are found in environments of their own, which are
/// named in variables.
fn pytest(environment: &Environment, folder: &Path) -> Command {
    let mut command = environment.command("python");
    command.current_dir(root().join(PACKAGE));
    let cache = folder.join("cache/pytest");
    command.args(["-m", "pytest", "-o"]);
    command.arg(format!("cache_dir={}", cache.display()));
    command
}

const PACKAGE: &str = "crates/btlightning-py";
const BENCHMARKS: &str = "benchmarks/python";
/// Compiles fastest; keys and hashes are optimised in it.
const DEFAULT_PROFILE: &str = "dev";
/// For all tests; each has a limit of its own.
const TEST_LIMIT: Duration = Duration::from_secs(20 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_must_fit_the_interpreter_they_are_for() {
        let abi3 = "btlightning-0.3.0-cp311-abi3-manylinux_2_34_x86_64.whl";
        let only_311 = "btlightning-0.3.0-cp311-cp311-linux_x86_64.whl";
        let without_gil = "btlightning-0.3.0-cp314-cp314t-linux_x86_64.whl";
        for (name, fits) in [(abi3, true), (only_311, false), (without_gil, false)] {
            assert_eq!(Build::Stable.fits(name), fits, "{name}");
        }
        for (name, fits) in [(abi3, false), (only_311, false), (without_gil, true)] {
            assert_eq!(Build::FreeThreaded.fits(name), fits, "{name}");
        }
    }

    #[test]
    fn release_is_a_profile() {
        assert_eq!(Options::default().profile(), "dev");
        let options = Options {
            release: true,
            ..Options::default()
        };
        assert_eq!(options.profile(), "release");
    }
}
