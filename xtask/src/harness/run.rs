//! Runs a program and keeps its output. Fails if the program does not end or leaves a process
//! running.

use std::borrow::BorrowMut;
use std::env;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use super::pipes::Pipe;
use super::processes::{command_line, cpu_time, is_running, signal_to, with_variable};
use super::same::same;
use super::wait::{wait_for, wait_until};

/// The variable that marks all processes that a check starts. It holds the id of this process and
/// a counter.
const MARK: &str = "XTASK_RUN";

/// Read-locked while a program is started.
static STARTING: RwLock<()> = RwLock::new(());

/// The output of a program that has ended.
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

    /// The exit code, or the negative number of the signal that ended the program.
    pub fn code(&self) -> i32 {
        let signal = || self.status.signal().map(|number| -number);
        self.status.code().or_else(signal).unwrap_or(i32::MIN)
    }

    /// Checks that it has printed this and nothing on stderr, and has ended with code 0.
    pub fn printed(&self, stdout: &str) -> Result<()> {
        same("stdout", stdout, &self.stdout())?;
        self.ended_with("", 0)
    }

    pub fn ended_with(&self, stderr: &str, code: i32) -> Result<()> {
        same("stderr", stderr, &self.stderr())?;
        self.ended_with_code(code)
    }

    /// Checks that it has printed no error, and that a signal has ended it.
    pub fn ended_by(&self, signal: Signal) -> Result<()> {
        self.ended_with("", -(signal as i32))
    }

    /// Checks that it has failed with code 1 and one line on stderr, which starts and ends like
    /// this.
    pub fn failed(&self, start: &str, end: &str) -> Result<()> {
        let stderr = self.stderr();
        let is_expected = stderr.starts_with(start) && stderr.ends_with(end);
        ensure!(is_expected, "stderr is not {start:?}…{end:?}: {stderr:?}");
        same("lines", &1, &stderr.lines().count())?;
        self.ended_with_code(1)
    }

    pub fn ended_with_code(&self, code: i32) -> Result<()> {
        same("code", &code, &self.code()).with_context(|| format!("stderr: {:?}", self.stderr()))
    }
}

/// A running program. When this is dropped, the program and all processes that it has started are
/// killed.
pub struct Running {
    child: Child,
    mark: String,
    /// Whether all that it has started has ended.
    has_finished: bool,
    stdout: Captured,
    stderr: Captured,
}

/// What has been read from a pipe so far.
#[derive(Default)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// Kills everything that the checks have started and that still runs, and removes their temporary
/// folders, when this is dropped or this process gets a signal to end. Ctrl-C does not reach what
/// has a process group of its own.
pub struct Sweep(());

/// The folder of all temporary folders.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

impl Sweep {
    /// # Safety
    ///
    /// No other thread may be using the environment.
    pub unsafe fn new() -> Result<Self> {
        let folder = TempDir::new()?.keep();
        // SAFETY: the caller promises that.
        unsafe {
            // An error then knows which line of a check it comes from.
            env::set_var("RUST_LIB_BACKTRACE", "1");
            env::set_var(MARK, format!("{}-", process::id()));
            env::set_var("TMPDIR", &folder);
        }
        FOLDER.get_or_init(|| folder);
        // The programs inherit no more than in a terminal. A shell can redirect only to the first
        // ten descriptors, and the channel of fork-ipc has to be one of them.
        for number in 3..10 {
            // SAFETY: it is used for one system call, which fails if the descriptor is not open.
            let inherited = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = fcntl(inherited, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        // A shell's `&` ignores SIGINT and SIGQUIT. The programs would inherit that without a
        // handler.
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        thread::spawn(move || signals.forever().next().map(|_| Self::end()));
        Ok(Self(()))
    }

    /// Ends this process, with code 1.
    pub fn end() -> ! {
        drop(Self(()));
        process::exit(1)
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        // Other threads start nothing more until this process exits.
        std::mem::forget(STARTING.write());
        kill_marked(&format!("{MARK}={}-", process::id()));
        if let Some(folder) = FOLDER.get() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The command below a shell, after `script` has changed what it inherits.
pub fn below_a_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{script}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    shell
}

/// A command that runs another one as root in namespaces of its own. The options are those of
/// `unshare`, a program of Linux.
pub fn unshared(options: &[&str], command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .arg("--map-root-user")
        .args(options)
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    unshare
}

/// Runs a program to its end.
///
/// # Errors
///
/// When it cannot be started, does not end, or leaves a process running.
pub fn run(command: impl BorrowMut<Command>) -> Result<Output> {
    start(command)?.finish()
}

/// Starts a program, and keeps what it writes.
pub fn start(command: impl BorrowMut<Command>) -> Result<Running> {
    start_on(command, Stdio::piped())
}

/// Starts a program whose stdout the check reads itself.
pub fn start_unread(command: impl BorrowMut<Command>) -> Result<(Running, Pipe)> {
    let pipe = Pipe::new()?;
    Ok((start_on(command, pipe.writer()?)?, pipe))
}

/// Starts a program whose stdout is this.
pub fn start_on(mut command: impl BorrowMut<Command>, stdout: impl Into<Stdio>) -> Result<Running> {
    let command = command.borrow_mut();
    static STARTS: AtomicU32 = AtomicU32::new(0);
    let start = STARTS.fetch_add(1, Ordering::Relaxed);
    let mark = format!("{MARK}={}-{start}.", process::id());
    let _starting = STARTING.read();
    let mut child = command
        .env(MARK, &mark[MARK.len() + 1..])
        // The checks compare the system's messages, so these must be in English.
        .env("LC_ALL", "C")
        .env_remove("FORCE_COLOR")
        .env_remove("NODE_OPTIONS")
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    // The command has a copy of each end that the program has got. Nobody else keeps them open.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Running {
        stdout: child.stdout.take().map(Captured::from).unwrap_or_default(),
        stderr: child.stderr.take().map(Captured::from).unwrap_or_default(),
        child,
        mark,
        has_finished: false,
    })
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs. A program that has ended stays a zombie until `finish`.
    pub fn is_running(&self) -> bool {
        is_running(self.pid())
    }

    /// Its stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_to(self.pid(), signal)
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(killpg(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Waits until stdout holds `text`.
    pub fn wait_for_stdout(&self, text: &str) -> Result<()> {
        self.wait_for(text, "stdout", || self.stdout())
    }

    /// Waits until stderr holds `text`.
    pub fn wait_for_stderr(&self, text: &str) -> Result<()> {
        self.wait_for(text, "stderr", || self.stderr())
    }

    /// Waits until it has said where it listens, and returns the address.
    pub fn wait_for_address(&self) -> Result<SocketAddr> {
        let address = wait_for("the program to listen", || {
            let text = self.stdout() + &self.stderr();
            let after = |before: &str| Some(text.split_once(before)?.1);
            let rest = after("http://").or_else(|| after("Listening(\""));
            let address = rest.and_then(|rest| rest.split_once(['/', '"']));
            ensure!(
                address.is_some() || self.is_running(),
                "it has ended: {text}"
            );
            Ok(address.map(|(address, _)| address.replace("localhost", "127.0.0.1")))
        })?;
        Ok(address.parse()?)
    }

    fn wait_for(&self, text: &str, name: &str, stream: impl Fn() -> String) -> Result<()> {
        wait_until(&format!("{name} to hold {text:?}"), || {
            Ok(stream().contains(text))
        })
        .with_context(|| self.so_far())
    }

    /// Waits until the program and all processes that it has started have ended.
    ///
    /// # Errors
    ///
    /// When the program does not end, or leaves a process running.
    pub fn finish(mut self) -> Result<Output> {
        let status = wait_for("the program to end", || Ok(self.child.try_wait()?));
        let status = status.with_context(|| self.so_far())?;
        wait_until("all that the program has started to end", || {
            Ok(with_variable(&self.mark).is_empty())
        })
        .with_context(|| {
            let left = with_variable(&self.mark).into_iter().map(command_line);
            format!("left running: {}", left.collect::<Vec<_>>().join(", "))
        })?;
        self.has_finished = true;
        Ok(Output {
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            status,
        })
    }

    fn so_far(&self) -> String {
        format!("stdout: {:?}, stderr: {:?}", self.stdout(), self.stderr())
    }
}

fn kill_marked(mark: &str) {
    let _ = wait_until("what is left to end", || {
        let left = with_variable(mark);
        for pid in &left {
            let _ = signal_to(*pid, Signal::SIGKILL);
        }
        Ok(left.is_empty())
    });
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_finished {
            return;
        }
        let _ = self.child.kill();
        kill_marked(&self.mark);
        let _ = wait_for("the program to end", || Ok(self.child.try_wait()?));
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
        let reader = Some(reader);
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// All of it. Waits until no process can write to the pipe any more.
    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// What a program writes to a non-blocking pipe that is read only when it is full.
pub fn read_late(command: impl BorrowMut<Command>) -> Result<Vec<u8>> {
    let (program, pipe) = start_unread(command)?;
    pipe.set_nonblocking()?;
    pipe.wait_until_full()?;
    waits_without_cpu(program.pid())?;
    let written = pipe.read_to_end()?;
    program.finish()?.ended_with("", 0)?;
    Ok(written)
}

/// Checks that a process that waits uses no CPU time.
pub fn waits_without_cpu(pid: u32) -> Result<()> {
    let before = cpu_time(pid)?;
    thread::sleep(Duration::from_secs(1));
    let used = cpu_time(pid)? - before;
    ensure!(
        used < Duration::from_millis(100),
        "it used {used:?} of CPU time in a second"
    );
    Ok(())
}
