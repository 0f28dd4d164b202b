//! The program under test.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

/// Makes a command that runs `lightning` with nothing from the environment that it would heed.
pub(crate) fn lightning<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lightning"));
    command
        .args(args)
        .env_remove("LIGHTNING_SEED")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs `lightning` to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Finished {
    Finished::of(lightning(args).output().unwrap())
}

/// Runs `lightning` to its end with this as its stdin.
pub(crate) fn run_with_stdin(args: &[&str], stdin: &str) -> Finished {
    let mut child = lightning(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    Finished::of(child.wait_with_output().unwrap())
}

/// Makes a hotkey; returns its address and its seed in hex.
pub(crate) fn new_key() -> (String, String) {
    let made = run(["keygen", "--show-secret", "--json"]).expect_code(0);
    let key = made.json();
    let text = |field: &str| key[field].as_str().unwrap().to_owned();
    (text("hotkey"), text("seed"))
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status,
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Returns the lines of JSON that were printed.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Returns the one line of JSON that was printed.
    pub(crate) fn json(&self) -> Value {
        let [line] = self.json_lines().try_into().unwrap();
        line
    }
}

/// A `lightning serve` that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Miner {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    pub(crate) addr: SocketAddr,
    pub(crate) hotkey: String,
}

impl Miner {
    /// Starts a miner with a new key on a free port of 127.0.0.1, and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        let serve = ["serve", "--generate", "--listen", "127.0.0.1:0", "--json"];
        Self::start_command(lightning(serve.iter().chain(args)), "")
    }

    /// Starts a miner and waits until it listens. The command has to ask for `--json`.
    pub(crate) fn start_command(mut command: Command, stdin: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input: ChildStdin = child.stdin.take().unwrap();
        input.write_all(stdin.as_bytes()).unwrap();
        drop(input);
        let mut pipe = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            let status = child.wait().unwrap();
            panic!("the miner ended with {status}: {}", stderr.join().unwrap());
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            stderr: Some(stderr),
            addr: ready["listening"].as_str().unwrap().parse().unwrap(),
            hotkey: ready["hotkey"].as_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn axon(&self) -> String {
        format!("{}@{}", self.hotkey, self.addr)
    }

    /// Sends a query and returns what it printed as JSON.
    pub(crate) fn query(&self, args: &[&str]) -> Finished {
        let axon = self.axon();
        let query = ["query", "--generate", "--json", "--axon", &axon];
        run(query.iter().chain(args))
    }

    /// Asks the miner to stop, waits until it has, and returns what it logged.
    #[cfg(unix)]
    pub(crate) fn stop(self) -> String {
        signal(&self.child, rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits until a miner that was asked to stop has stopped, and returns what it logged.
    #[cfg(unix)]
    pub(crate) fn wait(mut self) -> String {
        let status = self.child.wait().unwrap();
        let log = self.stderr.take().unwrap().join().unwrap();
        assert!(status.success(), "{status}: {log}");
        log
    }

    #[cfg(unix)]
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, signal).unwrap();
}

/// Waits for something that would otherwise hold up the test forever.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(
    what: &str,
    wait: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(wait()));
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => value,
        Err(error) => panic!("waiting until {what}: {error}"),
    }
}
