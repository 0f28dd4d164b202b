//! Steps of a recipe: a heading for each, and a table of times at the end.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What ran so far, and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

impl Report {
    /// Runs a recipe and prints the table of its steps, whether it passed or not.
    pub(crate) fn collect(recipe: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut report = Self::default();
        let outcome = recipe(&mut report);
        println!("\n{report}");
        outcome
    }

    /// Runs one step under a heading; its error names the step.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = run();
        let step = Step {
            name: name.to_owned(),
            elapsed: started.elapsed(),
            passed: outcome.is_ok(),
        };
        println!("-- {step}");
        self.steps.push(step);
        outcome.with_context(|| format!("step `{name}` failed"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.steps.iter().map(|step| step.elapsed).sum();
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "{:<12} {:>9}", "total", seconds(total))
    }
}

#[derive(Debug)]
struct Step {
    name: String,
    elapsed: Duration,
    passed: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "ok" } else { "FAILED" };
        write!(
            f,
            "{:<12} {:>9}  {verdict}",
            self.name,
            seconds(self.elapsed)
        )
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_is_named_and_kept_in_the_table() {
        let mut report = Report::default();
        report.step("first", || Ok(())).unwrap();
        let error = report
            .step("second", || anyhow::bail!("no luck"))
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "step `second` failed: no luck");

        let table = report.to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(
            lines[0].starts_with("first ") && lines[0].ends_with(" ok"),
            "{table}"
        );
        assert!(
            lines[1].starts_with("second ") && lines[1].ends_with(" FAILED"),
            "{table}"
        );
        assert!(lines[2].starts_with("total "), "{table}");
    }
}
