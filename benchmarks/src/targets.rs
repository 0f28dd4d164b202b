//! What the project set itself, and whether it is met.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    Results,
    measure::Sample,
    python::{self, Program, PythonRow},
    report::size,
    rivals::{Handler, Rival},
    rpc::{Cell, Row, Topology},
};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) wanted: Bound,
    /// `None` where it was not measured, or a rival failed.
    pub(crate) measured: Option<f64>,
    pub(crate) met: Option<bool>,
}

/// What a ratio has to be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Above(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Above(bound) => value > bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}x"),
            Self::AtMost(bound) => write!(f, "≤ {bound}x"),
            Self::Above(bound) => write!(f, "> {bound}x"),
        }
    }
}

/// Compares the results with the targets.
pub(crate) fn check(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |what: String, wanted: Bound, measured: Option<f64>| {
        targets.push(Target {
            what,
            wanted,
            measured,
            met: measured.map(|value| wanted.holds(value)),
        });
    };
    let rate: Figure = |sample| sample.per_second;
    let latency: Figure = |sample| sample.p50_us;
    use Rival::{OursQuery, OursToPublished, Published, PublishedToOurs, QuinnAlone, Tonic};

    for (handler, bounds) in [
        (Handler::Async, [5.0, 5.0, 2.2, 3.0, 3.5]),
        (Handler::Sync, [5.0, 5.0, 2.5, 3.0, 3.5]),
    ] {
        for (payload, bound) in PAYLOADS.into_iter().zip(bounds) {
            let what = format!(
                "throughput, {}, 32 in flight, {} handler, beside published",
                size(payload),
                handler.name()
            );
            let cell = one_process(handler, 32, payload);
            let measured = ratio(&results.rpc, cell, OursQuery, Published, rate);
            add(what, Bound::AtLeast(bound), measured);
        }
    }
    for (payload, bound) in PAYLOADS.into_iter().zip([0.45, 0.45, 0.45, 0.4, 0.4]) {
        let what = format!(
            "latency p50, {}, 1 in flight, beside published",
            size(payload)
        );
        let cell = one_process(Handler::Async, 1, payload);
        let measured = ratio(&results.rpc, cell, OursQuery, Published, latency);
        add(what, Bound::AtMost(bound), measured);
    }
    for mixed in [OursToPublished, PublishedToOurs] {
        for payload in &PAYLOADS[..3] {
            let what = format!(
                "throughput, {}, 32 in flight, {}, beside published alone",
                size(*payload),
                mixed.name()
            );
            let cell = one_process(Handler::Async, 32, *payload);
            let measured = ratio(&results.rpc, cell, mixed, Published, rate);
            add(what, Bound::AtLeast(1.3), measured);
        }
    }
    for payload in &PAYLOADS[3..] {
        let what = format!(
            "throughput, {}, 32 in flight, beside quinn alone",
            size(*payload)
        );
        let cell = one_process(Handler::Async, 32, *payload);
        let measured = ratio(&results.rpc, cell, OursQuery, QuinnAlone, rate);
        add(what, Bound::AtLeast(0.9), measured);
    }
    for payload in PAYLOADS {
        let what = format!("throughput, {}, 32 in flight, beside tonic", size(payload));
        let cell = one_process(Handler::Async, 32, payload);
        let measured = ratio(&results.rpc, cell, OursQuery, Tonic, rate);
        add(what, Bound::Above(1.0), measured);
    }
    let setup = |rival| {
        let row = results.setup.iter().find(|row| row.rival == rival)?;
        Some(row.median?.connection_ms)
    };
    add(
        "connection setup (dial to first answer), beside published".into(),
        Bound::AtMost(0.6),
        divide(setup(OursQuery), setup(Published)),
    );
    for (payload, bytes) in PAYLOADS.into_iter().zip(SEED_WIRE_BYTES) {
        let row = results
            .wire
            .iter()
            .find(|row| row.rival == OursQuery && row.payload_bytes == payload);
        let ours = row.and_then(|row| row.message_bytes).map(|n| n as f64);
        add(
            format!(
                "request message, {}, beside the seed's table",
                size(payload)
            ),
            Bound::AtMost(1.0),
            divide(ours, Some(bytes)),
        );
    }
    let peak = |rival| {
        let row = results.memory.iter().find(|row| row.rival == rival)?;
        row.median(|found| found.peak_bytes as f64)
    };
    add(
        "peak memory, 32 x 1 MiB in flight, beside published".into(),
        Bound::AtMost(0.5),
        divide(peak(OursQuery), peak(Published)),
    );
    let narrow = results.narrow.first();
    let topology = narrow.map_or(Topology::NarrowPath, |row| row.cell.topology);
    for payload in &PAYLOADS[3..] {
        let cell = Cell {
            topology,
            ..one_process(Handler::Async, 32, *payload)
        };
        add(
            format!(
                "throughput, {}, 32 in flight, packets up to 1500 bytes, beside published",
                size(*payload)
            ),
            Bound::AtLeast(1.5),
            ratio(&results.narrow, cell, OursQuery, Published, rate),
        );
    }
    for (what, wanted, measured) in of_python(&results.python) {
        add(what, wanted, measured);
    }
    targets
}

/// What the Python package set itself.
fn of_python(rows: &[PythonRow]) -> Vec<(String, Bound, Option<f64>)> {
    use Program::{Bittensor, OursAsyncio, OursThreads, Published};
    let rate = |program, in_flight, payload| {
        python::find(rows, program, in_flight, payload).map(|sample| sample.per_second)
    };
    let p50 =
        |program, payload| python::find(rows, program, 1, payload).map(|sample| sample.p50_us);
    let mut targets = Vec::new();
    for (payload, bound) in PAYLOADS.into_iter().zip([3.0, 3.0, 3.0, 2.5, 2.5]) {
        targets.push((
            format!(
                "Python, throughput, {}, 32 threads, beside published",
                size(payload)
            ),
            Bound::AtLeast(bound),
            divide(rate(OursThreads, 32, payload), rate(Published, 32, payload)),
        ));
    }
    for payload in PAYLOADS {
        targets.push((
            format!(
                "Python, latency p50, {}, 1 thread, beside published",
                size(payload)
            ),
            Bound::AtMost(0.6),
            divide(p50(OursThreads, payload), p50(Published, payload)),
        ));
    }
    for payload in &PAYLOADS[..3] {
        targets.push((
            format!(
                "Python, throughput, {}, asyncio with 256 in flight, beside 32 threads",
                size(*payload)
            ),
            Bound::AtLeast(1.0),
            divide(
                rate(OursAsyncio, 256, *payload),
                rate(OursThreads, 32, *payload),
            ),
        ));
    }
    targets.push((
        "Python, throughput, 1 KiB, 32 in flight, beside bittensor 10.5".into(),
        Bound::AtLeast(200.0),
        divide(rate(OursThreads, 32, 1024), rate(Bittensor, 32, 1024)),
    ));
    targets
}

/// The targets as a Markdown table.
pub(crate) fn table(targets: &[Target]) -> String {
    let mut text = String::from("| Target | Wanted | Measured | |\n|---|---|---|---|\n");
    for target in targets {
        let measured = match target.measured {
            Some(value) => format!("{value:.2}x"),
            None => "–".into(),
        };
        let verdict = match target.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {measured} | {verdict} |",
            target.what, target.wanted
        );
    }
    text
}

/// One rival's median divided by another's.
pub(crate) fn ratio(
    rows: &[Row],
    cell: Cell,
    rival: Rival,
    reference: Rival,
    figure: Figure,
) -> Option<f64> {
    let median = |wanted| {
        let row = rows
            .iter()
            .find(|row| row.cell == cell && row.rival == wanted)?;
        row.median.as_ref().map(figure)
    };
    divide(median(rival), median(reference))
}

/// Picks one figure of a measurement.
pub(crate) type Figure = fn(&Sample) -> f64;

fn one_process(handler: Handler, in_flight: usize, payload_bytes: usize) -> Cell {
    Cell {
        topology: Topology::OneProcess,
        handler,
        in_flight,
        payload_bytes,
    }
}

fn divide(value: Option<f64>, by: Option<f64>) -> Option<f64> {
    // Processor time comes in steps of 10 ms, so a short run may have used none.
    Some(value? / by?).filter(|ratio| ratio.is_finite())
}

/// The payload sizes in bytes.
pub(crate) const PAYLOADS: [usize; 5] = [256, 1024, 10 * 1024, 100 * 1024, 1024 * 1024];

/// Bytes of a request message in the published crate's own table, for each payload size.
const SEED_WIRE_BYTES: [f64; 5] = [284.0, 1052.0, 10_268.0, 102_430.0, 1_048_606.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_include_their_ends_where_they_say_so() {
        assert!(Bound::AtLeast(5.0).holds(5.0) && !Bound::AtLeast(5.0).holds(4.99));
        assert!(Bound::AtMost(0.5).holds(0.5) && !Bound::AtMost(0.5).holds(0.51));
        assert!(!Bound::Above(1.0).holds(1.0) && Bound::Above(1.0).holds(1.01));
    }

    #[test]
    fn nothing_measured_is_neither_met_nor_missed() {
        let targets = check(&Results::empty(1, 1.0));
        assert_eq!(targets.len(), 51);
        assert!(targets.iter().all(|target| target.met.is_none()));
        assert!(table(&targets).contains("not measured"));
    }
}
