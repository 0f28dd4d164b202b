//! Where hotkeys come from, and the secrets that open them.
//!
//! Secrets are read from files, from stdin and from the environment, never from arguments, which
//! every user of a machine can see.

use std::{
    fs,
    io::{self, BufRead},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use lightning_keys::{Keypair, wallet};
use zeroize::Zeroizing;

/// A hotkey in the wallet folder.
#[derive(Debug, Args)]
pub(crate) struct WalletArgs {
    /// Wallet that holds the hotkey
    #[arg(long, value_name = "NAME")]
    pub(crate) wallet: Option<String>,
    /// Name of the hotkey in the wallet
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        requires = "wallet"
    )]
    pub(crate) hotkey: String,
    /// Folder of the wallets
    #[arg(long, value_name = "PATH", default_value = wallet::DEFAULT_WALLET_PATH, requires = "wallet")]
    pub(crate) path: PathBuf,
}

/// The password of a hotkey file.
#[derive(Debug, Args)]
pub(crate) struct PasswordArgs {
    /// Environment variable that holds the password of the hotkey file
    #[arg(long, value_name = "VAR", requires = "wallet")]
    password_env: Option<String>,
    /// Read the password of the hotkey file from the first line of stdin
    #[arg(long, requires = "wallet", conflicts_with = "password_env")]
    pub(crate) password_stdin: bool,
}

/// The hotkey that a command uses.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
    /// File that holds the seed of the hotkey, 32 bytes in hex; also the variable LIGHTNING_SEED
    #[arg(long, value_name = "FILE", conflicts_with = "wallet")]
    seed_file: Option<PathBuf>,
    /// Use a new hotkey, which is gone when the command ends
    #[arg(long, conflicts_with_all = ["wallet", "seed_file"])]
    generate: bool,
}

impl KeyArgs {
    /// Loads the hotkey, or returns `None` when nothing says which.
    ///
    /// Opening an encrypted file takes seconds and blocks.
    pub(crate) fn load(&self) -> Result<Option<Keypair>> {
        if let Some(name) = &self.wallet.wallet {
            let password = self.password.read()?;
            let (path, hotkey) = (&self.wallet.path, &self.wallet.hotkey);
            let pair =
                wallet::load_hotkey(name, path, hotkey, password.as_ref().map(|p| p.as_str()))?;
            return Ok(Some(pair));
        }
        if let Some(file) = &self.seed_file {
            return Ok(Some(Keypair::from_seed(&*read_seed_file(file)?)));
        }
        if self.generate {
            return Ok(Some(Keypair::generate()));
        }
        let Some(seed) = std::env::var_os(SEED_VARIABLE) else {
            return Ok(None);
        };
        let seed = seed.into_string().map(Zeroizing::new);
        let seed = seed
            .map_err(|_| anyhow!("it is not text"))
            .and_then(|text| parse_seed(&text))
            .with_context(|| format!("environment variable {SEED_VARIABLE}"))?;
        Ok(Some(Keypair::from_seed(&seed)))
    }

    /// Names the environment variables that a child process must not inherit.
    pub(crate) fn secret_variables(&self) -> Vec<String> {
        let passwords = std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| name.starts_with(PASSWORD_VARIABLE_START));
        passwords
            .chain(self.password.password_env.clone())
            .chain([SEED_VARIABLE.to_owned()])
            .collect()
    }
}

impl PasswordArgs {
    /// Reads the password, if one was promised.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<String>>> {
        if let Some(variable) = &self.password_env {
            let password = std::env::var(variable)
                .map_err(|_| anyhow!("environment variable {variable} holds no password"))?;
            return Ok(Some(Zeroizing::new(password)));
        }
        if self.password_stdin {
            return read_secret_line("password").map(Some);
        }
        Ok(None)
    }
}

/// Reads a seed of 32 bytes in hex, with or without `0x`.
pub(crate) fn parse_seed(text: &str) -> Result<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut seed = Zeroizing::new([0; 32]);
    // The error of the decoder would quote a character of the secret.
    if hex::decode_to_slice(digits, &mut seed[..]).is_err() {
        bail!("a seed is 64 hex digits");
    }
    Ok(seed)
}

/// Reads the first line of stdin, which holds a secret; `what` names it in errors.
pub(crate) fn read_secret_line(what: &str) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(SECRET_LINE_CAPACITY));
    io::stdin()
        .lock()
        .read_line(&mut line)
        .with_context(|| format!("cannot read the {what} from stdin"))?;
    let len = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(len);
    if line.is_empty() {
        bail!("stdin holds no {what}");
    }
    Ok(line)
}

fn read_seed_file(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let failed = || format!("seed file {}", path.display());
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .with_context(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(path)
            .with_context(failed)?
            .permissions()
            .mode();
        if mode & READ_BY_OTHERS != 0 {
            tracing::warn!(file = %path.display(), "other users can read the seed, use chmod 600");
        }
    }
    parse_seed(&text).with_context(failed)
}

/// The environment variable that may hold a seed.
pub(crate) const SEED_VARIABLE: &str = "LIGHTNING_SEED";

/// Bittensor tools keep the passwords of wallet files in variables that begin so.
const PASSWORD_VARIABLE_START: &str = "BT_PW_";

#[cfg(unix)]
const READ_BY_OTHERS: u32 = 0o044;

/// Reserved in full: a string that grows leaves copies of the secret in freed memory.
const SECRET_LINE_CAPACITY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_64_hex_digits() {
        let digits = "0f".repeat(32);
        for good in [
            digits.clone(),
            format!("0x{digits}"),
            format!(" {digits}\n"),
        ] {
            assert_eq!(*parse_seed(&good).unwrap(), [0x0f; 32]);
        }
        for bad in [
            "",
            "0x",
            &digits[1..],
            &format!("{digits}0"),
            &digits.replace('f', "g"),
        ] {
            let error = parse_seed(bad).unwrap_err().to_string();
            assert_eq!(error, "a seed is 64 hex digits");
        }
    }
}
