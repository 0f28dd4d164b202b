//! `lightning serve`: a miner that echoes, or answers with commands.

mod allow;
mod command;
mod echo;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use btlightning::{LightningServer, LightningServerConfig, Sr25519Signer};
use clap::{Args, ValueEnum};
use lightning_keys::PublicKey;
use serde::Serialize;
use tokio::sync::Semaphore;

use self::{
    allow::{AllowedHotkeys, AllowedSources},
    command::{AnswerCommand, Shell, StreamCommand},
    echo::Echo,
};
use crate::{Outcome, keys::KeyArgs, output, signal::StopSignal, transport::TransportArgs};

/// Where to listen, as whom, and what to answer.
#[derive(Debug, Args)]
#[command(after_long_help = COMMANDS)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    #[command(flatten, next_help_heading = "Hotkey")]
    key: KeyArgs,
    #[command(flatten, next_help_heading = "Handlers")]
    handlers: HandlerArgs,
    #[command(flatten, next_help_heading = "Who may call")]
    callers: CallerArgs,
    #[command(flatten, next_help_heading = "Limits")]
    limits: LimitArgs,
    #[command(flatten, next_help_heading = "Transport")]
    transport: TransportArgs,
}

#[derive(Debug, Args)]
struct HandlerArgs {
    /// Answer this synapse type with what it sends; `echo` when there is no handler at all
    #[arg(long, value_name = "NAME")]
    echo: Vec<String>,
    /// Answer this synapse type with the output of a shell command
    #[arg(long, value_name = "NAME=CMD")]
    command: Vec<NamedCommand>,
    /// Answer this synapse type with the output of a shell command, in chunks as it comes
    #[arg(long, value_name = "NAME=CMD")]
    stream_command: Vec<NamedCommand>,
    /// What a chunk of a stream command is
    #[arg(long, value_name = "UNIT", default_value = "line")]
    chunk: ChunkUnit,
    /// Commands that run at a time; further requests wait
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    max_commands: usize,
}

#[derive(Debug, Args)]
struct CallerArgs {
    /// Let only this hotkey call; may be repeated
    #[arg(long, value_name = "HOTKEY")]
    allow: Vec<PublicKey>,
    /// Let only the hotkeys in this file call, one a line; read again at every refresh
    #[arg(long, value_name = "FILE")]
    allow_file: Option<PathBuf>,
    /// Seconds between two readings of the file
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = 60,
        requires = "allow_file"
    )]
    allow_refresh: u64,
    /// Answer packets from this IP address only; may be repeated
    #[arg(long, value_name = "IP")]
    allow_ip: Vec<IpAddr>,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// Hotkeys that may be connected at a time
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_connections: usize,
    /// Requests that one connection may have open
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_streams: u32,
    /// Handshakes that one IP address may try in a minute
    #[arg(long, value_name = "N", default_value_t = 30)]
    max_handshakes: u32,
    /// Seconds a handler may take
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    handler_timeout: u64,
    /// Largest request or answer in bytes, 1 MiB to 4 GiB
    #[arg(long, value_name = "BYTES", default_value_t = btlightning::DEFAULT_MAX_FRAME_PAYLOAD)]
    max_frame_bytes: usize,
    /// Seconds that running handlers may go on after Ctrl-C or SIGTERM; a second one ends them
    #[arg(long, value_name = "SECS", default_value_t = 5)]
    grace: u64,
}

/// How the output of a stream command is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChunkUnit {
    /// A line, without its end
    Line,
    /// Whatever the command has written at a time, up to 64 KiB
    Block,
}

/// A synapse type and what answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedCommand {
    name: String,
    command: String,
}

/// What is printed once others may call.
#[derive(Serialize)]
struct Listening<'a> {
    listening: SocketAddr,
    hotkey: &'a str,
}

/// Serves until it is told to stop.
pub(crate) fn run(args: &ServeArgs, json: bool) -> Result<Outcome> {
    let pair = args.key.load()?.context(
        "no hotkey: give --wallet NAME, --seed-file FILE, --generate or the variable LIGHTNING_SEED",
    )?;
    args.handlers.check_names()?;
    let mut server = LightningServer::with_config(
        pair.hotkey(),
        args.listen.ip().to_string(),
        args.listen.port(),
        args.config()?,
    )?;
    server.set_miner_signer(Box::new(Sr25519Signer::from_keypair(pair)));
    server.set_transport(args.transport.options())?;
    args.callers.install(&mut server)?;
    args.handlers.install(
        &server,
        args.key.secret_variables(),
        args.limits.max_frame_bytes,
    );
    crate::runtime()?.block_on(serve(server, Duration::from_secs(args.limits.grace), json))
}

async fn serve(mut server: LightningServer, grace: Duration, json: bool) -> Result<Outcome> {
    // Before the line that tells others they may begin.
    let mut stop = StopSignal::listen().context("cannot listen for signals")?;
    server.start().await?;
    let addr = server.local_addr()?;
    if json {
        output::print_json(&Listening {
            listening: addr,
            hotkey: server.hotkey(),
        })?;
    } else {
        output::print_line(&format!("listening on {addr} as {}", server.hotkey()))?;
    }
    let serving = server.serve_forever();
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => {
            ended?;
            bail!("the endpoint closed by itself");
        }
        () = stop.wait() => {}
    }
    eprintln!("stopping, handlers have {} s to finish", grace.as_secs());
    tokio::select! {
        (served, stopped) = async { tokio::join!(&mut serving, server.shutdown(grace)) } => {
            served?;
            let cut_off = stopped?;
            if cut_off > 0 {
                eprintln!("{cut_off} requests were cut off");
            }
        }
        () = stop.wait() => {
            server.shutdown(Duration::ZERO).await?;
        }
    }
    Ok(Outcome::Done)
}

impl ServeArgs {
    fn config(&self) -> Result<LightningServerConfig> {
        let limits = &self.limits;
        // The library wants handlers to end before a silent connection does.
        let idle = IDLE_TIMEOUT_SECS.max(limits.handler_timeout + IDLE_MARGIN_SECS);
        Ok(LightningServerConfig::builder()
            .idle_timeout_secs(idle)
            .handler_timeout_secs(limits.handler_timeout)
            .max_connections(limits.max_connections)
            .max_concurrent_bidi_streams(limits.max_streams)
            .max_handshake_attempts_per_minute(limits.max_handshakes)
            .max_frame_payload_bytes(limits.max_frame_bytes)
            .require_validator_permit(self.callers.are_limited())
            .validator_permit_refresh_secs(self.callers.allow_refresh)
            .enforce_source_allowlist(!self.callers.allow_ip.is_empty())
            .build()?)
    }
}

impl HandlerArgs {
    fn commands(&self) -> impl Iterator<Item = &NamedCommand> {
        self.command.iter().chain(&self.stream_command)
    }

    /// The library lets the last handler of a type win, which hides a typing error.
    fn check_names(&self) -> Result<()> {
        let mut names = HashSet::new();
        for name in self.echo.iter().chain(self.commands().map(|c| &c.name)) {
            if !names.insert(name) {
                bail!("the synapse type {name:?} has two handlers");
            }
        }
        Ok(())
    }

    fn install(&self, server: &LightningServer, secrets: Vec<String>, max_frame_bytes: usize) {
        let slots = Arc::new(Semaphore::new(self.max_commands));
        let secrets: Arc<[String]> = secrets.into();
        let shell = |c: &NamedCommand| {
            Shell::new(&c.command, slots.clone(), secrets.clone(), max_frame_bytes)
        };
        for name in &self.echo {
            server.register_handler(name, Arc::new(Echo));
        }
        for c in &self.command {
            server.register_handler(&c.name, Arc::new(AnswerCommand::new(shell(c))));
        }
        for c in &self.stream_command {
            server.register_stream_handler(
                &c.name,
                Arc::new(StreamCommand::new(shell(c), self.chunk)),
            );
        }
        if self.echo.is_empty() && self.commands().next().is_none() {
            server.register_handler("echo", Arc::new(Echo));
        }
    }
}

impl CallerArgs {
    fn are_limited(&self) -> bool {
        !self.allow.is_empty() || self.allow_file.is_some()
    }

    fn install(&self, server: &mut LightningServer) -> Result<()> {
        if self.are_limited() {
            let allowed = AllowedHotkeys::new(&self.allow, self.allow_file.clone());
            // A mistake in the file shows now, and not as a miner that refuses everybody.
            allowed.read()?;
            server.set_validator_permit_resolver(Box::new(allowed));
        }
        if !self.allow_ip.is_empty() {
            server.set_source_address_resolver(Box::new(AllowedSources::new(&self.allow_ip)));
        }
        Ok(())
    }
}

impl FromStr for NamedCommand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => Ok(Self {
                name: name.to_owned(),
                command: command.to_owned(),
            }),
            _ => Err("expected NAME=CMD, a synapse type and a shell command".into()),
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        // More is beyond what a semaphore can count, and beyond any machine.
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err("expected a number from 1 to 1000000".into()),
    }
}

/// The library's default.
const IDLE_TIMEOUT_SECS: u64 = 150;

/// How much longer a silent connection lives than a handler.
const IDLE_MARGIN_SECS: u64 = 30;

const COMMANDS: &str = "\
Commands:
  A command runs in a shell, once for each request. Its stdin is the data of the request as one
  JSON object; the caller stands in the variables LIGHTNING_HOTKEY, LIGHTNING_SYNAPSE,
  LIGHTNING_CONNECTION_ID and LIGHTNING_REMOTE_ADDR. What a --command writes to stdout must be one
  JSON object, the answer; what a --stream-command writes goes out as it comes. Binary data is
  {\"$bytes\": \"<base64>\"} both ways. An exit code other than 0 fails the request; the caller
  learns that it failed, and why stays in the log. A command is killed, with every process it has
  started, when its caller gives up or the handler timeout is over.

Example:
  lightning serve --seed-file miner.seed --command 'total=jq \"{total: (.numbers | add)}\"'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_may_hold_equals_signs() {
        let named: NamedCommand = "a=b=c".parse().unwrap();
        assert_eq!((named.name.as_str(), named.command.as_str()), ("a", "b=c"));
        for bad in ["", "a", "=c", "a=", "a= "] {
            let error = bad.parse::<NamedCommand>().unwrap_err();
            assert!(error.contains("NAME=CMD"), "{bad:?}: {error}");
        }
    }
}
