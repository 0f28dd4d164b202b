//! Running commands: echoed, checked, and bounded in time.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Prints a command and runs it; anything but exit status 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    ensure!(status.success(), "`{}` ended with {status}", shown(command));
    Ok(())
}

/// As [`run`], but kills the process when it is still there after `limit`.
///
/// Only the process itself is killed, not what it started: pass a program, not a launcher.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    announce(command);
    let status = status_within(command, limit)?;
    ensure!(status.success(), "`{}` ended with {status}", shown(command));
    Ok(())
}

/// Waits for a command's exit status, and kills the process after `limit`.
pub(crate) fn status_within(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    match wait(&mut child, limit)? {
        Some(status) => Ok(status),
        None => {
            child
                .kill()
                .context("cannot kill a process that ran too long")?;
            child.wait()?;
            anyhow::bail!(
                "`{}` was killed: still running after {limit:?}",
                shown(command)
            )
        }
    }
}

/// A command as one would type it, with the program's bare name.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn announce(command: &Command) {
    println!("$ {}", shown(command));
}

/// The exit status, or `None` when the limit came first.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            return Ok(None);
        }
        // The standard library has no wait with a deadline.
        thread::sleep(POLL_INTERVAL);
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn exit_statuses_are_checked() {
        run(&mut shell("exit 0")).unwrap();
        run_within(&mut shell("exit 0"), Duration::from_secs(60)).unwrap();
        let error = run_within(&mut shell("exit 3"), Duration::from_secs(60)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c exit 3` ended with exit status: 3"
        );
    }

    #[test]
    fn a_process_that_hangs_is_killed_and_named() {
        let mut command = shell("exec sleep 3600");
        let error = run_within(&mut command, Duration::from_millis(50)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c exec sleep 3600` was killed: still running after 50ms"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program-here`");
    }
}
