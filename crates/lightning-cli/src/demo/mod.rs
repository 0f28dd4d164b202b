//! `lightning demo`: a miner and two validators on this machine, over real sockets.
//!
//! The miner is a process of its own, so that it can be killed and started again. Every row of the
//! table is a check; the demo succeeds when all of them do.

mod miner;
mod process;
mod stage;
mod steps;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

pub(crate) use self::miner::run as run_miner;
use self::stage::Stage;
use crate::{
    Outcome,
    output::{self, in_ms, in_words},
};

/// A step and how it went.
struct Row {
    step: &'static str,
    outcome: Result<String>,
    time: Duration,
}

/// A row for programs.
#[derive(Serialize)]
struct JsonRow<'a> {
    step: &'a str,
    ok: bool,
    what: &'a str,
    ms: f64,
}

/// The table as it grows.
#[derive(Default)]
struct Playbill {
    rows: Vec<Row>,
}

/// Plays all steps and prints the table.
pub(crate) fn run(json: bool) -> Result<Outcome> {
    let started = Instant::now();
    let rows = crate::runtime()?.block_on(play())?;
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    if json {
        for row in &rows {
            output::print_json(&JsonRow {
                step: row.step,
                ok: row.outcome.is_ok(),
                what: &in_text(&row.outcome),
                ms: in_ms(row.time),
            })?;
        }
    } else {
        let cells = rows.iter().map(|row| {
            let mark = if row.outcome.is_ok() { "ok" } else { "FAILED" };
            let what = in_text(&row.outcome);
            [row.step.into(), mark.into(), what, in_words(row.time)]
        });
        output::print_table(["step", "", "what happened", "time"], cells)?;
        let total = in_words(started.elapsed());
        let verdict = match failed {
            0 => format!("all {} steps did what they should, in {total}", rows.len()),
            n => format!("{n} of {} steps failed, in {total}", rows.len()),
        };
        output::print_line(&verdict)?;
    }
    Ok(match failed {
        0 => Outcome::Done,
        _ => Outcome::Failed,
    })
}

async fn play() -> Result<Vec<Row>> {
    let mut bill = Playbill::default();
    // Without a miner there is nothing to show.
    let started = Instant::now();
    let mut stage = Stage::set().await.context("cannot start the miner")?;
    bill.add("the miner starts", Ok(stage.introduction()), started);

    let s = &mut stage;
    bill.step("validator 1 shakes hands", steps::handshake(s, 0))
        .await;
    bill.step("validator 2 shakes hands", steps::handshake(s, 1))
        .await;
    bill.step("unary echo", steps::echo(s)).await;
    bill.step("typed call", steps::typed(s)).await;
    bill.step("server stream", steps::server_stream(s)).await;
    bill.step("duplex upload", steps::upload(s)).await;
    bill.step("a handler knows its caller", steps::whoami(s))
        .await;
    bill.step("a stranger is refused", steps::stranger(s)).await;
    bill.step("a false miner is refused", steps::false_miner(s))
        .await;
    bill.step("a query given up stops its handler", steps::cancel(s))
        .await;
    bill.step("the miner is killed and starts again", steps::restart(s))
        .await;
    bill.step("both validators reconnect", steps::reconnect(s))
        .await;
    bill.step("the miner shuts down gracefully", steps::shutdown(s))
        .await;
    Ok(bill.rows)
}

impl Playbill {
    /// Plays a step. A failed one does not keep the others from being shown.
    async fn step(&mut self, step: &'static str, play: impl Future<Output = Result<String>>) {
        let started = Instant::now();
        let outcome = tokio::time::timeout(STEP_LIMIT, play)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {}", in_words(STEP_LIMIT))));
        self.add(step, outcome, started);
    }

    fn add(&mut self, step: &'static str, outcome: Result<String>, started: Instant) {
        let time = started.elapsed();
        self.rows.push(Row {
            step,
            outcome,
            time,
        });
    }
}

fn in_text(outcome: &Result<String>) -> String {
    match outcome {
        Ok(what) => what.clone(),
        Err(error) => output::printable(&format!("{error:#}")),
    }
}

/// Far beyond what a step takes on a busy machine; it bounds a demo that hangs.
const STEP_LIMIT: Duration = Duration::from_secs(15);
