//! What the user sees of a query.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::{
    Format,
    fanout::{Answer, Content, Event, Failure, Fanout, News},
};
use crate::{
    Outcome,
    axon::Axon,
    json,
    output::{self, in_ms, in_words, printable},
};

/// Prints events in the format asked for.
#[derive(Debug)]
pub(super) struct Reporter {
    format: Format,
    axons: Vec<Axon>,
    /// The numbers of chunks that have come.
    chunks: Vec<u64>,
    results: Vec<Option<std::result::Result<Answer, Failure>>>,
}

/// A line of JSON: a chunk, an answer or a failure.
#[derive(Default, Serialize)]
struct Line<'a> {
    axon: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    /// The bytes of a chunk in base64, or how many came in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_safe: Option<bool>,
}

impl Reporter {
    pub(super) fn new(format: Format, axons: &[Axon]) -> Self {
        Self {
            format,
            axons: axons.to_vec(),
            chunks: vec![0; axons.len()],
            results: axons.iter().map(|_| None).collect(),
        }
    }

    /// Prints until every axon has answered or failed.
    ///
    /// # Errors
    ///
    /// When stdout cannot be written.
    pub(super) async fn run(&mut self, fanout: &mut Fanout) -> Result<Outcome> {
        while let Some(Event { index, news }) = fanout.next().await {
            match news {
                News::Chunk(chunk) => self.chunk(index, &chunk)?,
                News::End(result) => {
                    self.end(index, &result)?;
                    self.results[index] = Some(result);
                }
            }
        }
        if self.format == Format::Table {
            self.table()?;
        }
        if self.results.iter().all(|r| matches!(r, Some(Ok(_)))) {
            Ok(Outcome::Done)
        } else {
            Ok(Outcome::Failed)
        }
    }

    fn chunk(&mut self, index: usize, chunk: &[u8]) -> Result<()> {
        let number = self.chunks[index];
        self.chunks[index] += 1;
        let text = std::str::from_utf8(chunk).ok();
        match self.format {
            Format::Raw => output::print_bytes(chunk),
            Format::Json => {
                let mut line = Line::of(self.axons[index]);
                line.chunk = Some(number);
                line.text = text;
                line.bytes = text.is_none().then(|| json::base64(chunk).into());
                output::print_json(&line)
            }
            Format::Table => {
                let text = match text {
                    Some(text) => printable(text),
                    None => json::bytes(chunk).to_string(),
                };
                if self.axons.len() == 1 {
                    return output::print_line(&text);
                }
                output::print_line(&format!("{}  {text}", self.axons[index]))
            }
        }
    }

    fn end(&self, index: usize, result: &std::result::Result<Answer, Failure>) -> Result<()> {
        let axon = self.axons[index];
        match self.format {
            Format::Table => Ok(()),
            Format::Json => output::print_json(&Line::of_end(axon, result)),
            // Stdout is for the bytes alone.
            Format::Raw => {
                if let Err(failure) = result {
                    eprintln!("{axon}: {}", told(failure));
                }
                Ok(())
            }
        }
    }

    fn table(&self) -> Result<()> {
        let results = self.axons.iter().zip(&self.results);
        let rows = results.filter_map(|(axon, result)| {
            let (time, what) = match result.as_ref()? {
                Ok(answer) => (in_words(answer.latency), shown(&answer.content)),
                Err(failure) => ("failed".into(), told(failure)),
            };
            Some([axon.hotkey.to_string(), axon.addr.to_string(), time, what])
        });
        output::print_table(["hotkey", "address", "time", "answer"], rows)
    }
}

impl<'a> Line<'a> {
    fn of(axon: Axon) -> Self {
        Self {
            axon: axon.to_string(),
            ..Self::default()
        }
    }

    fn of_end(axon: Axon, result: &'a std::result::Result<Answer, Failure>) -> Self {
        let mut line = Self::of(axon);
        line.ok = Some(result.is_ok());
        match result {
            Ok(answer) => {
                line.latency_ms = Some(in_ms(answer.latency));
                match &answer.content {
                    Content::Data(data) => line.data = Some(data),
                    Content::Stream { chunks, bytes } => {
                        line.chunks = Some(*chunks);
                        line.bytes = Some((*bytes).into());
                    }
                }
            }
            Err(failure) => {
                line.error = Some(&failure.error);
                line.phase = Some(failure.phase.to_string());
                line.retry_safe = Some(failure.retry_safe);
            }
        }
        line
    }
}

fn told(failure: &Failure) -> String {
    let retry = match failure.retry_safe {
        true => "a retry is safe",
        false => "the handler may have run",
    };
    let error = printable(&failure.error);
    format!("{} failed, {retry}:\n{error}", failure.phase)
}

/// Writes an answer so that it fits a cell: on one line if short, cut if large.
fn shown(content: &Content) -> String {
    let data = match content {
        Content::Stream { chunks, bytes } => return format!("{chunks} chunks, {bytes} bytes"),
        Content::Data(data) => data,
    };
    let line = data.to_string();
    let text = if line.len() <= CELL_WIDTH {
        line
    } else {
        format!("{data:#}")
    };
    let text = printable(&text);
    let mut cell = String::new();
    let mut is_cut = false;
    for (number, line) in text.lines().enumerate() {
        if number == CELL_LINES {
            is_cut = true;
            break;
        }
        if number > 0 {
            cell.push('\n');
        }
        match line.char_indices().nth(CELL_WIDTH) {
            None => cell.push_str(line),
            Some((end, _)) => {
                is_cut = true;
                cell.push_str(&line[..end]);
                cell.push('…');
            }
        }
    }
    if is_cut {
        cell.push_str("\n(cut, --output json prints all)");
    }
    cell
}

/// Widest line of an answer in the table, in characters.
const CELL_WIDTH: usize = 80;

/// Lines of an answer in the table.
const CELL_LINES: usize = 40;
