//! Fuzzing on the stable toolchain: builds the targets of `fuzz/` and runs each for a while.
//!
//! `cargo fuzz run -s none TARGET` does the same for one target, in the same layout. Doing it here
//! spares every fresh machine the installation of cargo-fuzz, and runs two targets side by side.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{Executable, build, cargo, host, root, targets};
use crate::process::status_within;

/// The manifest of the fuzz targets, a workspace of its own.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SECONDS,
          value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Targets to run; all of them when none is given.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seconds: DEFAULT_SECONDS,
            targets: Vec::new(),
        }
    }
}

/// Builds and runs the targets, two at a time; a crash, a hang or too much memory is an error.
pub(crate) fn smoke(options: &Options) -> Result<()> {
    let known = targets(MANIFEST, PACKAGE, "bin")?;
    ensure!(!known.is_empty(), "{MANIFEST} has no targets");
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!(
            "no fuzz target `{unknown}`; there are: {}",
            known.join(", ")
        );
    }
    let wanted = if options.targets.is_empty() {
        &known
    } else {
        &options.targets
    };
    let executables = build(&mut build_command(wanted)?)?;
    let queue: VecDeque<&Executable> = executables.iter().collect();
    ensure!(
        queue.len() == wanted.len(),
        "cargo built {} of {} targets",
        queue.len(),
        wanted.len()
    );

    println!(
        "{} of {} targets for {} s each",
        wanted.len(),
        known.len(),
        options.seconds
    );
    let queue = Mutex::new(queue);
    let failures = Mutex::new(Vec::new());
    // A function, so that the lock is not held while the target runs.
    let next = || lock(&queue).pop_front();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores.min(MAX_PARALLEL) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match fuzz(target, options.seconds) {
                        Ok(summary) => println!("{:<24} {summary}", target.name),
                        Err(error) => lock(&failures).push(format!("{}: {error:#}", target.name)),
                    }
                }
            });
        }
    });
    let failures = lock(&failures);
    ensure!(
        failures.is_empty(),
        "fuzzing failed\n{}",
        failures.join("\n")
    );
    Ok(())
}

/// The build with libFuzzer's instrumentation, in `fuzz/target` for the host's triple.
///
/// Naming the triple keeps the instrumentation out of build scripts and procedural macros.
fn build_command(wanted: &[String]) -> Result<Command> {
    let host = host()?;
    let mut command = cargo(&[
        "build",
        "--release",
        "--manifest-path",
        MANIFEST,
        "--target",
        &host,
    ]);
    command
        .env_remove("CARGO_TARGET_DIR")
        .args(["--target-dir", "fuzz/target"]);
    // Flags are separated by 0x1f here, and the variable wins over RUSTFLAGS.
    command.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"));
    for name in wanted {
        command.args(["--bin", name]);
    }
    Ok(command)
}

/// Runs one target in the root of the repository and sums up what it did.
fn fuzz(target: &Executable, seconds: u32) -> Result<String> {
    let scratch = Path::new("target/fuzz-smoke").join(&target.name);
    let artifacts = Path::new("fuzz/artifacts").join(&target.name);
    let seeds = Path::new("fuzz/corpus").join(&target.name);
    let log = scratch.with_extension("log");
    fs::create_dir_all(root().join(&scratch))?;
    fs::create_dir_all(root().join(&artifacts))?;

    let mut command = Command::new(&target.path);
    command.current_dir(root()).args(LIMITS);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    // libFuzzer writes what it finds to the first folder and only reads the others, so the
    // committed seeds stay as they are.
    command.arg(&scratch);
    if root().join(&seeds).is_dir() {
        command.arg(seeds);
    }
    // A backtrace would push the panic's message out of the lines that are shown.
    command.env("RUST_BACKTRACE", "0");
    let output = File::create(root().join(&log))?;
    command.stdout(output.try_clone()?).stderr(output);

    let limit = Duration::from_secs(seconds.into()) + OVERTIME;
    let status = status_within(&mut command, limit)?;
    // The log may hold bytes of the input.
    let text = String::from_utf8_lossy(&fs::read(root().join(&log))?).into_owned();
    ensure!(status.success(), failure(&text, target, &log));
    let counters = text
        .lines()
        .any(|line| line.contains("inline 8-bit counters"));
    ensure!(
        counters,
        "built without coverage counters, see {}",
        log.display()
    );
    summary(&text).with_context(|| format!("no statistics in {}", log.display()))
}

/// The end of the log, the input that broke the target, and how to run it again.
fn failure(log: &str, target: &Executable, path: &Path) -> String {
    let lines: Vec<_> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    match artifact(log) {
        Some(artifact) => {
            let program = target
                .path
                .strip_prefix(root())
                .unwrap_or(&target.path)
                .display();
            format!("{tail}\n  artifact: {artifact}\n  run it again: {program} {artifact}")
        }
        None => format!(
            "{tail}\n  no artifact was written; the whole log is {}",
            path.display()
        ),
    }
}

/// The file that libFuzzer wrote the offending input to.
fn artifact(log: &str) -> Option<&str> {
    log.lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path)
}

/// Runs, coverage and memory, from libFuzzer's last lines.
fn summary(log: &str) -> Option<String> {
    let statistic = |name: &str| {
        log.lines()
            .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name))
            .map(str::trim)
    };
    let runs = statistic("number_of_executed_units:")?;
    let rate = statistic("average_exec_per_sec:")?;
    let memory = statistic("peak_rss_mb:")?;
    let features = log
        .lines()
        .rev()
        .find_map(|line| line.split_once(" ft: "))?
        .1;
    let features = features.split_whitespace().next()?;
    Some(format!(
        "{runs} runs, {rate}/s, {features} features, peak {memory} MB"
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const PACKAGE: &str = "lightning-fuzz";
const DEFAULT_SECONDS: u32 = 60;
const MAX_PARALLEL: usize = 2;
/// For reading the corpus before and printing statistics after the time that was asked for.
const OVERTIME: Duration = Duration::from_secs(60);
const TAIL_LINES: usize = 30;

/// One input may hold 16 KiB, 10 s and 2 GiB of memory.
const LIMITS: [&str; 4] = [
    "-max_len=16384",
    "-timeout=10",
    "-rss_limit_mb=2048",
    "-print_final_stats=1",
];

/// What libFuzzer needs to see: edge counters, comparisons, stack depth. No sanitizer, which would
/// need a nightly toolchain; the crates forbid unsafe code, and panics are what we look for.
const INSTRUMENTATION: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_last_lines_are_summed_up() {
        let log = "INFO: Loaded 1 modules   (1234 inline 8-bit counters)\n\
            #512\tNEW    cov: 70 ft: 91 corp: 3/30b lim: 4 exec/s: 0 rss: 32Mb L: 2/9 MS: 1\n\
            #900\tDONE   cov: 71 ft: 93 corp: 4/38b lim: 4096 exec/s: 300 rss: 35Mb\n\
            Done 900 runs in 3 second(s)\n\
            stat::number_of_executed_units: 900\n\
            stat::average_exec_per_sec:     300\n\
            stat::peak_rss_mb:              35\n";
        let summary = summary(log).unwrap();
        assert_eq!(summary, "900 runs, 300/s, 93 features, peak 35 MB");
        assert_eq!(artifact(log), None);
    }

    #[test]
    fn the_offending_input_and_the_way_to_run_it_are_shown() {
        let log = "thread panicked\n\
            artifact_prefix='/r/a/'; Test unit written to /r/a/crash-1\nBase64: AA==\n";
        let target = Executable {
            name: "frame".to_owned(),
            kind: "bin".to_owned(),
            path: "/r/release/frame".into(),
        };
        let message = failure(log, &target, Path::new("/r/frame.log"));
        assert!(message.starts_with("thread panicked\n"), "{message}");
        assert!(message.contains("artifact: /r/a/crash-1\n"), "{message}");
        assert!(
            message.ends_with("run it again: /r/release/frame /r/a/crash-1"),
            "{message}"
        );

        let message = failure("out of luck", &target, Path::new("/r/frame.log"));
        assert!(
            message.ends_with("the whole log is /r/frame.log"),
            "{message}"
        );
    }
}
