//! Runs a program, keeps what it writes, and sees that it ends and leaves nothing running.

use std::env;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::procfs::cpu_time;

/// Nothing here takes that long, on the slowest machine: what does has hung.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The variable that marks all that a run starts, wherever it goes: with this process's
/// number, and for what a check starts, with the run's.
const MARK: &str = "XTASK_RUN";

/// What a program has written, and how it ended.
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: ExitStatus,
}

impl Output {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it ended with this on stderr, and this status or, if it is negative, signal.
    pub fn ended_with(&self, stderr: &str, status: i32) -> Result<()> {
        same("stderr", stderr, &self.stderr())?;
        self.ended_with_status(status)
    }

    pub fn ended_with_status(&self, status: i32) -> Result<()> {
        same("status", status, code(self.status))
            .with_context(|| format!("with stderr {:?}", self.stderr()))
    }
}

/// A program that runs. What is left of it when this is dropped is killed.
pub struct Running {
    child: Child,
    mark: String,
    stdout: Captured,
    stderr: Captured,
}

/// What has come from a pipe so far.
#[derive(Default)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// Kills what the checks have started and not yet ended, when it is dropped, or when this
/// process is told to end: ^C does not reach what is in a group of its own.
pub struct Sweep(());

impl Sweep {
    /// # Safety
    ///
    /// No other thread may be reading the environment.
    pub unsafe fn new() -> Result<Self> {
        // SAFETY: the caller says so.
        unsafe { env::set_var(MARK, format!("{}-", process::id())) };
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        // Where `nohup`, or a shell's `&`, has had one of them ignored, it no longer is:
        // programs would inherit that, but for those of Node, which undoes it.
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        drop(inside);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = hangup.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            drop(Self(()));
            process::exit(1);
        });
        Ok(Self(()))
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        kill_marked(&format!("{}-", process::id()));
    }
}

/// Runs a program to its end.
///
/// # Errors
///
/// When it cannot be started, does not end, or leaves a process running.
pub fn run(command: Command) -> Result<Output> {
    start(command)?.finish()
}

/// Starts a program, and keeps what it writes.
pub fn start(command: Command) -> Result<Running> {
    let (mut running, stdout) = start_unread(command)?;
    running.stdout = Captured::from(stdout);
    Ok(running)
}

/// Starts a program whose stdout is left to the caller.
pub fn start_unread(command: Command) -> Result<(Running, PipeReader)> {
    let (stdout, theirs) = pipe()?;
    Ok((start_on(command, theirs)?, stdout))
}

/// Starts a program whose stdout is left to the caller and does not block, as where the
/// program shares it with Node.
fn start_unread_non_blocking(command: Command) -> Result<(Running, PipeReader)> {
    let (stdout, theirs) = pipe()?;
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((start_on(command, theirs)?, stdout))
}

/// Starts a program on a pipe that has been made for it.
pub fn start_on(mut command: Command, stdout: PipeWriter) -> Result<Running> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let mark = format!("{}-{run}.", process::id());
    let mut child = command
        .env(MARK, &mark)
        // The words of the system's messages, and the worst that a user may have set.
        .env("LC_ALL", "C")
        .env("RUST_BACKTRACE", "1")
        .env_remove("FORCE_COLOR")
        .env_remove("NODE_OPTIONS")
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stderr = Captured::from(child.stderr.take().expect("stderr is piped"));
    Ok(Running {
        child,
        mark,
        stdout: Captured::default(),
        stderr,
    })
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs. What has ended stays a zombie until `finish`.
    pub fn is_running(&self) -> Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        Ok(!stat.contains(") Z "))
    }

    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_to(self.pid(), signal)
    }

    /// Waits until stdout holds `text`.
    pub fn wait_for_stdout(&self, text: &str) -> Result<()> {
        let seen = wait_until(&format!("stdout to hold {text:?}"), || {
            Ok(self.stdout().contains(text).then_some(()))
        });
        seen.with_context(|| format!("stdout: {:?}, stderr: {:?}", self.stdout(), self.stderr()))
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// When the program does not end, or leaves a process running.
    pub fn finish(mut self) -> Result<Output> {
        let what = "the program to end";
        let status = wait_until(what, || Ok(self.child.try_wait()?));
        let status = status
            .with_context(|| format!("stdout: {:?}, stderr: {:?}", self.stdout(), self.stderr()))?;
        wait_until("all that the program started to end", || {
            Ok(marked(&self.mark).is_empty().then_some(()))
        })?;
        Ok(Output {
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            status,
        })
    }
}

/// The processes whose mark starts so, and which still run. A zombie has no environment.
fn marked(mark: &str) -> Vec<u32> {
    let mark = format!("{MARK}={mark}");
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(mark.as_bytes()))
    };
    processes().filter(is_marked).collect()
}

fn kill_marked(mark: &str) {
    let _ = wait_until("what is left to end", || {
        let left = marked(mark);
        for pid in &left {
            let _ = signal_to(*pid, Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    });
}

impl Drop for Running {
    fn drop(&mut self) {
        kill_marked(&self.mark);
        let _ = self.child.wait();
    }
}

impl Captured {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = bytes.clone();
        let reader = thread::spawn(move || {
            let mut chunk = [0; 64 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut chunk) {
                sink.lock().unwrap().extend_from_slice(&chunk[..read]);
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// All of it, once all processes that could write to the pipe have ended.
    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// Asks again and again until there is an answer.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("waited {LIMIT:?} for {what}")
}

/// Waits until a pipe that nobody reads is full.
pub fn wait_until_full(pipe: &PipeReader) -> Result<()> {
    wait_until_blocked(process::id(), pipe.as_raw_fd())
}

/// Waits until a process could write no more to a pipe.
pub fn wait_until_blocked(pid: u32, fd: RawFd) -> Result<()> {
    let writer = writer_of(pid, fd)?;
    wait_until("the pipe to fill", || {
        let mut room = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        Ok((poll(&mut room, PollTimeout::ZERO)? == 0).then_some(()))
    })
}

/// Closes a pipe, and waits until nobody reads it: what another check is just starting has
/// a copy of every descriptor until it runs.
pub fn close(pipe: PipeReader) -> Result<()> {
    let writer = writer_of(process::id(), pipe.as_raw_fd())?;
    drop(pipe);
    wait_until("the pipe to have no reader", || {
        let mut broken = [PollFd::new(writer.as_fd(), PollFlags::empty())];
        Ok((poll(&mut broken, PollTimeout::ZERO)? == 1).then_some(()))
    })
}

/// Another descriptor of a pipe, which tells of it what its reader's does not.
fn writer_of(pid: u32, fd: RawFd) -> Result<File> {
    let path = format!("/proc/{pid}/fd/{fd}");
    Ok(File::options().write(true).open(path)?)
}

/// Interrupts a program whose reader sleeps, and which hears that nevertheless.
pub fn interrupt_unread(command: Command) -> Result<()> {
    let (program, stdout) = start_unread(command)?;
    wait_until_full(&stdout)?;
    program.signal(Signal::SIGINT)?;
    let output = program.finish()?;
    output.ended_with("", -(Signal::SIGINT as i32))
}

/// What a program writes to a pipe that does not block and is read late.
pub fn read_late(command: Command) -> Result<Vec<u8>> {
    let (program, mut pipe) = start_unread_non_blocking(command)?;
    wait_until_full(&pipe)?;
    sleeps(program.pid())?;
    let mut written = Vec::new();
    pipe.read_to_end(&mut written)?;
    program.finish()?.ended_with("", 0)?;
    Ok(written)
}

/// Whether a process that has to wait does so without taking a CPU's time.
pub fn sleeps(pid: u32) -> Result<()> {
    let before = cpu_time(pid)?;
    thread::sleep(Duration::from_secs(1));
    let taken = cpu_time(pid)? - before;
    ensure!(
        taken < Duration::from_millis(100),
        "it took {taken:?} of a CPU's second"
    );
    Ok(())
}

/// Waits until a process is gone, or a zombie whose parent is not ours to wake.
pub fn wait_until_gone(pid: u32) -> Result<()> {
    wait_until(&format!("process {pid} to end"), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    })
}

/// A folder through which a check and a shell script tell each other how far they are.
pub struct Go(TempDir);

impl Go {
    pub fn new() -> Result<Self> {
        Ok(Self(TempDir::new()?))
    }

    /// A command that waits until `say` is called with the same number.
    pub fn wait(&self, number: u32) -> String {
        let file = self.file(number);
        format!("until [ -e {} ]; do sleep 0.01; done", file.display())
    }

    pub fn say(&self, number: u32) -> Result<()> {
        Ok(fs::write(self.file(number), [])?)
    }

    /// A command that tells its shell's process number.
    pub fn tell(&self, number: u32) -> String {
        let file = self.file(number);
        format!("echo $$ > {0}.new; mv {0}.new {0}", file.display())
    }

    /// Waits for `tell` with the same number, and returns the process number.
    pub fn hear(&self, number: u32) -> Result<u32> {
        wait_until("the script to tell how far it is", || {
            let told = fs::read_to_string(self.file(number)).ok();
            Ok(told.map(|pid| pid.trim().parse()).transpose()?)
        })
    }

    fn file(&self, number: u32) -> PathBuf {
        self.0.path().join(number.to_string())
    }
}

pub fn signal_to(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), signal)
        .with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// The numbers of all processes.
pub fn processes() -> impl Iterator<Item = u32> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok())
}

/// A program's exit code, or the negative number of the signal that ended it.
pub fn code(status: ExitStatus) -> i32 {
    let signal = || status.signal().map(|number| -number);
    status.code().or_else(signal).unwrap_or(i32::MIN)
}

/// Compares, and shows both sides where they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, actual: T) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (format!("{expected:?}"), format!("{actual:?}"));
    let pairs = expected.chars().zip(actual.chars());
    let alike = pairs.take_while(|(one, other)| one == other).count();
    let shown = |text: String| {
        let from = alike.saturating_sub(100);
        let part: String = text.chars().skip(from).take(500).collect();
        let before = if from > 0 { "…" } else { "" };
        let after = if text.chars().count() > from + 500 {
            "…"
        } else {
            ""
        };
        format!("{before}{part}{after}")
    };
    bail!(
        "{what}\n  expected: {}\n    actual: {}",
        shown(expected),
        shown(actual)
    )
}
