//! Node's `child_process.spawn()`: runs a command and returns its output as events, as it comes.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features process,signal
//! cargo add tokio@1 --features io-util,macros,process,rt-multi-thread,signal,time
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
//!             spawn::Event::Stderr(_) | spawn::Event::Exit(_) => {}
//!             spawn::Event::Close(status) => writeln!(stdout(), "{bytes} bytes, {status}")?,
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Unsafe code: an empty `pre_exec`. With it, a script without a `#!` line runs, too (with glibc).

// A program may need only a part of this file.
#![allow(dead_code)]

use std::fmt;
use std::future::pending;
use std::io;
use std::mem::swap;
use std::ops::Deref;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// The longest chunk of output in one event, in bytes. It is Node's.
const CHUNK: usize = 64 * 1024;

/// How long to wait for more output after the first bytes of a chunk. Node takes about this
/// long for a read, so several small writes often become one chunk.
const GATHER: Duration = Duration::from_millis(2);

/// A running command: Node's `ChildProcess`. When this is dropped, it sends SIGKILL as
/// [`ChildProcess::kill`] does, and does not wait.
pub struct ChildProcess {
    /// Node's `child.stdin`, if `command.stdin(Stdio::piped())` was set. Take it before the first
    /// [`ChildProcess::next_event`], which closes it. Write to it in another task: a command whose
    /// output is not read can stop reading. Drop it to end the command's input.
    pub stdin: Option<ChildStdin>,
    child: Child,
    /// What `kill` signals: the command's id, or as a negative number its group.
    target: Pid,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
    /// What the last event holds.
    chunk: Vec<u8>,
    /// How many of [`Event::Exit`] and [`Event::Close`] have been returned.
    last_events: usize,
}

/// The events of Node's `ChildProcess`, under its names.
#[derive(Debug)]
pub enum Event<'a> {
    /// Node's `stdout.on('data')`: at most 64 KiB.
    Stdout(Data<'a>),
    /// Node's `stderr.on('data')`: at most 64 KiB.
    Stderr(Data<'a>),
    /// Node's `'exit'`: the command has exited. Output can still follow: the end of a long one, or
    /// that of another process that has stdout or stderr open.
    Exit(ExitStatus),
    /// Node's `'close'`, the last event: the command has exited, and no process has its stdout or
    /// stderr open.
    Close(ExitStatus),
}

/// A chunk of output: Node's `Buffer`. It can end within a line or a character. It dereferences to
/// the bytes (`&data[..]`). As text (`data.to_string()`), what is not UTF-8 becomes U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a>(&'a [u8]);

/// Starts `command`: Node's `child_process.spawn()`.
///
/// This sets the command's stdout and stderr, and for a script without a `#!` line a `pre_exec`.
/// Stdin stays as the caller has set it: without that, it is inherited (Node: a pipe). The command
/// does not get `NODE_CHANNEL_FD` and `NODE_CHANNEL_SERIALIZATION_MODE`: that channel belongs to
/// this process.
///
/// The command stays in this process's group, as in Node: Ctrl-C in a terminal reaches both. After
/// `command.process_group(0)` it leads a group of its own. Ctrl-C then reaches neither the command
/// nor what it starts; [`ChildProcess::kill`] and a drop reach all of them, until the command has
/// exited. If this process is killed, the command runs on.
///
/// SIGCHLD gets tokio's handler. Otherwise, if this process was started with SIGCHLD ignored, the
/// system would keep no exit status.
///
/// # Errors
///
/// When the command cannot be started, for instance because there is no such program.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn spawn(command: &mut Command) -> io::Result<ChildProcess> {
    drop(signal(SignalKind::child())?);
    command
        .env_remove("NODE_CHANNEL_FD")
        .env_remove("NODE_CHANNEL_SERIALIZATION_MODE")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut started = command.spawn();
    if matches!(&started, Err(error) if error.raw_os_error() == Some(Errno::ENOEXEC as i32)) {
        // A script without a `#!` line. After a `pre_exec`, the standard library uses `execvp`, as
        // Node does. With glibc, this has the shell run such a script.
        // SAFETY: the closure does nothing.
        started = unsafe { command.pre_exec(|| Ok(())) }.spawn();
    }
    let mut child = started.map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        io::Error::new(error.kind(), format!("cannot spawn {program}: {error}"))
    })?;
    let pid = child.id().expect("it has not been waited for") as i32;
    let leads_a_group = getpgid(Some(Pid::from_raw(pid))) == Ok(Pid::from_raw(pid));
    Ok(ChildProcess {
        stdin: child.stdin.take(),
        target: Pid::from_raw(if leads_a_group { -pid } else { pid }),
        stdout: Output::new(child.stdout.take()),
        stderr: Output::new(child.stderr.take()),
        chunk: Vec::with_capacity(CHUNK),
        last_events: 0,
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
        self.stdin = None;
        if !self.has_event() {
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
        let status = self.child.wait().await?;
        let event = match self.last_events {
            0 => Some(Event::Exit(status)),
            1 => Some(Event::Close(status)),
            _ => None,
        };
        self.last_events += 1;
        Ok(event)
    }

    /// The command's process id: Node's `child.pid`. `None` when the command has exited, because
    /// another process can then get the same id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal to the command: Node's `child.kill()`. After `command.process_group(0)`, it
    /// reaches the whole group.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the command has exited, even if other processes of its group have not. `EPERM`
    /// when the command runs as another user.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        self.id().ok_or(Errno::ESRCH)?;
        Ok(kill(self.target, signal)?)
    }

    /// Reads both pipes until `wait` is over, which begins with the first bytes or at the command's
    /// exit. It reads them at the same time: otherwise the command could block on the one that is
    /// not read.
    async fn gather(&mut self, wait: Duration) -> io::Result<()> {
        let mut deadline = Instant::now();
        while self.is_open() && self.stdout.has_room() && self.stderr.has_room() {
            let had_event = self.has_event();
            tokio::select! {
                read = self.stdout.read() => read?,
                read = self.stderr.read() => read?,
                status = self.child.wait(), if self.id().is_some() => { status?; }
                () = sleep_until(deadline), if had_event => break,
            }
            if !had_event {
                deadline = Instant::now() + wait;
            }
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.stdout.pipe.is_some() || self.stderr.pipe.is_some()
    }

    /// Whether there is an event to return. The exit comes after what was read with it.
    fn has_event(&self) -> bool {
        let has_exited = self.id().is_none() && self.last_events == 0;
        has_exited || !self.stdout.data.is_empty() || !self.stderr.data.is_empty()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // tokio reaps it later.
        let _ = self.kill(Signal::SIGKILL);
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
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A shell that has started a `cat`. The shell gives its stdin another number, because what it
    /// starts in the background gets an empty stdin.
    const WITH_A_CAT: &str = "exec 3<&0; cat <&3 >&3 & echo; wait";

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A shell, and the other end of the socket that is its stdin. The socket ends when no process
    /// has it open any more.
    fn shell_on_a_socket(script: &str, in_a_group: bool) -> (ChildProcess, UnixStream) {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut command = shell(script);
        command.stdin(OwnedFd::from(theirs));
        if in_a_group {
            command.process_group(0);
        }
        (spawn(&mut command).unwrap(), socket)
    }

    /// The next events as text: `stdout a`, `exit 3`.
    async fn events(child: &mut ChildProcess, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            let event = timeout(LIMIT, child.next_event()).await;
            events.push(match event.expect("it comes").unwrap() {
                Some(Event::Stdout(data)) => format!("stdout {data}"),
                Some(Event::Stderr(data)) => format!("stderr {data}"),
                Some(Event::Exit(status)) => format!("exit {status}"),
                Some(Event::Close(status)) => format!("close {status}"),
                None => "none".into(),
            });
        }
        events
    }

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
        let mut shell = spawn(&mut shell(script)).unwrap();
        let gather = shell.gather(Duration::from_millis(200));
        let gathered = timeout(LIMIT, gather).await;
        gathered.expect("the wait ends").unwrap();
        let data = &shell.stdout.data;
        assert!(data.len() > 1, "only {data:?}");
    }

    /// More than the pipes hold, written and read at the same time.
    #[tokio::test]
    async fn stdin_is_written_while_stdout_is_read() {
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let mut cat = spawn(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let mut stdin = cat.stdin.take().unwrap();
        let all = sent.clone();
        tokio::spawn(async move { stdin.write_all(&all).await });
        let mut received = Vec::new();
        while let Some(event) = timeout(LIMIT, cat.next_event()).await.unwrap().unwrap() {
            if let Event::Stdout(data) = event {
                received.extend_from_slice(&data);
            }
        }
        assert!(sent == received, "{} bytes", received.len());
    }

    #[tokio::test]
    async fn stdin_that_nobody_takes_is_closed() {
        let mut cat = spawn(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let status = "exit status: 0";
        let expected = [format!("exit {status}"), format!("close {status}")];
        assert_eq!(events(&mut cat, 2).await, expected);
    }

    /// A process in the background has stdout open. What was written before the exit comes before.
    #[tokio::test]
    async fn exit_before_close() {
        let script = "exec 3<&0; cat <&3 & echo a; echo b >&2; exit 3";
        let (mut shell, mut socket) = shell_on_a_socket(script, true);
        let before = ["stdout a\n", "stderr b\n", "exit exit status: 3"];
        assert_eq!(events(&mut shell, 3).await, before);
        assert_eq!(shell.id(), None);
        let error = shell.kill(Signal::SIGKILL).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ESRCH as i32));
        socket.write_all(b"late").unwrap();
        drop(socket);
        let after = ["stdout late", "close exit status: 3", "none", "none"];
        assert_eq!(events(&mut shell, 4).await, after);
    }

    #[tokio::test]
    async fn exit_beside_endless_output() {
        let mut shell = spawn(&mut shell("yes & exit 3")).unwrap();
        let exit = async {
            while let Some(event) = shell.next_event().await.unwrap() {
                if let Event::Exit(status) = event {
                    return status.code();
                }
            }
            None
        };
        assert_eq!(timeout(LIMIT, exit).await, Ok(Some(3)));
    }

    #[tokio::test]
    async fn kill_reaches_a_group() {
        let (mut shell, mut socket) = shell_on_a_socket(WITH_A_CAT, true);
        assert_eq!(events(&mut shell, 1).await, ["stdout \n"]);
        assert!(shell.id().is_some());
        shell.kill(Signal::SIGTERM).unwrap();
        let signal = "signal: 15 (SIGTERM)";
        let ends = [format!("exit {signal}"), format!("close {signal}")];
        assert_eq!(events(&mut shell, 2).await, ends);
        assert_eq!(socket.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    /// In the group of this process, it reaches only the command.
    #[tokio::test]
    async fn kill_reaches_one_process() {
        let (mut shell, mut socket) = shell_on_a_socket(WITH_A_CAT, false);
        assert_eq!(events(&mut shell, 1).await, ["stdout \n"]);
        shell.kill(Signal::SIGTERM).unwrap();
        assert_eq!(events(&mut shell, 1).await, ["exit signal: 15 (SIGTERM)"]);
        socket.write_all(b"a").unwrap();
        socket.read_exact(&mut [0]).unwrap();
    }

    #[tokio::test]
    async fn drop_reaches_a_group() {
        let (mut shell, mut socket) = shell_on_a_socket(WITH_A_CAT, true);
        assert_eq!(events(&mut shell, 1).await, ["stdout \n"]);
        drop(shell);
        assert_eq!(socket.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[tokio::test]
    async fn drop_after_exit_signals_nothing() {
        let script = "exec 3<&0; cat <&3 >&3 & exit";
        let (mut shell, mut socket) = shell_on_a_socket(script, true);
        assert_eq!(events(&mut shell, 1).await, ["exit exit status: 0"]);
        drop(shell);
        socket.write_all(b"a").unwrap();
        socket.read_exact(&mut [0]).unwrap();
    }
}
