//! Node's `http.createServer()`: an HTTP/1.1 server with a graceful shutdown. It serves any TCP
//! connection that it is given.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add http-body-util@0.1
//! cargo add hyper@1 --features http1,server
//! cargo add hyper-util@0.1 --features tokio
//! cargo add nix@0.32 --features net,socket
//! cargo add tokio@1 --features io-util,macros,net,rt-multi-thread,signal,sync,time
//! ```
//!
//! ```rust,ignore
//! mod http;
//!
//! use std::{pin::pin, time::Duration};
//!
//! use tokio::{net::TcpListener, select, signal::ctrl_c, time::sleep};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let server = http::create_server(async |_| hyper::Response::new("hello\n".to_owned()));
//!     let listener = TcpListener::bind("127.0.0.1:3000").await?;
//!     let mut interrupt = pin!(ctrl_c());
//!     loop {
//!         select! {
//!             accepted = listener.accept() => match accepted {
//!                 Ok((connection, _)) => server.serve(connection),
//!                 // For instance, no descriptor is left.
//!                 Err(_) => sleep(Duration::from_millis(50)).await,
//!             },
//!             _ = &mut interrupt => break,
//!         }
//!     }
//!     drop(listener);
//!     server.close().await;
//!     Ok(())
//! }
//! ```

// A program may need only a part of this file.
#![allow(dead_code)]

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, EXPECT, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a client may take from one response to the end of the next request's headers. Then its
/// connection is closed. Node has `keepAliveTimeout` and `headersTimeout` for this.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// How long the client may take to send the rest of a body that the handler has not read, or to
/// send the first part of one after `100 Continue`. Node has `requestTimeout` for this.
pub const BODY_WITHIN: Duration = Duration::from_secs(300);

/// How long a client may leave a response unread. Then its connection is closed. Linux only.
pub const READ_WITHIN: Duration = Duration::from_secs(90);

/// The most bytes that the headers of a request may have. More get 431. Node's `maxHeaderSize`.
pub const MAX_HEADER_SIZE: usize = 16 * 1024;

/// How long a server that shuts down keeps idle connections open: the client may already have sent
/// its next request.
pub const IDLE_GRACE: Duration = Duration::from_secs(2);

/// How long a server that shuts down waits for responses after [`IDLE_GRACE`].
pub const REQUEST_GRACE: Duration = Duration::from_secs(8);

/// How long a connection is read after its last response. To close it with unread data would reset
/// it, and the client could lose the response.
const LINGER: Duration = Duration::from_secs(2);

/// An HTTP server: Node's `http.Server`. When this is dropped, every connection is closed at once.
pub struct Server<H> {
    handler: H,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Phase {
    /// Connections are kept alive.
    Serving,
    /// Each response is the last one on its connection.
    LastResponses,
    /// A connection without a request is closed.
    CloseIdle,
    /// Every connection is closed.
    CloseAll,
}

/// Creates a server that calls `handler` for each request: Node's `http.createServer()`.
///
/// A handler that uses its request names the type, `|request: Request<Body>|`. One that shares
/// state is a closure that clones the state and returns an `async move` block. A handler that
/// panics ends its own connection only.
pub fn create_server<H>(handler: H) -> Server<H> {
    let phase = watch::Sender::new(Phase::Serving);
    Server { handler, phase }
}

impl<H, A, B> Server<H>
where
    H: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Serves a connection, in a task of its own: Node's `server.emit('connection', socket)`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn serve(&self, connection: TcpStream) {
        let (handler, phase) = (self.handler.clone(), self.phase.subscribe());
        tokio::spawn(serve(connection, handler, phase));
    }

    /// Shuts down gracefully: Node's `server.close()`.
    ///
    /// Every response has `Connection: close`. Idle connections are closed after [`IDLE_GRACE`],
    /// all others after [`REQUEST_GRACE`] more. Requests that take longer are lost.
    pub async fn close(self) {
        let phases = [
            (Phase::LastResponses, IDLE_GRACE),
            (Phase::CloseIdle, REQUEST_GRACE),
            (Phase::CloseAll, LINGER),
        ];
        for (phase, grace) in phases {
            self.phase.send_replace(phase);
            // Ready when no connection is left.
            if timeout(grace, self.phase.closed()).await.is_ok() {
                return;
            }
        }
    }
}

async fn serve<H, A, B>(mut connection: TcpStream, handler: H, mut phase: watch::Receiver<Phase>)
where
    H: Fn(Request<Body>) -> A,
    A: Future<Output = Response<B>>,
    B: hyper::body::Body + Default + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // A response is written at once, so waiting for more data would only delay it.
    let _ = connection.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = setsockopt(
        &connection,
        TcpUserTimeout,
        &(READ_WITHIN.as_millis() as u32),
    );

    let current = phase.clone();
    let service = service_fn(|request| async {
        let mut response = answer(request, &handler).await;
        if *current.borrow() > Phase::Serving {
            close_after(&mut response);
        }
        Ok::<_, Infallible>(response)
    });
    {
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_header_size(MAX_HEADER_SIZE)
            // A half-closed client still gets its responses.
            .half_close(true)
            // For a small response, one buffer costs less than a list of two.
            .writev(false)
            .serve_connection(TokioIo::new(&mut connection), service);
        let mut http = pin!(http);
        // Errors are ignored: the client has got 400 or 431, or has closed the connection.
        let has_ended = tokio::select! {
            biased;
            _ = &mut http => true,
            () = reached(&mut phase, Phase::CloseIdle) => false,
        };
        if !has_ended {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                _ = http => {}
                () = reached(&mut phase, Phase::CloseAll) => return,
            }
        }
    }
    // hyper leaves it open after an error.
    let _ = connection.shutdown().await;
    let _ = timeout(LINGER, copy(&mut connection, &mut sink())).await;
}

/// Waits until the server has reached a phase, or has been dropped.
async fn reached(phase: &mut watch::Receiver<Phase>, far: Phase) {
    let _ = phase.wait_for(|phase| *phase >= far).await;
}

/// Calls the handler, unless HTTP forbids the request or it is for a proxy.
async fn answer<H, A, B>(mut request: Request<Incoming>, handler: &H) -> Response<B>
where
    H: Fn(Request<Body>) -> A,
    A: Future<Output = Response<B>>,
    B: Default,
{
    let hosts = request.headers().get_all(HOST).iter().count();
    let refusal = match (request.version(), hosts) {
        _ if request.method() == Method::CONNECT => Some(StatusCode::METHOD_NOT_ALLOWED),
        (Version::HTTP_11, 1) | (Version::HTTP_10, 0 | 1) => None,
        _ => Some(StatusCode::BAD_REQUEST),
    };
    if let Some(status) = refusal {
        return refuse(status);
    }
    // hyper sends `100 Continue` when the body is first read. A handler might never read it, so
    // this reads the first frame.
    let first = match request.headers().contains_key(EXPECT) {
        true => match timeout(BODY_WITHIN, request.body_mut().frame()).await {
            Ok(first) => first,
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT),
        },
        false => None,
    };
    handler(request.map(|rest| Body {
        first,
        rest: Some(rest),
    }))
    .await
}

fn refuse<B: Default>(status: StatusCode) -> Response<B> {
    let mut response = Response::default();
    *response.status_mut() = status;
    close_after(&mut response);
    response
}

fn close_after<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
}

/// The body of a request: Node's `http.IncomingMessage` as a stream.
///
/// When it is dropped in a tokio runtime, the rest of the body is read in the background, as in
/// Node. Otherwise hyper would close the connection.
pub struct Body {
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    /// `Some` until dropped.
    rest: Option<Incoming>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match (self.first.take(), &mut self.rest) {
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (first, _) => Poll::Ready(first),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let rest = self.rest.take().filter(|rest| !rest.is_end_stream());
        if let (Some(mut rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(BODY_WITHIN, async move {
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn client_that_never_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let mut client = client.await.unwrap();
        let (connection, _) = listener.accept().await.unwrap();
        let connection = connection.into_std().unwrap();
        let copy = connection.try_clone().unwrap();
        let server = create_server(async |_| Response::new("hello".to_owned()));
        server.serve(TcpStream::from_std(connection).unwrap());
        // The connection's task sets the option in its first poll.
        tokio::task::yield_now().await;
        let milliseconds = u128::from(getsockopt(&copy, TcpUserTimeout).unwrap());
        assert_eq!(milliseconds, READ_WITHIN.as_millis());

        // The test does not take that long.
        setsockopt(&copy, TcpUserTimeout, &500).unwrap();
        let requests = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
        let closed = timeout(Duration::from_secs(20), async {
            while client.write_all(&requests).await.is_ok() {}
        });
        closed.await.expect("the connection is closed");
    }
}
