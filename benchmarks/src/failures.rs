//! What could not be measured.

use std::fmt::Write as _;

use crate::{Results, report::size, rpc::Cell};

/// Every error, so that no missing figure goes unexplained.
pub(crate) fn list(results: &Results) -> String {
    let mut found: Vec<String> = results
        .sections_failed
        .iter()
        .map(|(section, error)| format!("{section}: {error}"))
        .collect();
    let mut add = |what: String, error: Option<&str>| {
        if let Some(error) = error {
            found.push(format!("{what}: {error}"));
        }
    };
    for row in [&results.rpc, &results.two_processes, &results.narrow]
        .into_iter()
        .flatten()
    {
        let Cell {
            topology,
            handler,
            in_flight,
            payload_bytes,
        } = row.cell;
        for outcome in &row.rounds {
            let what = format!(
                "{}, {}, {} handler, {in_flight} in flight, {}",
                row.rival.name(),
                topology.title(),
                handler.name(),
                size(payload_bytes)
            );
            add(what, outcome.error());
        }
    }
    for row in &results.setup {
        for outcome in &row.rounds {
            add(format!("{}, setup", row.rival.name()), outcome.error());
        }
    }
    for row in &results.wire {
        let what = format!("{}, wire, {}", row.rival.name(), size(row.payload_bytes));
        add(what.clone(), row.alone.error());
        add(what, row.together.error());
    }
    let series = results.growth.iter().flat_map(|series| &series.rows);
    for row in results.memory.iter().chain(series) {
        for outcome in &row.runs {
            let what = format!("{}, own process, {:?}", row.rival.name(), row.point);
            add(what, outcome.error());
        }
    }
    for row in &results.fanout {
        for outcome in row.cold.iter().chain(&row.warm) {
            add(format!("{}, fan-out", row.rival.name()), outcome.error());
        }
    }
    for row in &results.idle {
        add(format!("{}, idle", row.rival.name()), row.outcome.error());
    }
    if found.is_empty() {
        return String::new();
    }
    let mut text = "\n### Failures\n\n".to_owned();
    for failure in found {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {failure}");
    }
    text
}
