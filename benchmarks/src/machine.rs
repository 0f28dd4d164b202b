//! What one has to know of the machine to read the figures.

use std::{fs, thread};

use serde::Serialize;

/// The machine and the versions that were measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Processors this program may use.
    pub(crate) cores: usize,
    /// The processor's name.
    pub(crate) processor: String,
    /// Physical memory.
    pub(crate) memory: String,
    /// The kernel's version.
    pub(crate) kernel: String,
    /// Largest UDP receive buffer the kernel grants, in bytes.
    pub(crate) rmem_max: String,
    /// Load average when the run began: other work on the machine.
    pub(crate) load_average: String,
    /// Packages and their versions.
    pub(crate) versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks around. What the system does not tell is `unknown`.
    pub(crate) fn look() -> Self {
        Self {
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            rmem_max: first_line("/proc/sys/net/core/rmem_max"),
            load_average: first_line("/proc/loadavg"),
            versions: PACKAGES
                .iter()
                .flat_map(|name| versions(LOCK_FILE, name))
                .collect(),
        }
    }
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_once(':'));
    value
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}

/// All versions of a package in a lock file.
fn versions(lock_file: &str, name: &str) -> Vec<(String, String)> {
    let header = format!("name = \"{name}\"");
    let lines: Vec<&str> = lock_file.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == header)
        .filter_map(|pair| pair[1].strip_prefix("version = \"")?.strip_suffix('"'))
        .map(|version| (name.to_owned(), version.to_owned()))
        .collect()
}

const LOCK_FILE: &str = include_str!("../Cargo.lock");
const PACKAGES: [&str; 6] = [
    "btlightning",
    "quinn",
    "quinn-proto",
    "rustls",
    "tokio",
    "tonic",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_a_package_are_found() {
        let found = versions(LOCK_FILE, "btlightning");
        assert!(found.contains(&("btlightning".into(), "0.2.15".into())));
        assert_eq!(found.len(), 2);
    }
}
