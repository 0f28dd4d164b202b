//! Tables in Markdown.

use std::fmt::Write as _;

use crate::{
    Results, failures,
    fanout::{self, FanoutRow},
    idle::IdleRow,
    measure::{Outcome, Sample},
    point::PointRow,
    python,
    rivals::Rival,
    rpc::{Cell, Row},
    setup::{SetupRow, Times},
    targets::{self, Figure},
    wire::WireRow,
};

/// Everything that was measured.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let versions: Vec<String> = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    put(
        &mut text,
        format_args!(
            "{} cores ({}), {}, Linux {}, load average {} at the start; {}. \
             {} rounds of {} s; medians; in parentheses the ratio to the published crate.",
            machine.cores,
            machine.processor,
            machine.memory,
            machine.kernel,
            machine.load_average,
            versions.join(", "),
            results.rounds,
            results.seconds
        ),
    );
    for rows in [&results.rpc, &results.two_processes, &results.narrow] {
        text += &rpc(rows);
    }
    text += &setup(&results.setup);
    text += &wire(&results.wire);
    text += &memory(&results.memory);
    text += &fan_out(&results.fanout);
    text += &idle(&results.idle);
    for series in &results.growth {
        put(
            &mut text,
            format_args!("\n### Growth over {}\n", series.over),
        );
        text += &points(&series.rows);
    }
    text += &python::tables(&results.python);
    put(&mut text, format_args!("\n### Targets\n"));
    text += &targets::table(&results.targets);
    text += &failures::list(results);
    text
}

/// A payload size as text.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1024 * 1024 => format!("{} MiB", b / (1024 * 1024)),
        b if b >= 1024 => format!("{} KiB", b / 1024),
        b => format!("{b} B"),
    }
}

fn rpc(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut groups: Vec<Cell> = Vec::new();
    for row in rows {
        let group = Cell {
            payload_bytes: 0,
            ..row.cell
        };
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for group in groups {
        let of_group: Vec<Row> = rows
            .iter()
            .filter(|row| {
                Cell {
                    payload_bytes: 0,
                    ..row.cell
                } == group
            })
            .cloned()
            .collect();
        put(
            &mut text,
            format_args!(
                "\n### {} in flight, {} handler, {}\n",
                group.in_flight,
                group.handler.name(),
                group.topology.title()
            ),
        );
        put(&mut text, format_args!("Requests per second:\n"));
        text += &grid(
            &of_group,
            |s| s.per_second,
            |s| format!("{:.0}", s.per_second),
        );
        put(
            &mut text,
            format_args!("\nLatency p50 / p95 / p99 in µs:\n"),
        );
        text += &grid(
            &of_group,
            |s| s.p50_us,
            |s| format!("{:.0} / {:.0} / {:.0}", s.p50_us, s.p95_us, s.p99_us),
        );
        put(
            &mut text,
            format_args!("\nProcessor time per request, client and server, in µs:\n"),
        );
        text += &grid(
            &of_group,
            |s| s.cpu_us_per_request,
            |s| format!("{:.1}", s.cpu_us_per_request),
        );
    }
    text
}

/// Rivals down, payloads across.
fn grid(rows: &[Row], figure: Figure, show: fn(&Sample) -> String) -> String {
    let mut payloads: Vec<usize> = rows.iter().map(|row| row.cell.payload_bytes).collect();
    payloads.sort_unstable();
    payloads.dedup();
    let mut rivals: Vec<Rival> = rows.iter().map(|row| row.rival).collect();
    rivals.sort_unstable();
    rivals.dedup();
    let mut text = head("", payloads.iter().map(|bytes| size(*bytes)));
    for rival in rivals {
        let cells = payloads.iter().map(|payload| {
            let row = rows
                .iter()
                .find(|row| row.rival == rival && row.cell.payload_bytes == *payload);
            let Some(row) = row else {
                return "–".to_owned();
            };
            let Some(median) = &row.median else {
                return "failed".to_owned();
            };
            match targets::ratio(rows, row.cell, rival, Rival::Published, figure) {
                Some(ratio) if rival != Rival::Published => {
                    format!("{} ({ratio:.2}x)", show(median))
                }
                _ => show(median),
            }
        });
        text += &line(rival.name(), cells);
    }
    text
}

fn setup(rows: &[SetupRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let published = rows.iter().find(|row| row.rival == Rival::Published);
    let mut text = "\n### Connection setup\n\n".to_owned();
    let columns = [
        "Client and socket (ms)",
        "Dial, handshake, first answer (ms)",
    ];
    text += &head("", columns.map(String::from));
    for row in rows {
        let cell = |figure: fn(Times) -> f64| {
            let reference = published.filter(|_| row.rival != Rival::Published);
            with_ratio(
                row.median.map(figure),
                reference.and_then(|row| row.median).map(figure),
                |ms| format!("{ms:.2}"),
            )
        };
        text += &line(
            row.rival.name(),
            [cell(|t| t.client_ms), cell(|t| t.connection_ms)],
        );
    }
    text
}

fn wire(rows: &[WireRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns = [
        "Payload",
        "Request message",
        "1 in flight: to server",
        "to client",
        "32 in flight: to server",
        "to client",
    ];
    let mut text = "\n### Bytes on the wire for one request\n\n".to_owned();
    text += &head("", columns.map(String::from));
    let both = |outcome: &Outcome<crate::wire::PerRequest>| match outcome {
        Outcome::Measured(found) => [found.to_server, found.to_client].map(|n| format!("{n:.0}")),
        Outcome::Failed(_) => ["failed", "failed"].map(String::from),
    };
    for row in rows {
        let message = row.message_bytes.map_or("–".into(), |n| n.to_string());
        let mut cells = vec![size(row.payload_bytes), message];
        cells.extend(both(&row.alone));
        cells.extend(both(&row.together));
        text += &line(row.rival.name(), cells);
    }
    text
}

fn memory(rows: &[PointRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = "\n### Peak memory, 32 requests of 1 MiB in flight\n\n".to_owned();
    text += &points(rows);
    text
}

fn points(rows: &[PointRow]) -> String {
    let columns = [
        "Connections",
        "In flight",
        "Payload",
        "Requests per second",
        "p50 (µs)",
        "Connected (MiB)",
        "Peak (MiB)",
    ];
    let mut text = head("", columns.map(String::from));
    for row in rows {
        let published = rows
            .iter()
            .find(|other| other.rival == Rival::Published && other.point == row.point)
            .filter(|_| row.rival != Rival::Published);
        let cell = |figure: fn(&crate::point::Found) -> f64, digits: usize| {
            let reference = published.and_then(|row| row.median(figure));
            with_ratio(row.median(figure), reference, |v| format!("{v:.digits$}"))
        };
        text += &line(
            row.rival.name(),
            [
                row.point.connections.to_string(),
                row.point.in_flight.to_string(),
                size(row.point.payload_bytes),
                cell(|found| found.sample.per_second, 0),
                cell(|found| found.sample.p50_us, 0),
                cell(|found| found.before_bytes as f64 / MIB, 1),
                cell(|found| found.peak_bytes as f64 / MIB, 1),
            ],
        );
    }
    text
}

fn fan_out(rows: &[FanoutRow]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let mut text = format!(
        "\n### Fan-out to {} miners, {} of them dead and {} slow\n\n",
        first.miners, first.dead, first.slow
    );
    let columns = ["50 % of the good (ms)", "90 % (ms)", "all (ms)"];
    text += &head("", columns.map(String::from));
    for row in rows {
        for (title, outcomes) in [("dialling", &row.cold), ("connected", &row.warm)] {
            let cell = |figure: fn(&fanout::Milestones) -> f64| {
                fanout::median(outcomes, figure).map_or("failed".into(), |ms| format!("{ms:.1}"))
            };
            text += &line(
                &format!("{}, {title}", row.rival.name()),
                [cell(|m| m.half_ms), cell(|m| m.most_ms), cell(|m| m.all_ms)],
            );
        }
    }
    text
}

fn idle(rows: &[IdleRow]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let mut text = format!(
        "\n### A server with {} idle authenticated connections\n\n",
        first.connections
    );
    let columns = ["Before (MiB)", "After (MiB)", "Per connection (KiB)"];
    text += &head("", columns.map(String::from));
    for row in rows {
        let cells = match &row.outcome {
            Outcome::Measured(found) => [
                found.before_bytes as f64 / MIB,
                found.after_bytes as f64 / MIB,
                found.per_connection_bytes / 1024.0,
            ]
            .map(|value| format!("{value:.1}")),
            Outcome::Failed(_) => ["failed"; 3].map(String::from),
        };
        text += &line(row.rival.name(), cells);
    }
    text
}

fn with_ratio(value: Option<f64>, by: Option<f64>, show: impl Fn(f64) -> String) -> String {
    match (value, by) {
        (None, _) => "failed".into(),
        (Some(value), Some(by)) => format!("{} ({:.2}x)", show(value), value / by),
        (Some(value), None) => show(value),
    }
}

/// The first lines of a table.
pub(crate) fn head(first: &str, columns: impl IntoIterator<Item = String>) -> String {
    let columns: Vec<String> = columns.into_iter().collect();
    format!(
        "| {first} | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    )
}

/// A line of a table.
pub(crate) fn line(first: &str, cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {first} | {} |\n", cells.join(" | "))
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

const MIB: f64 = 1024.0 * 1024.0;
