//! Handlers of `serve` that run commands.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::program::{Finished, Miner, lightning, new_key, signal, within};

/// A named pipe. A command that holds it open for writing is alive, and so is whatever it started.
struct Fifo {
    path: PathBuf,
}

/// The reading end.
struct Watch {
    reader: BufReader<File>,
}

impl Fifo {
    fn make(folder: &TempDir, name: &str) -> Self {
        let path = folder.path().join(name);
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success(), "{made}");
        Self { path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Waits until the command has opened the pipe and written its first line.
    fn wait_for_start(&self) -> Watch {
        let path = self.path.clone();
        within("the command starts", move || {
            let mut reader = BufReader::new(open(&path));
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "started\n");
            Watch { reader }
        })
    }
}

impl Watch {
    /// Waits until every process that holds the pipe is dead.
    fn wait_for_death(mut self) {
        within("the command is killed", move || {
            let mut rest = Vec::new();
            self.reader.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"");
        });
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

/// A command that says it has started and then waits forever, in a process of its own.
fn endless(fifo: &Fifo) -> String {
    format!(
        "exec 3>'{}'; echo started >&3; sleep 1000 & wait",
        fifo.path()
    )
}

#[test]
fn a_command_gets_the_data_and_knows_the_caller() {
    let command = r#"who=printf '{"hotkey":"%s","synapse":"%s","from":"%s","id":"%s","data":%s}' "$LIGHTNING_HOTKEY" "$LIGHTNING_SYNAPSE" "$LIGHTNING_REMOTE_ADDR" "$LIGHTNING_CONNECTION_ID" "$(cat)""#;
    let miner = Miner::start(&["--command", command]);
    let (hotkey, seed) = new_key();
    let axon = miner.axon();
    let data = json!({"n": 1, "bytes": {"$bytes": "AP8="}});
    let text = data.to_string();
    let query = [
        "query",
        "--json",
        "--axon",
        &axon,
        "--synapse",
        "who",
        "--data",
        &text,
    ];
    let output = lightning(query)
        .env("LIGHTNING_SEED", seed)
        .output()
        .unwrap();
    let answer = Finished::of(output).expect_code(0).json();
    assert_eq!(answer["data"]["hotkey"], hotkey);
    assert_eq!(answer["data"]["synapse"], "who");
    assert_eq!(answer["data"]["data"], data);
    let from = answer["data"]["from"].as_str().unwrap();
    assert!(from.starts_with("127.0.0.1:"), "{from}");
    assert_ne!(answer["data"]["id"], "");
}

#[test]
fn a_command_need_not_read_its_input() {
    let miner = Miner::start(&["--command", "no=exec 0<&-; echo '{\"ok\": true}'"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.json");
    // More than a pipe holds.
    std::fs::write(&file, json!({"text": "x".repeat(1 << 20)}).to_string()).unwrap();
    let data = format!("@{}", file.display());
    let answer = miner.query(&["--synapse", "no", "--data", &data]);
    assert_eq!(answer.expect_code(0).json()["data"], json!({"ok": true}));
}

#[test]
fn why_a_command_failed_stays_in_the_log() {
    let cases = [
        ("code=cat >/dev/null; exit 3", "exit status: 3"),
        ("text=echo hello", "the command's output is not JSON"),
        ("list=echo '[1]'", "the command's output is a JSON array"),
        ("none=true", "the command's output is not JSON"),
        ("late=echo '{}'; exit 1", "exit status: 1"),
        ("missing=/no/such/program", "exit status: 127"),
    ];
    for (command, reason) in cases {
        let miner = Miner::start(&["--command", command]);
        let name = command.split('=').next().unwrap();
        let answer = miner.query(&["--synapse", name]).expect_code(1).json();
        assert_eq!(
            answer["error"],
            "the miner answered: request processing failed"
        );
        assert_eq!(answer["retry_safe"], false);
        let log = miner.stop();
        assert!(log.contains(reason), "{command}: {log}");
    }
}

#[test]
fn a_command_dies_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(&folder, "alive");
    let command = format!("slow={}", endless(&fifo));
    let miner = Miner::start(&["--handler-timeout", "1", "--command", &command]);
    let axon = miner.axon();
    let query = lightning([
        "query",
        "--generate",
        "--json",
        "--axon",
        &axon,
        "--synapse",
        "slow",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let watch = fifo.wait_for_start();
    let done = Finished::of(query.wait_with_output().unwrap()).expect_code(1);
    assert_eq!(
        done.json()["error"],
        "the miner answered: handler timed out"
    );
    watch.wait_for_death();
}

#[test]
fn a_command_dies_when_its_caller_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(&folder, "alive");
    for flag in ["--command", "--stream-command"] {
        let command = format!("slow={}", endless(&fifo));
        let miner = Miner::start(&[flag, &command]);
        let mut args = vec!["--synapse", "slow", "--timeout", "2"];
        if flag == "--stream-command" {
            args.push("--stream");
        }
        let axon = miner.axon();
        let query = ["query", "--generate", "--json", "--axon", &axon];
        let query = lightning(query.iter().chain(&args))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watch = fifo.wait_for_start();
        let done = Finished::of(query.wait_with_output().unwrap()).expect_code(1);
        let error = done.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("timed out"), "{flag}: {error}");
        watch.wait_for_death();
    }
}

#[test]
fn ctrl_c_in_the_query_kills_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(&folder, "alive");
    let miner = Miner::start(&["--command", &format!("slow={}", endless(&fifo))]);
    let axon = miner.axon();
    let mut query = lightning(["query", "--generate", "--axon", &axon, "--synapse", "slow"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let watch = fifo.wait_for_start();
    signal(&query, rustix::process::Signal::INT);
    assert_eq!(query.wait().unwrap().code(), Some(130));
    watch.wait_for_death();
}

#[test]
fn a_running_command_finishes_before_the_miner_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (started, finish) = (
        Fifo::make(&folder, "started"),
        Fifo::make(&folder, "finish"),
    );
    let command = format!(
        "work=echo started >'{}'; cat '{}' >/dev/null; echo '{{\"done\": true}}'",
        started.path(),
        finish.path()
    );
    let miner = Miner::start(&["--grace", "60", "--command", &command]);
    let axon = miner.axon();
    let query = lightning([
        "query",
        "--generate",
        "--json",
        "--axon",
        &axon,
        "--synapse",
        "work",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    drop(started.wait_for_start());
    signal(miner.child(), rustix::process::Signal::TERM);
    let mut release = within("the command waits", {
        let path = finish.path.clone();
        move || File::options().write(true).open(path).unwrap()
    });
    release.write_all(b"go\n").unwrap();
    drop(release);
    let done = Finished::of(query.wait_with_output().unwrap()).expect_code(0);
    assert_eq!(done.json()["data"], json!({"done": true}));
    miner.wait();
}

#[test]
fn a_second_signal_does_not_wait_for_commands() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(&folder, "alive");
    let command = format!("slow={}", endless(&fifo));
    let miner = Miner::start(&["--grace", "600", "--command", &command]);
    let axon = miner.axon();
    let mut query = lightning(["query", "--generate", "--axon", &axon, "--synapse", "slow"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let watch = fifo.wait_for_start();
    signal(miner.child(), rustix::process::Signal::TERM);
    // Of another kind, so that the kernel cannot merge the two.
    signal(miner.child(), rustix::process::Signal::INT);
    let log = within("the miner stops", move || miner.wait());
    assert!(log.contains("stopping"), "{log}");
    watch.wait_for_death();
    assert_eq!(query.wait().unwrap().code(), Some(1));
}

#[test]
fn lines_and_blocks_become_chunks() {
    let print = r"out=printf 'one\ntwo\r\n\nthr\033ee\n\377\376\nlast'";
    let lines = Miner::start(&["--stream-command", print]);
    let done = lines
        .query(&["--synapse", "out", "--stream"])
        .expect_code(0);
    let mut chunks = done.json_lines();
    let end = chunks.pop().unwrap();
    let expected = [
        json!({"text": "one"}),
        json!({"text": "two"}),
        json!({"text": ""}),
        json!({"text": "thr\u{1b}ee"}),
        json!({"bytes": "//4="}),
        json!({"text": "last"}),
    ];
    assert_eq!(chunks.len(), expected.len(), "{chunks:?}");
    for (number, (chunk, expected)) in chunks.iter().zip(&expected).enumerate() {
        assert_eq!(chunk["chunk"], number);
        assert_eq!(chunk["axon"], lines.axon());
        for field in ["text", "bytes"] {
            assert_eq!(chunk.get(field), expected.get(field), "chunk {number}");
        }
    }
    assert_eq!(end["ok"], true);
    assert_eq!((&end["chunks"], &end["bytes"]), (&json!(6), &json!(18)));

    let axon = lines.axon();
    let query = [
        "query",
        "--generate",
        "--axon",
        &axon,
        "--synapse",
        "out",
        "--stream",
    ];
    let text = crate::program::run(query).expect_code(0);
    let text: Vec<_> = text.text().lines().take(6).collect();
    assert_eq!(
        text,
        [
            "one",
            "two",
            "",
            "thr\\u{1b}ee",
            r#"{"$bytes":"//4="}"#,
            "last"
        ]
    );

    let blocks = Miner::start(&["--stream-command", print, "--chunk", "block"]);
    let axon = blocks.axon();
    let query = [
        "query",
        "--generate",
        "--axon",
        &axon,
        "--synapse",
        "out",
        "--stream",
    ];
    let raw = crate::program::run(query.iter().chain(&["--output", "raw"])).expect_code(0);
    assert_eq!(raw.stdout, b"one\ntwo\r\n\nthr\x1bee\n\xff\xfe\nlast");
}

#[test]
fn a_stream_that_breaks_off_keeps_what_came() {
    let miner = Miner::start(&["--stream-command", "out=echo one; echo two; exit 4"]);
    let done = miner
        .query(&["--synapse", "out", "--stream"])
        .expect_code(1);
    let mut lines = done.json_lines();
    let end = lines.pop().unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(end["ok"], false);
    assert_eq!(end["error"], "stream processing failed");
    assert_eq!(end["retry_safe"], false);
    let log = miner.stop();
    assert!(log.contains("exit status: 4"), "{log}");
}

#[test]
fn chunks_come_before_the_stream_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let finish = Fifo::make(&folder, "finish");
    let command = format!("out=echo one; cat '{}'", finish.path());
    let miner = Miner::start(&["--stream-command", &command]);
    let axon = miner.axon();
    let query = [
        "query",
        "--generate",
        "--axon",
        &axon,
        "--synapse",
        "out",
        "--stream",
    ];
    let mut query = lightning(query).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(query.stdout.take().unwrap());
    let (line, mut stdout) = within("the first chunk is printed", move || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        (line, stdout)
    });
    assert_eq!(line, "one\n");
    let mut release = File::options().write(true).open(&finish.path).unwrap();
    release.write_all(b"two\n").unwrap();
    drop(release);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("two\n"), "{rest}");
    assert!(query.wait().unwrap().success());
}

#[test]
fn commands_do_not_inherit_secrets() {
    let (_, seed) = new_key();
    let command = r#"env=printf '{"seed":"%s","pw":"%s","home":"%s"}' "${LIGHTNING_SEED-none}" "${BT_PW_X-none}" "${KEPT-none}""#;
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--command",
        command,
    ];
    let mut serve = lightning(serve);
    serve
        .env("LIGHTNING_SEED", seed)
        .env("BT_PW_X", "secret")
        .env("KEPT", "kept");
    let miner = Miner::start_command(serve, "");
    let answer = miner.query(&["--synapse", "env"]).expect_code(0).json();
    assert_eq!(
        answer["data"],
        json!({"seed": "none", "pw": "none", "home": "kept"})
    );
}

#[test]
fn requests_wait_for_a_free_slot() {
    let folder = tempfile::tempdir().unwrap();
    let (started, finish) = (
        Fifo::make(&folder, "started"),
        Fifo::make(&folder, "finish"),
    );
    let first = format!(
        "first=echo started >'{}'; cat '{}' >/dev/null; echo '{{}}'",
        started.path(),
        finish.path()
    );
    let miner = Miner::start(&[
        "--max-commands",
        "1",
        "--command",
        &first,
        "--command",
        "second=echo '{}'",
    ]);
    let axon = miner.axon();
    let mut holder = lightning(["query", "--generate", "--axon", &axon, "--synapse", "first"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(started.wait_for_start());
    let second = ["--synapse", "second", "--timeout", "1"];
    let waiting = miner.query(&second).expect_code(1).json();
    assert!(
        waiting["error"].as_str().unwrap().contains("timed out"),
        "{waiting}"
    );
    let mut release = File::options().write(true).open(&finish.path).unwrap();
    release.write_all(b"go\n").unwrap();
    drop(release);
    assert!(holder.wait().unwrap().success());
    miner.query(&second).expect_code(0);
}
