//! How handlers learn that nobody waits any more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use btlightning::{
    CallErrorKind, LightningError, Payload, RequestContext, RequestHandler, Result, SynapseHandler,
};
use lightning_tests::{until, within};
use rmpv::Value;
use tokio::sync::Notify;

use crate::{SIZES, config, fixture};

/// Has a task watch over each request; the request itself ends as it is told to.
struct Watched {
    started: Notify,
    ended: Arc<Notify>,
}

#[async_trait]
impl RequestHandler for Watched {
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let (ended, watched) = (self.ended.clone(), context.clone());
        tokio::spawn(async move {
            watched.cancelled().await;
            assert!(watched.is_cancelled());
            ended.notify_one();
        });
        assert!(!context.is_cancelled());
        self.started.notify_one();
        if context.synapse_type() == "answers" {
            return Ok(data);
        }
        std::future::pending().await
    }
}

#[tokio::test]
async fn tasks_of_a_handler_learn_that_the_request_is_over() {
    let f = fixture(config().handler_timeout_secs(1)).await;
    let watched = Arc::new(Watched {
        started: Notify::new(),
        ended: Arc::default(),
    });
    for synapse_type in ["answers", "hangs"] {
        f.miner
            .server()
            .register_handler(synapse_type, watched.clone());
    }
    for len in SIZES {
        within(f.query("answers", len)).await.unwrap();
        within(watched.started.notified()).await;
        within(watched.ended.notified()).await;

        let late = within(f.query("hangs", len)).await.unwrap_err();
        assert!(
            matches!(&late, CallErrorKind::Remote(text) if text == "handler timed out"),
            "{late:?}"
        );
        within(watched.started.notified()).await;
        within(watched.ended.notified()).await;

        tokio::select! {
            result = f.query("hangs", len) => panic!("{result:?}"),
            () = within(watched.started.notified()) => {}
        }
        within(watched.ended.notified()).await;
    }
    assert_eq!(f.miner.server().stats().requests_failed, 2);
    f.assert_serves().await;
}

/// Works on a thread until it is told to stop.
struct Works {
    started: Notify,
    stopped: Arc<Notify>,
}

#[async_trait]
impl RequestHandler for Works {
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let stopped = self.stopped.clone();
        self.started.notify_one();
        let work = tokio::task::spawn_blocking(move || {
            while !context.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped.notify_one();
        });
        work.await.map_err(LightningError::handler)?;
        Ok(data)
    }
}

#[tokio::test]
async fn threads_of_a_handler_learn_that_the_request_is_over() {
    let f = fixture(config()).await;
    let works = Arc::new(Works {
        started: Notify::new(),
        stopped: Arc::default(),
    });
    f.miner.server().register_handler("works", works.clone());
    for len in SIZES {
        tokio::select! {
            result = f.query("works", len) => panic!("{result:?}"),
            () = within(works.started.notified()) => {}
        }
        within(works.stopped.notified()).await;
    }
    f.until_cancelled(2).await;
    f.assert_serves().await;
}

/// Blocks its thread until the test lets it go on.
struct Blocks {
    started: Notify,
    release: Mutex<std_mpsc::Receiver<()>>,
    finished: AtomicU64,
}

impl SynapseHandler for Blocks {
    fn handle(&self, _: &str, data: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        self.started.notify_one();
        let _ = self.release.lock().unwrap().recv();
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(data)
    }
}

/// A thread cannot be stopped; what it comes to is dropped and disturbs nobody.
#[tokio::test]
async fn a_blocking_handler_that_nobody_waits_for_disturbs_nobody() {
    let f = fixture(config()).await;
    let (release, receiver) = std_mpsc::channel();
    let blocks = Arc::new(Blocks {
        started: Notify::new(),
        release: Mutex::new(receiver),
        finished: AtomicU64::new(0),
    });
    f.miner
        .server()
        .register_synapse_handler("blocks".into(), blocks.clone())
        .await
        .unwrap();
    for (count, len) in (1..).zip(SIZES) {
        tokio::select! {
            result = f.query("blocks", len) => panic!("{result:?}"),
            () = within(blocks.started.notified()) => {}
        }
        f.until_cancelled(count).await;
        f.assert_serves().await;
        release.send(()).unwrap();
        until("the thread is through", async || {
            blocks.finished.load(Ordering::Relaxed) == count
        })
        .await;
        f.assert_serves().await;
    }
}
