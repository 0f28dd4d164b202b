//! Servers that stop, and servers that are gone.

use std::{sync::Arc, time::Duration};

use btlightning::{CallOptions, LightningServerConfig, QuicAxonInfo, QuicRequest};
use btlightning_proto::lane::ServerRecord;
use futures::{FutureExt, future::join_all};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_CLIENT, axon, echo, hotkey, miner_with, raw::RawClient, until,
    validator, within,
};
use tokio::sync::oneshot;

use crate::{
    Numbered, fixture, narrow, numbered,
    peer::{Next, RawLane},
    remote, serve, values,
};

/// Those that run and those in line when the server stops, and those that come after.
#[tokio::test]
async fn a_stopping_server_answers_what_is_open_and_nothing_later() {
    let f = fixture(narrow().shutdown_grace_secs(50)).await;
    let running = join_all((0..16).map(|id| f.ask("held", id)));
    let in_line = join_all((100..108).map(|id| f.ask("held", id)));
    let stopping = async {
        f.held.until_began(16).await;
        let stop = f.miner.server().stop();
        tokio::pin!(stop);
        assert!(stop.as_mut().now_or_never().is_none(), "handlers run");
        let late = async {
            // From the first one on that the server refuses, all are refused.
            let mut refusal = None;
            until("the server takes no requests", async || {
                refusal = f.ask("at-once", 500).await.err();
                refusal.is_some()
            })
            .await;
            let mut errors = vec![refusal.unwrap()];
            for id in 501..540 {
                errors.push(within(f.ask("at-once", id)).await.unwrap_err());
            }
            // Said as it is said on a stream of its own, to small requests and large ones.
            for len in [10, 100_000] {
                let request = QuicRequest::new("at-once".into(), values(&numbered(1, len)));
                let response = within(f.client.query_axon(f.miner.axon(), request))
                    .await
                    .unwrap();
                assert_eq!(response.error.as_deref(), Some("server shutting down"));
            }
            f.held.release.add_permits(16);
            errors
        };
        let (stopped, errors) = tokio::join!(stop, late);
        stopped.unwrap();
        errors
    };
    let (running, in_line, late) = within(async { tokio::join!(running, in_line, stopping) }).await;
    for answer in running {
        answer.unwrap();
    }
    for error in in_line.into_iter().map(Result::unwrap_err).chain(late) {
        assert_eq!(remote(&error), "server shutting down");
        assert!(error.is_retry_safe(), "{error}");
    }
    assert_eq!(f.held.began().len(), 16);
    assert!(f.held.dropped().is_empty());
}

#[tokio::test]
async fn a_lane_is_told_to_go_away_before_it_is_refused_anything() {
    let (miner, held) = serve(narrow().shutdown_grace_secs(50)).await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    let mut lane = RawLane::open(&peer).await;
    let data = btlightning::Payload::from_typed(&numbered(2, 20)).unwrap();
    lane.request(2, "held", &data).await;
    held.until_began(1).await;
    let stop = miner.server().stop();
    let client = async {
        assert_eq!(lane.next().await, Next::Record(ServerRecord::GoAway));
        lane.request(3, "at-once", &data).await;
        lane.assert_fails(3, "server shutting down").await;
        held.release.add_permits(1);
        let answer = ServerRecord::Answer { id: 2, data };
        assert_eq!(lane.next().await, Next::Record(answer));
        lane.finish();
        assert_eq!(lane.next().await, Next::Finished);
    };
    let (stopped, ()) = within(async { tokio::join!(stop, client) }).await;
    stopped.unwrap();
}

/// A server in a runtime of its own, which can be dropped in the middle of everything.
struct Doomed {
    axon: QuicAxonInfo,
    crash: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Doomed {
    fn start() -> Self {
        let (ready, started) = std::sync::mpsc::channel();
        let (crash, crashed) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let miner = runtime.block_on(async {
                let server = miner_with(MINER, 0, LightningServerConfig::default());
                server.register_handler("at-once", Arc::new(crate::AtOnce));
                let miner = Miner::serve(server).await;
                ready.send(miner.axon()).unwrap();
                let _ = crashed.await;
                miner
            });
            // Whoever would send a farewell is dropped first, as by a signal that kills.
            drop(runtime);
            drop(miner);
        });
        Self {
            axon: started.recv().unwrap(),
            crash,
            thread,
        }
    }

    fn crash(self) {
        self.crash.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// QUIC alone would wait for the idle timeout of minutes.
#[tokio::test]
async fn a_server_that_crashed_is_noticed_after_a_timeout() {
    let doomed = Doomed::start();
    let target = doomed.axon.clone();
    let client = validator(CLIENT, vec![target.clone()]).await;
    let ask = async |timeout: Option<Duration>| {
        let mut options = CallOptions::default();
        if let Some(timeout) = timeout {
            options = options.timeout(timeout);
        }
        let sent = numbered(1, 20);
        let call = client.call::<_, Numbered>(&target, "at-once", &sent, options);
        within(call).await
    };
    ask(None).await.unwrap();
    doomed.crash();

    // The successor has neither the keys nor the connections of the one that crashed.
    let mut server = miner_with(MINER, target.port, LightningServerConfig::default());
    server
        .register_synapse_handler("at-once".into(), echo())
        .await
        .unwrap();
    until("the port is free", async || server.start().await.is_ok()).await;
    let server = Arc::new(server);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_forever().await }
    });
    assert_eq!(axon(&hotkey(MINER), server.local_addr().unwrap()), target);

    assert!(
        client.stats().connections[0].closed.is_none(),
        "not known yet"
    );
    let error = ask(Some(Duration::from_millis(50))).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    until("the client knows", async || {
        client.stats().connections[0].closed.is_some()
    })
    .await;
    assert_eq!(server.stats().handshakes, 0);
    ask(None).await.unwrap();
    assert_eq!(server.stats().handshakes, 1);
    // Another one finds the same server.
    let other = validator(OTHER_CLIENT, vec![target.clone()]).await;
    let sent = numbered(2, 20);
    let call = other.call::<_, Numbered>(&target, "at-once", &sent, CallOptions::default());
    assert_eq!(within(call).await.unwrap(), sent);
    server.stop().await.unwrap();
    within(serving).await.unwrap().unwrap();
}
