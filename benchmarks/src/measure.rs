//! One measurement: requests in a closed loop for a while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    process,
    rivals::{Client, Handler, Payload},
};

/// What one measurement found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Requests answered.
    pub(crate) requests: u64,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Requests per second.
    pub(crate) per_second: f64,
    /// Latency in microseconds, median.
    pub(crate) p50_us: f64,
    /// 95th percentile.
    pub(crate) p95_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// Processor time of client and server for one request, in microseconds.
    pub(crate) cpu_us_per_request: f64,
}

/// A measurement, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome<T> {
    /// What was measured.
    Measured(T),
    /// The error.
    Failed(String),
}

impl<T> Outcome<T> {
    /// Keeps the value or the error's text.
    pub(crate) fn of(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Measured(value),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    /// The value, where there is one.
    pub(crate) fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Failed(_) => None,
        }
    }

    /// The error, where there is one.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Measured(_) => None,
            Self::Failed(error) => Some(error),
        }
    }
}

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// To which handler.
    pub(crate) handler: Handler,
    /// Requests in flight, over all clients.
    pub(crate) in_flight: usize,
    /// What each carries.
    pub(crate) payload: Payload,
}

/// Sends requests for `duration`: as many callers as requests in flight, each with its next
/// request as soon as the last one is answered.
///
/// Requests that are under way at the end are waited for and counted. `pids` are the processes
/// whose processor time counts.
pub(crate) async fn sample(
    clients: &[Arc<Client>],
    load: &Load,
    duration: Duration,
    pids: &[u32],
) -> Result<Sample> {
    ensure!(!clients.is_empty(), "no client");
    let cpu_before = process::cpu_time(pids)?;
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..load.in_flight {
        let client = clients[caller % clients.len()].clone();
        callers.spawn(call_until(client, load.clone(), started + duration));
    }
    let mut latencies = Vec::new();
    let all = async {
        while let Some(joined) = callers.join_next().await {
            latencies.extend(joined??);
        }
        anyhow::Ok(())
    };
    timeout(duration + STALL_LIMIT, all)
        .await
        .with_context(|| format!("stalled: requests unanswered after {STALL_LIMIT:?}"))??;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = process::cpu_time(pids)?.saturating_sub(cpu_before);

    latencies.sort_unstable();
    let requests = latencies.len() as f64;
    Ok(Sample {
        requests: latencies.len() as u64,
        seconds,
        per_second: requests / seconds,
        p50_us: percentile_us(&latencies, 50),
        p95_us: percentile_us(&latencies, 95),
        p99_us: percentile_us(&latencies, 99),
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests,
    })
}

/// The medians, each figure by itself.
pub(crate) fn median(samples: &[Sample]) -> Option<Sample> {
    let of = |figure: fn(&Sample) -> f64| median_of(samples.iter().map(figure));
    Some(Sample {
        requests: samples.iter().map(|sample| sample.requests).sum(),
        seconds: samples.iter().map(|sample| sample.seconds).sum(),
        per_second: of(|s| s.per_second)?,
        p50_us: of(|s| s.p50_us)?,
        p95_us: of(|s| s.p95_us)?,
        p99_us: of(|s| s.p99_us)?,
        cpu_us_per_request: of(|s| s.cpu_us_per_request)?,
    })
}

/// The middle value; of two, their mean.
pub(crate) fn median_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

async fn call_until(client: Arc<Client>, load: Load, stop: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        // At least one each, however short the time.
        if sent >= stop && !latencies.is_empty() {
            return Ok(latencies);
        }
        client.echo(load.handler, &load.payload).await?;
        latencies.push(sent.elapsed());
    }
}

/// The smallest value that `percent` of all do not exceed. `sorted` is not empty.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e6
}

/// Longer than the slowest rival needs for the most in flight.
const STALL_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_medians() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        let found = [50, 95, 99].map(|percent| percentile_us(&sorted, percent).round());
        assert_eq!(found, [100.0, 190.0, 198.0]);
        assert_eq!(percentile_us(&sorted[..1], 99).round(), 1.0);
        assert_eq!(median_of([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median_of([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median_of([]), None);
    }
}
