//! One HTTP connection, kept open: HTTP/1.1 with one request in flight, or HTTP/2 with many.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// A connection that workers share.
#[derive(Clone)]
pub(crate) struct Connection {
    host: Arc<str>,
    sender: Sender,
}

#[derive(Clone)]
enum Sender {
    One(Arc<Mutex<http1::SendRequest<Full<Bytes>>>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn open(address: &str, http2: bool) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Many(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::One(Arc::new(Mutex::new(sender)))
        };
        Ok(Self { host: Arc::from(address), sender })
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let (status, body) = self.begin(method, path, content_type, body).await?;
        Ok((status, body.collect().await?.to_bytes()))
    }

    /// Sends a request and returns its answer's body as it comes in.
    pub(crate) async fn begin(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Incoming)> {
        let uri = match self.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Many(_) => format!("http://{}{path}", self.host),
        };
        let request = Request::builder().method(method).uri(uri).header("host", &*self.host);
        let request = request.header("content-type", content_type).body(Full::new(body))?;
        let answer = match &self.sender {
            Sender::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Many(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        Ok((answer.status().as_u16(), answer.into_body()))
    }
}
