//! What goes to stdout.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context, Result};
use comfy_table::{Cells, LineStyle, Table, presets};
use serde::Serialize;

/// Prints a line at once, whole even when several tasks print.
pub(crate) fn print_line(text: &str) -> Result<()> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Prints a value as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print_line(&serde_json::to_string(value).context("cannot encode the output")?)
}

/// Prints bytes as they are, at once.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

/// Prints rows under a header.
pub(crate) fn print_table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<()> {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut style = presets::UTF8_HORIZONTAL_ONLY;
    // Lines between the rows are clutter, unless one could not tell the rows apart.
    if !rows.iter().flatten().any(|cell| cell.contains('\n')) {
        style = style.row_separator(LineStyle::none());
    }
    let mut table = Table::new();
    table.load_style(style);
    table.set_header(Cells::from(header));
    table.add_rows(rows);
    print_line(&table.trim_fmt())
}

/// Prints fields, one a line.
pub(crate) fn print_fields(fields: &[(&str, String)]) -> Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        print_line(&format!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// Escapes control characters other than newline and tab.
///
/// Text from a peer could otherwise move the cursor and rewrite what the terminal shows.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes a time for people.
pub(crate) fn in_words(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// Writes a time for programs.
pub(crate) fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2J\rb\u{9b}\n\tü"),
            "a\\u{1b}[2J\\rb\\u{9b}\n\tü"
        );
    }

    #[test]
    fn times_have_a_fitting_unit() {
        assert_eq!(in_words(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(in_words(Duration::from_millis(123)), "123 ms");
        assert_eq!(in_words(Duration::from_millis(12_345)), "12.35 s");
        assert_eq!(in_ms(Duration::from_nanos(1_234_567)), 1.235);
    }
}
