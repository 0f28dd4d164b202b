//! This repository's package and the published one, talking to each other in every pairing.
//!
//! Each test is written once, generic over the two ends (`lightning_tests::peer`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closing;
mod errors;
mod identity;
mod streaming;
mod typed;
mod values;
mod version;

/// Makes tests of generic functions, one for every pairing of a client and a server.
macro_rules! pairings {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            use lightning_tests::peer::{old, ours};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ours_to_ours() {
                super::$test::<ours::Client, ours::Server>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ours_to_published() {
                super::$test::<ours::Client, old::Server>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn published_to_ours() {
                super::$test::<old::Client, ours::Server>().await;
            }

            // Says that the test itself is right about the published package.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn published_to_published() {
                super::$test::<old::Client, old::Server>().await;
            }
        }
    )+};
}

/// Makes tests of functions that are generic over one end only.
macro_rules! one_sided {
    ($side:ident: $($test:ident),+ $(,)?) => {$(
        mod $test {
            use lightning_tests::peer::{old, ours};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ours() {
                super::$test::<ours::$side>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn published() {
                super::$test::<old::$side>().await;
            }
        }
    )+};
}

pub(crate) use {one_sided, pairings};
