//! Finding a CPython.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Which of CPython's two ABIs a wheel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Build {
    /// The stable ABI, one wheel for every version from 3.11 on.
    Stable,
    /// CPython without the GIL, a wheel for each version.
    FreeThreaded,
}

impl Build {
    pub(super) fn new(free_threaded: bool) -> Self {
        if free_threaded {
            Self::FreeThreaded
        } else {
            Self::Stable
        }
    }

    /// The folder in `target/py`: the two share nothing.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Stable => "",
            Self::FreeThreaded => "free-threaded",
        }
    }

    /// Whether a wheel's name says that it is for this ABI.
    pub(super) fn fits(self, wheel: &str) -> bool {
        // NAME-VERSION-PYTHON-ABI-PLATFORM.whl
        let mut tags = wheel.split('-').skip(2);
        let (python, abi) = (tags.next(), tags.next());
        match self {
            Self::Stable => python == Some("cp311") && abi == Some("abi3"),
            Self::FreeThreaded => abi.is_some_and(|abi| abi.ends_with('t')),
        }
    }

    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Stable => "every CPython from 3.11 on (abi3)",
            Self::FreeThreaded => "CPython without the GIL",
        }
    }

    /// What has to be installed for it.
    fn interpreter(self) -> &'static str {
        match self {
            Self::Stable => "CPython 3.11 or later",
            Self::FreeThreaded => "a CPython without the GIL",
        }
    }

    /// Programs to try, in this order; the oldest version that is supported first.
    fn candidates(self) -> &'static [&'static str] {
        match self {
            Self::Stable => &[
                "python3.11",
                "python3",
                "python3.12",
                "python3.13",
                "python3.14",
            ],
            Self::FreeThreaded => &["python3.14t", "python3.13t"],
        }
    }
}

/// A CPython that can be used here.
#[derive(Debug)]
pub(super) struct Interpreter {
    pub(super) program: PathBuf,
    version: (u32, u32),
    free_threaded: bool,
    has_pip: bool,
}

impl Interpreter {
    /// The interpreter that the variable `PYTHON` names, or the first on the path that fits.
    pub(super) fn find(build: Build) -> Result<Self> {
        if let Some(program) = env::var_os("PYTHON") {
            let program = PathBuf::from(program);
            let found = Self::ask(&program)
                .with_context(|| format!("PYTHON names {}", program.display()))?;
            ensure!(
                found.fits(build),
                "PYTHON names {found}; needed is {}",
                build.interpreter()
            );
            return found.checked();
        }
        let found = build.candidates().iter().find_map(|name| {
            Self::ask(Path::new(name))
                .ok()
                .filter(|found| found.fits(build))
        });
        match found {
            Some(found) => found.checked(),
            None => bail!(
                "none of {} is {}; install one, or name it with the variable PYTHON",
                build.candidates().join(", "),
                build.interpreter()
            ),
        }
    }

    fn ask(program: &Path) -> Result<Self> {
        let output = Command::new(program)
            .args(["-I", "-c", QUESTION])
            .output()
            .context("cannot be started")?;
        ensure!(output.status.success(), "ended with {}", output.status);
        Self::parse(&String::from_utf8_lossy(&output.stdout))
            .context("does not say what version it is")
    }

    fn parse(answer: &str) -> Option<Self> {
        let mut lines = answer.lines();
        let mut number = || lines.next()?.parse::<u32>().ok();
        let version = (number()?, number()?);
        let (free_threaded, has_pip) = (number()? == 1, number()? == 1);
        Some(Self {
            program: lines.next()?.into(),
            version,
            free_threaded,
            has_pip,
        })
    }

    fn fits(&self, build: Build) -> bool {
        let free_threaded = build == Build::FreeThreaded;
        self.version >= OLDEST && self.free_threaded == free_threaded
    }

    /// Debian and its relatives split what makes virtual environments off.
    fn checked(self) -> Result<Self> {
        ensure!(
            self.has_pip,
            "{self} cannot make virtual environments; install the package python3-venv"
        );
        Ok(self)
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        let suffix = if self.free_threaded { "t" } else { "" };
        write!(
            f,
            "CPython {major}.{minor}{suffix}, {}",
            self.program.display()
        )
    }
}

const OLDEST: (u32, u32) = (3, 11);

const QUESTION: &str = "import importlib.util, sys, sysconfig
print(*sys.version_info[:2], sep='\\n')
print(int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))
print(int(all(map(importlib.util.find_spec, ('venv', 'ensurepip')))))
print(sys.executable)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_judged_by_its_answer() {
        let found = Interpreter::parse("3\n11\n0\n1\n/usr/bin/python3.11\n").unwrap();
        assert_eq!(found.to_string(), "CPython 3.11, /usr/bin/python3.11");
        assert!(found.fits(Build::Stable) && !found.fits(Build::FreeThreaded));
        assert!(found.checked().is_ok());

        let old = Interpreter::parse("3\n10\n0\n1\n/usr/bin/python3.10\n").unwrap();
        assert!(!old.fits(Build::Stable));

        let without_gil = Interpreter::parse("3\n14\n1\n0\n/opt/python3.14t\n").unwrap();
        assert!(without_gil.fits(Build::FreeThreaded) && !without_gil.fits(Build::Stable));
        let error = without_gil.checked().unwrap_err().to_string();
        assert_eq!(
            error,
            "CPython 3.14t, /opt/python3.14t cannot make virtual environments; \
             install the package python3-venv"
        );
        assert!(Interpreter::parse("Python 3.11").is_none());
    }
}
