//! Who may call: hotkeys and addresses named by the operator.

use std::{collections::HashSet, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result};
use btlightning::{
    LightningError, SourceAddressResolver, SourceAllowlist, ValidatorPermitResolver,
};
use lightning_keys::PublicKey;

/// The hotkeys that may call: some named once, some in a file that may change.
#[derive(Debug)]
pub(super) struct AllowedHotkeys {
    named: HashSet<String>,
    file: Option<PathBuf>,
}

/// The addresses that get an answer.
#[derive(Debug)]
pub(super) struct AllowedSources {
    addresses: HashSet<IpAddr>,
}

impl AllowedHotkeys {
    pub(super) fn new(named: &[PublicKey], file: Option<PathBuf>) -> Self {
        Self {
            named: named.iter().map(PublicKey::to_ss58).collect(),
            file,
        }
    }

    /// Returns the whole set, with what the file holds now.
    pub(super) fn read(&self) -> Result<HashSet<String>> {
        let mut hotkeys = self.named.clone();
        if let Some(file) = &self.file {
            let failed = || format!("allow file {}", file.display());
            let text = fs::read_to_string(file).with_context(failed)?;
            parse(&text, &mut hotkeys).with_context(failed)?;
        }
        Ok(hotkeys)
    }
}

impl ValidatorPermitResolver for AllowedHotkeys {
    fn resolve_permitted_validators(&self) -> btlightning::Result<HashSet<String>> {
        self.read()
            .map_err(|e| LightningError::Config(format!("{e:#}")))
    }
}

impl AllowedSources {
    pub(super) fn new(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.iter().copied().collect(),
        }
    }
}

impl SourceAddressResolver for AllowedSources {
    fn resolve_allowed_sources(&self) -> btlightning::Result<SourceAllowlist> {
        Ok(SourceAllowlist::Enforce(self.addresses.clone()))
    }
}

/// Takes a hotkey a line; empty lines and what follows a `#` do not count.
fn parse(text: &str, hotkeys: &mut HashSet<String>) -> Result<()> {
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let hotkey: PublicKey = content
            .parse()
            .with_context(|| format!("line {}", index + 1))?;
        hotkeys.insert(hotkey.to_ss58());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hotkey_a_line() {
        let key = PublicKey::from_bytes([7; 32]);
        let mut hotkeys = HashSet::new();
        parse(&format!("# all\n\n  {key} # mine\r\n"), &mut hotkeys).unwrap();
        assert_eq!(hotkeys, HashSet::from([key.to_ss58()]));
        let error = parse(&format!("{key}\nnobody\n"), &mut hotkeys).unwrap_err();
        assert!(format!("{error:#}").starts_with("line 2: "), "{error:#}");
    }
}
