//! A client's view of its connections.

use std::time::Duration;

use btlightning_proto::Version;

use super::core::Core;

/// A client's connections and miners.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ClientStats {
    /// Hotkeys that were authenticated and are in the registry.
    pub active_miners: usize,
    /// The connections, in the order of their addresses.
    pub connections: Vec<ConnectionStats>,
}

/// One connection of a client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The address, as `ip:port`.
    pub addr: String,
    /// The miner hotkeys at this address.
    pub hotkeys: Vec<String>,
    /// Why the connection ended, if it has.
    pub closed: Option<quinn::ConnectionError>,
    /// The protocol agreed on.
    pub version: Version,
    /// QUIC's estimate of the round-trip time.
    pub rtt: Duration,
    /// Bytes sent in UDP datagrams.
    pub sent_bytes: u64,
    /// Bytes received in UDP datagrams.
    pub received_bytes: u64,
    /// Packets that were lost on the way.
    pub lost_packets: u64,
    /// Largest packet the path is known to carry, in bytes.
    pub mtu: u16,
}

pub(super) fn collect(core: &Core) -> ClientStats {
    let registry = core.registry();
    let mut connections: Vec<_> = registry
        .links()
        .map(|(addr, link)| {
            let quic = link.connection.stats();
            let mut hotkeys: Vec<_> = registry
                .miners_at(addr)
                .into_iter()
                .map(|miner| miner.hotkey)
                .collect();
            hotkeys.sort();
            ConnectionStats {
                addr: addr.to_string(),
                hotkeys,
                closed: link.connection.close_reason(),
                version: link.version,
                rtt: quic.path.rtt,
                sent_bytes: quic.udp_tx.bytes,
                received_bytes: quic.udp_rx.bytes,
                lost_packets: quic.path.lost_packets,
                mtu: quic.path.current_mtu,
            }
        })
        .collect();
    connections.sort_by(|a, b| a.addr.cmp(&b.addr));
    ClientStats {
        active_miners: registry.miner_count(),
        connections,
    }
}
