//! Child processes of this program, and what `/proc` says of processes.

use std::{env, fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    rivals::{Rival, Server, ServerInfo},
    veth,
};

/// Servers in a process of their own; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    /// The servers.
    pub(crate) servers: Vec<ServerInfo>,
}

impl ServerProcess {
    /// Starts `count` servers that `rival` talks to, as the miners from `first_miner` on.
    pub(crate) async fn start(
        rival: Rival,
        first_miner: u32,
        count: u32,
        max_streams: u32,
    ) -> Result<Self> {
        Self::start_in(None, rival, first_miner, count, max_streams).await
    }

    /// Like [`start`](Self::start), in the server's namespace of a pair.
    pub(crate) async fn start_in(
        namespace: Option<&str>,
        rival: Rival,
        first_miner: u32,
        count: u32,
        max_streams: u32,
    ) -> Result<Self> {
        let rival = rival.id();
        let numbers = [first_miner, count, max_streams].map(|number| number.to_string());
        let [first_miner, count, max_streams] = &numbers;
        let mut arguments = vec![
            "serve",
            "--rival",
            &rival,
            "--first-miner",
            first_miner,
            "--count",
            count,
            "--max-streams",
            max_streams,
        ];
        let host = veth::SERVER.to_string();
        let mut command = match namespace {
            None => command(&arguments)?,
            Some(namespace) => {
                arguments.extend(["--host", &host]);
                command_in(namespace, &arguments)?
            }
        };
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the child has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_LIMIT, lines.next_line())
            .await
            .context("the server process did not start in time")??
            .context("the server process ended at once")?;
        let servers = serde_json::from_str(&line).context("cannot read the server's address")?;
        Ok(Self { child, servers })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the server process has ended")
    }
}

/// What the child of [`ServerProcess`] does: serves until its input is closed.
pub(crate) async fn serve(
    rival: Rival,
    first_miner: u32,
    count: u32,
    max_streams: u32,
) -> Result<()> {
    let mut servers = Vec::new();
    for miner in first_miner..first_miner + count {
        servers.push(Server::start(rival, miner, max_streams).await?);
    }
    print_result(
        &servers
            .iter()
            .map(|server| &server.info)
            .collect::<Vec<_>>(),
    )?;
    wait_for_end().await
}

/// Waits until the parent closes this process's input, as it does when it ends.
pub(crate) async fn wait_for_end() -> Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// Hands a result to the parent process.
pub(crate) fn print_result<T: Serialize>(result: &T) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

/// Runs this program with other arguments and reads the result it prints.
pub(crate) async fn measure_in_child<T: DeserializeOwned>(
    arguments: &[&str],
    limit: Duration,
) -> Result<T> {
    read_result(command(arguments)?, limit).await
}

/// Runs a command and reads the result that it prints.
pub(crate) async fn read_result<T: DeserializeOwned>(
    mut command: Command,
    limit: Duration,
) -> Result<T> {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let output = timeout(limit, command.output())
        .await
        .with_context(|| format!("still running after {limit:?}"))??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ended with {}: {}",
        output.status,
        errors.trim()
    );
    let text = String::from_utf8(output.stdout).context("the child's output is not UTF-8")?;
    let Some(line) = text.lines().last() else {
        bail!("no result: {}", errors.trim())
    };
    serde_json::from_str(line).context("cannot read the child's result")
}

/// This program with other arguments, killed when the handle is dropped.
pub(crate) fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// The same in a network namespace.
pub(crate) fn command_in(namespace: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(env::current_exe()?)
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// Processor time that processes have used so far, user and system, all threads.
pub(crate) fn cpu_time(pids: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .context("processor times need Linux's /proc")?;
        // The second field, the program's name, may hold spaces and parentheses.
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("cannot read /proc/PID/stat")?;
        for field in fields.split(' ').skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Memory of a process now, and at its peak, in bytes.
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .context("memory figures need Linux's /proc")?;
    let field = |name: &str| -> Result<u64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("/proc/PID/status has no {name}"))?;
        let kib: u64 = line
            .split_whitespace()
            .next()
            .context("an empty field")?
            .parse()?;
        Ok(kib * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

const START_LIMIT: Duration = Duration::from_secs(30);
