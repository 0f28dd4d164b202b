//! Paths that begin to drop packets which they used to carry.
//!
//! quinn takes four bursts of losses, none explained by anything but size, for such a black hole,
//! and goes on with 1200 bytes. Before that, whatever fits into a probe still gets through.

use std::time::Duration;

use lightning_quic::{Congestion, TransportSettings};

use super::{
    link::LinkSettings,
    sim::{Path, Sender},
};

#[test]
fn large_messages_survive_a_shrinking_path() {
    for (delay, from, to) in cases() {
        for sender in [Sender::Client, Sender::Server] {
            let mut path = discovered(delay, from);
            let stream = path.host(sender).send_message(LARGE);
            path.run_until(|path| path.arrived(sender, stream) > LARGE as u64 / 4);
            path.narrow_to(to);
            let pause = path.longest_pause(sender, stream, LARGE as u64);
            println!("{from} to {to}, {delay:?} one way, {sender:?} sends: pause of {pause:?}");
            assert!(pause < longest_pause(delay), "{pause:?}");
            let stats = path.host(sender).stats().path;
            assert!(stats.black_holes_detected > 0);
            assert!(usize::from(stats.current_mtu) <= to, "{stats:?}");
            // And back at full speed: the next one meets no loss.
            let dropped = path.up.counters.too_large + path.down.counters.too_large;
            path.transfer(sender, LARGE);
            let counters = path.up.counters.too_large + path.down.counters.too_large;
            assert_eq!(counters, dropped);
        }
    }
}

/// Requests and answers in turn, as on a lane: in the worst case both directions have to find out,
/// one after the other.
#[test]
fn lanes_survive_a_shrinking_path() {
    for (delay, from, to) in cases() {
        for bytes in [300, 16 * 1024, 100_000] {
            let mut path = discovered(delay, from);
            let requests = path.client.open_stream();
            let answers = path.server.open_stream();
            let mut longest = Duration::ZERO;
            for round in 1..=ROUNDS {
                if round == ROUNDS / 2 {
                    path.narrow_to(to);
                }
                let began = path.now();
                let all = round * bytes as u64;
                path.client.write(requests, bytes);
                path.run_until(|path| path.arrived(Sender::Client, requests) == all);
                path.server.write(answers, bytes);
                path.run_until(|path| path.arrived(Sender::Server, answers) == all);
                longest = longest.max(path.now() - began);
            }
            println!("{from} to {to}, {delay:?} one way, {bytes} bytes: round of {longest:?}");
            assert!(longest < 2 * longest_pause(delay), "{longest:?}");
            let small = bytes < 1200;
            for host in [&path.client, &path.server] {
                // What fits into the smallest packet never notices.
                assert_eq!(host.stats().path.black_holes_detected == 0, small);
            }
            if small {
                assert!(longest < 3 * delay, "{longest:?}");
            }
        }
    }
}

/// The documented bound on the pause in one direction: 300 ms and ten round trips.
fn longest_pause(delay: Duration) -> Duration {
    Duration::from_millis(300) + 20 * delay
}

/// One-way delays, and largest payloads before and after: jumbo frames to a tunnel within
/// Ethernet, and to IPv6's smallest link; Ethernet to the same.
fn cases() -> impl Iterator<Item = (Duration, usize, usize)> {
    let delays = [250, 5_000, 50_000].map(Duration::from_micros);
    let sizes = [(6500, 1400), (6500, 1252), (1472, 1252)];
    delays
        .into_iter()
        .flat_map(move |delay| sizes.map(|(from, to)| (delay, from, to)))
}

/// A connection that has found out what its path carries.
fn discovered(delay: Duration, max_udp_payload: usize) -> Path {
    let link = LinkSettings {
        delay,
        rate: 1_000_000_000,
        queue_bytes: 6_250_000,
        lost_one_in: 0,
        max_udp_payload,
    };
    let mut settings = TransportSettings::default();
    settings.congestion = Congestion::Cubic;
    let mut path = Path::connect(&settings, link);
    for sender in [Sender::Client, Sender::Server] {
        // A step takes a round trip. It ends where the next one would be less than 20 bytes.
        let mut exchanges = 0;
        while usize::from(path.host(sender).stats().path.current_mtu) + 40 < max_udp_payload {
            path.transfer(sender, 50_000);
            exchanges += 1;
            assert!(exchanges < 100, "nothing is discovered");
        }
        path.transfer(sender, LARGE);
    }
    path
}

const LARGE: usize = 4_000_000;
const ROUNDS: u64 = 10;
