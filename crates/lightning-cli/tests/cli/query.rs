//! `query` against `serve`: the data that goes in and comes out.

use std::{fs, net::UdpSocket};

use serde_json::json;

use crate::program::{Miner, new_key, run, run_with_stdin};

/// A socket that takes packets and never answers.
fn dead_axon() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let axon = format!("{}@{}", new_key().0, socket.local_addr().unwrap());
    (socket, axon)
}

#[test]
fn data_comes_from_argument_file_and_stdin() {
    let miner = Miner::start(&[]);
    let data = json!({
        "text": "grüße", "int": i64::MIN, "large": u64::MAX, "half": 0.5, "no": false,
        "nothing": null, "list": [1, {"nested": []}], "bytes": {"$bytes": "AP8="},
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("request.json");
    fs::write(&file, data.to_string()).unwrap();
    let at_file = format!("@{}", file.display());

    let axon = miner.axon();
    let query = [
        "query",
        "--json",
        "--axon",
        &axon,
        "--synapse",
        "echo",
        "--data",
    ];
    let text = data.to_string();
    for (source, stdin) in [(text.as_str(), ""), (&at_file, ""), ("-", &text)] {
        let args: Vec<_> = query.iter().copied().chain([source]).collect();
        let answer = run_with_stdin(&args, stdin).expect_code(0).json();
        assert_eq!(answer["data"], data, "{source}");
        assert_eq!(answer["ok"], true);
        assert_eq!(answer["axon"], axon);
        assert!(answer["latency_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn the_transport_can_be_chosen() {
    let transport = ["--congestion", "bbr", "--no-gso", "--max-packet", "1350"];
    let miner = Miner::start(&transport);
    let axon = miner.axon();
    let text = "x".repeat(200_000);
    let data = json!({ "text": text }).to_string();
    let query = [
        "query",
        "--json",
        "--axon",
        &axon,
        "--synapse",
        "echo",
        "--data",
        "-",
    ];
    let args: Vec<_> = query.into_iter().chain(transport).collect();
    let answer = run_with_stdin(&args, &data).expect_code(0).json();
    assert_eq!(answer["data"]["text"], text);
}

#[test]
fn the_shortest_line_prints_a_table() {
    let miner = Miner::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("request.json"),
        r#"{"greeting": "hello"}"#,
    )
    .unwrap();
    let axon = miner.axon();
    let mut command = crate::program::lightning([
        "query",
        "--axon",
        &axon,
        "--synapse",
        "echo",
        "--data",
        "@request.json",
    ]);
    let output = command.current_dir(folder.path()).output().unwrap();
    let done = crate::program::Finished::of(output).expect_code(0);
    for part in [
        &miner.hotkey,
        &miner.addr.to_string(),
        r#"{"greeting":"hello"}"#,
    ] {
        assert!(done.text().contains(part), "{part}: {}", done.text());
    }
    assert!(done.stderr.contains("as the new hotkey"), "{}", done.stderr);
}

#[test]
fn ipv6_is_an_address_like_any_other() {
    let serve = ["serve", "--generate", "--listen", "[::1]:0", "--json"];
    let miner = Miner::start_command(crate::program::lightning(serve), "");
    assert!(miner.axon().contains("@[::1]:"), "{}", miner.axon());
    let answer = miner
        .query(&["--synapse", "echo", "--data", r#"{"a": 1}"#])
        .expect_code(0)
        .json();
    assert_eq!(answer["data"], json!({"a": 1}));
}

#[test]
fn a_large_request_and_answer() {
    let miner = Miner::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.json");
    let data = json!({"bytes": {"$bytes": "AAAA".repeat(1 << 20)}});
    fs::write(&file, data.to_string()).unwrap();
    let at_file = format!("@{}", file.display());
    let args = ["--synapse", "echo", "--data", &at_file];
    assert_eq!(miner.query(&args).expect_code(0).json()["data"], data);

    let small = [&args[..], &["--max-frame-bytes", "1048576"]].concat();
    let refused = miner.query(&small).expect_code(1).json();
    assert_eq!(refused["phase"], "send");
    assert_eq!(refused["retry_safe"], true);
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("1048576"), "{error}");
}

#[test]
fn one_dead_miner_takes_nothing_from_the_others() {
    let (first, last) = (Miner::start(&[]), Miner::start(&[]));
    let (_socket, dead) = dead_axon();
    let axons = [first.axon(), dead, last.axon()];
    let mut args = vec![
        "query",
        "--generate",
        "--synapse",
        "echo",
        "--connect-timeout",
        "1",
    ];
    for axon in &axons {
        args.extend(["--axon", axon]);
    }

    let done = run(args.iter().chain(&["--output", "json"])).expect_code(1);
    let mut lines = done.json_lines();
    assert_eq!(lines.len(), 3);
    let failed = lines.pop().unwrap();
    assert_eq!(failed["axon"], axons[1], "the others did not wait for it");
    assert_eq!(failed["ok"], false);
    assert_eq!(failed["phase"], "dial");
    assert_eq!(failed["retry_safe"], true);
    assert!(lines.iter().all(|line| line["ok"] == true), "{lines:?}");

    let done = run(&args).expect_code(1);
    let at = |axon: &String| {
        let hotkey = axon.split('@').next().unwrap();
        done.text().find(hotkey).unwrap()
    };
    assert!(at(&axons[0]) < at(&axons[1]) && at(&axons[1]) < at(&axons[2]));
    assert!(done.text().contains("dial failed"), "{}", done.text());
    assert!(done.text().contains("a retry is safe"), "{}", done.text());
}

#[test]
fn hotkeys_at_one_address_are_told_apart() {
    let miner = Miner::start(&[]);
    let wrong = format!("{}@{}", new_key().0, miner.addr);
    let args = ["--synapse", "echo", "--axon", &wrong];
    let lines = miner.query(&args).expect_code(1).json_lines();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let right = line["axon"] == miner.axon();
        assert_eq!(line["ok"], right, "{line}");
        if !right {
            assert_eq!(line["phase"], "handshake", "{line}");
        }
    }
}

#[test]
fn what_the_miner_refuses_is_told() {
    let miner = Miner::start(&[]);
    let answer = miner
        .query(&["--synapse", "nonsense"])
        .expect_code(1)
        .json();
    assert_eq!(
        answer["error"],
        "the miner answered: unrecognized synapse type"
    );
    assert_eq!(answer["phase"], "wait");
    assert_eq!(answer["retry_safe"], true);
}

#[test]
fn another_miner_at_the_address_is_refused() {
    let miner = Miner::start(&[]);
    let other_hotkey = format!("{}@{}", new_key().0, miner.addr);
    let answer = run([
        "query",
        "--generate",
        "--json",
        "--synapse",
        "echo",
        "--axon",
        &other_hotkey,
    ])
    .expect_code(1)
    .json();
    assert_eq!(answer["phase"], "handshake");
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("hotkey mismatch"), "{error}");
}

#[test]
fn a_large_answer_is_cut_in_the_table() {
    let miner = Miner::start(&[]);
    let axon = miner.axon();
    let table = |data: &str| {
        let args = ["query", "--generate", "--axon", &axon, "--synapse", "echo"];
        let done = run(args.iter().chain(&["--data", data])).expect_code(0);
        done.text().to_owned()
    };
    let long = json!({"text": "x".repeat(5000)});
    let many = json!({"list": (0..1000).collect::<Vec<_>>()});
    for data in [long, many] {
        let table = table(&data.to_string());
        assert!(table.contains("--output json prints all"), "{table}");
        assert!(table.lines().count() < 50, "{table}");
        assert!(table.lines().all(|l| l.chars().count() < 200), "{table}");
    }
    let fits = json!({"list": (0..30).collect::<Vec<_>>()});
    let table = table(&fits.to_string());
    assert!(table.contains(" 29"), "{table}");
    assert!(!table.contains("--output json"), "{table}");
}

#[test]
fn text_from_a_miner_cannot_steer_the_terminal() {
    let miner = Miner::start(&[]);
    let data = r#"{"text": "\u001b[2J\u009b"}"#;
    let axon = miner.axon();
    let args = [
        "query",
        "--generate",
        "--axon",
        &axon,
        "--synapse",
        "echo",
        "--data",
        data,
    ];
    let done = run(args).expect_code(0);
    assert!(
        !done.text().contains(['\u{1b}', '\u{9b}']),
        "{}",
        done.text()
    );
    assert!(done.text().contains("\\u001b[2J"), "{}", done.text());
}

#[test]
fn keys_are_printed_in_order() {
    let miner = Miner::start(&[]);
    let args = [
        "--synapse",
        "echo",
        "--data",
        r#"{"b": 1, "a": {"d": 1, "c": 2}}"#,
    ];
    for _ in 0..3 {
        let done = miner.query(&args).expect_code(0);
        assert!(
            done.text().contains(r#""data":{"a":{"c":2,"d":1},"b":1}"#),
            "{}",
            done.text()
        );
    }
}
