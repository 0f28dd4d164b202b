//! Windows on a path of 1 Gbit/s and 100 ms, on which 12.5 MB are under way at a time.

use std::time::Duration;

use lightning_quic::{Congestion, TransportSettings};

use super::{
    link::LinkSettings,
    sim::{Path, Sender},
};

/// A 64 MiB message that finds the congestion window open takes as long as it would with boundless
/// windows, and fills the path.
#[test]
fn the_windows_do_not_hold_up_a_large_message() {
    let warm = |window: Option<u32>| {
        let mut settings = TransportSettings::default();
        if let Some(bytes) = window {
            settings.stream_receive_window = bytes;
            settings.receive_window = 2 * bytes;
            settings.send_window = 2 * u64::from(bytes);
        }
        let mut path = Path::connect(&settings, LONG_FAT);
        path.transfer(Sender::Client, MESSAGE / 2);
        path.up.counters.most_inside_bytes = 0;
        let took = path.transfer(Sender::Client, MESSAGE);
        let blocked = path.client.stats().frame_tx.data_blocked;
        (took, path.up.counters.most_inside_bytes, blocked)
    };
    let (ours, inside, blocked) = warm(None);
    let (boundless, ..) = warm(Some(512 * MIB));
    let (halved, half_inside, _) = warm(Some(8 * MIB));
    println!("ours {ours:?}, {inside} bytes inside; boundless {boundless:?}; halved {halved:?}");
    // Headers are not counted.
    let nearly_full = BANDWIDTH_DELAY_BYTES / 10 * 9;
    assert!(inside > nearly_full, "{inside}");
    assert!(ours < boundless.mul_f64(1.03), "{ours:?} {boundless:?}");
    // The window of the connection is not what binds a stream.
    assert_eq!(blocked, 0);
    // That this can fail: half the window leaves a third of the path unused.
    assert!(half_inside < nearly_full, "{half_inside}");
    assert!(halved > ours.mul_f64(1.3), "{halved:?} {ours:?}");
}

/// What the peer's window holds back says nothing of the path.
#[test]
fn a_congestion_window_that_is_not_used_does_not_grow() {
    let mut settings = TransportSettings::default();
    settings.stream_receive_window = MIB;
    let mut path = Path::connect(&settings, LONG_FAT);
    path.transfer(Sender::Client, MESSAGE / 4);
    let window = path.client.stats().path.cwnd;
    assert!(window < 3 * u64::from(MIB), "{window}");
}

/// Where a queue overflows, every second packet of megabytes is lost. quinn ends the connection on
/// a stream with more than 1,024 gaps; our readers take pieces out of order.
#[test]
fn an_overflowing_queue_does_not_end_the_connection() {
    let shallow = LinkSettings {
        queue_bytes: BANDWIDTH_DELAY_BYTES / 20,
        ..LONG_FAT
    };
    let mut settings = TransportSettings::default();
    let mut path = Path::connect(&settings, shallow);
    path.transfer(Sender::Client, MESSAGE);
    assert!(path.up.counters.overflowed > 1024);

    // What would happen otherwise. If this begins to pass, quinn's limit is gone, and with it the
    // need for `InOrder`.
    settings.congestion = Congestion::Cubic;
    let mut path = Path::connect(&settings, shallow);
    path.server.insists_on_order = true;
    let error = path.try_transfer(Sender::Client, MESSAGE).unwrap_err();
    assert!(error.to_string().contains("too many gaps"), "{error}");
}

/// What each controller makes of the path, for the table in `docs/design.md`.
#[test]
fn bbr_keeps_its_rate_under_random_loss() {
    let goodput = |congestion, lost_one_in, bytes: usize| {
        let mut settings = TransportSettings::default();
        settings.congestion = congestion;
        let link = LinkSettings {
            lost_one_in,
            ..LONG_FAT
        };
        let mut path = Path::connect(&settings, link);
        let mut rate = |bytes| {
            let took = path.transfer(Sender::Client, bytes);
            (8.0e-6 * bytes as f64 / took.as_secs_f64()).round()
        };
        let (cold, warm) = (rate(bytes), rate(bytes));
        println!("{congestion:?}, one in {lost_one_in} lost: {cold} then {warm} Mbit/s");
        warm
    };
    // CUBIC would take minutes for 64 MiB.
    let under_loss = MESSAGE / 8;
    let cubic = goodput(Congestion::Cubic, 1000, under_loss);
    let bbr = goodput(Congestion::Bbr, 1000, under_loss);
    assert!(bbr > 3.0 * cubic, "{bbr} {cubic}");
    assert!(goodput(Congestion::Cubic, 0, MESSAGE) > 800.0);
    assert!(goodput(Congestion::Bbr, 0, MESSAGE) > 700.0);
}

const MIB: u32 = 1024 * 1024;
const MESSAGE: usize = 64 * MIB as usize;

/// 1 Gbit/s times 100 ms.
const BANDWIDTH_DELAY_BYTES: usize = 12_500_000;

/// 1 Gbit/s, 100 ms there and back, Ethernet's packets, a queue as long as the path.
const LONG_FAT: LinkSettings = LinkSettings {
    delay: Duration::from_millis(50),
    rate: 1_000_000_000,
    queue_bytes: BANDWIDTH_DELAY_BYTES,
    lost_one_in: 0,
    max_udp_payload: 1472,
};
