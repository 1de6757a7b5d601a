//! Starting tasks that must not end, noticing when one does, and ending all of them in order.

use crate::control::{ControlTask, ToControl};
use crate::handle::Broker;
use crate::server::serve;
use crate::store::Store;
use anyhow::Context;
use axum::Router;
use futures::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for leaderships to be handed over.
const HAND_OVER: Duration = Duration::from_secs(3);

/// All tasks of a broker. Order of the end: readiness fails, leadership is handed over, listeners drain, the rest stops.
pub(crate) struct Tasks {
    tracker: TaskTracker,
    failures: mpsc::Sender<anyhow::Error>,
    failed: tokio::sync::Mutex<mpsc::Receiver<anyhow::Error>>,
    /// Ends everything but the listeners.
    fatal: CancellationToken,
    /// Ends the listeners, and readiness.
    stopping: CancellationToken,
    listeners: CancellationToken,
    store: Store,
    thread: Option<std::thread::JoinHandle<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Tasks {
    pub(crate) fn new(fatal: CancellationToken, stopping: CancellationToken, store: Store) -> Self {
        let (failures, failed) = mpsc::channel(8);
        let tracker = TaskTracker::new();
        let report = failures.clone();
        let writer = store.clone();
        tracker.spawn(async move {
            let error = writer.failed().await;
            if !matches!(*error, crate::store::StoreError::Closed) {
                let error =
                    anyhow::anyhow!("records could not be synced, so the process must not go on: {error}");
                // Full: another failure is reported already.
                let _ = report.try_send(error);
            }
        });
        Self {
            tracker,
            failures,
            failed: tokio::sync::Mutex::new(failed),
            fatal,
            stopping,
            listeners: CancellationToken::new(),
            store,
            thread: None,
            server: None,
        }
    }

    /// Spawns a task that may end only when cancelled.
    pub(crate) fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (cancel, report) = (self.fatal.clone(), self.failures.clone());
        let future = task(cancel.clone());
        self.tracker.spawn(async move {
            let ended = caught(future).await;
            let error = match ended {
                Err(error) => error.context(format!("the {name} task failed")),
                Ok(()) if cancel.is_cancelled() => return,
                Ok(()) => anyhow::anyhow!("the {name} task ended by itself"),
            };
            // Full: another failure is reported already.
            let _ = report.try_send(error);
        });
    }

    pub(crate) fn client_server(&mut self, listener: TcpListener, router: Router) {
        let cancel = self.listeners.clone();
        let report = self.failures.clone();
        self.server = Some(tokio::spawn(async move {
            if let Err(error) = caught(serve(listener, router, cancel)).await {
                // Full: another failure is reported already.
                let _ = report.try_send(error.context("the client listener failed"));
            }
        }));
    }

    /// Runs the control task and the peer listener on a thread of their own.
    pub(crate) fn control_thread(
        &mut self,
        control: ControlTask,
        listener: TcpListener,
        router: Router,
    ) -> anyhow::Result<()> {
        let (cancel, report) = (self.fatal.clone(), self.failures.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = listener.into_std()?;
        let body = move || {
            let ended = runtime.block_on(caught(async {
                let listener = TcpListener::from_std(listener).context("move the peer listener")?;
                let served = tokio::spawn(serve(listener, router, cancel.clone()));
                let ended = control.run(cancel.clone()).await;
                ended?;
                served.await.context("the peer listener panicked")?
            }));
            if let Err(error) = ended {
                // Full: another failure is reported already.
                let _ = report.try_send(error);
            } else if !cancel.is_cancelled() {
                let _ = report.try_send(anyhow::anyhow!("the control thread ended by itself"));
            }
        };
        let thread = std::thread::Builder::new().name("pubsub-control".to_owned()).spawn(body)?;
        self.thread = Some(thread);
        Ok(())
    }

    pub(crate) async fn failed(&self) -> anyhow::Error {
        let mut failed = self.failed.lock().await;
        failed.recv().await.unwrap_or_else(|| anyhow::anyhow!("all tasks ended"))
    }

    pub(crate) async fn stop(mut self, broker: &Broker) {
        self.stopping.cancel();
        let (done, handed_over) = oneshot::channel();
        let hand_over = async {
            if broker.inner.control.inbox.send(ToControl::Stop(done)).await.is_ok() {
                // An error means that the control thread is gone, and with it what there was to hand over.
                let _ = handed_over.await;
            }
        };
        if tokio::time::timeout(HAND_OVER, hand_over).await.is_err() {
            tracing::warn!("leadership was not handed over in time");
        }
        self.listeners.cancel();
        // Requests that are under way still need the tasks behind them.
        if let Some(server) = self.server.take()
            && server.await.is_err()
        {
            tracing::warn!("the client listener panicked");
        }
        self.tracker.close();
        self.fatal.cancel();
        if let Err(error) = self.store.close(Duration::from_secs(2)).await {
            tracing::warn!(%error, "the store was not closed cleanly; it recovers at the next start");
        }
        if tokio::time::timeout(Duration::from_secs(2), self.tracker.wait()).await.is_err() {
            tracing::warn!("some tasks were still running at the end");
        }
        let thread = self.thread.take();
        let joined = tokio::task::spawn_blocking(|| thread.map(std::thread::JoinHandle::join));
        if tokio::time::timeout(Duration::from_secs(3), joined).await.is_err() {
            tracing::warn!("the control thread was still running at the end");
        }
    }
}

/// Makes a panic an error: a task that is gone while others answer for it would leave its partitions without a leader.
async fn caught(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(ended) => ended,
        // The panic hook has told where and why.
        Err(_) => Err(anyhow::anyhow!("it panicked; the process must not go on")),
    }
}

/// Waits for SIGTERM, SIGINT or (if asked) the end of standard input, and names it.
pub(crate) async fn signal(stop_on_stdin_eof: bool) -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be handled");
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = input_ended(), if stop_on_stdin_eof => "end of standard input",
    }
}

async fn input_ended() {
    let (ended, end) = oneshot::channel();
    // A plain thread: a read of standard input can't be cancelled, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Nobody waits any more: the process is ending.
        let _ = ended.send(copied.is_ok());
    });
    // An error means that the thread is gone, and with it the input.
    let _ = end.await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use clap::Parser;
    use http::Method;
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    fn alone(dir: &std::path::Path) -> crate::config::Config {
        let args = [
            "pubsub-broker",
            "--broker-id=1",
            "--port=0",
            "--election-port=0",
            "--discovery-url=",
            "--voters=1",
            "--data-dir",
            dir.to_str().unwrap(),
        ];
        crate::config::Args::try_parse_from(args).unwrap().into_config().unwrap()
    }

    /// Returns status and body of a request to a broker.
    async fn asked(addr: std::net::SocketAddr, method: Method, path: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let uri = format!("http://{addr}{path}");
        let request = http::Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
        let answer = client.request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_that_wait_get_an_answer_when_the_broker_stops() {
        let dir = tempfile::tempdir().unwrap();
        let running = crate::start(alone(dir.path())).await.unwrap();
        let addr = running.client_addr;
        let up = async {
            while running.broker.ready().is_err() {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up).await.unwrap();
        let (status, body) = asked(addr, Method::POST, "/admin/topics?name=t&partitions=1").await;
        assert!(status < 300, "{body}");
        // A read that is answered early would never be waiting.
        let paths = ["/topics/t/records?wait_ms=60000", "/poll?topic=t&timeout_ms=60000"];
        let reads = paths.map(|path| tokio::spawn(asked(addr, Method::GET, path)));
        let view = async {
            // Each waiting reader watches the view of the one partition.
            let views = || running.broker.views().into_keys().find(|at| running.broker.is_watched(*at, 2));
            while views().is_none() && !reads.iter().any(tokio::task::JoinHandle::is_finished) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), view).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), running.stop()).await.unwrap();
        for read in reads {
            let (status, body) = read.await.unwrap();
            assert_eq!(status, 200, "{body}");
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_like_one_that_fails() {
        let ended = caught(async { panic!("on purpose, in a test") }).await;
        assert!(ended.is_err_and(|error| error.to_string().contains("panicked")));
        assert!(caught(async { Ok(()) }).await.is_ok());
    }
}
