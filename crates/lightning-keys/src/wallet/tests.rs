use super::*;

const PASSWORD: &str = "correct horse";

/// The vault is the fixture that is cheap to open.
fn vault() -> WalletPath {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    WalletPath::new("btwallet", fixtures, "ansible").unwrap()
}

#[test]
fn password_comes_from_the_argument_then_the_environment() {
    let vault = vault();
    let expected = vault.password_variable();
    let encoded = OsString::from(vault.encode_password(PASSWORD).as_str());

    load(&vault, Some(PASSWORD), |_| panic!("asked the environment")).unwrap();
    load(&vault, None, |variable| {
        assert_eq!(variable, expected);
        Some(encoded)
    })
    .unwrap();
}

#[test]
fn missing_password_says_where_to_give_it() {
    let vault = vault();
    let error = load(&vault, None, |_| None).unwrap_err();
    match &error {
        WalletError::PasswordRequired {
            path,
            encryption,
            variable,
        } => {
            assert_eq!(path, vault.file());
            assert_eq!(*encryption, Encryption::AnsibleVault);
            assert_eq!(*variable, vault.password_variable());
        }
        other => panic!("{other:?}"),
    }
    let said = error.to_string();
    assert!(
        said.contains(&vault.password_variable()) && said.contains("Ansible Vault"),
        "{said}"
    );
}

#[test]
fn password_in_the_environment_must_be_encoded() {
    let error = load(&vault(), None, |_| Some(PASSWORD.into())).unwrap_err();
    assert!(
        matches!(error, WalletError::PasswordVariable { .. }),
        "{error:?}"
    );
    assert!(!format!("{error} {error:?}").contains(PASSWORD));
}

#[test]
fn plain_file_needs_no_environment() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let plain = WalletPath::new("btwallet", fixtures, "plain").unwrap();
    load(&plain, None, |_| panic!("asked the environment")).unwrap();
}
