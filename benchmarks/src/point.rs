//! Loads that run in a process of their own, so that its memory is theirs alone: peak memory, and
//! how throughput and memory grow.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    Plan,
    measure::{self, Load, Outcome, Sample, median_of},
    process,
    rivals::{Client, DEFAULT_STREAMS, Handler, Payload, Rival, Server},
};

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) connections: usize,
    /// Over all connections.
    pub(crate) in_flight: usize,
    pub(crate) payload_bytes: usize,
}

/// What a process that served and sent this load found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) sample: Sample,
    /// Memory once connected, before the load.
    pub(crate) before_bytes: u64,
    /// Memory at its peak.
    pub(crate) peak_bytes: u64,
}

/// One rival with one load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PointRow {
    pub(crate) rival: Rival,
    #[serde(flatten)]
    pub(crate) point: Point,
    /// One process each.
    pub(crate) runs: Vec<Outcome<Found>>,
}

impl PointRow {
    /// The median of a figure, when all runs were measured.
    pub(crate) fn median(&self, figure: fn(&Found) -> f64) -> Option<f64> {
        let measured: Vec<_> = self.runs.iter().filter_map(Outcome::measured).collect();
        if measured.len() < self.runs.len() {
            return None;
        }
        median_of(measured.into_iter().map(figure))
    }
}

/// A series: one quantity grows, the others stay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Series {
    /// What grows: `connections`, `in_flight` or `payload_bytes`.
    pub(crate) over: String,
    pub(crate) rows: Vec<PointRow>,
}

impl Point {
    /// The quantity of this name.
    pub(crate) fn quantity(&self, over: &str) -> usize {
        match over {
            "connections" => self.connections,
            "in_flight" => self.in_flight,
            _ => self.payload_bytes,
        }
    }
}

/// Peak memory with 32 requests of 1 MiB in flight.
pub(crate) async fn run_memory(plan: &Plan) -> Result<Vec<PointRow>> {
    let point = Point {
        connections: 1,
        in_flight: 32,
        payload_bytes: 1024 * 1024,
    };
    run_points(plan, &[point], plan.rounds.min(5)).await
}

/// Throughput and memory over connections, requests in flight, and payload.
pub(crate) async fn run_growth(plan: &Plan) -> Result<Vec<Series>> {
    let base = Point {
        connections: 1,
        in_flight: 32,
        payload_bytes: 1024,
    };
    let keep = |steps: &[usize]| -> Vec<usize> {
        let step = if plan.quick { 2 } else { 1 };
        steps.iter().copied().step_by(step).collect()
    };
    let connections = keep(&[1, 4, 16, 64, 256])
        .into_iter()
        .map(|connections| Point {
            connections,
            in_flight: connections.max(32),
            ..base
        })
        .collect();
    let in_flight = keep(&[1, 4, 16, 64, 256, 1024])
        .into_iter()
        .map(|in_flight| Point { in_flight, ..base })
        .collect();
    let payload = keep(&[
        256,
        1 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
    ])
    .into_iter()
    .map(|payload_bytes| Point {
        payload_bytes,
        ..base
    })
    .collect();
    let axes: [(&str, Vec<Point>); 3] = [
        ("connections", connections),
        ("in_flight", in_flight),
        ("payload_bytes", payload),
    ];
    let mut series = Vec::new();
    for (over, points) in axes {
        series.push(Series {
            over: over.into(),
            rows: run_points(plan, &points, plan.rounds.min(3)).await?,
        });
    }
    Ok(series)
}

async fn run_points(plan: &Plan, points: &[Point], rounds: usize) -> Result<Vec<PointRow>> {
    let mut rows: Vec<PointRow> = Vec::new();
    for &point in points {
        let first = rows.len();
        rows.extend(
            plan.rivals
                .iter()
                .filter(|r| !r.is_mixed())
                .map(|&rival| PointRow {
                    rival,
                    point,
                    runs: Vec::new(),
                }),
        );
        for round in 0..rounds {
            plan.progress(format_args!(
                "own process: {} connections, {} in flight, {} B, round {}",
                point.connections,
                point.in_flight,
                point.payload_bytes,
                round + 1
            ));
            for row in &mut rows[first..] {
                row.runs
                    .push(Outcome::of(in_child(plan, row.rival, point).await));
            }
        }
    }
    Ok(rows)
}

async fn in_child(plan: &Plan, rival: Rival, point: Point) -> Result<Found> {
    let arguments = [
        "point".to_owned(),
        format!("--rival={}", rival.id()),
        format!("--connections={}", point.connections),
        format!("--in-flight={}", point.in_flight),
        format!("--payload-bytes={}", point.payload_bytes),
        format!("--seconds={}", plan.duration.as_secs_f64()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    process::measure_in_child(&arguments, plan.duration + POINT_LIMIT).await
}

/// What the child does.
pub(crate) async fn run_here(rival: Rival, point: Point, duration: Duration) -> Result<Found> {
    let own = std::process::id();
    let max_streams = u32::try_from(point.in_flight)?.max(DEFAULT_STREAMS);
    let server = Server::start(rival, 0, max_streams).await?;
    let mut clients = Vec::new();
    for index in 0..point.connections {
        let client = Client::connect(rival, &server.info, u32::try_from(index)?).await?;
        clients.push(Arc::new(client));
    }
    let load = Load {
        handler: Handler::Async,
        in_flight: point.in_flight,
        payload: Payload::new(point.payload_bytes)?,
    };
    let (before_bytes, _) = process::memory(own)?;
    measure::sample(&clients, &load, duration / 4, &[own]).await?;
    let sample = measure::sample(&clients, &load, duration, &[own]).await?;
    let (_, peak_bytes) = process::memory(own)?;
    Ok(Found {
        sample,
        before_bytes,
        peak_bytes,
    })
}

const POINT_LIMIT: Duration = Duration::from_secs(60);
