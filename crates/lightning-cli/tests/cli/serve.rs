//! Whom `serve` lets in, and how it ends.

use std::fs;

use crate::program::{Finished, Miner, lightning, new_key, run};

fn query_as(miner: &Miner, seed: &str) -> Finished {
    let axon = miner.axon();
    let args = [
        "query",
        "--json",
        "--synapse",
        "echo",
        "--axon",
        &axon,
        "--connect-timeout",
        "2",
    ];
    let output = lightning(args)
        .env("LIGHTNING_SEED", seed)
        .output()
        .unwrap();
    Finished::of(output)
}

#[test]
fn only_hotkeys_with_a_permit_get_in() {
    let keys = [new_key(), new_key(), new_key()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("validators.txt");
    fs::write(&file, format!("# ours\n{} # the second\n", keys[1].0)).unwrap();
    let miner = Miner::start(&[
        "--allow",
        &keys[0].0,
        "--allow-file",
        file.to_str().unwrap(),
    ]);
    for (_, seed) in &keys[..2] {
        query_as(&miner, seed).expect_code(0);
    }
    let refused = query_as(&miner, &keys[2].1).expect_code(1).json();
    assert_eq!(refused["phase"], "handshake");
    assert_eq!(refused["retry_safe"], true);
    assert_eq!(refused["error"], "handshake rejected by miner");
}

#[test]
fn a_mistake_in_the_list_of_permits_shows_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("validators.txt");
    fs::write(&file, "\nnobody\n").unwrap();
    let serve = [
        "serve",
        "--generate",
        "--listen",
        "127.0.0.1:0",
        "--allow-file",
    ];
    let done = run(serve.iter().copied().chain([file.to_str().unwrap()])).expect_code(2);
    for part in ["validators.txt", "line 2"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

#[test]
fn other_addresses_hear_nothing() {
    let (_, seed) = new_key();
    let closed = Miner::start(&["--allow-ip", "192.0.2.1"]);
    assert_eq!(
        query_as(&closed, &seed).expect_code(1).json()["phase"],
        "dial"
    );
    let open = Miner::start(&["--allow-ip", "192.0.2.1", "--allow-ip", "127.0.0.1"]);
    query_as(&open, &seed).expect_code(0);
}

#[test]
fn named_echoes_take_the_place_of_the_default_one() {
    let miner = Miner::start(&["--echo", "a", "--echo", "b"]);
    for (name, code) in [("a", 0), ("b", 0), ("echo", 1)] {
        miner.query(&["--synapse", name]).expect_code(code);
    }
}

#[test]
fn the_limits_are_those_asked_for() {
    let miner = Miner::start(&["--max-connections", "1", "--max-handshakes", "1000"]);
    let axon = miner.axon();
    // Holds the one place: `query` closes its connection only when all is answered.
    let (_socket, dead) = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let dead = format!("{}@{}", new_key().0, socket.local_addr().unwrap());
        (socket, dead)
    };
    let mut first = lightning([
        "query",
        "--generate",
        "--json",
        "--synapse",
        "echo",
        "--axon",
        &axon,
        "--axon",
        &dead,
        "--connect-timeout",
        "60",
    ])
    .stdout(std::process::Stdio::piped())
    .spawn()
    .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(first.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert!(line.contains("\"ok\":true"), "{line}");

    let refused = miner.query(&["--synapse", "echo"]).expect_code(1).json();
    assert_eq!(refused["phase"], "handshake", "{refused}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn the_line_for_people_names_address_and_hotkey() {
    let (hotkey, seed) = new_key();
    let mut child = lightning(["serve", "--listen", "127.0.0.1:0"])
        .env("LIGHTNING_SEED", seed)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = line.strip_prefix("listening on 127.0.0.1:").unwrap();
    let (port, hotkey_said) = rest.trim_end().split_once(" as ").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    assert_eq!(hotkey_said, hotkey);
}

#[cfg(unix)]
#[test]
fn sigterm_and_ctrl_c_end_it_well() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let miner = Miner::start(&[]);
        miner.query(&["--synapse", "echo"]).expect_code(0);
        crate::program::signal(miner.child(), signal);
        let log = miner.wait();
        assert!(log.contains("stopping"), "{log}");
    }
}
