//! How often an address may try.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

/// Counts attempts per address over a sliding window.
///
/// IPv6 addresses count by their /64, which is what one customer gets. At most `max_tracked`
/// addresses are remembered; the one whose last attempt is oldest makes room for a new one.
#[derive(Debug)]
pub struct AttemptLimiter {
    attempts: HashMap<IpAddr, VecDeque<u64>>,
    max_attempts: usize,
    window_secs: u64,
    max_tracked: usize,
}

impl AttemptLimiter {
    /// Allows `max_attempts` per `window_secs` for each address.
    pub fn new(max_attempts: usize, window_secs: u64, max_tracked: usize) -> Self {
        Self {
            attempts: HashMap::new(),
            max_attempts,
            window_secs,
            max_tracked: max_tracked.max(1),
        }
    }

    /// Counts an attempt at `now` (Unix seconds) and says whether it is allowed.
    ///
    /// An attempt that is not allowed does not count.
    pub fn allow(&mut self, ip: IpAddr, now: u64) -> bool {
        let key = rate_key(ip);
        if !self.attempts.contains_key(&key) && self.attempts.len() >= self.max_tracked {
            self.make_room(now);
        }
        let cutoff = now.saturating_sub(self.window_secs);
        let times = self.attempts.entry(key).or_default();
        while times.front().is_some_and(|t| *t < cutoff) {
            times.pop_front();
        }
        if times.len() >= self.max_attempts {
            return false;
        }
        times.push_back(now);
        true
    }

    /// Forgets addresses without an attempt in the window.
    pub fn expire(&mut self, now: u64) {
        let cutoff = now.saturating_sub(self.window_secs);
        self.attempts
            .retain(|_, times| times.back().is_some_and(|t| *t >= cutoff));
    }

    /// Returns how many addresses are remembered.
    pub fn tracked(&self) -> usize {
        self.attempts.len()
    }

    fn make_room(&mut self, now: u64) {
        self.expire(now);
        if self.attempts.len() < self.max_tracked {
            return;
        }
        let oldest = self
            .attempts
            .iter()
            .min_by_key(|(_, t)| t.back())
            .map(|(ip, _)| *ip);
        if let Some(ip) = oldest {
            self.attempts.remove(&ip);
        }
    }
}

/// Returns the address under which a source's attempts and connections are counted.
///
/// IPv4 addresses (mapped ones too) stand for themselves, IPv6 addresses for their /64.
pub fn rate_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_over_a_sliding_window() {
        let mut limiter = AttemptLimiter::new(2, 60, 10);
        assert!(limiter.allow(ip("192.0.2.1"), 100));
        assert!(limiter.allow(ip("192.0.2.1"), 130));
        assert!(!limiter.allow(ip("192.0.2.1"), 160));
        assert!(limiter.allow(ip("192.0.2.2"), 160));
        assert!(limiter.allow(ip("192.0.2.1"), 161));
        assert!(!limiter.allow(ip("192.0.2.1"), 190));
    }

    #[test]
    fn one_ipv6_network_counts_as_one() {
        let mut limiter = AttemptLimiter::new(1, 60, 10);
        assert!(limiter.allow(ip("2001:db8::1"), 0));
        assert!(!limiter.allow(ip("2001:db8::ffff:2"), 0));
        assert!(limiter.allow(ip("2001:db8:0:1::1"), 0));
        assert!(limiter.allow(ip("::ffff:192.0.2.1"), 0));
        assert!(!limiter.allow(ip("192.0.2.1"), 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut limiter = AttemptLimiter::new(1, 60, 3);
        for n in 0..100u8 {
            limiter.allow(IpAddr::from([192, 0, 2, n]), u64::from(n));
            assert!(limiter.tracked() <= 3);
        }
        limiter.expire(1000);
        assert_eq!(limiter.tracked(), 0);
    }
}
