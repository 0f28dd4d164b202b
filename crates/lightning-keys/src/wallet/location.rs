use std::ffi::OsString;
use std::path::{Component, MAIN_SEPARATOR, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::WalletError;

/// Where a hotkey lives: `<path>/<name>/hotkeys/<hotkey name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletPath {
    file: PathBuf,
}

impl WalletPath {
    /// Resolves the hotkey `hotkey_name` of the wallet `name` in the folder `path`.
    ///
    /// A leading `~` in `path` is the home folder; [`DEFAULT_WALLET_PATH`] is where Bittensor
    /// tools keep their wallets.
    ///
    /// # Errors
    /// [`WalletError::Name`] for a name that is not a single path component,
    /// [`WalletError::NoHome`].
    pub fn new(name: &str, path: impl AsRef<Path>, hotkey_name: &str) -> Result<Self, WalletError> {
        check_name("wallet", name)?;
        check_name("hotkey", hotkey_name)?;
        let root = expand_home(path.as_ref(), std::env::home_dir())?;
        Ok(Self {
            file: root.join(name).join(HOTKEYS_FOLDER).join(hotkey_name),
        })
    }

    /// Returns the path of the hotkey file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the path of the file beside it that repeats the public half.
    pub fn public_file(&self) -> PathBuf {
        let mut file = OsString::from(self.file.as_os_str());
        file.push(PUBLIC_FILE_END);
        PathBuf::from(file)
    }

    /// Names the environment variable in which Bittensor tools keep this file's password.
    ///
    /// `BT_PW_`, then the path in upper case with separators and dots as underscores.
    pub fn password_variable(&self) -> String {
        let path = self
            .file
            .to_string_lossy()
            .replace([MAIN_SEPARATOR, '.'], "_");
        format!("{VARIABLE_START}{}", path.to_uppercase())
    }

    /// Encodes `password` for [`password_variable`](Self::password_variable).
    ///
    /// The encoding hides the password from a glance, not from anyone who knows the format.
    pub fn encode_password(&self, password: &str) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(password.as_bytes().to_vec());
        apply_mask(&mut bytes, &self.password_variable());
        Zeroizing::new(STANDARD.encode(&*bytes))
    }

    /// Reverses [`encode_password`](Self::encode_password).
    pub(super) fn decode_password(
        &self,
        value: OsString,
    ) -> Result<Zeroizing<String>, WalletError> {
        let variable = self.password_variable();
        let decoded = (|| {
            let value = Zeroizing::new(value.into_string().ok()?);
            let mut bytes = Zeroizing::new(STANDARD.decode(value.trim()).ok()?);
            apply_mask(&mut bytes, &variable);
            std::str::from_utf8(&bytes)
                .ok()
                .map(|text| Zeroizing::new(text.to_owned()))
        })();
        decoded.ok_or(WalletError::PasswordVariable { variable })
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), WalletError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        // The comparison refuses `name/`, which has the same components as `name`.
        (Some(Component::Normal(only)), None) if only == name => Ok(()),
        _ => Err(WalletError::Name {
            what,
            name: name.to_owned(),
        }),
    }
}

fn expand_home(path: &Path, home: Option<PathBuf>) -> Result<PathBuf, WalletError> {
    match path.strip_prefix("~") {
        Ok(rest) => Ok(home.ok_or(WalletError::NoHome)?.join(rest)),
        Err(_) => Ok(path.to_owned()),
    }
}

/// Its own inverse. The variable's name is the mask: that is the format, not protection.
fn apply_mask(bytes: &mut [u8], variable: &str) {
    for (byte, mask) in bytes.iter_mut().zip(variable.bytes().cycle()) {
        *byte ^= mask;
    }
}

/// The folder in which Bittensor tools keep wallets unless told otherwise.
pub const DEFAULT_WALLET_PATH: &str = "~/.bittensor/wallets";

const HOTKEYS_FOLDER: &str = "hotkeys";
const PUBLIC_FILE_END: &str = "pub.txt";
const VARIABLE_START: &str = "BT_PW_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_the_folder_layout() {
        let path = WalletPath::new("cold", "/data/wallets/", "miner-1").unwrap();
        assert_eq!(path.file(), Path::new("/data/wallets/cold/hotkeys/miner-1"));
        assert_eq!(
            path.public_file(),
            Path::new("/data/wallets/cold/hotkeys/miner-1pub.txt")
        );
    }

    #[test]
    fn expands_only_a_leading_tilde() {
        let home = || Some(PathBuf::from("/home/user"));
        let expand = |path: &str| expand_home(Path::new(path), home()).unwrap();
        assert_eq!(
            expand(DEFAULT_WALLET_PATH),
            Path::new("/home/user/.bittensor/wallets")
        );
        assert_eq!(expand("~"), Path::new("/home/user"));
        assert_eq!(expand("~other/wallets"), Path::new("~other/wallets"));
        assert_eq!(expand("wallets/~"), Path::new("wallets/~"));
        assert!(matches!(
            expand_home(Path::new("~/x"), None),
            Err(WalletError::NoHome)
        ));
        assert!(expand_home(Path::new("/x"), None).is_ok());
    }

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for name in ["", ".", "..", "a/b", "../a", "/a", "a/", "a/.", "./a"] {
            for (wallet, hotkey, expected) in [(name, "ok", "wallet"), ("ok", name, "hotkey")] {
                match WalletPath::new(wallet, "/w", hotkey) {
                    Err(WalletError::Name { what, .. }) => assert_eq!(what, expected, "{name:?}"),
                    other => panic!("{name:?} gave {other:?}"),
                }
            }
        }
    }

    #[test]
    fn password_variable_is_that_of_btwallet() {
        // Made with btwallet 4.1.0.
        for (root, password, variable, value) in [
            (
                "/home/user/.bittensor/wallets",
                "correct horse",
                "BT_PW__HOME_USER__BITTENSOR_WALLETS_W_HOTKEYS_H",
                "ITstIjI8K2gnIjcsMA==",
            ),
            (
                "/srv/wä.llets",
                "pässwörd that is longer than the variable name it is masked with, which wraps",
                "BT_PW__SRV_WÄ_LLETS_W_HOTKEYS_H",
                "Mpf7IyQonOUgMn8jq+UrbCU2dD8wOTgtPXQ/LTg9fzwqMX8mNi02MjA6Onet5TIpbCwgczYkfyUuJyAgPXMo\
                 ITY8c3AgNzYwOnYoJaL0LA==",
            ),
        ] {
            let path = WalletPath::new("w", root, "h").unwrap();
            assert_eq!(path.password_variable(), variable);
            assert_eq!(path.encode_password(password).as_str(), value);
        }
    }

    #[test]
    fn password_variable_round_trips() {
        let path = WalletPath::new("w", "/t", "h").unwrap();
        for password in ["x", "correct horse", "grüße, 世界", &"long ".repeat(40)] {
            let encoded = path.encode_password(password);
            let decoded = path
                .decode_password(OsString::from(encoded.as_str()))
                .unwrap();
            assert_eq!(*decoded, password);
        }
        for bad in ["not base64!", "////"] {
            let error = path.decode_password(OsString::from(bad)).unwrap_err();
            assert!(
                matches!(error, WalletError::PasswordVariable { .. }),
                "{bad}"
            );
        }
    }
}
