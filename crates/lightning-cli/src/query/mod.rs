//! `lightning query`: one request to one or many miners.
//!
//! The data of the request and of the answers is JSON; see [`json`] for how it maps to what
//! travels.

mod fanout;
mod report;

use std::{
    fs,
    io::{self, Read},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use btlightning::{LightningClientConfig, Payload};
use clap::{Args, ValueEnum};
use lightning_keys::Keypair;

use self::{fanout::Fanout, report::Reporter};
use crate::{
    Outcome, axon::Axon, json, keys::KeyArgs, signal::StopSignal, transport::TransportArgs,
};

/// Whom to ask, what, and as whom.
#[derive(Debug, Args)]
#[command(after_long_help = DATA)]
pub(crate) struct QueryArgs {
    // Not a doc comment: rustdoc takes the brackets for a link.
    #[arg(
        long = "axon",
        value_name = "AXON",
        required = true,
        help = "Miner to ask, as HOTKEY@IP:PORT or HOTKEY@[IPv6]:PORT; may be repeated"
    )]
    axons: Vec<Axon>,
    /// Synapse type: which of the miner's handlers is to answer
    #[arg(long, value_name = "NAME")]
    synapse: String,
    /// Data of the request: a JSON object, @FILE that holds one, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    data: String,
    /// Ask for a stream, and print its chunks as they come
    #[arg(long)]
    stream: bool,
    /// What to print; `--json` is the same as `--output json`
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    output: Option<Format>,
    /// Seconds to wait for the answer, or for each chunk of a stream
    #[arg(long, value_name = "SECS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// Seconds to dial a miner, and again to authenticate with it
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    connect_timeout: Duration,
    /// Largest request or answer in bytes, 1 MiB to 4 GiB
    #[arg(long, value_name = "BYTES", default_value_t = btlightning::DEFAULT_MAX_FRAME_PAYLOAD)]
    max_frame_bytes: usize,
    #[command(flatten, next_help_heading = "Transport")]
    transport: TransportArgs,
    #[command(flatten, next_help_heading = "Hotkey (a new one unless given)")]
    key: KeyArgs,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table at the end, in the order of the axons; chunks of streams as text
    Table,
    /// A line of JSON for each result or chunk as it comes
    Json,
    /// The bytes of a stream and nothing else
    Raw,
}

/// What every miner is asked.
#[derive(Debug)]
struct Request {
    synapse: String,
    data: Payload,
    stream: bool,
    timeout: Duration,
}

/// Asks all miners at a time and prints what they answer.
pub(crate) fn run(args: &QueryArgs, json: bool) -> Result<Outcome> {
    let format = match (args.output, json) {
        (Some(format), _) => format,
        (None, true) => Format::Json,
        (None, false) => Format::Table,
    };
    if format == Format::Raw && (!args.stream || args.axons.len() != 1) {
        bail!("--output raw needs --stream and a single --axon");
    }
    if args.data == "-" && args.key.password.password_stdin {
        bail!("--data - and --password-stdin both want stdin, give one of them another way");
    }
    let request = Request {
        synapse: args.synapse.clone(),
        data: read_data(&args.data)?,
        stream: args.stream,
        timeout: args.timeout,
    };
    let transport = args.transport.options();
    let config = LightningClientConfig::builder()
        .connect_timeout(args.connect_timeout)
        .stream_chunk_timeout(args.timeout)
        .max_frame_payload_bytes(args.max_frame_bytes)
        .max_stream_payload_bytes(args.max_frame_bytes)
        .max_connections(args.axons.len())
        .build()?;
    let pair = match args.key.load()? {
        Some(pair) => pair,
        None => {
            let pair = Keypair::generate();
            eprintln!(
                "asking as the new hotkey {pair}; --wallet or --seed-file ask as yours",
                pair = pair.hotkey()
            );
            pair
        }
    };
    crate::runtime()?.block_on(async {
        let mut stop = StopSignal::listen().context("cannot listen for signals")?;
        let mut reporter = Reporter::new(format, &args.axons);
        let mut fanout = Fanout::start(&args.axons, request, config, transport, &pair).await?;
        let outcome = tokio::select! {
            outcome = reporter.run(&mut fanout) => outcome,
            () = stop.wait() => Ok(Outcome::Interrupted),
        };
        // In any case, so that miners drop what nobody waits for.
        fanout.stop().await;
        outcome
    })
}

fn read_data(data: &str) -> Result<Payload> {
    match data.strip_prefix('@') {
        Some(path) => {
            let text = fs::read(path).with_context(|| format!("cannot read --data @{path}"))?;
            json::parse_payload(&text, &format!("--data @{path}"))
        }
        None if data == "-" => {
            let mut text = Vec::new();
            io::stdin()
                .read_to_end(&mut text)
                .context("cannot read --data from stdin")?;
            json::parse_payload(&text, "--data from stdin")
        }
        None => json::parse_payload(data.as_bytes(), "--data"),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|secs| Duration::try_from_secs_f64(secs).ok())
        .filter(|time| (Duration::from_millis(1)..=LONGEST_WAIT).contains(time))
        .ok_or_else(|| "expected seconds from 0.001 to 86400".into())
}

/// A day: what takes longer is no request.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

const DATA: &str = "\
Data:
  Requests and answers are JSON objects. Numbers are 64-bit integers, signed or unsigned, or 64-bit
  floats. What JSON lacks is an object with one key, both ways:
    {\"$bytes\": \"<base64>\"}             binary data
    {\"$float\": \"nan\"}                  also \"inf\" and \"-inf\"
    {\"$ext\": [<type>, \"<base64>\"]}     a MessagePack extension value

Output:
  table   answers in a table, in the order of the axons; chunks of a stream as lines of text, or as
          {\"$bytes\": ..} where they are not UTF-8
  json    a line for each result as it comes: axon, ok, latency_ms, data; for a failure error, phase
          (dial, handshake, send, wait) and retry_safe, which says that the handler has certainly
          not run. With --stream a line for each chunk (axon, chunk, text or bytes), then the result
  raw     the bytes of the chunks of one stream, with nothing in between

Exit codes:
  0 all answered, 1 some failed, 2 nothing was sent (arguments, data, key), 130 interrupted

Examples:
  lightning query --axon HOTKEY@192.0.2.1:8443 --synapse echo --data '{\"text\": \"hello\"}'
  lightning query --axon HOTKEY@[2001:db8::1]:8443 --synapse echo --data @request.json --json
  lightning query --axon HOTKEY@192.0.2.1:8443 --synapse tokens --stream --wallet mine";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_finite_and_positive() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        assert_eq!(seconds("86400").unwrap(), LONGEST_WAIT);
        for bad in ["0", "-1", "nan", "inf", "1e300", "86401", "", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
