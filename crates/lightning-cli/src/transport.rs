//! Arguments that choose the transport's settings.

use btlightning::{Congestion, TransportOptions};
use clap::{Args, ValueEnum};

/// How packets are sent.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TransportArgs {
    /// What decides how fast to send
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion: Controller,
    /// Hand packets to the kernel one by one, where its segmentation offload fails
    #[arg(long)]
    no_gso: bool,
    /// Largest packet to try, as UDP payload; paths that carry less are found out
    #[arg(long, value_name = "BYTES", default_value_t = TransportOptions::default().max_udp_payload)]
    max_packet: u16,
}

/// A congestion controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Controller {
    /// Fair beside TCP
    Cubic,
    /// Keeps its rate where packets are lost at random
    Bbr,
}

impl TransportArgs {
    /// Returns the library's form of them, which checks them.
    pub(crate) fn options(self) -> TransportOptions {
        let congestion = match self.congestion {
            Controller::Cubic => Congestion::Cubic,
            Controller::Bbr => Congestion::Bbr,
        };
        TransportOptions::default()
            .congestion(congestion)
            .segmentation_offload(!self.no_gso)
            .max_udp_payload(self.max_packet)
    }
}
