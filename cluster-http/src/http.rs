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
//! use std::time::Duration;
//!
//! use tokio::signal::unix::{SignalKind, signal};
//! use tokio::{net::TcpListener, select, time::sleep};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let server = http::create_server(async |_| hyper::Response::new("hello\n".to_owned()));
//!     let listener = TcpListener::bind("127.0.0.1:3000").await?;
//!     let mut terminate = signal(SignalKind::terminate())?;
//!     let mut interrupt = signal(SignalKind::interrupt())?;
//!     loop {
//!         select! {
//!             accepted = listener.accept() => match accepted {
//!                 Ok((connection, _)) => server.serve(connection),
//!                 // For instance, no descriptor is left.
//!                 Err(_) => sleep(Duration::from_millis(50)).await,
//!             },
//!             _ = terminate.recv() => break,
//!             _ = interrupt.recv() => break,
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
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest, copy, join, sink};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep, timeout, timeout_at};

/// How long a client may take from one response to the end of the next request's headers. Then its
/// connection is closed. Node has `keepAliveTimeout` and `headersTimeout` for this. Behind a proxy
/// that keeps its connections, make this longer than the proxy does (nginx: 60 seconds).
pub const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a client may take from the end of a request's headers to the end of its body. Then
/// reading the body fails, and when the handler returns, the response is 408. If the response has
/// begun, the connection is closed after it. Node's `requestTimeout`.
pub const BODY_WITHIN: Duration = Duration::from_secs(300);

/// How long a client may leave a response unread. Then its connection is closed. Linux only, which
/// takes up to 30 seconds more.
pub const READ_WITHIN: Duration = Duration::from_secs(90);

/// How long a client that has closed its side of the connection still gets a response. When no part
/// of one has been written for this long, the client has left: its handler and its response are
/// dropped, one to three seconds after it has closed its side.
pub const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);

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
    /// Whether it shuts down. Each connection has a receiver.
    closing: watch::Sender<bool>,
}

/// Creates a server that calls `handler` for each request: Node's `http.createServer()`.
///
/// A handler that uses its request names the type, `|request: Request<Body>|`. The request's
/// extensions have the client's `SocketAddr`: Node's `req.socket.remoteAddress`. A handler that
/// shares state is a closure that clones the state and returns an `async move` block. A handler
/// that panics ends its own connection only. The handler of a client that leaves is dropped (see
/// [`HALF_CLOSED_GRACE`]).
pub fn create_server<H>(handler: H) -> Server<H> {
    let closing = watch::Sender::new(false);
    Server { handler, closing }
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
        let (handler, closing) = (self.handler.clone(), self.closing.subscribe());
        tokio::spawn(Self::run(connection, handler, closing, BODY_WITHIN));
    }

    /// Shuts down gracefully: Node's `server.close()`.
    ///
    /// Every response has `Connection: close`. Idle connections are closed after [`IDLE_GRACE`],
    /// all others after [`REQUEST_GRACE`] more. Requests that take longer are lost.
    pub async fn close(self) {
        self.closing.send_replace(true);
        // Ready when no connection is left.
        self.closing.closed().await;
    }

    async fn run(
        mut connection: TcpStream,
        handler: H,
        mut closing: watch::Receiver<bool>,
        body_within: Duration,
    ) {
        // It fails if the client has left.
        let Ok(client) = connection.peer_addr() else {
            return;
        };
        // A response is written at once, so waiting for more data would only delay it.
        let _ = connection.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = setsockopt(
            &connection,
            TcpUserTimeout,
            &(READ_WITHIN.as_millis() as u32),
        );

        let (is_closing, mut dropped) = (closing.clone(), closing.clone());
        let service = service_fn(|mut request: Request<Incoming>| async {
            request.extensions_mut().insert(client);
            let version = request.version();
            let answer = Self::answer(request, &handler, body_within).await;
            let is_last = answer.is_err() || *is_closing.borrow();
            let mut response = answer.unwrap_or_else(|status| {
                let mut refusal = Response::default();
                *refusal.status_mut() = status;
                refusal
            });
            if is_last {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
                // Otherwise hyper adds `keep-alive` for a client of HTTP/1.0.
                *response.version_mut() = version;
            }
            Ok::<_, Infallible>(response)
        });
        {
            let (read, write) = connection.split();
            let socket = write.as_ref();
            let has_written = AtomicBool::new(false);
            let write = Writer(socket, &has_written);
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .max_header_size(MAX_HEADER_SIZE)
                // hyper would drop a half-closed client at once.
                .half_close(true)
                // For a small response, one buffer costs less than a list of two.
                .writev(false)
                .serve_connection(TokioIo::new(join(read, write)), service);
            let mut http = pin!(http);
            // Errors are ignored: the client has got 400 or 431, or has closed the connection.
            let served = async {
                tokio::select! {
                    biased;
                    _ = &mut http => return,
                    _ = closing.changed() => {}
                }
                // From now on, each response is the last one on its connection.
                if timeout(IDLE_GRACE, &mut http).await.is_err() {
                    // This closes the connection, unless it has a request.
                    http.as_mut().graceful_shutdown();
                    let _ = timeout(REQUEST_GRACE, http).await;
                }
            };
            tokio::select! {
                biased;
                () = served => {}
                _ = client_left(socket, &has_written) => {}
                // It fails when the server is dropped.
                _ = dropped.wait_for(|_| false) => {}
            }
        }
        // [`Writer`] has left it open.
        let _ = connection.shutdown().await;
        let _ = timeout(LINGER, copy(&mut connection, &mut sink())).await;
    }

    /// Calls the handler, unless HTTP forbids the request or it is for a proxy.
    async fn answer(
        mut request: Request<Incoming>,
        handler: &H,
        body_within: Duration,
    ) -> Result<Response<B>, StatusCode> {
        let hosts = request.headers().get_all(HOST).iter().count();
        match (request.version(), hosts) {
            _ if request.method() == Method::CONNECT => return Err(StatusCode::METHOD_NOT_ALLOWED),
            (Version::HTTP_11, 1) | (Version::HTTP_10, 0 | 1) => {}
            _ => return Err(StatusCode::BAD_REQUEST),
        }
        let expected = request.headers().get(EXPECT).map(HeaderValue::as_bytes);
        if let (Version::HTTP_11, Some(expected)) = (request.version(), expected) {
            let is_100 = expected.eq_ignore_ascii_case(b"100-continue");
            // hyper sends `100 Continue` once the body is polled and this task waits. A handler
            // might do neither.
            let poll = |cx: &mut Context| Poll::Ready(Pin::new(request.body_mut()).poll_frame(cx));
            if let (false, _) | (_, Poll::Ready(Some(_))) = (is_100, poll_fn(poll).await) {
                return Err(StatusCode::EXPECTATION_FAILED);
            }
            yield_now().await;
        }
        let is_late = Arc::new(AtomicBool::new(false));
        let response = handler(request.map(|incoming| Body {
            rest: Some(incoming),
            deadline: Box::pin(sleep(body_within)),
            is_late: is_late.clone(),
        }));
        let response = response.await;
        match is_late.load(Ordering::Relaxed) {
            true => Err(StatusCode::REQUEST_TIMEOUT),
            false => Ok(response),
        }
    }
}

/// Waits until the client has closed its side of the connection, and for a while has been sent
/// nothing and has had nothing to read.
async fn client_left(socket: &TcpStream, has_written: &AtomicBool) -> io::Result<()> {
    loop {
        // Also ready when there is something to read. Then this looks once a second, unless hyper
        // has just read it.
        let before = socket.ready(Interest::READABLE).await?;
        if before.is_empty() {
            continue;
        }
        has_written.store(false, Ordering::Relaxed);
        sleep(HALF_CLOSED_GRACE).await;
        // READABLE is still set, so this does not wait.
        let now = socket
            .ready(Interest::READABLE | Interest::WRITABLE)
            .await?;
        let has_written = has_written.load(Ordering::Relaxed);
        if before.is_read_closed() && now.is_writable() && !has_written {
            return Ok(());
        }
    }
}

/// Writes to the socket, and notes that. tokio's own write half could not be shared with
/// [`client_left`].
struct Writer<'a>(&'a TcpStream, &'a AtomicBool);

impl AsyncWrite for Writer<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(data) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => {
                    self.1.store(true, Ordering::Relaxed);
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The server does this, after the last unread data.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The body of a request: Node's `http.IncomingMessage` as a stream.
///
/// When it is dropped in a tokio runtime, the rest of the body is read in the background, as in
/// Node. Otherwise hyper would close the connection.
///
/// # Errors
///
/// Reading fails when the client leaves, and with `TimedOut` after [`BODY_WITHIN`].
pub struct Body {
    /// `None` after the time limit.
    rest: Option<Incoming>,
    deadline: Pin<Box<Sleep>>,
    is_late: Arc<AtomicBool>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        };
        if frame.is_pending() && self.deadline.as_mut().poll(cx).is_ready() {
            self.is_late.store(true, Ordering::Relaxed);
            self.rest = None;
            return Poll::Ready(Some(Err(ErrorKind::TimedOut.into())));
        }
        frame.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref();
        rest.map_or_else(SizeHint::new, Incoming::size_hint)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let rest = self.rest.take().filter(|rest| !rest.is_end_stream());
        if let (Some(mut rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout_at(self.deadline.deadline(), async move {
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use http_body_util::Full;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";

    /// A body of twelve parts.
    #[derive(Default)]
    struct Slow(u8, Option<Pin<Box<Sleep>>>);

    impl hyper::body::Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let pause = self
                .1
                .get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED_GRACE / 4)));
            ready!(pause.as_mut().poll(cx));
            self.0 += 1;
            self.1 = None;
            let part = Frame::data(Bytes::from("part"));
            Poll::Ready((self.0 <= 12).then_some(Ok(part)))
        }
    }

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        (client.await.unwrap(), listener.accept().await.unwrap().0)
    }

    /// Waits for at most 20 seconds.
    async fn soon<F: Future>(what: F) -> F::Output {
        timeout(Duration::from_secs(20), what)
            .await
            .expect("it takes no longer")
    }

    /// What a client gets until the connection is closed.
    async fn answer(mut client: TcpStream) -> String {
        let mut answer = String::new();
        let _ = soon(client.read_to_string(&mut answer)).await;
        answer
    }

    async fn collected(body: Body) -> Result<Bytes, io::Error> {
        Ok(body.collect().await?.to_bytes())
    }

    /// The response to some data when the limit for the body is short.
    async fn answer_when_late<H, A, B>(handler: H, data: &str) -> String
    where
        H: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<B>> + Send + 'static,
        B: hyper::body::Body + Default + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (mut client, connection) = pair().await;
        let (_closing, is_closing) = watch::channel(false);
        let limit = Duration::from_millis(300);
        tokio::spawn(Server::run(connection, handler, is_closing, limit));
        client.write_all(data.as_bytes()).await.unwrap();
        answer(client).await
    }

    /// Never yields anything. Its sender tells that it has been dropped.
    #[derive(Default)]
    struct Silent(Option<oneshot::Sender<()>>);

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    /// Checks that a handler that waits, and a response that is silent, are dropped when the client
    /// leaves after it has sent some data.
    async fn is_noticed(data: &str) {
        for responds in [false, true] {
            let (dropped, is_dropped) = oneshot::channel();
            let (begun, has_begun) = oneshot::channel();
            let state = Arc::new(std::sync::Mutex::new(Some((dropped, begun))));
            let server = create_server(move |request: Request<Body>| {
                let taken = state.lock().unwrap().take();
                async move {
                    let (dropped, begun) = taken.unwrap();
                    let response = Response::new(Silent(Some(dropped)));
                    let _ = begun.send(());
                    if !responds {
                        std::future::pending::<()>().await;
                    }
                    drop(request);
                    response
                }
            });
            let (mut client, connection) = pair().await;
            server.serve(connection);
            client.write_all(data.as_bytes()).await.unwrap();
            soon(has_begun).await.unwrap();
            drop(client);
            let left = Instant::now();
            assert!(soon(is_dropped).await.is_err());
            assert!(left.elapsed() < Duration::from_secs(10));
        }
    }

    #[tokio::test]
    async fn client_that_leaves() {
        is_noticed(GET).await;
    }

    #[tokio::test]
    async fn client_that_leaves_behind_unread_bytes() {
        is_noticed(&GET.repeat(2)).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        is_noticed(&(head.to_owned() + &"x".repeat(50_000))).await;
    }

    /// It leaves a part of the response unread, so the system resets the connection.
    #[tokio::test]
    async fn client_that_resets() {
        let server = create_server(async |_| Response::new("x".repeat(20_000_000)));
        let (mut client, connection) = pair().await;
        server.serve(connection);
        client.write_all(GET.as_bytes()).await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
        drop(client);
        let left = Instant::now();
        soon(server.close()).await;
        assert!(left.elapsed() < REQUEST_GRACE);
    }

    /// Each response comes within the grace, and the last one is long.
    #[tokio::test]
    async fn answer_for_a_half_closed_client() {
        let body = "x".repeat(20_000_000);
        let length = body.len();
        let server = create_server(move |_| {
            let body = body.clone();
            async {
                sleep(HALF_CLOSED_GRACE / 2).await;
                Response::new(body)
            }
        });
        let (mut client, connection) = pair().await;
        server.serve(connection);
        client.write_all(GET.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = 0;
        let mut part = vec![0; length / 5];
        while let Ok(count @ 1..) = soon(client.read(&mut part)).await {
            received += count;
            sleep(HALF_CLOSED_GRACE / 10).await;
        }
        assert!(received > length, "{received}");
    }

    /// Each part comes soon, but all of them take longer.
    #[tokio::test]
    async fn stream_for_a_half_closed_client() {
        let server = create_server(async |_| Response::new(Slow::default()));
        let (mut client, connection) = pair().await;
        server.serve(connection);
        client.write_all(GET.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = answer(client).await;
        assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn late_body() {
        let read = async |request: Request<Body>| match collected(request.into_body()).await {
            Ok(_) => Response::new("read".to_owned()),
            Err(error) => Response::new(error.to_string()),
        };
        let late = answer_when_late(read, &(POST.to_owned() + "bod")).await;
        assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
        assert!(late.contains("connection: close\r\n"), "{late}");

        // The response has begun.
        let echo = async |request: Request<Body>| Response::new(request.into_body().boxed());
        let cut = answer_when_late(echo, &(POST.to_owned() + "bod")).await;
        assert!(cut.ends_with("\r\n\r\nbod"), "{cut}");
        let unread = async |_| Response::new("hello".to_owned());
        let closed = answer_when_late(unread, &(POST.to_owned() + "bod")).await;
        assert!(closed.ends_with("\r\n\r\nhello"), "{closed}");

        // A body that has been read is not late.
        let slow = async |request: Request<Body>| {
            let body = collected(request.into_body()).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            Response::new(Full::new(body))
        };
        let slow = answer_when_late(slow, &(POST.to_owned() + "body")).await;
        assert!(slow.ends_with("\r\n\r\nbody"), "{slow}");
    }

    #[tokio::test]
    async fn request() {
        let server = create_server(async |request: Request<Body>| {
            let client = request.extensions().get::<SocketAddr>().copied();
            let (end, length) = (
                request.body().is_end_stream(),
                request.body().size_hint().exact(),
            );
            Response::new(format!("{} {end} {length:?}", client.unwrap()))
        });
        for (request, expected) in [
            (GET, "true Some(0)"),
            (&(POST.to_owned() + "body")[..], "false Some(4)"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "false None",
            ),
        ] {
            let (mut client, connection) = pair().await;
            let address = client.local_addr().unwrap();
            server.serve(connection);
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let answer = answer(client).await;
            assert!(
                answer.ends_with(&format!("\r\n\r\n{address} {expected}")),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn shutdown_with_a_client_of_http_1_0() {
        let server = create_server(async |_| Response::new("hello".to_owned()));
        let (mut client, connection) = pair().await;
        server.serve(connection);
        let closing = tokio::spawn(server.close());
        tokio::task::yield_now().await;
        let request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        client.write_all(request).await.unwrap();
        let answer = answer(client).await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(!answer.contains("keep-alive"), "{answer}");
        soon(closing).await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn client_that_never_reads() {
        use nix::sys::socket::getsockopt;

        let (mut client, connection) = pair().await;
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
        let requests = GET.repeat(1000);
        soon(async { while client.write_all(requests.as_bytes()).await.is_ok() {} }).await;
    }
}
