//! Node's `child_process.exec()`: run a command in a shell and get all it wrote.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! nix = { version = "0.31", features = ["process", "signal"] }
//! tokio = { version = "1", features = ["io-util", "macros", "process", "rt", "time"] }
//! ```
//!
//! ```rust,ignore
//! mod exec;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), exec::Error> {
//!     let output = exec::exec("ls / | wc -l", &exec::Options::default()).await?;
//!     println!("{} names", output.stdout.trim());
//!     Ok(())
//! }
//! ```

// Whoever copies this file may not use all of it.
#![allow(dead_code)]

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setsid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A killed command that does not end within this time is killed with SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The options of Node's `exec()`, under its names and with its defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the command may take before it is killed. `None`, the default, and Node's 0:
    /// for ever.
    pub timeout: Option<Duration>,
    /// How many bytes each of stdout and stderr may have before the command is killed.
    /// Default: 1 MiB.
    pub max_buffer: usize,
    /// What the command is killed with. Default: SIGTERM.
    pub kill_signal: Signal,
    /// The folder the command runs in. `None`, the default: this process's.
    pub cwd: Option<PathBuf>,
    /// All of the command's environment. `None`, the default: this process's.
    pub env: Option<Vec<(OsString, OsString)>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: None,
            max_buffer: 1024 * 1024,
            kill_signal: Signal::SIGTERM,
            cwd: None,
            env: None,
        }
    }
}

/// What a command that succeeded wrote. Bytes that are not UTF-8 have become U+FFFD.
#[derive(Clone, Debug)]
pub struct Output {
    /// At most `max_buffer` bytes came.
    pub stdout: String,
    /// At most `max_buffer` bytes came.
    pub stderr: String,
}

/// Why `exec` failed, with what Node has on its error. `Display` gives Node's text.
#[derive(Debug)]
pub struct Error {
    /// The command, as it was given.
    pub cmd: String,
    /// What made it fail.
    pub cause: Cause,
    /// The shell's exit code; `None` if it did not exit by itself.
    pub code: Option<i32>,
    /// The number of the signal that ended the shell.
    pub signal: Option<i32>,
    /// Whether `exec` killed the command.
    pub killed: bool,
    /// What had come until then, at most `max_buffer` bytes of it.
    pub stdout: String,
    /// What had come until then, at most `max_buffer` bytes of it.
    pub stderr: String,
}

/// What made `exec` fail.
#[derive(Debug)]
pub enum Cause {
    /// The command ended with a code other than 0, or by a signal.
    Exit,
    /// It took longer than `timeout`.
    Timeout,
    /// It wrote more than `max_buffer` bytes to the stream of this name.
    MaxBuffer(&'static str),
    /// The shell could not be started or read from.
    Io(io::Error),
}

/// Node's `child_process.exec()`: runs `command` with `/bin/sh -c`, on an empty stdin, and
/// waits until it has ended and both its outputs have.
///
/// The command is a session of its own, so that killing it ends a whole pipeline where Node
/// ends only the shell. It is killed when it exceeds `options.timeout` or
/// `options.max_buffer`, with SIGKILL two seconds later if it has not ended, and when the
/// future is dropped. The price: it has no terminal to ask
/// on, and does not hear its ^C.
///
/// Never put into it what somebody else has typed: the shell reads all of it.
///
/// # Errors
///
/// When the shell cannot be started, the command does not exit with 0, or it is killed.
pub async fn exec(command: &str, options: &Options) -> Result<Output, Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (status, cause) = match run(command, options, &mut stdout, &mut stderr).await {
        Ok((status, None)) => (Some(status), Cause::Exit),
        Ok((status, Some(killed_for))) => (Some(status), killed_for),
        Err(error) => (None, Cause::Io(error)),
    };
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();

    let killed = matches!(cause, Cause::Timeout | Cause::MaxBuffer(_));
    if status.is_some_and(|status| status.success()) && !killed {
        return Ok(Output { stdout, stderr });
    }
    Err(Error {
        cmd: command.to_owned(),
        cause,
        code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        killed,
        stdout,
        stderr,
    })
}

/// Runs the command to its end and says how it ended, and what it was killed for if it was.
async fn run(
    command: &str,
    options: &Options,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> io::Result<(ExitStatus, Option<Cause>)> {
    let mut shell = Shell::start(command, options)?;
    // Never 0, which would be this process's own group.
    let id = shell.0.id().expect("nobody has waited for it");
    let group = Pid::from_raw(id.cast_signed());
    let out = shell.0.stdout.take().expect("stdout is piped");
    let err = shell.0.stderr.take().expect("stderr is piped");

    let ended = async {
        // Both at once: a command that has filled the other pipe would wait for ever.
        tokio::try_join!(
            fill(stdout, out, options.max_buffer, "stdout"),
            fill(stderr, err, options.max_buffer, "stderr"),
        )?;
        shell.0.wait().await.map_err(Cause::Io)
    };
    let limit = options.timeout.unwrap_or(Duration::MAX);
    let cause = match timeout(limit, ended).await.unwrap_or(Err(Cause::Timeout)) {
        Ok(status) => return Ok((status, None)),
        Err(Cause::Io(error)) => return Err(error),
        Err(cause) => cause,
    };

    shell.kill(options.kill_signal);
    let status = match timeout(GRACE, shell.0.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            shell.kill(Signal::SIGKILL);
            shell.0.wait().await?
        }
    };
    // What is left of the group has ignored the signal. While any is, its number is not reused.
    let _ = killpg(group, Signal::SIGKILL);
    Ok((status, Some(cause)))
}

/// Reads `pipe` to its end into `buffer`, unless that takes more than `max_buffer` bytes.
async fn fill(
    buffer: &mut Vec<u8>,
    pipe: impl AsyncRead + Unpin,
    max_buffer: usize,
    name: &'static str,
) -> Result<(), Cause> {
    let one_too_many = (max_buffer as u64).saturating_add(1);
    let read = pipe.take(one_too_many).read_to_end(buffer).await;
    read.map_err(Cause::Io)?;
    if buffer.len() > max_buffer {
        buffer.truncate(max_buffer);
        return Err(Cause::MaxBuffer(name));
    }
    Ok(())
}

/// A shell that leads a session, and so a process group, which ends when this is dropped.
struct Shell(Child);

impl Shell {
    fn start(command: &str, options: &Options) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cwd) = &options.cwd {
            shell.current_dir(cwd);
        }
        if let Some(env) = &options.env {
            shell.env_clear().envs(env.iter().cloned());
        }
        let lead_a_session = || {
            setsid()?;
            Ok(())
        };
        // SAFETY: between fork and exec, `lead_a_session` makes one system call, and no more.
        unsafe { shell.pre_exec(lead_a_session) };
        shell.spawn().map(Self)
    }

    /// Signals the whole group. Once the shell has been waited for, its number may be
    /// another process's: `id` is `None` then.
    fn kill(&self, signal: Signal) {
        if let Some(id) = self.0.id() {
            // An error means that nobody is left to kill.
            let _ = killpg(Pid::from_raw(id.cast_signed()), signal);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.kill(Signal::SIGKILL);
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.cause {
            Cause::Exit | Cause::Timeout => {
                write!(f, "Error: Command failed: {}\n{}", self.cmd, self.stderr)
            }
            Cause::MaxBuffer(name) => write!(
                f,
                "RangeError [ERR_CHILD_PROCESS_STDIO_MAXBUFFER]: {name} maxBuffer length exceeded"
            ),
            Cause::Io(error) => match error.raw_os_error() {
                Some(number) => {
                    write!(f, "Error: spawn /bin/sh {:?}", Errno::from_raw(number))
                }
                None => write!(f, "Error: spawn /bin/sh: {error}"),
            },
        }
    }
}

impl std::error::Error for Error {}
