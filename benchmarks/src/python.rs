//! The Python packages: ours, the published one, bittensor's axons, and signed HTTP.
//!
//! Each measurement is a process of its own, with client and server in it: the programs are in
//! `benchmarks/python`. The interpreters are named in variables, which `cargo xtask bench` sets.

use std::{
    env,
    fmt::{self, Write as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::process::Command;

use crate::{
    Plan,
    measure::{Outcome, Sample, median},
    process,
    report::{head, line, size},
};

/// What is called from Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Program {
    /// Our package, called from threads.
    OursThreads,
    /// Our package, called from the tasks of one event loop.
    OursAsyncio,
    /// The published package, called from threads; it has nothing else.
    Published,
    /// An axon and dendrites of the last bittensor that has them.
    Bittensor,
    /// `http_auth` of today's bittensor, with FastAPI, uvicorn and httpx.
    SignedHttp,
}

impl Program {
    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OursThreads => "ours, threads",
            Self::OursAsyncio => "ours, asyncio",
            Self::Published => "published 0.2.15, threads",
            Self::Bittensor => "bittensor 10.5 axon and dendrite",
            Self::SignedHttp => "signed HTTP (bittensor 11)",
        }
    }

    /// The variable that names the interpreter whose environment has the package.
    fn variable(self) -> &'static str {
        match self {
            Self::OursThreads | Self::OursAsyncio => "LIGHTNING_BENCH_PYTHON_OURS",
            Self::Published => "LIGHTNING_BENCH_PYTHON_PUBLISHED",
            Self::Bittensor => "LIGHTNING_BENCH_PYTHON_BITTENSOR",
            Self::SignedHttp => "LIGHTNING_BENCH_PYTHON_HTTP",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::OursThreads | Self::OursAsyncio | Self::Published => "rpc.py",
            Self::Bittensor => "bittensor_rpc.py",
            Self::SignedHttp => "http_rpc.py",
        }
    }

    fn callers(self) -> &'static [&'static str] {
        match self {
            Self::OursThreads | Self::Published => &["--threads"],
            Self::OursAsyncio => &["--asyncio", "--in-flight"],
            Self::Bittensor | Self::SignedHttp => &["--in-flight"],
        }
    }
}

/// The measurements of one program at one load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PythonRow {
    pub(crate) program: Program,
    pub(crate) in_flight: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) rounds: Vec<Outcome<Sample>>,
    /// Where all rounds were measured.
    pub(crate) median: Option<Sample>,
}

impl fmt::Display for PythonRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (program, payload) = (self.program.name(), size(self.payload_bytes));
        write!(
            f,
            "Python, {program}, {} in flight, {payload}",
            self.in_flight
        )
    }
}

/// Measures all programs in turn.
pub(crate) async fn run(plan: &Plan) -> Vec<PythonRow> {
    let mut rows = Vec::new();
    for &in_flight in &plan.in_flight {
        for &payload_bytes in &plan.payloads {
            let from = rows.len();
            rows.extend(
                programs(in_flight, payload_bytes)
                    .iter()
                    .map(|program| PythonRow {
                        program: *program,
                        in_flight,
                        payload_bytes,
                        rounds: Vec::new(),
                        median: None,
                    }),
            );
            let cell = &mut rows[from..];
            for round in 0..plan.rounds {
                plan.progress(format_args!(
                    "Python, {in_flight} in flight, {}, round {}",
                    size(payload_bytes),
                    round + 1
                ));
                // Who is first in one round is last in the next.
                let mut turn: Vec<&mut PythonRow> = cell.iter_mut().collect();
                if round % 2 == 1 {
                    turn.reverse();
                }
                for row in turn {
                    row.rounds
                        .push(Outcome::of(measure(row, plan.duration).await));
                }
            }
            for row in cell {
                let measured = row.rounds.iter().map(|round| round.measured().copied());
                row.median = measured
                    .collect::<Option<Vec<Sample>>>()
                    .and_then(|samples| median(&samples));
            }
        }
    }
    rows
}

/// The tables, one for each number of requests in flight.
pub(crate) fn tables(rows: &[PythonRow]) -> String {
    let mut text = String::new();
    let mut numbers: Vec<usize> = rows.iter().map(|row| row.in_flight).collect();
    numbers.dedup();
    for in_flight in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n### Python, {in_flight} in flight, client and server in one process\n"
        );
        let columns = [
            "Payload",
            "Requests per second",
            "p50 (µs)",
            "p95 (µs)",
            "p99 (µs)",
            "Processor time per request (µs)",
        ];
        text += &head("", columns.map(String::from));
        for row in rows.iter().filter(|row| row.in_flight == in_flight) {
            let cell = |figure: fn(&Sample) -> f64| match &row.median {
                None => "failed".into(),
                Some(median) => {
                    let shown = format!("{:.0}", figure(median));
                    let reference = find(rows, Program::Published, in_flight, row.payload_bytes);
                    match reference {
                        Some(reference) if row.program != Program::Published => {
                            format!("{shown} ({:.2}x)", figure(median) / figure(reference))
                        }
                        _ => shown,
                    }
                }
            };
            let figures = [
                size(row.payload_bytes),
                cell(|sample| sample.per_second),
                cell(|sample| sample.p50_us),
                cell(|sample| sample.p95_us),
                cell(|sample| sample.p99_us),
                cell(|sample| sample.cpu_us_per_request),
            ];
            text += &line(row.program.name(), figures);
        }
    }
    text
}

/// What could not be measured, and why.
pub(crate) fn failures(rows: &[PythonRow]) -> Vec<(String, String)> {
    let of_row = |row: &PythonRow| {
        let errors = row.rounds.iter().filter_map(Outcome::error);
        let named = errors.map(|error| (row.to_string(), error.to_owned()));
        named.collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_row).collect()
}

/// The medians of one program at one load, where it was measured.
pub(crate) fn find(
    rows: &[PythonRow],
    program: Program,
    in_flight: usize,
    payload_bytes: usize,
) -> Option<&Sample> {
    let wanted = (program, in_flight, payload_bytes);
    rows.iter()
        .find(|row| (row.program, row.in_flight, row.payload_bytes) == wanted)?
        .median
        .as_ref()
}

/// Who takes part at a load.
fn programs(in_flight: usize, payload_bytes: usize) -> &'static [Program] {
    use Program::{Bittensor, OursAsyncio, OursThreads, Published, SignedHttp};
    match (in_flight, payload_bytes) {
        // Only for comparing asyncio with threads: the published package has no asyncio, and more
        // threads than that only measure their scheduling.
        (256, ..=10_240) => &[OursThreads, OursAsyncio],
        (256, _) => &[],
        (_, 1024) => &[OursThreads, OursAsyncio, Published, Bittensor, SignedHttp],
        _ => &[OursThreads, OursAsyncio, Published],
    }
}

async fn measure(row: &PythonRow, duration: Duration) -> Result<Sample> {
    let variable = row.program.variable();
    let interpreter = env::var_os(variable)
        .with_context(|| format!("name an interpreter that has the package with {variable}"))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(interpreter);
    // Compiled files would end up among the sources.
    command.arg("-B").arg(folder.join(row.program.script()));
    command.args(row.program.callers());
    command.arg(row.in_flight.to_string());
    command.args(["--size", &row.payload_bytes.to_string()]);
    command.args(["--seconds", &duration.as_secs_f64().to_string()]);
    command.stdout(Stdio::piped()).kill_on_drop(true);
    process::read_result(command, duration * 2 + LIMIT).await
}

/// For starting the slowest of them, and for its answers that are under way at the end.
const LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_ratios_to_the_published_package_and_failures() {
        let row = |program, per_second: Option<f64>| PythonRow {
            program,
            in_flight: 32,
            payload_bytes: 1024,
            rounds: Vec::new(),
            median: per_second.map(|per_second| Sample {
                requests: 1,
                seconds: 1.0,
                per_second,
                p50_us: 1.0,
                p95_us: 1.0,
                p99_us: 1.0,
                cpu_us_per_request: 1.0,
            }),
        };
        let rows = [
            row(Program::OursThreads, Some(300.0)),
            row(Program::Published, Some(100.0)),
            row(Program::Bittensor, None),
        ];
        let text = tables(&rows);
        assert!(
            text.contains("| ours, threads | 1 KiB | 300 (3.00x) |"),
            "{text}"
        );
        assert!(
            text.contains("| published 0.2.15, threads | 1 KiB | 100 |"),
            "{text}"
        );
        assert!(text.contains("dendrite | 1 KiB | failed |"), "{text}");
    }
}
