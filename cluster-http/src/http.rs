//! An HTTP/1.1 server for one listener, which can be stopped without failing a request.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! http-body-util = "0.1"
//! hyper = { version = "1", features = ["http1", "server"] }
//! hyper-util = { version = "0.1", features = ["tokio"] }
//! tokio = { version = "1", features = ["macros", "net", "rt", "sync", "time"] }
//! ```
//!
//! (In a worker of `cluster.rs` its line for tokio serves both, and the body is
//! `primary.ready().await; http::serve(listener, handler, primary.stop()).await`.)
//!
//! ```rust,ignore
//! mod http;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> std::io::Result<()> {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!     println!("http://{}/", listener.local_addr()?);
//!     let hello = async |_request| hyper::Response::new("hello\n".into());
//!     // It stops when a future is ready, such as that of a signal. This one never is.
//!     http::serve(listener, hello, std::future::pending()).await;
//!     Ok(())
//! }
//! ```

// Whoever copies this file may not use all of it.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a client may take from one request's end to the end of the next one's headers;
/// then its connection is closed. Node's `keepAliveTimeout` and `headersTimeout` in one.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a body that [`discard`] drops may take. Node's `requestTimeout`.
pub const BODY_WITHIN: Duration = Duration::from_secs(300);

/// The most bytes that a request's headers may have; with more it gets 431. Node's
/// `maxHeaderSize`.
pub const MAX_HEADER_SIZE: usize = 16 * 1024;

/// How long a server that stops keeps connections open that have nothing to do: a client
/// may have sent its next request already.
pub const IDLE_GRACE: Duration = Duration::from_secs(2);

/// How long a server that stops waits, after that, for requests that are being answered.
pub const REQUEST_GRACE: Duration = Duration::from_secs(8);

/// How long to wait when no connection can be accepted, as when there are no descriptors
/// left: without a pause, trying again would take all of a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Connections are kept alive.
    Serving,
    /// Each answer is its connection's last.
    LastAnswers,
    /// A connection without a request is closed.
    CloseIdle,
}

/// Answers requests on `listener` by `handler`, Node's `requestListener`, until `stop` is
/// ready, then drains: no new connection is taken but those already queued, each is told
/// `Connection: close` with its next answer, those idle are closed after [`IDLE_GRACE`], and
/// all of them after [`REQUEST_GRACE`] more.
///
/// What happens to a single connection never ends it: a handler that panics ends its own.
pub async fn serve<H, A>(listener: TcpListener, handler: H, stop: impl Future<Output = ()>)
where
    H: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let phase = watch::Sender::new(Phase::Serving);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    connections.spawn(serve_connection(stream, handler, phase.subscribe()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }

    phase.send_replace(Phase::LastAnswers);
    let take_what_is_queued = async {
        // A wait of no length ends when there is no more.
        while let Ok(accepted) = timeout(Duration::ZERO, listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    connections.spawn(serve_connection(stream, handler, phase.subscribe()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    let _ = timeout(IDLE_GRACE, take_what_is_queued).await;
    drop(listener);

    if timeout(IDLE_GRACE, all_closed(&mut connections))
        .await
        .is_err()
    {
        phase.send_replace(Phase::CloseIdle);
        let _ = timeout(REQUEST_GRACE, all_closed(&mut connections)).await;
    }
}

/// Reads a request's body in the background, and drops it: for a handler that answers without
/// it. What is not read would close the connection. It may take as long as [`BODY_WITHIN`].
pub fn discard(mut body: Incoming) {
    if !body.is_end_stream() {
        tokio::spawn(timeout(BODY_WITHIN, async move {
            while let Some(Ok(_)) = body.frame().await {}
        }));
    }
}

async fn all_closed(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

async fn serve_connection<H, A>(stream: TcpStream, handler: H, mut phase: watch::Receiver<Phase>)
where
    H: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    // An answer is written in one go: waiting for more to send with it only delays it.
    let _ = stream.set_nodelay(true);
    let current = phase.clone();
    let service = service_fn(|request| async {
        let mut response = answer(request, &handler).await;
        if *current.borrow() != Phase::Serving {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_header_size(MAX_HEADER_SIZE)
        // A client that has said all it has to say still hears its answers.
        .half_close(true)
        // A small answer costs less as one piece than as a list of two.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);

    // An error is the client's: it has had its 400 or 431, or has gone.
    tokio::select! {
        biased;
        _ = &mut connection => return,
        _ = phase.wait_for(|phase| *phase == Phase::CloseIdle) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Asks the handler, after what hyper leaves to the server: HTTP/1.1 wants a `Host`.
async fn answer<H, A>(request: Request<Incoming>, handler: H) -> Response<Full<Bytes>>
where
    H: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    if request.version() < Version::HTTP_11 || request.headers().contains_key(HOST) {
        return handler(request).await;
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}
