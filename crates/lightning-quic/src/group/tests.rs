use std::sync::atomic::AtomicUsize;

use tokio::sync::{Notify, oneshot};

use super::*;

/// A group whose driver runs until told.
fn group() -> (TaskGroup, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel();
    let driver = async move {
        let _ = ended.await;
    };
    (TaskGroup::start(driver.boxed(), 0), end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_wake_each_other() {
    let (group, _end) = group();
    let (ping, pong) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (done, finished) = oneshot::channel();
    group.spawn({
        let (ping, pong) = (ping.clone(), pong.clone());
        async move {
            for _ in 0..10_000 {
                ping.notified().await;
                pong.notify_one();
            }
        }
    });
    group.spawn(async move {
        for _ in 0..10_000 {
            ping.notify_one();
            pong.notified().await;
        }
        let _ = done.send(());
    });
    finished.await.unwrap();
}

/// Whatever others do, a wake-up from another task or thread is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_ups_from_outside_arrive() {
    let (group, _end) = group();
    let (requests, mut inbox) = tokio::sync::mpsc::unbounded_channel::<oneshot::Sender<u32>>();
    group.spawn({
        let group = group.clone();
        async move {
            let mut count = 0;
            while let Some(request) = inbox.recv().await {
                count += 1;
                if count % 3 == 0 {
                    group.linger();
                }
                let _ = request.send(count);
            }
        }
    });
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let requests = requests.clone();
            tokio::spawn(async move {
                for _ in 0..2_000 {
                    let (answer, answered) = oneshot::channel();
                    requests.send(answer).unwrap();
                    answered.await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_ends_one_member_only() {
    let (group, _end) = group();
    group.spawn(async { panic!("on purpose") });
    let (done, finished) = oneshot::channel();
    group.spawn(async move {
        let _ = done.send(());
    });
    finished.await.unwrap();
}

#[tokio::test]
async fn a_member_that_yields_lets_other_tasks_run() {
    let (group, _end) = group();
    let stop = Arc::new(AtomicBool::new(false));
    let (done, finished) = oneshot::channel();
    group.spawn({
        let stop = stop.clone();
        async move {
            while !stop.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            let _ = done.send(());
        }
    });
    tokio::spawn(async move { stop.store(true, Ordering::SeqCst) });
    finished.await.unwrap();
}

#[tokio::test]
async fn the_group_ends_with_its_members() {
    let (group, end) = group();
    let (done, finished) = oneshot::channel();
    let last = Arc::new(Notify::new());
    group.spawn({
        let last = last.clone();
        async move {
            last.notified().await;
            let _ = done.send(());
        }
    });
    end.send(()).unwrap();
    last.notify_one();
    finished.await.unwrap();
    while !group.shared.lock().over {
        tokio::task::yield_now().await;
    }
    // A task of its own from now on.
    let (done, finished) = oneshot::channel();
    group.spawn(async move {
        let _ = done.send(());
    });
    finished.await.unwrap();
}

/// A member that waits for ever is held by nothing but its group, or by itself.
#[test]
fn the_end_of_the_runtime_drops_the_members() {
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let kept = runtime.block_on(async {
        let (group, end) = group();
        let count = Count(dropped.clone());
        let inner = group.clone();
        group.spawn(async move {
            let _held = (count, inner, end);
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        group
    });
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(runtime);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(kept.shared.lock().over);
}
