//! `lightning keygen`: a new hotkey, or an old one restored.

use anyhow::Result;
use clap::Args;
use lightning_keys::{Keypair, generate_phrase, wallet};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    Outcome,
    keys::{PasswordArgs, WalletArgs, parse_seed, read_secret_line},
    output,
};

/// What to make and where to keep it.
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
    /// Replace the hotkey file if there is one
    #[arg(long, requires = "wallet")]
    overwrite: bool,
    /// Print the secret phrase and the seed
    #[arg(long)]
    show_secret: bool,
    /// Words of the new phrase: 12, 15, 18, 21 or 24
    #[arg(long, value_name = "N", default_value_t = 12)]
    words: usize,
    /// Restore the hotkey from its secret phrase, the first line of stdin
    #[arg(long, conflicts_with_all = ["words", "from_seed_stdin", "password_stdin"])]
    from_phrase_stdin: bool,
    /// Restore the hotkey from its seed in hex, the first line of stdin
    #[arg(long, conflicts_with_all = ["words", "password_stdin"])]
    from_seed_stdin: bool,
}

/// What is printed for programs.
#[derive(Serialize)]
struct MadeKey<'a> {
    hotkey: String,
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// Makes a hotkey, writes it to a wallet if one is named, and prints its address.
pub(crate) fn run(args: &KeygenArgs, json: bool) -> Result<Outcome> {
    let pair = make(args)?;
    let file = match &args.wallet.wallet {
        None => None,
        Some(name) => {
            let password = args.password.read()?;
            Some(wallet::save_hotkey(
                name,
                &args.wallet.path,
                &args.wallet.hotkey,
                &pair,
                password.as_ref().map(|p| p.as_str()),
                args.overwrite,
            )?)
        }
    };
    let file = file.map(|file| file.display().to_string());
    let public = format!("0x{}", hex::encode(pair.public().as_bytes()));
    let phrase = pair.phrase().filter(|_| args.show_secret);
    let seed = pair.seed().filter(|_| args.show_secret);
    let seed = seed.map(|seed| Zeroizing::new(format!("0x{}", hex::encode(&seed[..]))));

    if json {
        output::print_json(&MadeKey {
            hotkey: pair.hotkey(),
            public_key: public,
            phrase: phrase.map(|phrase| phrase.as_str()),
            seed: seed.as_ref().map(|seed| seed.as_str()),
            file,
        })?;
        return Ok(Outcome::Done);
    }
    let mut fields = vec![("hotkey", pair.hotkey()), ("public key", public)];
    fields.extend(phrase.map(|phrase| ("phrase", phrase.to_string())));
    fields.extend(seed.map(|seed| ("seed", seed.to_string())));
    let kept = file.is_some();
    fields.extend(file.map(|file| ("file", file)));
    output::print_fields(&fields)?;
    if !kept && !args.show_secret && !args.from_phrase_stdin && !args.from_seed_stdin {
        eprintln!("the secret of this hotkey is gone: keep it with --wallet or --show-secret");
    }
    Ok(Outcome::Done)
}

fn make(args: &KeygenArgs) -> Result<Keypair> {
    if args.from_seed_stdin {
        let seed = parse_seed(&read_secret_line("seed")?)?;
        return Ok(Keypair::from_seed(&seed));
    }
    let phrase = if args.from_phrase_stdin {
        read_secret_line("secret phrase")?
    } else {
        generate_phrase(args.words)?
    };
    Ok(Keypair::from_phrase(&phrase, None)?)
}
