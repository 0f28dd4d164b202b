//! Hotkey files on disk: those of other programs, and those this crate writes.

#![cfg(feature = "wallet")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use lightning_keys::wallet::{
    Encryption, HotkeyFileWarning, WalletError, WalletPath, inspect, load_hotkey, save_hotkey,
};
use lightning_keys::{Keypair, generate_phrase};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";
const SEED_ADDRESS: &str = "5CFvvN9M5Pkf9zAUoRPqRvRwqnnqHZDj3F6fpybpj7VXqYpL";
const PASSWORD: &str = "correct horse";

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join("btwallet/hotkeys").join(name)
}

/// Puts `content` where the hotkey `h` of the wallet `w` belongs.
fn place(root: &Path, content: &[u8]) -> PathBuf {
    let path = WalletPath::new("w", root, "h").unwrap().file().to_owned();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn opens_plain_files_of_btwallet() {
    let pair = load_hotkey("btwallet", FIXTURES, "plain", None).unwrap();
    assert_eq!(pair.hotkey(), ADDRESS);
    assert!(pair.phrase().is_some());
    // A password that is not needed does no harm.
    let pair = load_hotkey("btwallet", FIXTURES, "seed", Some(PASSWORD)).unwrap();
    assert_eq!(pair.hotkey(), SEED_ADDRESS);
    assert_eq!(**pair.seed().unwrap(), [0xb1; 32]);
}

#[test]
fn opens_nacl_files_of_btwallet() {
    let pair = load_hotkey("btwallet", FIXTURES, "nacl", Some(PASSWORD)).unwrap();
    assert_eq!(pair.hotkey(), ADDRESS);
}

#[test]
fn opens_ansible_vaults_of_btwallet() {
    let pair = load_hotkey("btwallet", FIXTURES, "ansible", Some(PASSWORD)).unwrap();
    assert_eq!(pair.hotkey(), ADDRESS);

    // Version 1.2 adds a label; Windows tools change the line ends.
    let root = tempfile::tempdir().unwrap();
    let vault = fs::read_to_string(fixture("ansible")).unwrap();
    let relabelled = vault
        .replace(";1.1;AES256", ";1.2;AES256;dev")
        .replace('\n', "\r\n");
    place(root.path(), relabelled.as_bytes());
    assert_eq!(
        load_hotkey("w", root.path(), "h", Some(PASSWORD))
            .unwrap()
            .hotkey(),
        ADDRESS
    );
}

#[test]
fn opens_fernet_files_of_the_first_releases() {
    let pair = load_hotkey("btwallet", FIXTURES, "fernet", Some(PASSWORD)).unwrap();
    assert_eq!(pair.hotkey(), ADDRESS);
}

#[test]
fn refuses_wrong_passwords_and_damage_in_vaults() {
    let root = tempfile::tempdir().unwrap();
    let vault = fs::read_to_string(fixture("ansible")).unwrap();
    let load = |content: &str, password| {
        place(root.path(), content.as_bytes());
        load_hotkey("w", root.path(), "h", Some(password)).unwrap_err()
    };
    let altered = format!("{}1\n", &vault[..vault.trim_end().len() - 1]);
    for (content, password) in [(&vault, "correct hors"), (&vault, ""), (&altered, PASSWORD)] {
        let error = load(content, password);
        assert!(
            matches!(error, WalletError::Decrypt { .. }),
            "{password}: {error:?}"
        );
    }
    let (header, body) = vault.split_once('\n').unwrap();
    for content in [
        header.to_owned(),
        format!("$ANSIBLE_VAULT;1.0;AES\n{body}"),
        format!("$ANSIBLE_VAULT\n{body}"),
        format!("{header}\nnot hex"),
        format!("{header}\n{}", &body[..100]),
        format!("{header}\n{}", &body[..1]),
        vault.replace('\n', "\n\u{e4}"),
    ] {
        let error = load(&content, PASSWORD);
        assert!(
            matches!(error, WalletError::Malformed { .. }),
            "{content}: {error:?}"
        );
    }
}

#[test]
fn refuses_damaged_fernet_tokens_without_the_key_derivation() {
    let root = tempfile::tempdir().unwrap();
    let token = fs::read_to_string(fixture("fernet")).unwrap();
    for content in [
        "gAAAAA",
        &token[..100],
        &token[..token.len() - 4],
        &format!("{token}!"),
    ] {
        place(root.path(), content.as_bytes());
        let error = load_hotkey("w", root.path(), "h", Some(PASSWORD)).unwrap_err();
        assert!(
            matches!(error, WalletError::Malformed { .. }),
            "{content}: {error:?}"
        );
    }
}

#[test]
fn encrypted_file_round_trips() {
    let root = tempfile::tempdir().unwrap();
    let phrase = generate_phrase(12).unwrap();
    let pair = Keypair::from_phrase(&phrase, None).unwrap();
    let file = save_hotkey("w", root.path(), "h", &pair, Some("grüße"), false).unwrap();

    let content = fs::read(&file).unwrap();
    assert!(content.starts_with(b"$NACL"));
    let info = inspect(&file).unwrap();
    assert_eq!(
        (info.address, info.encryption),
        (None, Some(Encryption::Nacl))
    );
    assert!(info.warnings.is_empty());

    let error = load_hotkey("w", root.path(), "h", Some("grusse")).unwrap_err();
    assert!(matches!(error, WalletError::Decrypt { .. }), "{error:?}");
    let error = load_hotkey("w", root.path(), "h", None).unwrap_err();
    assert!(
        matches!(error, WalletError::PasswordRequired { .. }),
        "{error:?}"
    );
    let loaded = load_hotkey("w", root.path(), "h", Some("grüße")).unwrap();
    assert_eq!(loaded.public(), pair.public());
    assert_eq!(loaded.phrase(), Some(&phrase));

    // Cut before the text begins: known without the password to be damaged.
    fs::write(&file, &content[..44]).unwrap();
    let error = load_hotkey("w", root.path(), "h", Some("grüße")).unwrap_err();
    assert!(matches!(error, WalletError::Malformed { .. }), "{error:?}");
}

#[test]
fn plain_file_round_trips() {
    let root = tempfile::tempdir().unwrap();
    let pair = Keypair::generate();
    let file = save_hotkey("w", root.path(), "h", &pair, None, false).unwrap();
    assert_eq!(file, root.path().join("w/hotkeys/h"));
    let loaded = load_hotkey("w", root.path(), "h", None).unwrap();
    assert_eq!(loaded.public(), pair.public());
    assert_eq!(loaded.seed(), pair.seed());
    let info = inspect(&file).unwrap();
    assert_eq!((info.address, info.encryption), (Some(pair.public()), None));
    assert!(info.warnings.is_empty());

    let public = fs::read_to_string(root.path().join("w/hotkeys/hpub.txt")).unwrap();
    assert!(public.contains(&pair.hotkey()));
    assert!(!public.contains(&hex::encode(*pair.expanded_secret())));
    let error = load_hotkey("w", root.path(), "hpub.txt", None).unwrap_err();
    assert!(matches!(error, WalletError::NoSecret { .. }), "{error:?}");
}

#[test]
fn overwrites_only_when_told() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (Keypair::generate(), Keypair::generate());
    let save =
        |pair, password, overwrite| save_hotkey("w", root.path(), "h", pair, password, overwrite);
    let current = || load_hotkey("w", root.path(), "h", None).unwrap().public();

    save(&first, None, true).unwrap();
    for password in [None, Some(PASSWORD)] {
        let error = save(&second, password, false).unwrap_err();
        assert!(matches!(error, WalletError::Exists { .. }), "{error:?}");
        assert_eq!(current(), first.public());
    }
    let error = save(&second, Some(""), true).unwrap_err();
    assert!(matches!(error, WalletError::EmptyPassword), "{error:?}");
    assert_eq!(current(), first.public());

    save(&second, None, true).unwrap();
    assert_eq!(current(), second.public());
    let public = fs::read_to_string(root.path().join("w/hotkeys/hpub.txt")).unwrap();
    assert!(public.contains(&second.hotkey()) && !public.contains(&first.hotkey()));
}

#[test]
fn one_of_many_simultaneous_writers_wins() {
    let root = tempfile::tempdir().unwrap();
    let start = Barrier::new(8);
    let write = || {
        let pair = Keypair::generate();
        start.wait();
        save_hotkey("w", root.path(), "h", &pair, None, false).map(|_| pair.public())
    };
    let results: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });

    let winners: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert_eq!(
        load_hotkey("w", root.path(), "h", None).unwrap().public(),
        *winners[0]
    );
    for result in &results {
        assert!(
            matches!(result, Ok(_) | Err(WalletError::Exists { .. })),
            "{result:?}"
        );
    }
    // The temporary files of the losers are gone.
    assert_eq!(
        fs::read_dir(root.path().join("w/hotkeys")).unwrap().count(),
        2
    );
}

#[test]
fn missing_and_unusable_files_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let load = || load_hotkey("w", root.path(), "h", None).unwrap_err();
    assert!(matches!(load(), WalletError::NotFound { .. }));

    let path = place(root.path(), &vec![b' '; 64 * 1024]);
    assert!(matches!(load(), WalletError::Malformed { reason, .. } if reason.contains("JSON")));
    place(root.path(), &vec![b' '; 64 * 1024 + 1]);
    assert!(matches!(load(), WalletError::Malformed { reason, .. } if reason.contains("64 KiB")));
    assert!(matches!(inspect(&path), Err(WalletError::Malformed { .. })));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(load(), WalletError::Malformed { reason, .. } if reason.contains("regular")));
    let error = save_hotkey("w", root.path(), "h", &Keypair::generate(), None, true).unwrap_err();
    assert!(matches!(error, WalletError::Write { .. }), "{error:?}");

    fs::write(root.path().join("not-a-folder"), b"").unwrap();
    let error = save_hotkey(
        "not-a-folder",
        root.path(),
        "h",
        &Keypair::generate(),
        None,
        false,
    )
    .unwrap_err();
    assert!(matches!(error, WalletError::Write { .. }), "{error:?}");
}

#[test]
fn legacy_encryption_is_reported_without_the_password() {
    for (name, encryption) in [
        ("ansible", Encryption::AnsibleVault),
        ("fernet", Encryption::Fernet),
    ] {
        let info = inspect(fixture(name)).unwrap();
        assert_eq!((info.address, info.encryption), (None, Some(encryption)));
        assert!(
            info.warnings
                .contains(&HotkeyFileWarning::LegacyEncryption(encryption))
        );
    }
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_what_is_written() {
    use std::os::unix::fs::PermissionsExt;

    let root = tempfile::tempdir().unwrap();
    let pair = Keypair::generate();
    let file = save_hotkey("w", root.path(), "h", &pair, None, false).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(mode(&root.path().join("w")), 0o700);

    // A file that others can read loads, but is reported.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let info = inspect(&file).unwrap();
    assert_eq!(info.mode, Some(0o644));
    assert_eq!(info.warnings, [HotkeyFileWarning::Readable { mode: 0o644 }]);
    load_hotkey("w", root.path(), "h", None).unwrap();

    // Replacing it closes it again.
    save_hotkey("w", root.path(), "h", &pair, None, true).unwrap();
    assert_eq!(inspect(&file).unwrap().mode, Some(0o600));
}

/// Runs itself in a child process: the environment of a process with threads is not changed.
#[test]
fn password_is_read_from_the_process_environment() {
    const CHILD: &str = "LIGHTNING_KEYS_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let pair = load_hotkey("btwallet", FIXTURES, "ansible", None).unwrap();
        assert_eq!(pair.hotkey(), ADDRESS);
        return;
    }
    let location = WalletPath::new("btwallet", FIXTURES, "ansible").unwrap();
    let child = |password: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "password_is_read_from_the_process_environment"])
            .env(CHILD, "1")
            .env(
                location.password_variable(),
                location.encode_password(password).as_str(),
            )
            .output()
            .unwrap()
    };
    let output = child(PASSWORD);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(!child("wrong").status.success());
}
