//! Where a miner listens and who it is, as one word: `HOTKEY@IP:PORT`.

use std::{fmt, net::SocketAddr, str::FromStr};

use btlightning::QuicAxonInfo;
use lightning_keys::PublicKey;

/// A miner's hotkey and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Axon {
    /// Who answers there.
    pub(crate) hotkey: PublicKey,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Axon {
    /// Returns the form the client takes.
    pub(crate) fn to_info(self) -> QuicAxonInfo {
        let (ip, port) = (self.addr.ip().to_string(), self.addr.port());
        QuicAxonInfo::new(self.hotkey.to_ss58(), ip, port, QUIC)
    }
}

impl FromStr for Axon {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (hotkey, addr) = text
            .rsplit_once('@')
            .ok_or("there is no @, expected HOTKEY@IP:PORT")?;
        let hotkey = hotkey
            .parse()
            .map_err(|e| format!("hotkey {hotkey:?}: {e}"))?;
        let addr: SocketAddr = addr.parse().map_err(|_| {
            format!(
                "{addr:?} is not an IP address and port, expected 192.0.2.1:8443 or \
                 [2001:db8::1]:8443"
            )
        })?;
        if addr.port() == 0 {
            return Err("port 0 cannot be dialled".into());
        }
        if matches!(addr, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return Err(format!("{addr}: addresses with a zone are not supported"));
        }
        Ok(Self { hotkey, addr })
    }
}

impl fmt::Display for Axon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.hotkey, self.addr)
    }
}

/// The number of the protocol on the chain.
const QUIC: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const HOTKEY: &str = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH";

    #[test]
    fn both_families_round_trip() {
        for addr in ["192.0.2.1:8443", "[2001:db8::1]:9", "[::1]:65535"] {
            let text = format!("{HOTKEY}@{addr}");
            let axon: Axon = text.parse().unwrap();
            assert_eq!(axon.to_string(), text);
            assert_eq!(axon.to_info().addr_key().as_ref(), addr);
        }
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("127.0.0.1:80".to_owned(), "there is no @"),
            ("@127.0.0.1:80".to_owned(), "hotkey \"\""),
            (HOTKEY.replace('q', "Q") + "@127.0.0.1:80", "checksum"),
            (format!("{HOTKEY}@127.0.0.1"), "not an IP address and port"),
            (format!("{HOTKEY}@example.com:80"), "\"example.com:80\""),
            (format!("{HOTKEY}@::1:80"), "[2001:db8::1]:8443"),
            (format!("{HOTKEY}@127.0.0.1:0"), "port 0"),
            (format!("{HOTKEY}@[fe80::1%2]:80"), "zone"),
        ] {
            let error = text.parse::<Axon>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
