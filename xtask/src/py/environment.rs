//! Virtual environments, and what is installed into them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::interpreter::Interpreter;
use crate::cargo::{detached, root};
use crate::process::run;

/// A virtual environment.
#[derive(Debug)]
pub(super) struct Environment {
    folder: PathBuf,
}

impl Environment {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes it anew.
    pub(super) fn make(&self, interpreter: &Interpreter) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        let mut command = isolated(&interpreter.program);
        run(command.args(["-m", "venv"]).arg(&self.folder))
    }

    /// The path of a program that is installed in it.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        let programs = if cfg!(windows) { "Scripts" } else { "bin" };
        self.folder
            .join(programs)
            .join(name)
            .with_extension(env::consts::EXE_EXTENSION)
    }

    /// A command that runs one of its programs, as if the environment was active.
    pub(super) fn command(&self, name: &str) -> Command {
        let program = self.program(name);
        let mut command = isolated(&program);
        command.env("VIRTUAL_ENV", &self.folder);
        if let Some(programs) = program.parent() {
            let others = env::var_os("PATH").unwrap_or_default();
            let path = [programs.to_owned()]
                .into_iter()
                .chain(env::split_paths(&others));
            // A folder with the separator in its name cannot be on a path.
            if let Ok(path) = env::join_paths(path) {
                command.env("PATH", path);
            }
        }
        command
    }
}

/// What builds and installs: an environment with maturin, and the packages to test with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) interpreter: Interpreter,
    pub(super) environment: Environment,
    pub(super) packages: Packages,
}

impl Tools {
    /// Fetches and installs what is missing.
    pub(super) fn prepare(folder: &Path, interpreter: Interpreter) -> Result<Self> {
        let environment = Environment::at(folder.join("venv"));
        let stamp = Stamp::new(&environment.folder, &interpreter, &listed(REQUIREMENTS)?);
        let is_made = stamp.is_there();
        if !is_made {
            environment.make(&interpreter)?;
        }
        let packages = folder.join("packages");
        let packages = Packages::fetch(packages, REQUIREMENTS, &environment, &interpreter)?;
        if !is_made {
            let mut install = packages.install(&environment);
            install.arg("--constraint").arg(root().join(REQUIREMENTS));
            run(install.arg("maturin"))?;
            stamp.leave()?;
        }
        Ok(Self {
            interpreter,
            environment,
            packages,
        })
    }
}

/// What pip fetched for a list of requirements.
#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    requirements: &'static str,
}

impl Packages {
    /// Fetches them; does nothing where that was done before.
    pub(super) fn fetch(
        folder: PathBuf,
        requirements: &'static str,
        with: &Environment,
        interpreter: &Interpreter,
    ) -> Result<Self> {
        let stamp = Stamp::new(&folder, interpreter, &listed(requirements)?);
        if !stamp.is_there() {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            let mut download = with.command("pip");
            download
                .args(["download", "--quiet", "--dest"])
                .arg(&folder);
            download.arg("--requirement").arg(root().join(requirements));
            run(&mut download).with_context(|| {
                format!("what {requirements} lists is fetched once, and that needs the network")
            })?;
            stamp.leave()?;
        }
        Ok(Self {
            folder,
            requirements,
        })
    }

    /// Begins a command that installs into an environment, from what was fetched and nothing else.
    pub(super) fn install(&self, environment: &Environment) -> Command {
        let mut command = environment.command("pip");
        command.args(["install", "--quiet", "--no-index", "--find-links"]);
        command.arg(&self.folder);
        command
    }

    /// As [`Packages::install`], with everything that is on the list.
    pub(super) fn install_all(&self, environment: &Environment) -> Command {
        let mut command = self.install(environment);
        let requirements = root().join(self.requirements);
        command.arg("--requirement").arg(requirements);
        command
    }
}

/// A file that says for what a folder was made.
///
/// It is left last, so that what was interrupted is done again.
#[derive(Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    text: String,
}

impl Stamp {
    /// For a folder that depends on an interpreter and on what the text says.
    pub(super) fn new(folder: &Path, interpreter: &Interpreter, text: &str) -> Self {
        Self {
            path: folder.join("made-for"),
            text: format!("{interpreter}\n{text}"),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| text == self.text)
    }

    pub(super) fn leave(&self) -> Result<()> {
        Ok(fs::write(&self.path, &self.text)?)
    }
}

/// The content of a list of requirements.
pub(super) fn listed(requirements: &str) -> Result<String> {
    fs::read_to_string(root().join(requirements))
        .with_context(|| format!("cannot read {requirements}"))
}

/// A command that is not told about another environment or other modules.
fn isolated(program: &Path) -> Command {
    let mut command = detached(program);
    for name in ["PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"] {
        command.env_remove(name);
    }
    command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command
}

/// What the package is built and tested with, in versions that were tried.
const REQUIREMENTS: &str = "crates/btlightning-py/tests/requirements.txt";
