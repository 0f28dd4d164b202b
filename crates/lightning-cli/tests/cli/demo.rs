//! `demo`: every step does what it should.

use crate::program::run;

const STEPS: [&str; 14] = [
    "the miner starts",
    "validator 1 shakes hands",
    "validator 2 shakes hands",
    "unary echo",
    "typed call",
    "server stream",
    "duplex upload",
    "a handler knows its caller",
    "a stranger is refused",
    "a false miner is refused",
    "a query given up stops its handler",
    "the miner is killed and starts again",
    "both validators reconnect",
    "the miner shuts down gracefully",
];

#[test]
fn prints_every_step() {
    let done = run(["demo"]).expect_code(0);
    let mut rest = done.text();
    for step in STEPS {
        let (_, after) = rest.split_once(step).unwrap_or_else(|| {
            panic!("no row `{step}` in its place: {}", done.text());
        });
        rest = after;
    }
    assert!(rest.contains("all 14 steps did what they should"), "{rest}");
    assert_eq!(done.stderr, "");
}

#[test]
fn prints_rows_for_programs() {
    let rows = run(["demo", "--json"]).expect_code(0).json_lines();
    let steps: Vec<_> = rows
        .iter()
        .map(|row| row["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, STEPS);
    assert!(rows.iter().all(|row| row["ok"] == true), "{rows:?}");
}
