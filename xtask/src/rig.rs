//! Rigs: what needs root, network namespaces or a long time, and so is no part of `test`.
//!
//! `mtu` joins two namespaces with a veth pair, lets a client and a server exchange requests over
//! one connection, and shrinks the link under them. The simulated twin of it, which needs nothing,
//! is `crates/lightning-quic/tests/path/mtu.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::cargo::{build, cargo};
use crate::process::shown;

/// The rigs.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Rig {
    /// Shrinks a link from 1500 to 1280 bytes under a connection. Needs root and iproute2.
    Mtu {
        /// Exchanges of each size before the link shrinks, and after it.
        #[arg(long, value_name = "N", default_value_t = 20,
              value_parser = clap::value_parser!(u32).range(3..=10_000))]
        exchanges: u32,
    },
}

/// Runs a rig.
pub(crate) fn run(rig: Rig) -> Result<()> {
    match rig {
        Rig::Mtu { exchanges } => mtu(exchanges as usize),
    }
}

fn mtu(exchanges: usize) -> Result<()> {
    let scope = ["build", "--package", "lightning-tests", "--bin", PEER];
    let executables = build(&mut cargo(&scope))?;
    let peer = executables
        .iter()
        .find(|made| made.name == PEER)
        .with_context(|| format!("cargo did not build `{PEER}`"))?;
    println!(
        "{:<22} {:>9} {:>12} {:>14} {:>12}",
        "what shrinks", "bytes", "before, ms", "longest, ms", "after, ms"
    );
    let mut stalled = Vec::new();
    for shrinks in Shrinks::ALL {
        let samples = exchange(&peer.path, shrinks, exchanges)
            .with_context(|| format!("when {} shrinks", shrinks.name()))?;
        for (bytes, sizes) in &samples {
            let before = median(&sizes.before);
            let after = median(&sizes.after[sizes.after.len() / 2..]);
            let longest = sizes.after.iter().copied().max().unwrap_or_default();
            println!(
                "{:<22} {bytes:>9} {:>12} {:>14} {:>12}",
                shrinks.name(),
                millis(before),
                millis(longest),
                millis(after),
            );
            if longest > LONGEST_PAUSE {
                stalled.push(format!("{bytes} bytes when {} shrinks", shrinks.name()));
            }
        }
    }
    ensure!(
        stalled.is_empty(),
        "stalled for more than {LONGEST_PAUSE:?}: {}",
        stalled.join(", ")
    );
    Ok(())
}

/// Which end of the link carries less from then on.
///
/// An end that has shrunk refuses to send large packets, of which the sender learns, and drops
/// those it receives, of which nobody learns.
#[derive(Debug, Clone, Copy)]
enum Shrinks {
    Client,
    Server,
    Both,
}

impl Shrinks {
    const ALL: [Self; 3] = [Self::Client, Self::Server, Self::Both];

    fn name(self) -> &'static str {
        match self {
            Self::Client => "the client's end",
            Self::Server => "the server's end",
            Self::Both => "both ends",
        }
    }
}

/// Times of exchanges of one size.
#[derive(Debug, Default)]
struct Times {
    before: Vec<Duration>,
    after: Vec<Duration>,
}

fn exchange(program: &Path, shrinks: Shrinks, exchanges: usize) -> Result<BTreeMap<usize, Times>> {
    let pair = NamespacePair::new()?;
    let server = Peer::start(program, &pair.server, "serve")?;
    let line = server.line()?;
    ensure!(line == "listening", "the server said `{line}`");
    let client = Peer::start(program, &pair.client, "drive")?;
    let mut samples = BTreeMap::<usize, Times>::new();
    for _ in 0..SIZES * exchanges {
        let (bytes, took) = client.sample()?;
        samples.entry(bytes).or_default().before.push(took);
    }
    pair.shrink(shrinks)?;
    for _ in 0..SIZES * exchanges {
        let (bytes, took) = client.sample()?;
        samples.entry(bytes).or_default().after.push(took);
    }
    Ok(samples)
}

/// Two namespaces joined by a veth pair of 1500 bytes; removed when dropped.
struct NamespacePair {
    client: String,
    server: String,
}

impl NamespacePair {
    fn new() -> Result<Self> {
        let pair = Self {
            client: format!("lightning-client-{}", id()),
            server: format!("lightning-server-{}", id()),
        };
        for name in [&pair.client, &pair.server] {
            ip(&["netns", "add", name]).context(
                "cannot make a network namespace: this rig needs root and iproute2 (`ip`)",
            )?;
        }
        ip(&[
            "link",
            "add",
            LINK,
            "netns",
            &pair.client,
            "type",
            "veth",
            "peer",
            "name",
            LINK,
            "netns",
            &pair.server,
        ])?;
        for (name, addr) in [(&pair.client, CLIENT_ADDR), (&pair.server, SERVER_ADDR)] {
            ip(&[
                "-n",
                name,
                "addr",
                "add",
                &format!("{addr}/24"),
                "dev",
                LINK,
            ])?;
            // One segment at a time: the kernel cuts batches before the link, so that each packet
            // is judged by its own length.
            ip(&[
                "-n",
                name,
                "link",
                "set",
                LINK,
                "mtu",
                "1500",
                "gso_max_segs",
                "1",
                "up",
            ])?;
        }
        Ok(pair)
    }

    fn shrink(&self, shrinks: Shrinks) -> Result<()> {
        let ends: &[&String] = match shrinks {
            Shrinks::Client => &[&self.client],
            Shrinks::Server => &[&self.server],
            Shrinks::Both => &[&self.client, &self.server],
        };
        for name in ends {
            ip(&["-n", name, "link", "set", LINK, "mtu", "1280"])?;
        }
        Ok(())
    }
}

impl Drop for NamespacePair {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            // There may be none yet. The link goes with them.
            let _ = Command::new("ip")
                .args(["netns", "del", name])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A process in a namespace, and the lines it prints.
struct Peer {
    child: Child,
    lines: Receiver<String>,
}

impl Peer {
    fn start(program: &Path, namespace: &str, role: &str) -> Result<Self> {
        let program: PathBuf = program.canonicalize()?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace])
            .arg(program)
            .args([role, SERVER_ADDR, PORT])
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", shown(&command)))?;
        let stdout = child.stdout.take().context("the process has no stdout")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn line(&self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("nothing happened for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the process ended"),
        }
    }

    fn sample(&self) -> Result<(usize, Duration)> {
        let line = self.line()?;
        let (bytes, micros) = line.split_once(' ').context("not a sample")?;
        Ok((bytes.parse()?, Duration::from_micros(micros.parse()?)))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program, so this ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    let status = command.args(args).status().context("cannot start `ip`")?;
    ensure!(
        status.success(),
        "`{}` ended with {status}",
        shown(&command)
    );
    Ok(())
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// The program at both ends, of the package `lightning-tests`.
const PEER: &str = "path-peer";
/// How many sizes the client goes through.
const SIZES: usize = 3;
const LINK: &str = "lightning0";
const CLIENT_ADDR: &str = "198.18.0.1";
const SERVER_ADDR: &str = "198.18.0.2";
const PORT: &str = "8443";

/// What `docs/design.md` promises is 300 ms and ten round trips for each direction; the rest is
/// for a machine that has other things to do.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Silence after which a side is given up.
const PATIENCE: Duration = Duration::from_secs(30);
