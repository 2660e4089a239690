//! Node's `child_process.fork()` and its channel: a child process to exchange messages with.
//! The other side may be Node, Bun, Deno or a program that uses this file.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features fs,signal
//! cargo add serde@1
//! cargo add serde_json@1.0.60 --features float_roundtrip
//! cargo add tokio@1 --features io-util,macros,net,process,rt-multi-thread,signal,sync
//! ```
//!
//! A Rust program that forks Node:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! use std::io::{Write, stdout};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let mut command = tokio::process::Command::new("node");
//!     command.arg("child.js");
//!     let mut child = ipc::fork(command)?;
//!
//!     child.send(&serde_json::json!({ "hello": "world" })).await?;
//!     while let Some(answer) = child.next_message::<serde_json::Value>().await? {
//!         writeln!(stdout(), "the child answers {answer}")?;
//!         child.disconnect();
//!     }
//!     writeln!(stdout(), "the child ended: {}", child.wait().await?)
//! }
//! ```
//!
//! A Rust program that Node forks, by
//! `fork('argument', [], { execPath: 'target/release/program', execArgv: [] })`:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let mut process = ipc::process()?;
//!     while let Some(message) = process.next_message::<serde_json::Value>().await? {
//!         process.send(&serde_json::json!({ "heard": message })).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Instead of `Value`, use your own types: all that implement serde's `Serialize` can be sent, and
//! all that implement `Deserialize` can be received.
//!
//! Not supported: `serialization: 'advanced'`, and handles such as sockets, which are refused (the
//! sender gets `NODE_HANDLE_NACK`). A message is what `serde_json` can parse: it is nested at most
//! 127 levels deep, has no lone surrogate, and its numbers fit into an `f64`. The feature
//! `float_roundtrip` of serde_json holds for the whole program: it reads floating-point numbers
//! exactly.
//!
//! Unsafe code: a `pre_exec`, which makes one system call between fork and exec; and [`process()`],
//! which uses the number of an inherited descriptor.

// A program may need only a part of this file.
#![allow(dead_code)]

use std::env;
use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::mem::take;
use std::net::Shutdown;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{self, Signal};
use nix::unistd::{self, Pid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf, Take,
};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{self, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::Mutex;

/// The variable with the file descriptor of the child's end.
const FD: &str = "NODE_CHANNEL_FD";

/// The variable with the format of the messages: `json`, one to a line.
const MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// The longest message to accept, in bytes.
pub const MAX_MESSAGE: u64 = 64 * 1024 * 1024;

/// Starts `command` as a child with a channel to it: Node's `child_process.fork()`.
///
/// The child inherits everything that `command` does not set, as in Node. No other process gets the
/// child's end of the channel.
///
/// This sets `kill_on_drop`, and a handler for SIGCHLD. Without a handler, the system keeps no exit
/// status where the process that has started this one ignores that signal.
///
/// # Errors
///
/// When no descriptor is left, or the command cannot be started.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn fork(mut command: Command) -> io::Result<Child> {
    drop(tokio::signal::unix::signal(SignalKind::child())?);
    // Both are close-on-exec: no other child of this process gets one of them.
    let (theirs, ours) = UnixStream::pair()?;
    let fd = theirs.as_raw_fd();
    command.env(FD, fd.to_string()).env(MODE, "json");
    let keep_open = move || {
        // SAFETY: this runs before `spawn` returns, and `theirs` is open until then.
        let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec, `keep_open` makes one system call, and no more.
    unsafe { command.pre_exec(keep_open) };
    let started = command.kill_on_drop(true).spawn();
    let process = started.map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        let mut text = format!("cannot fork {program}: {error}");
        // Node's `fork()` takes a script.
        if program.ends_with("js") {
            text += &format!("; to fork a script, use 'node {program}'");
        }
        io::Error::new(error.kind(), text)
    })?;
    // The channel would not close as long as this process had the child's end open.
    drop(theirs);
    Ok(Child {
        channel: Channel::new(ours)?,
        process,
    })
}

/// The channel to the process that has forked this one: Node's `process.send()`,
/// `process.on('message')` and `process.disconnect()`.
///
/// Makes the channel close-on-exec, so no child of this process gets it. Its variables stay in the
/// environment, and a Node program that inherits them takes some other descriptor for its channel:
/// it can abort. [`fork()`] sets them anew. For any other command that may run Node, use
/// `command.env_remove("NODE_CHANNEL_FD")`.
///
/// # Errors
///
/// When `NODE_CHANNEL_FD` is not set or is not an inherited, connected Unix socket. When
/// `NODE_CHANNEL_SERIALIZATION_MODE` is not `json`. When this is called a second time.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn process() -> io::Result<Channel> {
    let is_not = |what: &str, why| io::Error::other(format!("{what} is not {why}"));
    let value = env::var(FD);
    let value = value.map_err(|_| is_not(FD, "set: this process was not started by fork()"))?;
    if env::var_os(MODE).is_some_and(|mode| mode != "json") {
        return Err(is_not(MODE, "'json', the only one supported here"));
    }
    let is_not = |why| is_not(&format!("{FD}={value}"), why);
    let fd = value.parse().ok().filter(|fd: &RawFd| *fd > 2);
    let fd = fd.ok_or_else(|| is_not("a file descriptor above 2"))?;
    // SAFETY: only system calls get the number. If it is not open, the first of them fails.
    let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl(inherited, FcntlArg::F_GETFD).map_err(|_| is_not("open"))?;
    if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
        // This process has opened it itself, or this function has been called before.
        return Err(is_not("inherited, or is in use already"));
    }
    // A duplicate, because other parts of this process may use the number.
    let socket = UnixStream::from(inherited.try_clone_to_owned()?);
    let peer = socket.peer_addr();
    peer.map_err(|_| is_not("a connected Unix socket"))?;
    fcntl(inherited, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Channel::new(socket)
}

/// A child process and the channel to it: Node's `ChildProcess`.
///
/// When this is dropped, the child is killed with SIGKILL. Its own child processes are not.
pub struct Child {
    channel: Channel,
    /// Has the child's stdin, stdout and stderr where they are piped. Take stdin before the first
    /// call of [`Child::next_message`] or [`Child::wait`], which closes it.
    pub process: process::Child,
}

impl Child {
    /// The process id of the child: Node's `child.pid`. `None` when this process knows that the
    /// child has ended, as another process may have that id then.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Sends a signal to the child, not to its own child processes: Node's `child.kill()`.
    ///
    /// # Errors
    ///
    /// When the child has ended, or this process may not send it a signal.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        let id = self.id().ok_or(Errno::ESRCH)?;
        Ok(signal::kill(Pid::from_raw(id as i32), signal)?)
    }

    /// Waits for the next message, as [`Channel::next_message`] does. It also returns `None` when
    /// the child has ended and all that it has sent has been received, even if another process,
    /// which the child has started, holds the channel open. This method is cancel safe.
    ///
    /// # Errors
    ///
    /// As for [`Channel::next_message`].
    pub async fn next_message<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        tokio::select! {
            biased;
            message = self.channel.next_message() => message,
            exited = self.process.wait() => {
                exited?;
                self.channel.reader.get_mut().get_mut().is_complete = true;
                self.channel.next_message().await
            }
        }
    }

    /// Waits until the child has ended: Node's `'exit'`. This method is cancel safe.
    ///
    /// A child that only waits for messages ends after [`Sender::disconnect`]. First receive until
    /// `None`: a child whose messages are not received can block.
    ///
    /// # Errors
    ///
    /// When another part of this program has reaped the child.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }
}

impl Deref for Child {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

/// One end of a channel. It sends by its [`Sender`], and closes when this and all senders are
/// dropped.
pub struct Channel {
    sender: Sender,
    /// It stops behind a message that is too long.
    reader: Take<BufReader<Incoming>>,
    /// What has come of the next line.
    line: Vec<u8>,
}

impl Channel {
    fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let incoming = Incoming {
            pipe: Receiver::from_owned_fd_unchecked(socket.try_clone()?.into())?,
            is_complete: false,
        };
        Ok(Self {
            sender: Sender(Arc::new(Mutex::new(Socket(socket)))),
            reader: BufReader::new(incoming).take(MAX_MESSAGE + 1),
            line: Vec::new(),
        })
    }

    /// A sender for another task.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits for the next message: Node's `'message'`. `None` when the other side has closed the
    /// channel: Node's `'disconnect'`.
    ///
    /// This method is cancel safe.
    ///
    /// # Errors
    ///
    /// When a message is not JSON, or not a `T`: the next call returns the message after it. When
    /// a message is longer than [`MAX_MESSAGE`], or the channel closes within one: the next call
    /// returns `None`.
    pub async fn next_message<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            // Other tasks get their turn, however fast the messages come.
            tokio::task::consume_budget().await;
            match self.reader.read_until(b'\n', &mut self.line).await {
                // The other side has ended without reading all that was sent to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                read => _ = read?,
            }
            let line = take(&mut self.line);
            // Bytes that are not UTF-8 become U+FFFD, as in Node.
            let line = String::from_utf8_lossy(&line);
            let Some(line) = line.strip_suffix('\n') else {
                return match self.reader.limit() {
                    _ if line.is_empty() => Ok(None),
                    0 => Err(unreadable(&line, "it is longer than MAX_MESSAGE")),
                    _ => Err(unreadable(&line, "the channel closed within it")),
                };
            };
            self.reader.set_limit(MAX_MESSAGE + 1);
            // Node and its peers exchange messages of their own. No other line is parsed twice.
            let internal: Value = match line.contains("NODE_") {
                true => serde_json::from_str(line).unwrap_or_default(),
                false => Value::Null,
            };
            let cmd = internal["cmd"].as_str().unwrap_or_default();
            match cmd.strip_prefix("NODE_") {
                None | Some("") => {
                    let message = serde_json::from_str(line).map(Some);
                    return message.map_err(|error| unreadable(line, error));
                }
                // The peer waits for an answer before it sends anything else. The system has closed
                // the handle, as `read` receives none.
                Some("HANDLE") => {
                    let (sender, refusal) = (self.sender(), json!({ "cmd": "NODE_HANDLE_NACK" }));
                    tokio::spawn(async move { sender.send(&refusal).await });
                }
                Some(_) => {}
            }
        }
    }
}

/// The receiving side of a socket. For tokio it is a pipe: it would wake the reader of a socket also
/// each time the other side has received something, because there is room to send.
///
/// After a short read, tokio waits for more without a second read. A read from a socket also ends
/// behind a handle, but there the other side waits for an answer.
struct Incoming {
    pipe: Receiver,
    /// No more comes than what is there.
    is_complete: bool,
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        if !self.is_complete {
            return Pin::new(&mut self.pipe).poll_read(cx, bytes);
        }
        // tokio may not know yet what is there.
        let read = unistd::read(&self.pipe, bytes.initialize_unfilled());
        bytes.advance(read.unwrap_or(0));
        Poll::Ready(Ok(()))
    }
}

impl Deref for Channel {
    type Target = Sender;

    fn deref(&self) -> &Sender {
        &self.sender
    }
}

/// The half of a channel that sends. Its clones can be used by several tasks at once.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<Socket>>);

impl Sender {
    /// Sends a message: Node's `child.send()` and `process.send()`.
    ///
    /// Waits while the channel is full. If both sides send without receiving, both wait: receive in
    /// another task. If the future is dropped, the message is sent whole or not at all.
    ///
    /// # Errors
    ///
    /// When the channel is closed: `BrokenPipe`. When the message cannot be written as JSON.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn send(&self, message: &(impl Serialize + ?Sized)) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let socket = self.0.clone().lock_owned().await;
        let sent = match (&socket.0).write(&line) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            sent => sent.map_err(unsent)?,
        };
        if sent == line.len() {
            return Ok(());
        }
        // A task completes the line, even if this future is dropped.
        let rest = tokio::spawn(async move {
            let stream = tokio::net::UnixStream::from_std(socket.0.try_clone()?);
            stream?.write_all(&line[sent..]).await
        });
        rest.await?.map_err(unsent)
    }

    /// Tells the other side that no more messages come: Node's `child.disconnect()` and
    /// `process.disconnect()`. What the other side still sends can be received.
    ///
    /// Returns at once. What other tasks are sending is sent first.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn disconnect(&self) {
        let socket = self.0.clone();
        let close = async move { socket.lock().await.0.shutdown(Shutdown::Write) };
        let mut close = Box::pin(close);
        // If it has to wait, this takes its place in the queue.
        let closed = close.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if closed.is_pending() {
            tokio::spawn(close);
        }
    }
}

/// Closes the channel when it is dropped.
struct Socket(UnixStream);

impl Drop for Socket {
    fn drop(&mut self) {
        // The descriptor that `process` has inherited stays open.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn unsent(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot send a message: {error}"))
}

/// An error that shows the start of a line.
fn unreadable(line: &str, error: impl Display) -> io::Error {
    let start = line.chars().take(40).filter(|c| !c.is_control());
    let rest = line.chars().nth(40).map(|_| '…');
    let start: String = start.chain(rest).collect();
    io::Error::other(format!("cannot read the message '{start}': {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::read_to_string;
    use std::os::unix::process::ExitStatusExt;
    use std::pin::pin;
    use std::process::{Stdio, exit};
    use tokio::task::{spawn_blocking, yield_now};

    /// A channel, and its other end as a bare socket.
    fn channel() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        (Channel::new(ours).expect("a descriptor is left"), theirs)
    }

    /// Both ends of a channel.
    fn channels() -> (Channel, Channel) {
        let (channel, theirs) = channel();
        (channel, Channel::new(theirs).expect("a descriptor is left"))
    }

    async fn next(channel: &mut Channel) -> Option<Value> {
        channel.next_message().await.expect("no error")
    }

    /// Starts something, and drops it where it has to wait.
    fn cancel<T>(future: impl Future<Output = T>) {
        let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }

    /// What arrives when the other side writes these bytes and closes its end: messages as JSON,
    /// and errors.
    async fn received(bytes: impl AsRef<[u8]>, max_message: u64) -> Vec<String> {
        let (mut channel, mut theirs) = channel();
        theirs.write_all(bytes.as_ref()).expect("it is open");
        drop(theirs);
        let mut received = Vec::new();
        loop {
            if channel.reader.limit() > 0 {
                channel.reader.set_limit(max_message + 1);
            }
            match channel.next_message::<Value>().await {
                Ok(Some(message)) => received.push(message.to_string()),
                Ok(None) => return received,
                Err(error) => received.push(error.to_string()),
            }
        }
    }

    #[tokio::test]
    async fn messages_arrive_in_order() {
        let lines = "1\n\"two\"\n {\"b\": 3, \"b\": [4]} \r\nnull\n";
        let messages = ["1", "\"two\"", "{\"b\":[4]}", "null"];
        assert_eq!(received(lines, 1000).await, messages);
    }

    #[tokio::test]
    async fn internal_messages_do_not_arrive() {
        let mut lines = String::new();
        for cmd in ["\"NODE_\"", "\"NODE_A\"", "\"node_a\"", "[\"NODE_A\"]"] {
            lines += &format!("{{\"cmd\":{cmd}}}\n");
        }
        lines += "\"NODE_A\"\n{\"NODE_A\":1}\n";
        let messages = [
            "{\"cmd\":\"NODE_\"}",
            "{\"cmd\":\"node_a\"}",
            "{\"cmd\":[\"NODE_A\"]}",
            "\"NODE_A\"",
            "{\"NODE_A\":1}",
        ];
        assert_eq!(received(lines, 1000).await, messages);
    }

    #[tokio::test]
    async fn handle_is_refused() {
        let (mut channel, mut theirs) = channel();
        let lines = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Server\",\"msg\":1}\n2\n";
        theirs.write_all(lines.as_bytes()).expect("it is open");
        assert_eq!(next(&mut channel).await, Some(json!(2)));
        drop(channel);
        let answer = spawn_blocking(|| read_to_string(theirs)).await;
        let answer = answer.expect("it does not panic").expect("it is open");
        assert_eq!(answer, "{\"cmd\":\"NODE_HANDLE_NACK\"}\n");
    }

    #[tokio::test]
    async fn bytes_that_are_not_utf_8_are_replaced() {
        let lines = b"\"\xff \xe4\xb8 \xc3\xa4\"\n";
        assert_eq!(received(lines, 1000).await, ["\"\u{fffd} \u{fffd} ä\""]);
    }

    #[tokio::test]
    async fn errors_show_the_start_of_a_line() {
        let nested = "[".repeat(128) + &"]".repeat(128);
        for (line, error) in [
            ("no json", "'no json': expected ident at line 1 column 2"),
            ("", "'': EOF while parsing a value at line 1 column 0"),
            (
                "\x1b[31mred",
                "'[31mred': expected value at line 1 column 1",
            ),
            ("1e999", "'1e999': number out of range at line 1 column 5"),
            (
                "[\"\\ud800\"]",
                "'[\"\\ud800\"]': unexpected end of hex escape at line 1 column 9",
            ),
            (
                &nested,
                "'[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…': \
                 recursion limit exceeded at line 1 column 128",
            ),
        ] {
            // The messages before and after it arrive.
            let lines = format!("1\n{line}\n2\n");
            let error = format!("cannot read the message {error}");
            assert_eq!(received(lines, 1000).await, ["1", &error, "2"]);
        }
    }

    #[tokio::test]
    async fn message_of_another_type_is_an_error() {
        let (mut channel, theirs) = channels();
        for message in [json!([1, "one"]), json!([2]), json!([3, "three"])] {
            theirs.send(&message).await.expect("it is open");
        }
        for expected in [
            Ok(Some((1, "one".into()))),
            Err("cannot read the message '[2]': invalid length 1, \
                 expected a tuple of size 2 at line 1 column 3"
                .into()),
            Ok(Some((3, "three".into()))),
        ] {
            let message = channel.next_message::<(u32, String)>().await;
            assert_eq!(message.map_err(|error| error.to_string()), expected);
        }
    }

    #[tokio::test]
    async fn half_a_message_is_an_error() {
        let error = "cannot read the message '{\"half\":': the channel closed within it";
        assert_eq!(received("1\n{\"half\":", 1000).await, ["1", error]);
        let error = "cannot read the message '\u{fffd}\u{fffd}': the channel closed within it";
        assert_eq!(received(b"\xff\xff", 3).await, [error]);
    }

    #[tokio::test]
    async fn message_has_a_maximal_length() {
        assert_eq!(received("12345\n1\n", 5).await, ["12345", "1"]);
        let error = "cannot read the message '12345': the channel closed within it";
        assert_eq!(received("12345", 5).await, [error]);
        // The channel has ended.
        let error = "cannot read the message '123456': it is longer than MAX_MESSAGE";
        assert_eq!(received("1\n1234567\n2\n", 5).await, ["1", error]);
    }

    #[tokio::test]
    async fn each_message_has_the_same_maximal_length() {
        let (mut channel, other) = channels();
        other.send(&1).await.expect("it is open");
        assert_eq!(channel.reader.limit(), MAX_MESSAGE + 1);
        assert_eq!(next(&mut channel).await, Some(json!(1)));
        assert_eq!(channel.reader.limit(), MAX_MESSAGE + 1);
    }

    #[tokio::test]
    async fn disconnect_closes_one_direction() {
        let (mut channel, mut other) = channels();
        channel.disconnect();
        assert_eq!(next(&mut other).await, None);
        other.send("last").await.expect("it is open");
        assert_eq!(next(&mut channel).await, Some(json!("last")));
        let error = channel.send("too late").await.expect_err("it is closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let text = "cannot send a message: Broken pipe (os error 32)";
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test]
    async fn channel_closes_with_its_last_sender() {
        let (channel, mut other) = channels();
        let sender = channel.sender();
        drop(channel);
        sender.send(&1).await.expect("it is open");
        drop(sender);
        assert_eq!(next(&mut other).await, Some(json!(1)));
        assert_eq!(next(&mut other).await, None);
        let error = other.send(&2).await.expect_err("it is closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        other.disconnect();
    }

    #[tokio::test]
    async fn channel_closes_though_a_duplicate_is_open() {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        let _inherited = ours.try_clone().expect("a descriptor is left");
        let mut other = Channel::new(theirs).expect("a descriptor is left");
        drop(Channel::new(ours));
        assert_eq!(next(&mut other).await, None);
        assert!(other.send(&1).await.is_err());
    }

    /// More than the channel holds.
    fn long() -> String {
        "x".repeat(2 << 20)
    }

    #[tokio::test]
    async fn disconnect_does_not_wait() {
        let (channel, mut other) = channels();
        let send = |message: Value| {
            let sender = channel.sender();
            tokio::spawn(async move { sender.send(&message).await })
        };
        let tasks = [send(json!(long())), send(json!(2))];
        yield_now().await;
        channel.disconnect();
        let receive = async {
            assert_eq!(next(&mut other).await, Some(json!(long())));
            assert_eq!(next(&mut other).await, Some(json!(2)));
            assert_eq!(next(&mut other).await, None);
        };
        let (late, ()) = tokio::join!(channel.send(&3), receive);
        late.expect_err("it is closed");
        for task in tasks {
            task.await.expect("it does not panic").expect("it was open");
        }
    }

    #[tokio::test]
    async fn cancelled_send_completes_its_line() {
        let (channel, mut other) = channels();
        cancel(channel.send(&long()));
        cancel(channel.send("after the long one"));
        channel.disconnect();
        assert_eq!(next(&mut other).await, Some(json!(long())));
        assert_eq!(next(&mut other).await, None);
    }

    #[tokio::test]
    async fn cancelled_receive_loses_nothing() {
        let (mut channel, mut theirs) = channel();
        for part in ["{\"a", "\":", "1}\n2\n"] {
            yield_now().await;
            cancel(channel.next_message::<Value>());
            theirs.write_all(part.as_bytes()).expect("it is open");
        }
        assert_eq!(next(&mut channel).await, Some(json!({ "a": 1 })));
        assert_eq!(next(&mut channel).await, Some(json!(2)));
    }

    #[tokio::test]
    async fn what_is_there_arrives_before_the_end() {
        let (mut channel, mut theirs) = channel();
        theirs.write_all(b"1\n2\n3").expect("it is open");
        channel.reader.get_mut().get_mut().is_complete = true;
        assert_eq!(next(&mut channel).await, Some(json!(1)));
        assert_eq!(next(&mut channel).await, Some(json!(2)));
        let half = channel.next_message::<Value>().await;
        half.expect_err("it is half a message");
        assert_eq!(next(&mut channel).await, None);
    }

    /// More than the channel holds in each direction.
    #[tokio::test]
    async fn tasks_send_at_once() {
        const MESSAGES: usize = 20_000;
        let (mut channel, mut echo) = channels();
        let echo = tokio::spawn(async move {
            while let Some(message) = echo.next_message::<Value>().await? {
                echo.send(&message).await?;
            }
            Ok::<_, io::Error>(())
        });
        let send = |number: usize| {
            let sender = channel.sender();
            tokio::spawn(async move {
                for n in 0..MESSAGES {
                    sender.send(&[number, n]).await?;
                }
                Ok::<_, io::Error>(())
            })
        };
        let senders = [send(0), send(1)];
        let mut following = [0, 0];
        for _ in 0..2 * MESSAGES {
            let message = next(&mut channel).await;
            let number = usize::from(message == Some(json!([1, following[1]])));
            assert_eq!(message, Some(json!([number, following[number]])));
            following[number] += 1;
        }
        channel.disconnect();
        assert_eq!(next(&mut channel).await, None);
        for task in senders.into_iter().chain([echo]) {
            task.await.expect("it does not panic").expect("it is open");
        }
    }

    #[tokio::test]
    async fn messages_leave_time_for_others() {
        let (mut channel, mut theirs) = channel();
        theirs.write_all(&b"1\n".repeat(4000)).expect("it is open");
        drop(theirs);
        yield_now().await;
        cancel(async { while next(&mut channel).await.is_some() {} });
    }

    #[tokio::test]
    async fn other_side_can_close_without_reading() {
        let (mut channel, theirs) = channel();
        channel.send(&1).await.expect("it is open");
        drop(theirs);
        assert_eq!(next(&mut channel).await, None);
    }

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        shell
    }

    /// The variable with what [`child`] does.
    const ROLE: &str = "IPC_TEST_CHILD";

    /// A child that is this program, running only the test `child`.
    fn fork_this(role: &str) -> Child {
        let (_, module) = module_path!().split_once("::").expect("a path");
        let mut command = Command::new(env::current_exe().expect("its path"));
        command.args(["--exact", &format!("{module}::child")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.env(ROLE, role);
        fork(command).expect("a child")
    }

    /// No test by itself.
    #[tokio::test]
    async fn child() {
        let role = env::var(ROLE).unwrap_or_default();
        if role == "leaves another" {
            // It inherits the channel.
            let other = Command::new("sleep").arg("1000").spawn().expect("sleep");
            let process = process().expect("a channel");
            process.send(&other.id()).await.expect("it is open");
            process.send("last").await.expect("it is open");
            exit(0);
        } else if role == "echoes" {
            let mut channel = process().expect("a channel");
            assert!(process().is_err());
            while let Some(message) = next(&mut channel).await {
                channel.send(&message).await.expect("it is open");
            }
        }
    }

    async fn next_of(child: &mut Child) -> Option<Value> {
        child.next_message().await.expect("no error")
    }

    fn pid(id: impl TryInto<i32>) -> Pid {
        Pid::from_raw(id.try_into().ok().expect("an id"))
    }

    #[tokio::test]
    async fn channel_closes_when_the_child_ends() {
        let mut child = fork(shell("exit 3")).expect("a child");
        assert_eq!(next_of(&mut child).await, None);
        assert_eq!(child.wait().await.expect("its status").code(), Some(3));
        let error = child.kill(Signal::SIGTERM).expect_err("it has ended");
        assert_eq!(error.to_string(), "No such process (os error 3)");
    }

    #[tokio::test]
    async fn channel_ends_with_the_child() {
        let mut child = fork_this("leaves another");
        let other = next_of(&mut child).await.and_then(|id| id.as_i64());
        assert_eq!(next_of(&mut child).await, Some(json!("last")));
        assert_eq!(next_of(&mut child).await, None);
        assert!(child.wait().await.expect("its status").success());
        let other = pid(other.expect("its id"));
        signal::kill(other, Signal::SIGKILL).expect("it is there");
    }

    #[tokio::test]
    async fn child_echoes_until_the_end() {
        let mut child = fork_this("echoes");
        for message in [json!({ "a": [1] }), json!("b")] {
            child.send(&message).await.expect("it is open");
            assert_eq!(next_of(&mut child).await, Some(message));
        }
        child.disconnect();
        assert_eq!(next_of(&mut child).await, None);
        assert!(child.wait().await.expect("its status").success());
    }

    #[tokio::test]
    async fn child_gets_a_signal() {
        let mut child = fork_this("echoes");
        child.kill(Signal::SIGTERM).expect("it is there");
        let status = child.wait().await.expect("its status");
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    }

    #[tokio::test]
    async fn dropped_child_is_killed_and_reaped() {
        let child = fork(shell("exec sleep 1000")).expect("a child");
        let id = pid(child.id().expect("it is there"));
        signal::kill(id, None).expect("it is there");
        drop(child);
        while signal::kill(id, None).is_ok() {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_the_child_gets_an_end() {
        let count = "n=0; for fd in /dev/fd/*; do [ -S $fd ] && n=$((n + 1)); done; echo $n";
        let mut child = fork(shell(count)).expect("a child");
        let other = shell(count).output().await.expect("a shell");
        let others = String::from_utf8_lossy(&other.stdout);
        let others: u32 = others.trim().parse().expect("a number");
        let mut childs = String::new();
        let stdout = child.process.stdout.as_mut().expect("it is piped");
        stdout.read_to_string(&mut childs).await.expect("a number");
        assert_eq!(childs, format!("{}\n", others + 1));
    }

    #[tokio::test]
    async fn no_such_program() {
        let error = fork(Command::new("nosuch")).err().expect("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let text = "cannot fork nosuch: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), text);
    }
}
