//! Closing a connection so that its peer learns of it.
//!
//! quinn-proto up to 0.11.19 holds the packet that closes a connection back while the congestion
//! window is full, and a closed connection's window never empties: the peer of a connection that
//! is closed in the middle of a transfer, or of a large MTU probe, waits until its idle timeout
//! ([quinn issue 2785](https://github.com/quinn-rs/quinn/issues/2785)). So every congestion
//! controller is wrapped into one that can be told to stand aside ([`congestion`](crate::congestion)).

use quinn::{Connection, VarInt};

use crate::congestion::Supervised;

/// Closes a connection, also while its congestion window is full.
///
/// Like [`Connection::close`] in everything else. For connections whose transport was built by
/// [`TransportSettings::build`](crate::TransportSettings::build); others are closed as quinn does.
pub fn close(connection: &Connection, code: VarInt, reason: &[u8]) {
    if let Ok(controller) = connection
        .congestion_state()
        .into_any()
        .downcast::<Supervised>()
    {
        controller.stand_aside();
    }
    connection.close(code, reason);
}

#[cfg(test)]
mod tests {
    use std::{future::Future, time::Duration};

    use quinn::{ConnectionError, Endpoint};

    use super::*;
    use crate::{EndpointSettings, TransportSettings, new_endpoint, tls};

    async fn pair() -> (Endpoint, Connection, Endpoint, Connection) {
        let transport = || TransportSettings::default().build().unwrap();
        let identity = tls::SelfSigned::generate("localhost").unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let settings = EndpointSettings::default();
        let config = tls::server_config(&identity, &[b"x"], transport()).unwrap();
        let server = new_endpoint(loopback, &settings, Some(config)).unwrap();
        let mut client = new_endpoint(loopback, &settings, None).unwrap();
        client.set_default_client_config(tls::any_certificate(&[b"x"], transport()).unwrap());
        let dial = client
            .connect(server.local_addr().unwrap(), "localhost")
            .unwrap();
        let accept = async { server.accept().await.unwrap().await.unwrap() };
        let (ours, theirs) = tokio::join!(dial, accept);
        (client, ours.unwrap(), server, theirs)
    }

    async fn within<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(30), future)
            .await
            .expect("the peer never learnt of it")
    }

    /// Closed at many points of a transfer, at some of which the window is full.
    #[tokio::test]
    async fn the_peer_learns_of_a_close_in_the_middle_of_a_transfer() {
        for turns in 0..24 {
            let (_client, ours, _server, theirs) = pair().await;
            let (mut send, _recv) = ours.open_bi().await.unwrap();
            send.write_all(&vec![7; 4_000_000]).await.unwrap();
            // One thread: each turn lets both endpoints and both connections run once.
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            close(&ours, 42u32.into(), b"enough");
            match within(theirs.closed()).await {
                ConnectionError::ApplicationClosed(close) => {
                    assert_eq!(close.error_code, 42u32.into());
                    assert_eq!(&close.reason[..], b"enough");
                }
                other => panic!("after {turns} turns: {other}"),
            }
        }
    }
}
