//! Node's `child_process.fork()` and its channel: a child process to exchange messages with.
//! The other side may be Node, Bun, Deno or a program that uses this file.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! nix = { version = "0.31", features = ["fs"] }
//! serde_json = { version = "1", features = ["arbitrary_precision", "preserve_order"] }
//! ```
//!
//! A Rust program that forks Node:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! fn main() -> std::io::Result<()> {
//!     let mut command = std::process::Command::new("node");
//!     command.arg("child.js");
//!     let (mut child, mut sender, mut receiver) = ipc::fork(command)?;
//!
//!     sender.send(&serde_json::json!({ "hello": "world" }))?;
//!     if let Some(answer) = receiver.next() {
//!         println!("the child answers {}", answer?);
//!     }
//!     sender.disconnect();
//!     println!("the child ended: {}", child.wait()?);
//!     Ok(())
//! }
//! ```
//!
//! A Rust program that Node forks, by
//! `fork('argument', { execPath: 'target/release/program', execArgv: [] })`:
//!
//! ```rust,ignore
//! mod ipc;
//!
//! fn main() -> std::io::Result<()> {
//!     // SAFETY: this is the first line of `main`, and no thread has been started.
//!     let (mut sender, receiver) = unsafe { ipc::channel_from_env()? };
//!     for message in receiver {
//!         sender.send(&serde_json::json!({ "heard": message? }))?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Left out: handles (a peer that sends a socket waits for an acknowledgement that does not
//! come) and `serialization: 'advanced'`. As `serde_json` has it, values nest at most 127
//! deep, and a string with half a surrogate pair is refused.

// Whoever copies this file may not use all of it.
#![allow(dead_code)]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;

/// Where the child finds the descriptor of its end.
const FD: &str = "NODE_CHANNEL_FD";

/// How messages are written on the channel: `json`, one line each, if it is not set.
const MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// Starts `command` as a child with a channel to it: Node's `child_process.fork()`.
///
/// The child inherits what `command` does not set otherwise, as in Node. It alone gets the
/// other end of the channel. Wait for the child when the channel has closed.
///
/// # Errors
///
/// When there are no descriptors left, or the command cannot be started.
pub fn fork(mut command: Command) -> io::Result<(Child, Sender, Receiver)> {
    // Both are closed on exec: nothing else that this process starts gets one of them.
    let (theirs, ours) = UnixStream::pair()?;
    let fd = theirs.as_raw_fd();
    command.env(FD, fd.to_string()).env(MODE, "json");
    let keep_open = move || {
        // SAFETY: this runs before `spawn` returns, and `theirs` is open until then.
        let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec, `keep_open` makes one system call and allocates nothing.
    unsafe { command.pre_exec(keep_open) };
    let child = command.spawn()?;
    // Our copy of the child's end has to go: while it is open, the channel does not close.
    drop(theirs);
    let (sender, receiver) = channel(ours)?;
    Ok((child, sender, receiver))
}

/// The channel to the process that forked this one: Node's `process.send()` and
/// `process.on('message')`.
///
/// Takes the channel's variables out of the environment and closes the channel on exec, so
/// that nothing this process starts finds it.
///
/// # Errors
///
/// When `NODE_CHANNEL_FD` is missing, no number, or not that of a connected socket, and when
/// the parent wants another serialization than JSON.
///
/// # Safety
///
/// Call it once, as the first thing in `main`: nothing else may own the descriptor yet, and
/// no other thread may be reading the environment.
pub unsafe fn channel_from_env() -> io::Result<(Sender, Receiver)> {
    let value = env::var_os(FD)
        .ok_or_else(|| invalid(format!("{FD} is not set: nothing forked this process")))?;
    let value = value.display();
    // The first three are the standard streams'.
    let fd = value.to_string().parse().ok().filter(|fd: &RawFd| *fd > 2);
    let fd = fd.ok_or_else(|| invalid(format!("{FD} is '{value}', no number from 3 on")))?;
    let file = fs::metadata(format!("/dev/fd/{fd}"))
        .map_err(|_| invalid(format!("{FD} is {fd}, which is not open")))?;
    if !file.file_type().is_socket() {
        return Err(invalid(format!("{FD} is {fd}, which is not a socket")));
    }
    if env::var_os(MODE).is_some_and(|mode| mode != "json") {
        return Err(invalid(format!(
            "{MODE} is not 'json', the only one known here"
        )));
    }

    // SAFETY: it is an open socket, and the caller says that nobody else owns it.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    if socket.peer_addr().is_err() {
        return Err(invalid(format!(
            "{FD} is {fd}, which is connected to nobody"
        )));
    }
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    socket.set_nonblocking(false)?;
    // SAFETY: the caller says that no other thread is reading the environment.
    unsafe {
        env::remove_var(FD);
        env::remove_var(MODE);
    }
    channel(socket)
}

/// Two descriptors of one socket, so that two threads can write and read.
fn channel(socket: UnixStream) -> io::Result<(Sender, Receiver)> {
    let reader = BufReader::new(socket.try_clone()?);
    Ok((Sender(socket), Receiver(reader)))
}

/// The half of a channel that writes. Dropping it does not close the channel as long as the
/// [`Receiver`] lives.
pub struct Sender(UnixStream);

impl Sender {
    /// Sends a message: Node's `child.send()` and `process.send()`.
    ///
    /// Blocks while the channel is full, which a peer that does not read makes it. To send
    /// much to a peer that answers, read from another thread.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the other side has closed the channel.
    pub fn send(&mut self, message: &Value) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).map_err(|error| match error.kind() {
            // It closed while this waited for room.
            io::ErrorKind::ConnectionReset => io::ErrorKind::BrokenPipe.into(),
            _ => error,
        })
    }

    /// Tells the other side that nothing more comes: Node's `child.disconnect()` and
    /// `process.disconnect()`, but that what it still sends can be received.
    pub fn disconnect(self) {
        // It fails when the other side was first.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// The half of a channel that reads: an iterator over the messages, in the order they were
/// sent, that ends when the other side has closed the channel. A message may have any size.
///
/// An item is an error when a line is not JSON, and the next item is the next line; or when
/// the channel closes within a line.
pub struct Receiver(BufReader<UnixStream>);

impl Iterator for Receiver {
    type Item = io::Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.receive().transpose()? {
                Ok(message) if is_internal(&message) => {}
                result => return Some(result),
            }
        }
    }
}

impl Receiver {
    fn receive(&mut self) -> io::Result<Option<Value>> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            // The other side ended without reading all we sent: for us, it just ended.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            result => _ = result?,
        }
        if line.is_empty() {
            return Ok(None);
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            let message = format!("the channel closed in the middle of '{}'", start_of(&line));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let message = serde_json::from_slice(&line);
        message.map(Some).map_err(|error| {
            invalid(format!(
                "a message is not JSON: '{}' ({error})",
                start_of(&line)
            ))
        })
    }
}

/// Node and its peers talk to each other on the channel, too.
fn is_internal(message: &Value) -> bool {
    let cmd = message.get("cmd").and_then(Value::as_str).unwrap_or("");
    cmd.len() > "NODE_".len() && cmd.starts_with("NODE_")
}

/// As much of a line as an error should show.
fn start_of(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let start: String = text.chars().take(40).filter(|c| !c.is_control()).collect();
    if text.chars().count() > 40 {
        start + "…"
    } else {
        start
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
