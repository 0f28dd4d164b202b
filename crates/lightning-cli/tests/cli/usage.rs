//! Mistakes in the arguments: exit code 2 and a text that names them.

use crate::program::{run, run_with_stdin};

const HOTKEY: &str = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH";

#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let done = run_with_stdin(args, "").expect_code(2);
    assert_eq!(done.text(), "", "nothing on stdout");
    for part in parts {
        assert!(
            done.stderr.contains(part),
            "{args:?}: no {part:?} in {}",
            done.stderr
        );
    }
}

#[test]
fn of_query() {
    let axon = format!("{HOTKEY}@127.0.0.1:1");
    let axon = axon.as_str();
    let query = |more: &[&'static str], parts: &[&str]| {
        let args = [&["query", "--axon", axon, "--synapse", "echo"], more].concat();
        refused(&args, parts);
    };
    query(
        &["--data", "[1]"],
        &["--data is a JSON array", "expected a JSON object"],
    );
    query(
        &["--data", "{\"a\":"],
        &["--data is not JSON", "line 1 column 5"],
    );
    query(&["--data", "-"], &["--data from stdin is not JSON"]);
    query(
        &["--data", "@/no/such/file"],
        &["--data @/no/such/file", "No such file"],
    );
    query(
        &["--data", r#"{"a": {"$bytes": "?"}}"#],
        &["field a", "not base64"],
    );
    query(&["--timeout", "0"], &["--timeout", "0.001 to 86400"]);
    query(
        &["--max-frame-bytes", "10"],
        &["max_frame_payload_bytes (10)", "1048576"],
    );
    query(
        &["--max-packet", "1199"],
        &["max_udp_payload", "1200 to 6500"],
    );
    query(&["--congestion", "reno"], &["reno", "cubic", "bbr"]);
    query(&["--output", "raw"], &["--output raw needs --stream"]);
    query(&["--output", "xml"], &["xml", "table"]);
    query(
        &["--output", "raw", "--json"],
        &["--json", "cannot be used"],
    );
    query(&["--hotkey", "x"], &["--wallet"]);
    query(&["--password-stdin"], &["--wallet"]);
    query(
        &["--generate", "--seed-file", "x"],
        &["--seed-file", "cannot be used"],
    );
    query(
        &["--seed-file", "/no/such/file"],
        &["seed file /no/such/file"],
    );
    query(
        &["--data", "-", "--wallet", "w", "--password-stdin"],
        &["--data -", "--password-stdin", "both want stdin"],
    );
    query(
        &["--wallet", "w", "--path", "/no/such/folder"],
        &["/no/such/folder/w/hotkeys/default", "check the wallet path"],
    );

    let moved = format!("{HOTKEY}@127.0.0.1:2");
    refused(
        &[
            "query",
            "--synapse",
            "echo",
            "--axon",
            axon,
            "--axon",
            &moved,
        ],
        &[HOTKEY, "two addresses", "127.0.0.1:1", "127.0.0.1:2"],
    );
    refused(&["query", "--synapse", "echo"], &["--axon"]);
    refused(&["query", "--axon", axon], &["--synapse"]);
}

#[test]
fn of_axons() {
    for (axon, part) in [
        ("127.0.0.1:8443", "there is no @"),
        ("nobody@127.0.0.1:8443", "\"nobody\""),
        (
            &format!("{HOTKEY}@127.0.0.1"),
            "\"127.0.0.1\" is not an IP address and port",
        ),
        (&format!("{HOTKEY}@::1:80"), "[2001:db8::1]:8443"),
        (
            &format!("{}@127.0.0.1:80", HOTKEY.replace('q', "Q")),
            "checksum",
        ),
    ] {
        refused(
            &["query", "--synapse", "echo", "--axon", axon],
            &["--axon", part],
        );
    }
}

#[test]
fn of_serve() {
    let serve = |more: &[&'static str], parts: &[&str]| {
        let args = [&["serve", "--listen", "127.0.0.1:0"], more].concat();
        refused(&args, parts);
    };
    serve(
        &[],
        &[
            "no hotkey",
            "--wallet",
            "--seed-file",
            "--generate",
            "LIGHTNING_SEED",
        ],
    );
    serve(
        &["--generate", "--command", "name"],
        &["--command", "NAME=CMD"],
    );
    serve(
        &["--generate", "--echo", "a", "--command", "a=cat"],
        &["\"a\" has two handlers"],
    );
    serve(
        &["--generate", "--max-packet", "6501"],
        &["max_udp_payload", "1200 to 6500"],
    );
    serve(&["--generate", "--allow", "x"], &["--allow", "address"]);
    serve(
        &["--generate", "--allow-ip", "x"],
        &["--allow-ip", "invalid IP address"],
    );
    serve(
        &["--generate", "--max-connections", "0"],
        &["max_connections"],
    );
    serve(
        &["--generate", "--handler-timeout", "0"],
        &["--handler-timeout"],
    );
    serve(&["--generate", "--max-commands", "0"], &["--max-commands"]);
    refused(
        &["serve", "--generate", "--listen", "localhost"],
        &["--listen"],
    );
    refused(
        &["serve", "--generate", "--listen", "192.0.2.1:0"],
        &["192.0.2.1"],
    );
}

#[test]
fn of_a_seed_in_the_environment() {
    let mut command = crate::program::lightning(["serve", "--listen", "127.0.0.1:0"]);
    let output = command.env("LIGHTNING_SEED", "c0ffee").output().unwrap();
    let done = crate::program::Finished::of(output).expect_code(2);
    assert!(
        done.stderr
            .contains("LIGHTNING_SEED: a seed is 64 hex digits"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("c0ffee"), "{}", done.stderr);
}

#[test]
fn of_keygen_and_inspect() {
    refused(&["keygen", "--words", "13"], &["12, 15, 18, 21 or 24"]);
    refused(&["keygen", "--overwrite"], &["--wallet"]);
    refused(
        &["keygen", "--from-phrase-stdin"],
        &["stdin holds no secret phrase"],
    );
    refused(
        &["keygen", "--from-phrase-stdin", "--words", "12"],
        &["--words"],
    );
    refused(&["inspect"], &["FILE"]);
    refused(&["inspect", "/no/such/file"], &["/no/such/file"]);
    refused(
        &["inspect", "x", "--wallet", "w"],
        &["--wallet", "cannot be used"],
    );
}

#[test]
fn help_explains_the_data() {
    let help = run(["query", "--help"]).expect_code(0);
    for part in ["$bytes", "Exit codes", "retry_safe", "@FILE"] {
        assert!(help.text().contains(part), "{part}");
    }
    let help = run(["serve", "--help"]).expect_code(0);
    for part in ["LIGHTNING_HOTKEY", "stdin", "LIGHTNING_SEED"] {
        assert!(help.text().contains(part), "{part}");
    }
}
