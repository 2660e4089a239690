//! Node's `child_process.spawn()`: runs a command and returns its output as events, as it comes.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add tokio@1 --features io-util,macros,process,rt-multi-thread,time
//! ```
//!
//! ```rust,ignore
//! mod spawn;
//!
//! use std::io::{Write, stdout};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let mut du = spawn::spawn(tokio::process::Command::new("du").arg("/usr/bin"))?;
//!     let mut bytes = 0;
//!     while let Some(event) = du.next_event().await? {
//!         match event {
//!             spawn::Event::Stdout(data) => bytes += data.len(),
//!             spawn::Event::Stderr(_) => {}
//!             spawn::Event::Close(status) => writeln!(stdout(), "{bytes} bytes, {status}")?,
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Unsafe code: an empty `pre_exec`. With it, a script without a `#!` line runs, too.

// A program may need only a part of this file.
#![allow(dead_code)]

use std::fmt;
use std::future::pending;
use std::io;
use std::mem::swap;
use std::ops::Deref;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, sleep_until};

/// The longest chunk of output in one event, in bytes. It is Node's.
const CHUNK: usize = 64 * 1024;

/// How long to wait for more output after the first bytes of a chunk. Node takes about this
/// long for a read, so several small writes often become one chunk.
const GATHER: Duration = Duration::from_millis(2);

/// The error number for an executable file in an unknown format.
const ENOEXEC: i32 = 8;

/// A running command: Node's `ChildProcess`. It is killed when this is dropped. Its child processes
/// are not.
pub struct ChildProcess {
    child: Child,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
    /// What the last event holds.
    chunk: Vec<u8>,
    closed: bool,
}

/// The events of Node's `ChildProcess`, under its names.
#[derive(Debug)]
pub enum Event<'a> {
    /// Node's `stdout.on('data')`: at most 64 KiB.
    Stdout(Data<'a>),
    /// Node's `stderr.on('data')`: at most 64 KiB.
    Stderr(Data<'a>),
    /// Node's `'close'`, the last event: the command has exited, and no process has its stdout or
    /// stderr open.
    Close(ExitStatus),
}

/// A chunk of output: Node's `Buffer`. It can end within a line or a character. It dereferences to
/// the bytes (`&data[..]`). As text (`data.to_string()`), what is not UTF-8 becomes U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a>(&'a [u8]);

/// Starts `command` with an empty stdin: Node's `child_process.spawn()`.
///
/// This sets the command's stdin, stdout, stderr and `kill_on_drop`, and for a script without a
/// `#!` line a `pre_exec`.
///
/// The command stays in this process's group, as in Node: Ctrl-C in a terminal reaches both. If
/// this process is killed, the command runs on.
///
/// # Errors
///
/// When the command cannot be started, for instance because there is no such program.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn spawn(command: &mut Command) -> io::Result<ChildProcess> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut started = command.spawn();
    if matches!(&started, Err(error) if error.raw_os_error() == Some(ENOEXEC)) {
        // A script without a `#!` line. After a `pre_exec`, the standard library uses `execvp`,
        // which has the shell run such a script. Node always uses it.
        // SAFETY: the closure does nothing.
        started = unsafe { command.pre_exec(|| Ok(())) }.spawn();
    }
    let mut child = started.map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        io::Error::new(error.kind(), format!("cannot spawn {program}: {error}"))
    })?;
    Ok(ChildProcess {
        stdout: Output::new(child.stdout.take()),
        stderr: Output::new(child.stderr.take()),
        chunk: Vec::with_capacity(CHUNK),
        closed: false,
        child,
    })
}

impl ChildProcess {
    /// Waits for the next event; `None` after [`Event::Close`].
    ///
    /// This method is cancel safe.
    ///
    /// # Errors
    ///
    /// When a pipe cannot be read, or the command cannot be waited for.
    pub async fn next_event(&mut self) -> io::Result<Option<Event<'_>>> {
        if !self.has_data() {
            self.gather(GATHER).await?;
        }
        self.chunk.clear();
        // When both have data, stdout's comes first, as in Node.
        if !self.stdout.data.is_empty() {
            swap(&mut self.chunk, &mut self.stdout.data);
            return Ok(Some(Event::Stdout(Data(&self.chunk))));
        }
        if !self.stderr.data.is_empty() {
            swap(&mut self.chunk, &mut self.stderr.data);
            return Ok(Some(Event::Stderr(Data(&self.chunk))));
        }
        if self.closed {
            return Ok(None);
        }
        let status = self.child.wait().await?;
        self.closed = true;
        Ok(Some(Event::Close(status)))
    }

    /// Reads both pipes until `wait` is over, which begins with the first bytes. It reads them at the
    /// same time: otherwise the command could block on the one that is not read.
    async fn gather(&mut self, wait: Duration) -> io::Result<()> {
        let mut deadline = Instant::now();
        while self.is_open() && self.stdout.has_room() && self.stderr.has_room() {
            let has_data = self.has_data();
            tokio::select! {
                read = self.stdout.read() => read?,
                read = self.stderr.read() => read?,
                () = sleep_until(deadline), if has_data => break,
            }
            if !has_data {
                deadline = Instant::now() + wait;
            }
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.stdout.pipe.is_some() || self.stderr.pipe.is_some()
    }

    fn has_data(&self) -> bool {
        !self.stdout.data.is_empty() || !self.stderr.data.is_empty()
    }
}

/// One of the command's two output pipes.
struct Output<P> {
    /// `None` once it has ended.
    pipe: Option<P>,
    /// What has been read and is in no event yet.
    data: Vec<u8>,
}

impl<P: AsyncRead + Unpin> Output<P> {
    fn new(pipe: Option<P>) -> Self {
        let data = Vec::with_capacity(CHUNK);
        Self { pipe, data }
    }

    fn has_room(&self) -> bool {
        self.data.len() < CHUNK
    }

    /// Reads what is there. Never ready once the pipe has ended.
    async fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return pending().await;
        };
        if pipe.read_buf(&mut self.data).await? == 0 {
            self.pipe = None;
        }
        Ok(())
    }
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl fmt::Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // `from_utf8_lossy` alone is slow on long text.
        match std::str::from_utf8(self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => f.write_str(&String::from_utf8_lossy(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn data_as_bytes_and_as_text() {
        let mut printf = spawn(Command::new("printf").arg(r"a\377")).unwrap();
        let event = printf.next_event().await.unwrap();
        let Some(Event::Stdout(data)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(&data[..], b"a\xff");
        assert_eq!(data.to_string(), "a\u{fffd}");
    }

    /// Each write comes long before `wait` is over, and the wait still ends.
    #[tokio::test]
    async fn small_writes_are_not_held_back() {
        let script = "while :; do printf x; sleep 0.005; done";
        let mut shell = spawn(Command::new("sh").args(["-c", script])).unwrap();
        let gather = shell.gather(Duration::from_millis(200));
        let gathered = timeout(Duration::from_secs(20), gather).await;
        gathered.expect("the wait ends").unwrap();
        assert!(shell.stdout.data.len() > 1);
    }
}
