//! The recipes behind `check`, `test` and `docs`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench;
use crate::cargo::{build, cargo, root, targets};
use crate::fuzz;
use crate::process::{run, run_within};
use crate::py;
use crate::report::Report;

/// Formatting of all workspaces, and clippy over everything in the main one.
pub(crate) fn check(report: &mut Report) -> Result<()> {
    report.step("fmt", || {
        run(&mut cargo(&["fmt", "--all", "--check"]))?;
        for manifest in [fuzz::MANIFEST, bench::MANIFEST] {
            run(&mut cargo(&["fmt", "--manifest-path", manifest, "--check"]))?;
        }
        Ok(())
    })?;
    report.step("clippy", || {
        let scope = ["clippy", "--workspace", "--all-targets", "--all-features"];
        run(cargo(&scope).args(["--", "-D", "warnings"]))
    })
}

/// What the README's test command and CI run.
pub(crate) fn test(report: &mut Report) -> Result<()> {
    check(report)?;
    report.step("tests", || {
        run(&mut cargo(&["test", "--workspace", "--all-features"]))
    })?;
    report.step("examples", examples)?;
    report.step("demo", demo)?;
    report.step("docs", || docs(false))?;
    py::py(report, &py::Options::default())?;
    report.step("fuzz-smoke", || fuzz::smoke(&fuzz::Options::default()))
}

/// The API documentation of the crates that users see.
pub(crate) fn docs(open: bool) -> Result<()> {
    let mut command = cargo(&["doc", "--workspace", "--all-features", "--no-deps"]);
    command.args(["--exclude", "lightning-tests", "--exclude", "xtask"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    if open {
        command.arg("--open");
    }
    run(&mut command)
}

/// Runs every example of the main crate to its end.
fn examples() -> Result<()> {
    let names = targets("Cargo.toml", "btlightning", "example")?;
    ensure!(!names.is_empty(), "the crate btlightning has no examples");
    // With the features of the test step, so that nothing is compiled twice.
    let scope = ["build", "--workspace", "--all-features", "--examples"];
    let executables = build(&mut cargo(&scope))?;
    for name in names {
        let example = executables
            .iter()
            .find(|made| made.kind == "example" && made.name == name)
            .with_context(|| format!("cargo did not build the example `{name}`"))?;
        run_within(Command::new(&example.path).current_dir(root()), RUN_LIMIT)
            .with_context(|| format!("example `{name}`"))?;
    }
    Ok(())
}

/// Runs the demo of the CLI as `cargo run -p lightning-cli -- demo` does.
///
/// Built on its own and not with the workspace's features, for that is how a newcomer builds it.
fn demo() -> Result<()> {
    let executables = build(&mut cargo(&["build", "--package", "lightning-cli"]))?;
    let cli = executables
        .iter()
        .find(|made| made.kind == "bin" && made.name == "lightning")
        .context("cargo did not build the program `lightning`")?;
    run_within(
        Command::new(&cli.path).current_dir(root()).arg("demo"),
        RUN_LIMIT,
    )
}

/// What one example, or the demo, may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);
