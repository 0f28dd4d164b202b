//! `lightning inspect`: what a hotkey file holds and how well it is kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use lightning_keys::{PublicKey, wallet};
use serde::Serialize;

use crate::{
    Outcome,
    keys::{PasswordArgs, WalletArgs},
    output,
};

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Hotkey file
    #[arg(
        value_name = "FILE",
        required_unless_present = "wallet",
        conflicts_with = "wallet"
    )]
    file: Option<PathBuf>,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
}

/// What is printed for programs.
#[derive(Serialize)]
struct Description {
    file: String,
    hotkey: Option<String>,
    stated_hotkey: Option<String>,
    encryption: Option<String>,
    mode: Option<String>,
    warnings: Vec<String>,
}

/// Prints address, encryption, mode and warnings.
///
/// The address of an encrypted file is known only with its password. Without one, what the public
/// file beside it states is shown as such.
pub(crate) fn run(args: &InspectArgs, json: bool) -> Result<Outcome> {
    let path = args.file()?;
    let info = wallet::inspect(&path)?;
    let mut address = info.address;
    if let (None, Some(name), Some(password)) =
        (address, &args.wallet.wallet, args.password.read()?)
    {
        let (folder, hotkey) = (&args.wallet.path, &args.wallet.hotkey);
        address = Some(wallet::load_hotkey(name, folder, hotkey, Some(&password))?.public());
    }
    let stated = match address {
        Some(_) => None,
        None => stated_address(&path),
    };
    let encryption = info.encryption.map(|e| e.to_string());
    let mode = info.mode.map(|mode| format!("{mode:04o}"));
    let warnings: Vec<_> = info.warnings.iter().map(ToString::to_string).collect();

    if json {
        output::print_json(&Description {
            file: path.display().to_string(),
            hotkey: address.map(|a| a.to_ss58()),
            stated_hotkey: stated.map(|a| a.to_ss58()),
            encryption,
            mode,
            warnings,
        })?;
        return Ok(Outcome::Done);
    }
    let hotkey = match (address, stated) {
        (Some(address), _) => address.to_string(),
        (None, Some(stated)) => format!("{stated} (stated by the public file, not verified)"),
        (None, None) => "unknown without the password".into(),
    };
    let mut fields = vec![
        ("file", path.display().to_string()),
        ("hotkey", hotkey),
        ("encryption", encryption.unwrap_or_else(|| "none".into())),
    ];
    fields.extend(mode.map(|mode| ("mode", mode)));
    fields.extend(warnings.into_iter().map(|warning| ("warning", warning)));
    output::print_fields(&fields)?;
    Ok(Outcome::Done)
}

impl InspectArgs {
    fn file(&self) -> Result<PathBuf> {
        match (&self.file, &self.wallet.wallet) {
            (Some(file), _) => Ok(file.clone()),
            (None, Some(name)) => {
                let (path, hotkey) = (&self.wallet.path, &self.wallet.hotkey);
                let location = wallet::WalletPath::new(name, path, hotkey)?;
                Ok(location.file().to_owned())
            }
            (None, None) => None.context("name a FILE or a --wallet"),
        }
    }
}

/// Reads the address in the file that stands beside a hotkey file and repeats its public half.
fn stated_address(path: &Path) -> Option<PublicKey> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("pub.txt");
    let text = fs::read(beside).ok()?;
    let fields: serde_json::Value = serde_json::from_slice(&text).ok()?;
    fields.get("ss58Address")?.as_str()?.parse().ok()
}
