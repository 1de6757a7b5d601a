//! TCP proxies in front of the brokers' listeners, to cut links between brokers, one way or both.
//!
//! A broker advertises one address for all of its peers, so the proxy behind that address has to find out by itself who
//! connects: it looks up which process owns the other end of the connection. A cut link carries nothing, and nothing is
//! refused: bytes wait, as in a network that drops packets, and go on when the link is healed. Where nobody listens behind
//! a proxy, the proxy doesn't either: callers are refused, as they would be without it, and know that nothing was sent.

use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

/// A link from one broker to another: requests go along it, answers come back over it.
pub type Link = (u32, u32);

/// All proxies of one cluster and the state of the links between its brokers.
#[derive(Debug)]
pub struct Proxies {
    cuts: watch::Sender<BTreeSet<Link>>,
    processes: Arc<Mutex<BTreeMap<u32, u32>>>,
    doors: Mutex<Vec<(u32, Arc<Notify>)>>,
    runtime: Option<Runtime>,
}

impl Default for Proxies {
    fn default() -> Self {
        Self::new()
    }
}

impl Proxies {
    /// Makes an empty set on a runtime of its own: tests come and go, a shared cluster stays.
    ///
    /// # Panics
    /// When the runtime can't be started.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxies")
            .enable_all()
            .build()
            .expect("one more thread");
        Self {
            cuts: watch::Sender::default(),
            processes: Arc::default(),
            doors: Mutex::default(),
            runtime: Some(runtime),
        }
    }

    /// Starts a proxy on `listen` in front of broker `to`, whose listener is at `target`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn add(&self, to: u32, listen: SocketAddr, target: SocketAddr) -> anyhow::Result<()> {
        let runtime = self.runtime.as_ref().context("the proxies run until they are dropped")?;
        // Nobody listens behind it yet, but a port that is taken is found out here.
        drop(std::net::TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?);
        let gone = Arc::new(Notify::new());
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).push((to, Arc::clone(&gone)));
        let (processes, cuts) = (Arc::clone(&self.processes), self.cuts.subscribe());
        runtime.spawn(async move {
            loop {
                let Some(listener) = opened(listen, target).await else { return };
                tokio::select! {
                    () = accept(listener, to, target, &processes, &cuts, &gone) => {}
                    () = gone.notified() => {}
                }
            }
        });
        Ok(())
    }

    /// Says that broker `id` was killed, so that from now on nobody is let in. It is noticed when it listens again.
    pub fn gone(&self, id: u32) {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.iter().filter(|(to, _)| *to == id).for_each(|(_, gone)| gone.notify_one());
    }

    /// Says which process is broker `id` now.
    pub fn set_process(&self, id: u32, pid: u32) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, id);
    }

    /// Cuts the given links.
    pub fn cut(&self, links: impl IntoIterator<Item = Link>) {
        self.cuts.send_modify(|cuts| cuts.extend(links));
    }

    /// Cuts a broker off from all others, both ways.
    pub fn isolate(&self, id: u32, others: impl IntoIterator<Item = u32>) {
        self.cut(
            others.into_iter().filter(|other| *other != id).flat_map(|other| [(id, other), (other, id)]),
        );
    }

    /// Heals the given links.
    pub fn mend(&self, links: impl IntoIterator<Item = Link>) {
        let mended: BTreeSet<Link> = links.into_iter().collect();
        self.cuts.send_modify(|cuts| cuts.retain(|link| !mended.contains(link)));
    }

    /// Heals everything.
    pub fn heal(&self) {
        self.cuts.send_modify(BTreeSet::clear);
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Time between two looks whether anybody listens.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Listens once somebody listens behind; `None` if the port was taken meanwhile, after which nothing works any more.
async fn opened(listen: SocketAddr, target: SocketAddr) -> Option<TcpListener> {
    while TcpStream::connect(target).await.is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    match TcpListener::bind(listen).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            eprintln!("the proxy's port {listen} was taken by another process: {error}");
            None
        }
    }
}

async fn accept(
    listener: TcpListener,
    to: u32,
    target: SocketAddr,
    processes: &Arc<Mutex<BTreeMap<u32, u32>>>,
    cuts: &watch::Receiver<BTreeSet<Link>>,
    gone: &Arc<Notify>,
) {
    while let Ok((inbound, source)) = listener.accept().await {
        let (processes, cuts, gone) = (Arc::clone(processes), cuts.clone(), Arc::clone(gone));
        tokio::spawn(async move {
            let known = processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let from = tokio::task::spawn_blocking(move || owner(source, &known)).await.ok().flatten();
            forward(inbound, from.map(|from| (from, to)), target, cuts, &gone).await;
        });
    }
}

/// Carries one connection. When the target refuses it, it has ended: this connection is closed, and later ones are refused.
async fn forward(
    inbound: TcpStream,
    link: Option<Link>,
    target: SocketAddr,
    mut cuts: watch::Receiver<BTreeSet<Link>>,
    gone: &Notify,
) {
    if wait_healed(&mut cuts, link).await.is_none() {
        return;
    }
    let Ok(outbound) = TcpStream::connect(target).await else { return gone.notify_one() };
    // Small messages must not wait for each other; a socket that refuses the option is about to fail anyway.
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (inbound_read, inbound_write) = inbound.into_split();
    let (outbound_read, outbound_write) = outbound.into_split();
    tokio::select! {
        () = copy(inbound_read, outbound_write, link, cuts.clone()) => {}
        () = copy(outbound_read, inbound_write, link, cuts) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: Option<Link>,
    mut cuts: watch::Receiver<BTreeSet<Link>>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if wait_healed(&mut cuts, link).await.is_none() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn wait_healed(cuts: &mut watch::Receiver<BTreeSet<Link>>, link: Option<Link>) -> Option<()> {
    let Some(link) = link else { return Some(()) };
    cuts.wait_for(|cuts| !cuts.contains(&link)).await.ok().map(|_| ())
}

/// Returns the broker whose process holds the socket bound to `source`, if it is one of `processes`.
fn owner(source: SocketAddr, processes: &BTreeMap<u32, u32>) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let port = format!(":{:04X}", source.port());
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&port) && *fields.get(9)? != "0").then(|| fields[9].to_owned())
    })?;
    let socket = format!("socket:[{inode}]");
    processes.iter().find(|(pid, _)| holds(**pid, &socket)).map(|(_, id)| *id)
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::ports;

    /// Connects through a proxy that may not have noticed yet that somebody listens.
    async fn through(listen: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let mut stream = loop {
            match TcpStream::connect(listen).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(b"hello").await.unwrap();
        // The proxy's own look at whether anybody listens says nothing.
        loop {
            let (mut inbound, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 5];
            if inbound.read_exact(&mut bytes).await.is_ok() {
                return (stream, inbound);
            }
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_callers_are_refused_and_where_somebody_does_again_they_are_not() {
        let (proxies, listen, target) = (Proxies::new(), ports::free(), ports::free());
        proxies.add(2, listen, target).unwrap();
        TcpStream::connect(listen).await.unwrap_err();
        let listener = TcpListener::bind(target).await.unwrap();
        let (_stream, inbound) = through(listen, &listener).await;
        drop((listener, inbound));
        proxies.gone(2);
        while TcpStream::connect(listen).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind(target).await.unwrap();
        through(listen, &listener).await;
    }

    #[tokio::test]
    async fn a_cut_link_holds_bytes_back_until_it_is_healed_and_other_links_carry_on() {
        let (proxies, listen, target) = (Proxies::new(), ports::free(), ports::free());
        proxies.add(2, listen, target).unwrap();
        proxies.set_process(1, std::process::id());
        let listener = TcpListener::bind(target).await.unwrap();
        let (mut stream, mut inbound) = through(listen, &listener).await;
        let mut byte = [0];
        proxies.cut([(2, 1), (3, 2)]);
        stream.write_all(b"a").await.unwrap();
        inbound.read_exact(&mut byte).await.unwrap();
        proxies.cut([(1, 2)]);
        stream.write_all(b"b").await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), inbound.read_exact(&mut byte)).await;
        assert!(held.is_err(), "a byte came over a cut link");
        proxies.heal();
        inbound.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
