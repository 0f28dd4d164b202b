//! Which charts there are.

use crate::{
    Results,
    chart::{self, Line},
    point::{Found, Series},
    report::size,
    rivals::{Handler, Rival},
    rpc::{Row, Topology},
    targets::Figure,
};

/// All charts for which there are figures: file name and SVG.
pub(crate) fn all(results: &Results) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    let throughput: Figure = |sample| sample.per_second;
    let latency: Figure = |sample| sample.p50_us;
    for (name, title, unit, in_flight, figure) in [
        ("latency", "Latency p50, 1 in flight", "µs", 1, latency),
        (
            "throughput",
            "Throughput, 32 in flight",
            "requests/s",
            32,
            throughput,
        ),
    ] {
        charts.extend(
            by_payload(&results.rpc, title, unit, in_flight, figure)
                .map(|svg| (format!("{name}.svg"), svg)),
        );
    }
    for series in &results.growth {
        let over = series.over.as_str();
        for (name, title, unit, figure) in [
            (
                "throughput",
                "Throughput",
                "requests/s",
                (|found| found.sample.per_second) as fn(&Found) -> f64,
            ),
            ("memory", "Peak memory, client and server", "MiB", |found| {
                found.peak_bytes as f64 / (1024.0 * 1024.0)
            }),
        ] {
            charts.push((
                format!("growth-{}-{name}.svg", over.replace('_', "-")),
                growth(series, title, unit, figure),
            ));
        }
    }
    charts
}

fn by_payload(
    rows: &[Row],
    title: &str,
    unit: &str,
    in_flight: usize,
    figure: Figure,
) -> Option<String> {
    let wanted: Vec<&Row> = rows
        .iter()
        .filter(|row| {
            row.cell.topology == Topology::OneProcess
                && row.cell.handler == Handler::Async
                && row.cell.in_flight == in_flight
                && !row.rival.is_mixed()
        })
        .collect();
    let mut payloads: Vec<usize> = wanted.iter().map(|row| row.cell.payload_bytes).collect();
    payloads.sort_unstable();
    payloads.dedup();
    let lines: Vec<Line> = Rival::ALL
        .into_iter()
        .map(|rival| Line {
            name: rival.name().into(),
            points: wanted
                .iter()
                .filter(|row| row.rival == rival)
                .filter_map(|row| {
                    let place = payloads.iter().position(|p| *p == row.cell.payload_bytes)?;
                    Some((place as f64, figure(row.median.as_ref()?)))
                })
                .collect(),
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let labels: Vec<String> = payloads.iter().map(|bytes| size(*bytes)).collect();
    (!lines.is_empty()).then(|| chart::bars(title, unit, &labels, &lines))
}

fn growth(series: &Series, title: &str, unit: &str, figure: fn(&Found) -> f64) -> String {
    let lines: Vec<Line> = Rival::ALL
        .into_iter()
        .map(|rival| Line {
            name: rival.name().into(),
            points: series
                .rows
                .iter()
                .filter(|row| row.rival == rival)
                .filter_map(|row| {
                    let place = row.point.quantity(&series.over) as f64;
                    Some((place, row.median(figure)?))
                })
                .collect(),
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let over = match series.over.as_str() {
        "connections" => "connections",
        "in_flight" => "requests in flight",
        _ => "payload in bytes",
    };
    chart::lines(title, unit, over, &lines)
}
