//! Two network namespaces, joined by a veth pair that carries packets of 1500 bytes.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio, id},
};

use anyhow::{Context, Result, ensure};

/// A namespace for the client and one for servers; removed when dropped.
#[derive(Debug)]
pub(crate) struct VethPair {
    /// Where the client runs.
    pub(crate) client: String,
    /// Where servers run.
    pub(crate) server: String,
}

impl VethPair {
    /// Makes the pair. Needs root and iproute2.
    pub(crate) fn new() -> Result<Self> {
        let pair = Self {
            client: format!("lightning-bench-a-{}", id()),
            server: format!("lightning-bench-b-{}", id()),
        };
        for name in [&pair.client, &pair.server] {
            ip(&["netns", "add", name])?;
        }
        ip(&[
            "link",
            "add",
            LINK,
            "netns",
            &pair.client,
            "type",
            "veth",
            "peer",
            "name",
            LINK,
            "netns",
            &pair.server,
        ])?;
        for (name, addr) in [(&pair.client, CLIENT), (&pair.server, SERVER)] {
            let addr = format!("{addr}/24");
            ip(&["-n", name, "addr", "add", &addr, "dev", LINK])?;
            // The kernel cuts batches before the link, as a network card would on its way out.
            let segments = ["gso_max_segs", "1"];
            let link = ["-n", name, "link", "set", LINK, "mtu", "1500"];
            ip(&[&link[..], &segments, &["up"]].concat())?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(pair)
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            // There may be none yet. The link goes with them.
            let _ = Command::new("ip")
                .args(["netns", "del", name])
                .stderr(Stdio::null())
                .status();
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("cannot start `ip`")?;
    ensure!(
        output.status.success(),
        "`ip {}`: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The address that servers in such a pair listen on.
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const LINK: &str = "bench0";
