//! Nonces that have been used, remembered for as long as they could be replayed.

use std::collections::{BTreeSet, HashMap};

use crate::{handshake::Refusal, limits::NONCE_HEX_LEN};

/// A 128-bit handshake nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Wraps 128 bits, which should be random.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Parses 32 hex characters of either case.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != NONCE_HEX_LEN || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(hex, 16)
            .ok()
            .map(|n| Self(n.to_be_bytes()))
    }

    /// Returns the 32 lower-case hex characters that travel.
    pub fn to_hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The nonces that have been used, at most `capacity` of them.
///
/// A nonce is kept until its handshake's timestamp is too old to be accepted anyway. When the
/// capacity does not last that long, the oldest timestamps are forgotten first and every handshake
/// as old as a forgotten one is refused from then on: filling the window cannot make a replay
/// possible, it can only shorten the time for which a signed handshake stays usable.
#[derive(Debug)]
pub struct NonceWindow {
    by_nonce: HashMap<Nonce, u64>,
    by_time: BTreeSet<(u64, Nonce)>,
    capacity: usize,
    /// Handshakes with this timestamp or an older one are refused.
    forgotten_up_to: Option<u64>,
}

impl NonceWindow {
    /// An empty window.
    pub fn new(capacity: usize) -> Self {
        Self {
            by_nonce: HashMap::new(),
            by_time: BTreeSet::new(),
            capacity: capacity.max(1),
            forgotten_up_to: None,
        }
    }

    /// Takes a nonce whose handshake, signed at `timestamp` (Unix seconds), was verified.
    ///
    /// # Errors
    ///
    /// [`Refusal::Replayed`] when it was used before, [`Refusal::Forgotten`] when it is too old to
    /// know.
    pub fn insert(&mut self, nonce: Nonce, timestamp: u64) -> Result<(), Refusal> {
        if self.by_nonce.contains_key(&nonce) {
            return Err(Refusal::Replayed);
        }
        if self.forgotten_up_to.is_some_and(|limit| timestamp <= limit) {
            return Err(Refusal::Forgotten);
        }
        self.by_nonce.insert(nonce, timestamp);
        self.by_time.insert((timestamp, nonce));
        while self.by_nonce.len() > self.capacity {
            self.forget_oldest();
        }
        Ok(())
    }

    /// Forgets the nonces of handshakes signed `max_age` seconds before `now` or earlier.
    pub fn expire(&mut self, now: u64, max_age: u64) {
        let Some(limit) = now.checked_sub(max_age) else {
            return;
        };
        while self
            .by_time
            .first()
            .is_some_and(|(timestamp, _)| *timestamp <= limit)
        {
            if let Some((_, nonce)) = self.by_time.pop_first() {
                self.by_nonce.remove(&nonce);
            }
        }
    }

    /// Returns how many nonces are remembered.
    pub fn len(&self) -> usize {
        self.by_nonce.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_nonce.is_empty()
    }

    fn forget_oldest(&mut self) {
        if let Some((timestamp, nonce)) = self.by_time.pop_first() {
            self.by_nonce.remove(&nonce);
            self.forgotten_up_to = self.forgotten_up_to.max(Some(timestamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nonce(n: u8) -> Nonce {
        Nonce::from_bytes([n; 16])
    }

    #[test]
    fn hex_form() {
        let text = "000102030405060708090a0b0c0d0e0f";
        assert_eq!(Nonce::from_hex(text).unwrap().to_hex(), text);
        for bad in [
            "",
            "00",
            "+0102030405060708090a0b0c0d0e0f",
            &"0".repeat(31),
            &"0".repeat(33),
        ] {
            assert_eq!(Nonce::from_hex(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn used_once() {
        let mut window = NonceWindow::new(10);
        assert_eq!(window.insert(nonce(1), 100), Ok(()));
        assert_eq!(window.insert(nonce(1), 100), Err(Refusal::Replayed));
        assert_eq!(window.insert(nonce(1), 101), Err(Refusal::Replayed));
    }

    #[test]
    fn expires_by_time() {
        let mut window = NonceWindow::new(10);
        window.insert(nonce(1), 100).unwrap();
        window.insert(nonce(2), 200).unwrap();
        window.expire(399, 300);
        assert_eq!(window.len(), 2);
        window.expire(400, 300);
        assert_eq!(window.len(), 1);
        window.expire(10, 300);
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn a_flood_cannot_push_out_a_nonce_to_replay_it() {
        let mut window = NonceWindow::new(4);
        window.insert(nonce(1), 100).unwrap();
        for n in 2..20 {
            window.insert(nonce(n), 101 + u64::from(n)).unwrap();
        }
        assert_eq!(window.len(), 4);
        assert_eq!(window.insert(nonce(1), 100), Err(Refusal::Forgotten));
        assert_eq!(window.insert(nonce(200), 200), Ok(()));
    }

    proptest! {
        /// Whatever the order, capacity and expiry: no handshake is accepted twice.
        #[test]
        fn nothing_is_accepted_twice(
            steps in proptest::collection::vec((0u8..20, 0u64..50, any::<bool>()), 1..200),
            capacity in 1usize..8,
        ) {
            let mut window = NonceWindow::new(capacity);
            let mut accepted = std::collections::HashSet::new();
            let mut now = 0;
            for (n, timestamp, expire) in steps {
                now = now.max(timestamp);
                // As the server does: a timestamp outside the accepted age never gets here.
                if now - timestamp < 20 && window.insert(nonce(n), timestamp).is_ok() {
                    prop_assert!(accepted.insert((n, timestamp)));
                }
                if expire {
                    window.expire(now, 20);
                }
                prop_assert!(window.len() <= capacity);
            }
        }
    }
}
