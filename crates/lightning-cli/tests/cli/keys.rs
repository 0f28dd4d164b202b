//! Hotkeys: made, kept in wallets, used by `serve` and `query`.

use std::fs;

use crate::program::{Finished, Miner, lightning, new_key, run, run_with_stdin};

#[test]
fn secrets_show_only_when_asked_for() {
    let shown = run(["keygen", "--show-secret"]).expect_code(0);
    for field in ["hotkey", "public key", "phrase", "seed"] {
        assert!(shown.text().contains(field), "{field}: {}", shown.text());
    }
    let hidden = run(["keygen"]).expect_code(0);
    let fields: Vec<_> = hidden.text().lines().collect();
    assert_eq!(fields.len(), 2, "{}", hidden.text());
    assert!(hidden.stderr.contains("--show-secret"), "{}", hidden.stderr);
    let hidden = run(["keygen", "--json"]).expect_code(0).json();
    assert_eq!(hidden.as_object().unwrap().len(), 2, "{hidden}");
}

#[test]
fn phrase_and_seed_restore_the_hotkey() {
    let made = run(["keygen", "--json", "--show-secret", "--words", "24"])
        .expect_code(0)
        .json();
    let phrase = made["phrase"].as_str().unwrap();
    assert_eq!(phrase.split(' ').count(), 24);
    for (flag, secret) in [
        ("--from-phrase-stdin", phrase),
        ("--from-seed-stdin", made["seed"].as_str().unwrap()),
    ] {
        let restored = run_with_stdin(&["keygen", "--json", flag], &format!("{secret}\r\n"))
            .expect_code(0)
            .json();
        assert_eq!(restored["hotkey"], made["hotkey"], "{flag}");
    }

    let known = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    let restored = run_with_stdin(&["keygen", "--json", "--from-phrase-stdin"], known);
    assert_eq!(
        restored.expect_code(0).json()["hotkey"],
        "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV"
    );

    let wrong = known.replace("walk", "fit");
    let refused = run_with_stdin(&["keygen", "--from-phrase-stdin"], &wrong).expect_code(2);
    assert!(refused.stderr.contains("checksum"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("bottom"), "{}", refused.stderr);
}

#[test]
fn a_plain_wallet_serves_and_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let wallet = |hotkey: &'static str| ["--wallet", "w", "--path", path, "--hotkey", hotkey];
    let make = |hotkey| {
        let args = [&["keygen", "--json"][..], &wallet(hotkey)].concat();
        run(args).expect_code(0).json()
    };
    let (miner_key, validator_key) = (make("miner"), make("validator"));

    let file = miner_key["file"].as_str().unwrap();
    assert_eq!(file, format!("{path}/w/hotkeys/miner"));
    let by_path = run(["inspect", "--json", file]).expect_code(0).json();
    let by_name = run([&["inspect", "--json"][..], &wallet("miner")].concat());
    assert_eq!(by_path, by_name.expect_code(0).json());
    assert_eq!(by_path["hotkey"], miner_key["hotkey"]);
    assert_eq!(by_path["encryption"], serde_json::Value::Null);
    assert_eq!(by_path["warnings"], serde_json::json!([]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(by_path["mode"], "0600");
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        let warned = run(["inspect", file]).expect_code(0);
        assert!(warned.text().contains("use chmod 600"), "{}", warned.text());
    }

    let again = [&["keygen", "--json"][..], &wallet("miner")].concat();
    let refused = run(&again).expect_code(2);
    assert!(refused.stderr.contains("exists"), "{}", refused.stderr);
    assert_eq!(
        run(["inspect", "--json", file]).json()["hotkey"],
        miner_key["hotkey"]
    );

    let serve = ["serve", "--listen", "127.0.0.1:0", "--json", "--allow"];
    let allowed = validator_key["hotkey"].as_str().unwrap();
    let serve = [&serve[..], &[allowed], &wallet("miner")].concat();
    let miner = Miner::start_command(lightning(serve), "");
    assert_eq!(miner.hotkey, miner_key["hotkey"]);
    let axon = miner.axon();
    let query = ["query", "--synapse", "echo", "--axon", &axon];
    let done = run([&query[..], &wallet("validator")].concat()).expect_code(0);
    assert!(!done.stderr.contains("new hotkey"), "{}", done.stderr);

    let replaced = run(again.iter().chain(&["--overwrite"]))
        .expect_code(0)
        .json();
    assert_ne!(replaced["hotkey"], miner_key["hotkey"]);
}

#[test]
fn an_encrypted_wallet_opens_with_its_password_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let wallet = ["--wallet", "w", "--path", path];
    let with_password = |command: &[&str], password: &str| {
        let args = [command, &wallet, &["--password-env", "TEST_PASSWORD"]].concat();
        let mut command = lightning(args);
        Finished::of(command.env("TEST_PASSWORD", password).output().unwrap())
    };
    let made = with_password(&["keygen", "--json"], "correct horse")
        .expect_code(0)
        .json();

    let seen = run([&["inspect", "--json"][..], &wallet].concat())
        .expect_code(0)
        .json();
    assert_eq!(seen["encryption"], "NaCl");
    assert_eq!(seen["hotkey"], serde_json::Value::Null);
    assert_eq!(seen["stated_hotkey"], made["hotkey"]);
    let refused = with_password(&["inspect"], "wrong").expect_code(2);
    assert!(
        refused.stderr.contains("the password is wrong"),
        "{}",
        refused.stderr
    );
    assert!(
        !refused.stderr.contains("correct horse"),
        "{}",
        refused.stderr
    );

    let axon = format!("{}@127.0.0.1:1", new_key().0);
    let query = ["query", "--synapse", "echo", "--axon", &axon];
    let refused = run([&query[..], &wallet].concat()).expect_code(2);
    assert!(refused.stderr.contains("BT_PW_"), "{}", refused.stderr);

    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--password-stdin",
    ];
    let serve = [&serve[..], &wallet].concat();
    let miner = Miner::start_command(lightning(serve), "correct horse\n");
    assert_eq!(miner.hotkey, made["hotkey"]);
    miner.query(&["--synapse", "echo"]).expect_code(0);
}

#[test]
fn a_seed_file_is_a_key() {
    let (hotkey, seed) = new_key();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("miner.seed");
    fs::write(&file, format!("{seed}\n")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--json", "--seed-file"];
    let serve = serve.iter().copied().chain([file.to_str().unwrap()]);
    assert_eq!(Miner::start_command(lightning(serve), "").hotkey, hotkey);
}
