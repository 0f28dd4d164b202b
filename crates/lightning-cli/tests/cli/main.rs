//! The program `lightning` as its users run it: arguments, pipes, signals, exit codes.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[cfg(unix)]
mod commands;
mod demo;
mod keys;
mod program;
mod query;
mod serve;
mod usage;
