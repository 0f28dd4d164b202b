//! Handlers that run a shell command for every request.

use std::{process::Stdio, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    ChunkSink, ChunkStream, LightningError, Payload, RequestContext, RequestHandler, Result,
    StreamHandler,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
};

use super::ChunkUnit;
use crate::json;

/// A shell command and what all of its runs share.
#[derive(Debug)]
pub(super) struct Shell {
    command: String,
    /// Requests cost little and processes much: without a bound, callers could start as many as
    /// they may open streams.
    slots: Arc<Semaphore>,
    secret_variables: Arc<[String]>,
    max_output_bytes: u64,
}

/// Answers with the JSON object that a command prints.
#[derive(Debug)]
pub(super) struct AnswerCommand {
    shell: Shell,
}

/// Answers with what a command prints, in chunks.
#[derive(Debug)]
pub(super) struct StreamCommand {
    shell: Shell,
    unit: ChunkUnit,
}

/// A command that is running. Dropping it kills the command and what it has started.
struct Running {
    child: Child,
}

impl Shell {
    pub(super) fn new(
        command: &str,
        slots: Arc<Semaphore>,
        secret_variables: Arc<[String]>,
        max_frame_bytes: usize,
    ) -> Self {
        Self {
            command: command.to_owned(),
            slots,
            secret_variables,
            max_output_bytes: (max_frame_bytes as u64).saturating_mul(JSON_GROWTH),
        }
    }

    fn start(&self, context: &RequestContext) -> Result<Running> {
        #[cfg(unix)]
        let mut command = Command::new("sh");
        #[cfg(unix)]
        command.arg("-c").arg(&self.command).process_group(0);
        #[cfg(windows)]
        let mut command = Command::new("cmd");
        #[cfg(windows)]
        command.arg("/C").raw_arg(&self.command);

        for variable in &*self.secret_variables {
            command.env_remove(variable);
        }
        command
            .env("LIGHTNING_HOTKEY", context.hotkey())
            .env("LIGHTNING_SYNAPSE", context.synapse_type())
            .env("LIGHTNING_CONNECTION_ID", context.connection_id())
            .env("LIGHTNING_REMOTE_ADDR", context.remote_addr().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|e| failed(format!("cannot start the command: {e}")))?;
        Ok(Running { child })
    }

    /// Runs the command once: `data` to its stdin, its stdout to `read`.
    async fn run<T>(
        &self,
        context: &RequestContext,
        data: &Payload,
        read: impl AsyncFnOnce(ChildStdout) -> Result<T>,
    ) -> Result<T> {
        let mut input = serde_json::to_vec(&json::from_payload(data).map_err(in_full)?)
            .map_err(LightningError::handler)?;
        input.push(b'\n');
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(LightningError::handler)?;
        let mut running = self.start(context)?;
        let (Some(stdin), Some(stdout)) = (running.child.stdin.take(), running.child.stdout.take())
        else {
            return Err(failed("the command has no stdin and stdout"));
        };
        // Both at a time: a command may print before it has read all, and stop when nobody reads.
        let ((), output) = tokio::try_join!(feed(stdin, input), read(stdout))?;
        let status = running
            .child
            .wait()
            .await
            .map_err(|e| failed(format!("cannot wait for the command: {e}")))?;
        if !status.success() {
            return Err(failed(format!("the command failed: {status}")));
        }
        Ok(output)
    }
}

impl AnswerCommand {
    pub(super) fn new(shell: Shell) -> Self {
        Self { shell }
    }
}

#[async_trait]
impl RequestHandler for AnswerCommand {
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let limit = self.shell.max_output_bytes;
        let read = async |stdout| read_answer(stdout, limit).await;
        let output = self.shell.run(&context, &data, read).await?;
        json::parse_payload(&output, "the command's output").map_err(in_full)
    }
}

impl StreamCommand {
    pub(super) fn new(shell: Shell, unit: ChunkUnit) -> Self {
        Self { shell, unit }
    }
}

#[async_trait]
impl StreamHandler for StreamCommand {
    async fn handle(
        &self,
        context: RequestContext,
        data: Payload,
        input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        // A command takes one request; whoever sends more learns at once that it is not read.
        drop(input);
        let unit = self.unit;
        let send = async move |stdout| match unit {
            ChunkUnit::Line => send_lines(stdout, output).await,
            ChunkUnit::Block => send_blocks(stdout, output).await,
        };
        self.shell.run(&context, &data, send).await?;
        Ok(Payload::empty())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `kill_on_drop` ends the shell alone. The id is gone once the shell was waited for.
        #[cfg(unix)]
        if let Some(group) = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself in this moment.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Writes a request. A command need not read it.
async fn feed(mut stdin: ChildStdin, input: Vec<u8>) -> Result<()> {
    let _ = stdin.write_all(&input).await;
    Ok(())
}

async fn read_answer(stdout: ChildStdout, max_bytes: u64) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut stdout = stdout.take(max_bytes.saturating_add(1));
    stdout.read_to_end(&mut output).await.map_err(cannot_read)?;
    if output.len() as u64 > max_bytes {
        return Err(failed(format!(
            "the command printed more than {max_bytes} bytes"
        )));
    }
    Ok(output)
}

async fn send_lines(stdout: impl AsyncRead + Unpin, output: &mut ChunkSink) -> Result<()> {
    let mut stdout = BufReader::with_capacity(BLOCK_BYTES, stdout);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stdout).take(MAX_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut line).await;
        if read.map_err(cannot_read)? == 0 {
            return Ok(());
        }
        if line.ends_with(b"\n") {
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
        }
        output.send(line).await?;
    }
}

async fn send_blocks(mut stdout: impl AsyncRead + Unpin, output: &mut ChunkSink) -> Result<()> {
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        if stdout.read_buf(&mut block).await.map_err(cannot_read)? == 0 {
            return Ok(());
        }
        output.send(block).await?;
    }
}

fn cannot_read(error: std::io::Error) -> LightningError {
    failed(format!("cannot read the command's output: {error}"))
}

fn failed(text: impl Into<String>) -> LightningError {
    LightningError::Handler(text.into())
}

/// An error with its causes.
fn in_full(error: anyhow::Error) -> LightningError {
    failed(format!("{error:#}"))
}

/// How much longer JSON may be than MessagePack: `false,` and `\u0000` in place of one byte.
const JSON_GROWTH: u64 = 6;

/// A line beyond this is sent in several chunks. The smallest frame limit is 1 MiB.
const MAX_LINE_BYTES: u64 = 512 * 1024;

/// What is read of a command's output at a time, in bytes.
const BLOCK_BYTES: usize = 64 * 1024;
