//! Node's `child_process.fork()` and its channel: a child process to exchange messages with.
//! The other side may be Node, Bun, Deno or a program that uses this file.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features fs
//! cargo add serde_json@1.0.60 --features float_roundtrip
//! ```
//!
//! nix 0.31 or later, serde_json 1.0.60 or later.
//!
//! A Rust program that forks Node:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! use std::io::{Write, stdout};
//!
//! fn main() -> std::io::Result<()> {
//!     let mut command = std::process::Command::new("node");
//!     command.arg("child.js");
//!     let mut child = ipc::fork(command)?;
//!
//!     child.send(&serde_json::json!({ "hello": "world" }))?;
//!     while let Some(answer) = child.next_message()? {
//!         writeln!(stdout(), "the child answers {answer}")?;
//!         child.disconnect();
//!     }
//!     writeln!(stdout(), "the child ended: {}", child.wait()?)
//! }
//! ```
//!
//! A Rust program that Node forks, by
//! `fork('argument', [], { execPath: 'target/release/program', execArgv: [] })`:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! fn main() -> std::io::Result<()> {
//!     // SAFETY: it changes the environment, and no other thread has been started.
//!     let mut process = unsafe { ipc::process()? };
//!     while let Some(message) = process.next_message()? {
//!         process.send(&serde_json::json!({ "heard": message }))?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Sending and receiving block. In an async program, send in `spawn_blocking` with a
//! [`Sender`], and receive on a separate thread.
//!
//! Not supported: `serialization: 'advanced'`, and handles such as sockets, which are refused (the
//! sender gets `NODE_HANDLE_NACK`). A message is what `serde_json` can parse: it is nested at most
//! 127 levels deep and has no lone surrogate. The feature `float_roundtrip` of serde_json holds for
//! the whole program: it reads floating-point numbers exactly.
//!
//! Unsafe code: a `pre_exec`, which makes one system call between fork and exec; and [`process()`],
//! which takes ownership of an inherited descriptor and changes the environment.

// A program may need only a part of this file.
#![allow(dead_code)]

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

/// The variable with the file descriptor of the child's end.
const FD: &str = "NODE_CHANNEL_FD";

/// The variable with the format of the messages: `json`, one to a line.
const MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// Starts `command` as a child with a channel to it: Node's `child_process.fork()`.
///
/// The child inherits everything that `command` does not set, as in Node. No other process gets the
/// child's end of the channel.
///
/// # Errors
///
/// When no descriptor is left, or the command cannot be started.
pub fn fork(mut command: Command) -> io::Result<Child> {
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
    let process = command.spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy();
        // Node's `fork()` takes a script.
        let hint = match [".js", ".cjs", ".mjs"]
            .iter()
            .any(|end| program.ends_with(end))
        {
            true => format!("; to fork a script, use 'node {program}'"),
            false => String::new(),
        };
        io::Error::new(
            error.kind(),
            format!("cannot fork {program}: {error}{hint}"),
        )
    })?;
    // The channel would not close as long as this process had the child's end open.
    drop(theirs);
    let channel = Channel::new(ours)?;
    Ok(Child { channel, process })
}

/// The channel to the process that has forked this one: Node's `process.send()`,
/// `process.on('message')` and `process.disconnect()`.
///
/// Removes the channel's variables from the environment and makes the channel close-on-exec, so
/// that no child of this process uses it.
///
/// # Errors
///
/// When `NODE_CHANNEL_FD` is not set or is not an inherited, connected Unix socket. When
/// `NODE_CHANNEL_SERIALIZATION_MODE` is not `json`.
///
/// # Safety
///
/// No other thread may be using the environment. In an async program, make this the first line of
/// `main`: the threads of tokio's runtime do not use the environment.
pub unsafe fn process() -> io::Result<Channel> {
    let value = env::var(FD).map_err(|_| {
        invalid(format!(
            "{FD} is not set: this process was not started by fork()"
        ))
    })?;
    let fd = value.parse().ok().filter(|fd: &RawFd| *fd >= 0);
    let fd =
        fd.ok_or_else(|| invalid(format!("{FD} is '{value}', which is not a file descriptor")))?;
    let invalid_fd = |why| invalid(format!("{FD} is {fd}, which is {why}"));
    if env::var_os(MODE).is_some_and(|mode| mode != "json") {
        return Err(invalid(format!(
            "{MODE} is not 'json', the only one supported here"
        )));
    }

    // SAFETY: if the descriptor is closed, `fcntl` fails.
    let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl(inherited, FcntlArg::F_GETFD).map_err(|_| invalid_fd("not open"))?;
    if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
        // It is close-on-exec, so this process has opened it itself.
        return Err(invalid_fd("not inherited"));
    }
    // SAFETY: it is open, and as it was inherited, nothing in this process owns it.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    if socket.peer_addr().is_err() {
        // It may be stderr, and stays open.
        let _ = socket.into_raw_fd();
        return Err(invalid_fd("not a connected Unix socket"));
    }
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    socket.set_nonblocking(false)?;
    // SAFETY: the caller promises that no other thread is using the environment.
    unsafe {
        env::remove_var(FD);
        env::remove_var(MODE);
    }
    Channel::new(socket)
}

/// A child process and the channel to it: Node's `ChildProcess`.
///
/// When this is dropped, the child is killed with SIGKILL and reaped.
pub struct Child {
    channel: Channel,
    process: process::Child,
}

impl Child {
    /// The process id of the child: Node's `child.pid`.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the child has ended: Node's `'exit'`. Blocks.
    ///
    /// A child that only waits for messages ends after [`Channel::disconnect`]. First receive until
    /// `None`: a child whose messages are not received can block.
    ///
    /// # Errors
    ///
    /// When this process ignores SIGCHLD: the system then keeps no exit status.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Deref for Child {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }
}

/// One end of a channel. It closes when this and all its [`Sender`]s are dropped.
pub struct Channel {
    sender: Sender,
    reader: BufReader<UnixStream>,
    /// The longest message to accept, in bytes. Default: 64 MiB.
    pub max_message: usize,
}

impl Channel {
    fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            reader: BufReader::new(socket.try_clone()?),
            sender: Sender(Arc::new(Mutex::new(socket))),
            max_message: 64 * 1024 * 1024,
        })
    }

    /// Sends a message, as [`Sender::send`] does.
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`].
    pub fn send(&self, message: &Value) -> io::Result<bool> {
        self.sender.send(message)
    }

    /// Closes the channel in one direction, as [`Sender::disconnect`] does.
    pub fn disconnect(&self) {
        self.sender.disconnect();
    }

    /// A sender for another thread.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits for the next message: Node's `'message'`. `None` when the other side has closed the
    /// channel: Node's `'disconnect'`. Blocks.
    ///
    /// # Errors
    ///
    /// When a message is not JSON; the next call returns the one after it. When a message is
    /// longer than `max_message`, or the channel closes within one.
    pub fn next_message(&mut self) -> io::Result<Option<Value>> {
        while let Some(message) = self.read_line()? {
            let cmd = message.get("cmd").and_then(Value::as_str).unwrap_or("");
            match cmd.strip_prefix("NODE_") {
                None | Some("") => return Ok(Some(message)),
                // The peer waits for an answer before it sends anything else. The system has closed
                // the handle, as `read` receives none.
                Some("HANDLE") => {
                    self.send(&json!({ "cmd": "NODE_HANDLE_NACK" }))?;
                }
                // Node and its peers exchange messages of their own.
                Some(_) => {}
            }
        }
        Ok(None)
    }

    fn read_line(&mut self) -> io::Result<Option<Value>> {
        let mut line = Vec::new();
        let one_too_many = (self.max_message as u64).saturating_add(1);
        match self
            .reader
            .by_ref()
            .take(one_too_many)
            .read_until(b'\n', &mut line)
        {
            // The other side has ended without reading all that was sent to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            result => _ = result?,
        }
        let is_too_long = line.len() > self.max_message && !line.ends_with(b"\n");
        // Bytes that are not UTF-8 become U+FFFD, as in Node.
        let line = String::from_utf8_lossy(&line);
        match line.strip_suffix('\n') {
            Some(message) => match serde_json::from_str(message) {
                Ok(message) => Ok(Some(message)),
                Err(error) => Err(invalid(format!(
                    "a message is not JSON: '{}' ({error})",
                    start_of(message)
                ))),
            },
            None if line.is_empty() => Ok(None),
            None if is_too_long => Err(invalid(format!(
                "a message is longer than {} bytes: '{}'",
                self.max_message,
                start_of(&line)
            ))),
            None => {
                let message = format!(
                    "the channel closed within the message '{}'",
                    start_of(&line)
                );
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
            }
        }
    }
}

/// The half of a channel that sends. Its clones can be used by several threads at once.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<UnixStream>>);

impl Sender {
    /// Sends a message, and says whether the other side still had the channel open: Node's
    /// `child.send()` and `process.send()`.
    ///
    /// Blocks while the channel is full. If both sides send without receiving, both block: receive
    /// on another thread.
    ///
    /// # Errors
    ///
    /// When the system has no memory for the message.
    pub fn send(&self, message: &Value) -> io::Result<bool> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        match self.socket().write_all(&line) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Tells the other side that no more messages come: Node's `child.disconnect()` and
    /// `process.disconnect()`. What the other side still sends can be received.
    pub fn disconnect(&self) {
        // It can fail if the other side closed first.
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    fn socket(&self) -> MutexGuard<'_, UnixStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a line that an error shows.
fn start_of(line: &str) -> String {
    let start = line.chars().take(40).filter(|c| !c.is_control());
    let rest = line.chars().nth(40).map(|_| '…');
    start.chain(rest).collect()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::read_to_string;
    use std::process::Stdio;
    use std::thread;

    /// A channel, and its other end as a bare socket.
    fn channel() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        (Channel::new(ours).expect("a descriptor is left"), theirs)
    }

    /// What arrives when the other side writes these bytes and closes its end: messages as JSON,
    /// and errors.
    fn received(bytes: impl AsRef<[u8]>, max_message: usize) -> Vec<String> {
        let (mut channel, mut theirs) = channel();
        channel.max_message = max_message;
        theirs.write_all(bytes.as_ref()).expect("it is open");
        drop(theirs);
        let mut received = Vec::new();
        loop {
            match channel.next_message() {
                Ok(Some(message)) => received.push(message.to_string()),
                Ok(None) => return received,
                Err(error) => received.push(error.to_string()),
            }
        }
    }

    #[test]
    fn messages_arrive_in_order() {
        let lines = "1\n\"two\"\n {\"b\": 3, \"b\": [4]} \r\nnull\n";
        let messages = ["1", "\"two\"", "{\"b\":[4]}", "null"];
        assert_eq!(received(lines, 1000), messages);
    }

    #[test]
    fn internal_messages_do_not_arrive() {
        let mut lines = String::new();
        for cmd in ["\"NODE_\"", "\"NODE_A\"", "\"node_a\"", "[\"NODE_A\"]"] {
            lines += &format!("{{\"cmd\":{cmd}}}\n");
        }
        let messages = [
            "{\"cmd\":\"NODE_\"}",
            "{\"cmd\":\"node_a\"}",
            "{\"cmd\":[\"NODE_A\"]}",
        ];
        assert_eq!(received(lines, 1000), messages);
    }

    #[test]
    fn handle_is_refused() {
        let (mut channel, mut theirs) = channel();
        let lines = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Server\",\"msg\":1}\n2\n";
        theirs.write_all(lines.as_bytes()).expect("it is open");
        let message = channel.next_message().expect("a message");
        assert_eq!(message, Some(json!(2)));
        drop(channel);
        let answer = read_to_string(theirs).expect("it is open");
        assert_eq!(answer, "{\"cmd\":\"NODE_HANDLE_NACK\"}\n");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        let lines = b"\"\xff \xe4\xb8 \xc3\xa4\"\n";
        assert_eq!(received(lines, 1000), ["\"\u{fffd} \u{fffd} ä\""]);
    }

    #[test]
    fn errors_show_the_start_of_a_line() {
        let nested = "[".repeat(128) + &"]".repeat(128);
        for (line, error) in [
            ("no json", "'no json' (expected ident at line 1 column 2)"),
            ("", "'' (EOF while parsing a value at line 1 column 0)"),
            (
                "\x1b[31mred",
                "'[31mred' (expected value at line 1 column 1)",
            ),
            (
                "[\"\\ud800\"]",
                "'[\"\\ud800\"]' (unexpected end of hex escape at line 1 column 9)",
            ),
            (
                &nested,
                "'[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…' \
                 (recursion limit exceeded at line 1 column 128)",
            ),
        ] {
            // The messages before and after it arrive.
            let lines = format!("1\n{line}\n2\n");
            let error = format!("a message is not JSON: {error}");
            assert_eq!(received(lines, 1000), ["1", &error, "2"]);
        }
    }

    #[test]
    fn half_a_message_is_an_error() {
        let error = "the channel closed within the message '{\"half\":'";
        assert_eq!(received("1\n{\"half\":", 1000), ["1", error]);
        let error = "the channel closed within the message '\u{fffd}\u{fffd}'";
        assert_eq!(received(b"\xff\xff", 3), [error]);
    }

    #[test]
    fn message_has_a_maximal_length() {
        assert_eq!(received("12345\n1\n", 5), ["12345", "1"]);
        let error = "the channel closed within the message '12345'";
        assert_eq!(received("12345", 5), [error]);
        let error = "a message is longer than 5 bytes: '123456'";
        assert_eq!(received("123456", 5), [error]);
        assert_eq!(received("1\n", usize::MAX), ["1"]);
    }

    #[test]
    fn disconnect_closes_one_direction() {
        let (mut channel, theirs) = channel();
        let mut other = Channel::new(theirs).expect("a descriptor is left");
        channel.disconnect();
        assert_eq!(other.next_message().expect("the end"), None);
        assert!(other.send(&json!("last")).expect("it is open"));
        assert_eq!(
            channel.next_message().expect("a message"),
            Some(json!("last"))
        );
        assert!(!channel.send(&json!("too late")).expect("no other error"));
    }

    #[test]
    fn channel_closes_with_its_last_sender() {
        let (channel, theirs) = channel();
        let mut other = Channel::new(theirs).expect("a descriptor is left");
        let sender = channel.sender();
        drop(channel);
        assert!(sender.send(&json!(1)).expect("it is open"));
        drop(sender);
        assert_eq!(other.next_message().expect("a message"), Some(json!(1)));
        assert_eq!(other.next_message().expect("the end"), None);
        assert!(!other.send(&json!(2)).expect("no other error"));
        other.disconnect();
    }

    /// More than the channel holds in each direction.
    #[test]
    fn threads_send_at_once() {
        const MESSAGES: usize = 20_000;
        let (mut channel, theirs) = channel();
        let mut echo = Channel::new(theirs).expect("a descriptor is left");
        let echo = thread::spawn(move || {
            while let Some(message) = echo.next_message()? {
                echo.send(&message)?;
            }
            Ok::<_, io::Error>(())
        });
        let send = |number| {
            let sender = channel.sender();
            thread::spawn(move || {
                (0..MESSAGES).all(|n| matches!(sender.send(&json!([number, n])), Ok(true)))
            })
        };
        let senders = [send(0), send(1)];
        let mut next = [0, 0];
        for _ in 0..2 * MESSAGES {
            let message = channel.next_message().expect("a message");
            let number = usize::from(message == Some(json!([1, next[1]])));
            assert_eq!(message, Some(json!([number, next[number]])));
            next[number] += 1;
        }
        for sender in senders {
            assert!(sender.join().expect("it does not panic"));
        }
        channel.disconnect();
        let end = channel.next_message().expect("the end");
        assert_eq!(end, None);
        let echo = echo.join().expect("it does not panic");
        echo.expect("each message is JSON");
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

    #[test]
    fn channel_closes_when_the_child_ends() {
        let mut child = fork(shell("exit 3")).expect("a child");
        assert_eq!(child.next_message().expect("the end"), None);
        assert!(!child.send(&json!(1)).expect("no other error"));
        assert_eq!(child.wait().expect("its status").code(), Some(3));
    }

    #[test]
    fn dropped_child_is_killed_and_reaped() {
        let child = fork(shell("exec sleep 1000")).expect("a child");
        let is_there = format!("kill -0 {}", child.id());
        let is_there = || shell(&is_there).status().expect("a shell").success();
        assert!(is_there());
        drop(child);
        assert!(!is_there());
    }

    #[test]
    fn only_the_child_gets_an_end() {
        let count = "n=0; for fd in /dev/fd/*; do [ -S $fd ] && n=$((n + 1)); done; echo $n";
        let mut child = fork(shell(count)).expect("a child");
        let other = shell(count).output().expect("a shell");
        let others: u32 = String::from_utf8_lossy(&other.stdout)
            .trim()
            .parse()
            .expect("a number");
        let stdout = child.process.stdout.take().expect("it is piped");
        let childs = read_to_string(stdout).expect("a number");
        assert_eq!(childs, format!("{}\n", others + 1));
    }

    #[test]
    fn no_such_program() {
        let error = fork(Command::new("nosuch")).err().expect("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let text = "cannot fork nosuch: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), text);
    }
}
