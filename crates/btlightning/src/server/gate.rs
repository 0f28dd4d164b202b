//! How many connections may be without an authenticated hotkey.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use btlightning_proto::rate::rate_key;

/// Counts connections that have not authenticated, in all and by address.
#[derive(Debug)]
pub(crate) struct Gate {
    counts: Mutex<Counts>,
    max_total: usize,
    max_per_ip: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A place in the count, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    ip: IpAddr,
}

impl Gate {
    pub(crate) fn new(max_total: usize, max_per_ip: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            max_total,
            max_per_ip,
        })
    }

    /// Takes a place for a connection from `ip`, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let ip = rate_key(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_ip.get(&ip).copied().unwrap_or(0);
        if counts.total >= self.max_total || here >= self.max_per_ip {
            return None;
        }
        counts.total += 1;
        counts.by_ip.insert(ip, here + 1);
        Some(Place {
            gate: self.clone(),
            ip,
        })
    }

    pub(crate) fn total(&self) -> usize {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .total
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .gate
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(here) = counts.by_ip.get_mut(&self.ip) {
            *here -= 1;
            if *here == 0 {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_in_all_and_by_address() {
        let gate = Gate::new(3, 2);
        let a: IpAddr = [192, 0, 2, 1].into();
        let b: IpAddr = [192, 0, 2, 2].into();
        let first = gate.enter(a).unwrap();
        let _second = gate.enter(a).unwrap();
        assert!(gate.enter(a).is_none());
        let _third = gate.enter(b).unwrap();
        assert!(gate.enter(b).is_none());
        drop(first);
        assert_eq!(gate.total(), 2);
        assert!(gate.enter(a).is_some());
    }
}
