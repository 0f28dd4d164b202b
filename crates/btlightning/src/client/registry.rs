//! Which miners are wanted, which are connected, and when the next attempt is due.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{LightningClientConfig, link::Link};
use crate::{
    error::CallErrorKind,
    types::{PeerAddr, QuicAxonInfo},
};

/// The client's view of its miners. Behind a lock, and off the path of a request.
#[derive(Default)]
pub(super) struct Registry {
    /// Authenticated miners by hotkey.
    miners: HashMap<String, QuicAxonInfo>,
    links: HashMap<PeerAddr, Arc<Link>>,
    /// Failed attempts, by address or by [`join_key`].
    attempts: HashMap<String, Attempts>,
    /// Whether the client is gone, so that a dial that outlived it must not leave a connection.
    retired: bool,
}

/// Failed attempts to reach an address, or to authenticate a hotkey at one that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempts {
    failed: u32,
    next_at: Instant,
}

/// What a request needs to find its connection, by hotkey.
pub(super) type Routes = HashMap<String, Route>;

/// Where a hotkey is served.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) axon: QuicAxonInfo,
    pub(super) link: Arc<Link>,
}

impl Registry {
    /// Builds the table that requests read.
    pub(super) fn routes(&self) -> Routes {
        let with_link = |axon: &QuicAxonInfo| {
            let link = self.links.get(&axon.addr_key())?.clone();
            Some((
                axon.hotkey.clone(),
                Route {
                    axon: axon.clone(),
                    link,
                },
            ))
        };
        self.miners.values().filter_map(with_link).collect()
    }

    pub(super) fn link(&self, addr: &PeerAddr) -> Option<&Arc<Link>> {
        self.links.get(addr)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (&PeerAddr, &Arc<Link>)> {
        self.links.iter()
    }

    pub(super) fn hotkeys(&self) -> HashSet<String> {
        self.miners.keys().cloned().collect()
    }

    pub(super) fn miner(&self, hotkey: &str) -> Option<&QuicAxonInfo> {
        self.miners.get(hotkey)
    }

    pub(super) fn miners_at(&self, addr: &PeerAddr) -> Vec<QuicAxonInfo> {
        self.miners
            .values()
            .filter(|m| m.addr_key() == *addr)
            .cloned()
            .collect()
    }

    pub(super) fn miner_count(&self) -> usize {
        self.miners.len()
    }

    /// Counts the connections that do not give way to a new one.
    pub(super) fn live_connection_count(&self) -> usize {
        self.links.values().filter(|link| link.is_alive()).count()
    }

    /// Enters a connection, unless there are as many as allowed already.
    ///
    /// Dead connections give way. Returns the one it takes the place of.
    pub(super) fn set_link(
        &mut self,
        link: Arc<Link>,
        max_connections: usize,
    ) -> Result<Option<Arc<Link>>, CallErrorKind> {
        self.check_room(&link.addr, max_connections)?;
        self.attempts.remove(link.addr.as_ref());
        Ok(self.links.insert(link.addr.clone(), link))
    }

    /// Whether there may be a connection to `addr`.
    pub(super) fn check_room(
        &mut self,
        addr: &PeerAddr,
        max_connections: usize,
    ) -> Result<(), CallErrorKind> {
        if self.retired {
            return Err(CallErrorKind::Config("the client was dropped".into()));
        }
        if self.links.contains_key(addr) || self.links.len() < max_connections {
            return Ok(());
        }
        self.links.retain(|_, link| link.is_alive());
        if self.links.len() < max_connections {
            return Ok(());
        }
        Err(CallErrorKind::ConnectionLimit(max_connections))
    }

    pub(super) fn add_miner(&mut self, axon: QuicAxonInfo) {
        self.miners.insert(axon.hotkey.clone(), axon);
    }

    /// Enters a miner that was authenticated; returns the connection it leaves without a user.
    pub(super) fn move_miner(&mut self, axon: QuicAxonInfo) -> Option<Arc<Link>> {
        let moved = self
            .miner(&axon.hotkey)
            .is_some_and(|old| old.addr_key() != axon.addr_key());
        let left = if moved {
            self.remove_miner(&axon.hotkey)
        } else {
            None
        };
        self.attempts
            .remove(&join_key(&axon.hotkey, &axon.addr_key()));
        self.add_miner(axon);
        left
    }

    /// Removes a hotkey, and returns its connection if no other hotkey uses it.
    pub(super) fn remove_miner(&mut self, hotkey: &str) -> Option<Arc<Link>> {
        let addr = self.miners.remove(hotkey)?.addr_key();
        if self.miners.values().any(|m| m.addr_key() == addr) {
            return None;
        }
        self.attempts.remove(addr.as_ref());
        self.links.remove(&addr)
    }

    /// Removes connections that are dead, and the hotkeys that were served by them.
    pub(super) fn prune_dead(&mut self) {
        let dead: HashSet<PeerAddr> = self
            .links
            .iter()
            .filter(|(_, link)| !link.is_alive())
            .map(|(addr, _)| addr.clone())
            .collect();
        self.links.retain(|addr, _| !dead.contains(addr));
        self.miners
            .retain(|_, axon| !dead.contains(&axon.addr_key()));
    }

    /// Forgets failed attempts, so that the next one may be made at once.
    pub(super) fn reset_attempts(&mut self) {
        self.attempts.clear();
    }

    /// Returns how often the last attempts at `key` have failed.
    pub(super) fn failed_attempts(&self, key: &str) -> u32 {
        self.attempts.get(key).map_or(0, |a| a.failed)
    }

    /// Whether an attempt at `key` may be made now.
    pub(super) fn may_try(
        &self,
        key: &str,
        now: Instant,
        config: &LightningClientConfig,
    ) -> Result<(), CallErrorKind> {
        let Some(attempts) = self.attempts.get(key) else {
            return Ok(());
        };
        let slow = attempts.failed >= config.reconnect_max_retries;
        if slow && config.reconnect_slow_probe_interval.is_none() {
            return Err(CallErrorKind::Exhausted {
                attempts: attempts.failed,
            });
        }
        match attempts.next_at.checked_duration_since(now) {
            Some(retry_in) if !retry_in.is_zero() => Err(CallErrorKind::Backoff { retry_in }),
            _ => Ok(()),
        }
    }

    /// Notes a failed attempt and returns the pause until the next one.
    pub(super) fn failed(
        &mut self,
        key: &str,
        now: Instant,
        config: &LightningClientConfig,
    ) -> Duration {
        if self.attempts.len() >= MAX_TRACKED_ADDRESSES && !self.attempts.contains_key(key) {
            self.attempts.retain(|_, a| a.next_at > now);
            if self.attempts.len() >= MAX_TRACKED_ADDRESSES {
                self.attempts.clear();
            }
        }
        let attempts = self.attempts.entry(key.to_owned()).or_insert(Attempts {
            failed: 0,
            next_at: now,
        });
        let doublings = attempts.failed.min(20);
        attempts.failed = attempts.failed.saturating_add(1);
        let pause = match config.reconnect_slow_probe_interval {
            Some(interval) if attempts.failed >= config.reconnect_max_retries => interval,
            _ => config
                .reconnect_initial_backoff
                .saturating_mul(1 << doublings)
                .min(config.reconnect_max_backoff),
        };
        attempts.next_at = now + pause;
        pause
    }

    /// Empties the registry for good and returns its connections.
    pub(super) fn retire(&mut self) -> Vec<Arc<Link>> {
        self.retired = true;
        self.clear()
    }

    /// Empties the registry and returns its connections.
    pub(super) fn clear(&mut self) -> Vec<Arc<Link>> {
        self.miners.clear();
        self.attempts.clear();
        self.links.drain().map(|(_, link)| link).collect()
    }
}

/// Names the attempts to authenticate a hotkey at an address that was reached.
pub(super) fn join_key(hotkey: &str, addr: &PeerAddr) -> String {
    format!("{hotkey}@{addr}")
}

/// Addresses whose failed attempts are remembered. Far beyond any subnet; it bounds what a caller
/// that invents addresses can make us keep.
const MAX_TRACKED_ADDRESSES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: &str = "192.0.2.1:1";

    #[test]
    fn backoff_doubles_then_probes_slowly() {
        let config = LightningClientConfig {
            reconnect_max_retries: 4,
            ..Default::default()
        };
        let mut registry = Registry::default();
        let mut now = Instant::now();
        assert!(registry.may_try(ADDR, now, &config).is_ok());
        for (attempt, secs) in [(1, 1), (2, 2), (3, 4), (4, 60), (5, 60)] {
            let pause = registry.failed(ADDR, now, &config);
            assert_eq!(pause, Duration::from_secs(secs), "attempt {attempt}");
            let almost = now + pause - Duration::from_millis(1);
            assert!(matches!(
                registry.may_try(ADDR, almost, &config),
                Err(CallErrorKind::Backoff { .. })
            ));
            now += pause;
            assert!(registry.may_try(ADDR, now, &config).is_ok());
        }
        registry.reset_attempts();
        assert_eq!(registry.failed(ADDR, now, &config), Duration::from_secs(1));
    }

    #[test]
    fn without_slow_probes_attempts_run_out() {
        let config = LightningClientConfig {
            reconnect_max_retries: 2,
            reconnect_slow_probe_interval: None,
            ..Default::default()
        };
        let mut registry = Registry::default();
        let now = Instant::now();
        registry.failed(ADDR, now, &config);
        registry.failed(ADDR, now, &config);
        let much_later = now + Duration::from_secs(1_000_000);
        assert!(matches!(
            registry.may_try(ADDR, much_later, &config),
            Err(CallErrorKind::Exhausted { attempts: 2 })
        ));
    }

    #[test]
    fn the_longest_pause_is_bounded() {
        let config = LightningClientConfig {
            reconnect_max_retries: u32::MAX,
            ..Default::default()
        };
        let mut registry = Registry::default();
        let now = Instant::now();
        let pauses: Vec<_> = (0..40)
            .map(|_| registry.failed(ADDR, now, &config))
            .collect();
        assert_eq!(pauses.iter().max(), Some(&Duration::from_secs(60)));
    }
}
