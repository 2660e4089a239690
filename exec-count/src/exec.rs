//! Node's `child_process.exec()` and `execFile()`: runs a command and returns its whole output.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features process,signal
//! cargo add tokio@1 --features io-util,macros,net,process,rt-multi-thread,time
//! ```
//!
//! ```rust,ignore
//! mod exec;
//!
//! use std::{io::Write, time::Duration};
//!
//! use exec::{Options, exec, exec_file};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let names = exec("ls / | wc -l", &Options::default()).await?;
//!     let timeout = Duration::from_secs(5);
//!     let options = Options { timeout, ..Options::default() };
//!     let usage = exec_file("du", ["-sh", "/usr/bin"], &options).await?;
//!     write!(std::io::stdout(), "{}{}", names.stdout, usage.stdout)?;
//!     Ok(())
//! }
//! ```
//!
//! Unsafe code: a `pre_exec`, which makes two system calls between fork and exec.

// A program may need only a part of this file.
#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{setsid, write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, pipe};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The options of Node's `exec()`, under its names and with its defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the command may take before it is killed. Zero, the default, is no limit.
    pub timeout: Duration,
    /// How many bytes each of stdout and stderr may have before the command is killed.
    /// Default: 1 MiB.
    pub max_buffer: usize,
    /// The signal that kills the command. Default: SIGTERM.
    pub kill_signal: Signal,
    /// The folder in which the command runs. Default: this process's.
    pub cwd: Option<PathBuf>,
    /// The whole environment of the command. Default: this process's.
    pub env: Option<Vec<(OsString, OsString)>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::ZERO,
            max_buffer: 1024 * 1024,
            kill_signal: Signal::SIGTERM,
            cwd: None,
            env: None,
        }
    }
}

/// The output of a command that succeeded, at most `max_buffer` bytes of each stream. What was
/// not UTF-8 is U+FFFD.
#[derive(Clone, Debug)]
pub struct Output {
    /// The `stdout` of Node's callback.
    pub stdout: String,
    /// The `stderr` of Node's callback.
    pub stderr: String,
}

/// Why a command failed, with the fields of Node's error. `Display` gives Node's text.
#[derive(Debug)]
pub struct Error {
    /// The command; for [`exec_file`], the program and its arguments, separated by spaces.
    pub cmd: String,
    /// What made it fail.
    pub cause: Cause,
    /// The exit code; `None` if the command did not exit by itself.
    pub code: Option<i32>,
    /// The number of the signal that ended the command.
    pub signal: Option<i32>,
    /// Whether the command was killed because of `timeout` or `max_buffer`.
    pub killed: bool,
    /// The output until then, at most `max_buffer` bytes.
    pub stdout: String,
    /// The output until then, at most `max_buffer` bytes.
    pub stderr: String,
}

/// What made a command fail.
#[derive(Debug)]
pub enum Cause {
    /// It ended with a code other than 0, or by a signal.
    Exit,
    /// It took longer than `timeout`.
    Timeout,
    /// It wrote more than `max_buffer` bytes to the stream of this name.
    MaxBuffer(&'static str),
    /// It could not be started, or its output could not be read.
    Io(io::Error),
}

/// Runs `command` with `/bin/sh -c`: Node's `child_process.exec()`. See [`exec_file`] for how it
/// is run and how it ends.
///
/// The shell interprets the whole text. Never build it from what a user has typed: use
/// [`exec_file`].
///
/// # Errors
///
/// As [`exec_file`], and when `command` is empty.
///
/// # Panics
///
/// Outside a tokio runtime.
pub async fn exec(command: &str, options: &Options) -> Result<Output, Error> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    run(shell, command.to_owned(), options).await
}

/// Runs a program without a shell: Node's `child_process.execFile()`.
///
/// The program has an empty stdin. This waits until it has exited and its stdout and stderr are
/// closed.
///
/// The program runs in a session and process group of its own. The whole group is sent
/// `kill_signal` when a limit of `options` is exceeded, and SIGTERM when the future is dropped or
/// this process exits or is killed. Two seconds later, what is left of the group is sent SIGKILL. A
/// process that has left the group, for instance with `setsid`, is not reached. The program has no
/// controlling terminal: it cannot prompt.
///
/// A small `/bin/sh` process, the guard, sends these signals. It runs as long as the program.
///
/// # Errors
///
/// When the program cannot be started, does not exit with code 0, or exceeds a limit.
///
/// # Panics
///
/// Outside a tokio runtime.
pub async fn exec_file<A: AsRef<OsStr>>(
    file: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    options: &Options,
) -> Result<Output, Error> {
    let mut command = Command::new(file);
    command.args(args);
    let std = command.as_std();
    let words = [std.get_program()].into_iter().chain(std.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let cmd = words.join(" ");
    run(command, cmd, options).await
}

async fn run(command: Command, cmd: String, options: &Options) -> Result<Output, Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = if cmd.is_empty() {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the command is empty",
        ))
    } else {
        collect(command, options, &mut stdout, &mut stderr).await
    };
    let (status, cause) = match ended {
        Ok((status, cause)) => (Some(status), cause),
        Err(error) => (None, Cause::Io(error)),
    };
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    if matches!(cause, Cause::Exit) && status.is_some_and(|status| status.success()) {
        return Ok(Output { stdout, stderr });
    }
    Err(Error {
        cmd,
        code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        killed: matches!(cause, Cause::Timeout | Cause::MaxBuffer(_)),
        cause,
        stdout,
        stderr,
    })
}

/// Runs the command to its end, and says how and why it ended.
async fn collect(
    mut command: Command,
    options: &Options,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> io::Result<(ExitStatus, Cause)> {
    let (stdout_writer, stdout_reader) = pipe()?;
    let (stderr_writer, stderr_reader) = pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(stdout_writer.into_blocking_fd()?)
        .stderr(stderr_writer.into_blocking_fd()?);
    let mut guard = Guard::start(&stdout_reader, &stderr_reader)?;
    let mut child = start(command, options, &guard)?;
    let ended = async {
        // Both at the same time: otherwise the command could block on the one that is not read.
        tokio::try_join!(
            fill(stdout, stdout_reader, options.max_buffer, "stdout"),
            fill(stderr, stderr_reader, options.max_buffer, "stderr"),
        )?;
        child.wait().await.map_err(Cause::Io)
    };
    let limit = match options.timeout {
        Duration::ZERO => Duration::MAX,
        limit => limit,
    };
    match timeout(limit, ended).await.unwrap_or(Err(Cause::Timeout)) {
        Ok(status) => {
            guard.dismiss();
            Ok((status, Cause::Exit))
        }
        Err(Cause::Io(error)) => Err(error),
        Err(exceeded) => {
            if guard.kill(options.kill_signal).await.is_err() {
                // The guard has been killed.
                child.start_kill()?;
            }
            Ok((child.wait().await?, exceeded))
        }
    }
}

/// Takes the command by value: dropping it closes this process's copies of the pipes' write ends.
fn start(mut command: Command, options: &Options, guard: &Guard) -> io::Result<Child> {
    if let Some(cwd) = &options.cwd {
        command.current_dir(cwd);
    }
    if let Some(env) = &options.env {
        command.env_clear().envs(env.iter().cloned());
    }
    let guard = guard.0.stdin.as_ref().expect("stdin is piped");
    let guard = guard.as_fd().try_clone_to_owned()?;
    let lead_a_session = move || {
        let group = setsid()?.as_raw();
        // The guard knows the group before the command can do anything.
        let mut line = [0; 12];
        writeln!(&mut line[..], "{group:11}")?;
        write(&guard, &line)?;
        Ok(())
    };
    // SAFETY: between fork and exec, `lead_a_session` makes two system calls, and allocates
    // nothing.
    unsafe { command.pre_exec(lead_a_session) };
    command.spawn().map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        let reason = match error.raw_os_error() {
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => error.to_string(),
        };
        io::Error::new(error.kind(), format!("spawn {program} {reason}"))
    })
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

/// A shell script that reads a process group and a signal number from its stdin, and kills the
/// group. If stdin ends before the signal number, it sends SIGTERM. stdin also ends when this
/// process is killed.
const GUARD: &str = r#"
    read -r group || exit
    read -r signal || signal=15
    kill -s "$signal" -- "-$group"
    tenths=0
    while [ "$((tenths += 1))" -le 20 ] && kill -s 0 -- "-$group"; do
        sleep 0.1
    done
    [ "$tenths" -le 20 ] || kill -s 9 -- "-$group"
"#;

/// The process that kills a command and its process group when this is dropped.
struct Guard(Child);

impl Guard {
    fn start(stdout: &Receiver, stderr: &Receiver) -> io::Result<Self> {
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD])
            // For `sleep`.
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            // The guard keeps the read ends of the command's pipes open. Otherwise SIGPIPE would
            // kill a command that writes while it cleans up.
            .stdout(stdout.as_fd().try_clone_to_owned()?)
            .stderr(stderr.as_fd().try_clone_to_owned()?)
            // A terminal's Ctrl-C does not reach this process group.
            .process_group(0)
            .spawn();
        guard
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start /bin/sh: {error}")))
    }

    async fn kill(&mut self, signal: Signal) -> io::Result<()> {
        let stdin = self.0.stdin.as_mut().expect("stdin is piped");
        stdin
            .write_all(format!("{}\n", signal as i32).as_bytes())
            .await
    }

    /// Stops the guard without killing the command.
    fn dismiss(mut self) {
        // It fails when the guard has already exited.
        let _ = self.0.start_kill();
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
            Cause::Io(error) => write!(f, "Error: {error}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};
    use std::path::Path;
    use std::time::Instant;
    use std::{env, process};

    use tokio::task::{JoinHandle, spawn_blocking};

    use super::*;

    async fn failure(command: &str, options: &Options) -> Error {
        exec(command, options).await.expect_err("the command fails")
    }

    /// The code, the signal, and whether the command was killed.
    fn end(error: &Error) -> (Option<i32>, Option<i32>, bool) {
        (error.code, error.signal, error.killed)
    }

    fn milliseconds(limit: u64) -> Options {
        Options {
            timeout: Duration::from_millis(limit),
            ..Options::default()
        }
    }

    fn bytes(max_buffer: usize) -> Options {
        Options {
            max_buffer,
            ..Options::default()
        }
    }

    /// A command whose descriptor 9 is a pipe, and a task that waits for its first line and returns
    /// the read end. The pipe ends when all processes of the command have ended.
    async fn with_pipe(name: &str, command: &str) -> (String, JoinHandle<BufReader<File>>) {
        let path = env::temp_dir().join(format!("exec-{name}-{}", process::id()));
        let made = exec_file("mkfifo", [&path], &Options::default()).await;
        made.expect("mkfifo makes a pipe");
        let command = format!("exec 9>'{0}'; rm '{0}'; {command}", path.display());
        let pipe = spawn_blocking(move || {
            let mut pipe = BufReader::new(File::open(path).unwrap());
            pipe.read_line(&mut String::new()).unwrap();
            pipe
        });
        (command, pipe)
    }

    fn rest_of(mut pipe: BufReader<File>) -> String {
        let mut rest = String::new();
        pipe.read_to_string(&mut rest).unwrap();
        rest
    }

    /// One process takes some time to end, and prints. The other ends at once, and so does the
    /// shell.
    const PIPELINE: &str =
        "(trap 'sleep 0.2; echo ending >&2; echo cleaned up >&9; exit' TERM; echo so far
        echo up >&9; while :; do sleep 0.01; done) | cat";

    #[tokio::test]
    async fn output() {
        let output = exec("echo out; sleep 0.1; echo err >&2", &Options::default())
            .await
            .unwrap();
        assert_eq!((&*output.stdout, &*output.stderr), ("out\n", "err\n"));
    }

    #[tokio::test]
    async fn error() {
        let command = "echo out; echo err >&2; exit 3";
        let error = failure(command, &Options::default()).await;
        assert!(matches!(error.cause, Cause::Exit));
        assert_eq!(error.cmd, command);
        assert_eq!(end(&error), (Some(3), None, false));
        assert_eq!((&*error.stdout, &*error.stderr), ("out\n", "err\n"));
        let text = format!("Error: Command failed: {command}\nerr\n");
        assert_eq!(error.to_string(), text);
        let error = failure("kill -9 $$", &Options::default()).await;
        assert_eq!(end(&error), (None, Some(9), false));
    }

    #[tokio::test]
    async fn empty_command() {
        let error = failure("", &Options::default()).await;
        assert!(matches!(error.cause, Cause::Io(_)));
        assert_eq!(end(&error), (None, None, false));
        assert_eq!(error.to_string(), "Error: the command is empty");
    }

    #[test]
    fn defaults() {
        let Options {
            timeout,
            max_buffer,
            kill_signal,
            cwd,
            env,
        } = Options::default();
        assert_eq!((timeout, max_buffer), (Duration::ZERO, 1 << 20));
        assert_eq!((kill_signal, cwd, env), (Signal::SIGTERM, None, None));
    }

    #[tokio::test]
    async fn timeout_ends_the_pipeline() {
        let (command, pipe) = with_pipe("timeout", PIPELINE).await;
        let error = failure(&command, &milliseconds(1000)).await;
        assert!(matches!(error.cause, Cause::Timeout));
        assert_eq!(end(&error), (None, Some(15), true));
        assert_eq!(error.stdout, "so far\n");
        let text = format!("Error: Command failed: {command}\n");
        assert!(error.to_string().starts_with(&text));
        assert_eq!(rest_of(pipe.await.unwrap()), "cleaned up\n");
    }

    #[tokio::test]
    async fn timeout_after_the_output_has_ended() {
        let error = failure("exec >&- 2>&-; sleep 60", &milliseconds(200)).await;
        assert!(matches!(error.cause, Cause::Timeout));
    }

    #[tokio::test]
    async fn max_buffer() {
        for (max_buffer, command) in [(5, "printf 12345"), (usize::MAX, "echo"), (0, ":")] {
            exec(command, &bytes(max_buffer)).await.unwrap();
        }
        let error = failure("printf 123456; sleep 60", &bytes(5)).await;
        assert!(matches!(error.cause, Cause::MaxBuffer("stdout")));
        assert_eq!(end(&error), (None, Some(15), true));
        assert_eq!(error.stdout, "12345");
        let error = failure("printf 123456 >&2; sleep 60", &bytes(5)).await;
        assert!(matches!(error.cause, Cause::MaxBuffer("stderr")));
        assert_eq!(error.stderr, "12345");
        let text =
            "RangeError [ERR_CHILD_PROCESS_STDIO_MAXBUFFER]: stderr maxBuffer length exceeded";
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test]
    async fn kill_signal() {
        let options = Options {
            kill_signal: Signal::SIGINT,
            ..bytes(2)
        };
        let error = failure("printf 123; exec sleep 60", &options).await;
        assert_eq!(end(&error), (None, Some(2), true));
    }

    #[tokio::test]
    async fn command_that_ignores_the_signal() {
        let start = Instant::now();
        let error = failure("trap '' TERM; printf 123; sleep 60", &bytes(2)).await;
        assert_eq!(end(&error), (None, Some(9), true));
        assert!(start.elapsed() > Duration::from_millis(1900));

        let command = "(trap '' TERM; echo up >&9; printf 123; sleep 60) & sleep 60";
        let (command, pipe) = with_pipe("ignores", command).await;
        let error = failure(&command, &bytes(2)).await;
        assert_eq!(end(&error), (None, Some(15), true));
        rest_of(pipe.await.unwrap());
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn cwd() {
        let options = |cwd: &str| Options {
            cwd: Some(cwd.into()),
            ..Options::default()
        };
        assert_eq!(exec("pwd", &options("/")).await.unwrap().stdout, "/\n");
        let error = failure("pwd", &options("/nosuch")).await;
        assert_eq!(error.to_string(), "Error: spawn /bin/sh ENOENT");
    }

    #[tokio::test]
    async fn env() {
        let env = Some(vec![("A".into(), "1".into())]);
        let options = Options {
            env,
            ..Options::default()
        };
        assert_eq!(
            exec("echo $A-$HOME", &options).await.unwrap().stdout,
            "1-\n"
        );
    }

    #[tokio::test]
    #[cfg_attr(not(target_os = "linux"), ignore = "it needs Linux's /proc")]
    async fn session() {
        let command = "cut -d ' ' -f 6 /proc/$$/stat; echo $$";
        let output = exec(command, &Options::default()).await.unwrap();
        let (session, shell) = output.stdout.split_once('\n').unwrap();
        assert_eq!(session, shell.trim_end());
    }

    #[tokio::test]
    async fn arguments_of_a_file() {
        let args = [
            "[%s]",
            "a  b",
            r#"it's "so""#,
            "$HOME",
            "`id`",
            "*; id",
            "",
            "-n",
        ];
        let output = exec_file("printf", args, &Options::default())
            .await
            .unwrap();
        assert_eq!(
            output.stdout,
            r#"[a  b][it's "so"][$HOME][`id`][*; id][][-n]"#
        );
    }

    #[tokio::test]
    async fn errors_of_a_file() {
        let error = exec_file("sh", ["-c", "echo err >&2; exit 3"], &Options::default()).await;
        let error = error.unwrap_err();
        assert_eq!(error.cmd, "sh -c echo err >&2; exit 3");
        assert_eq!(end(&error), (Some(3), None, false));
        let text = "Error: Command failed: sh -c echo err >&2; exit 3\nerr\n";
        assert_eq!(error.to_string(), text);
        for (file, reason) in [("nosuch", "ENOENT"), ("/", "EACCES")] {
            let error = exec_file(Path::new(file), ["an argument"], &Options::default()).await;
            let error = error.unwrap_err();
            assert!(matches!(error.cause, Cause::Io(_)));
            assert_eq!(end(&error), (None, None, false));
            assert_eq!(error.to_string(), format!("Error: spawn {file} {reason}"));
        }
    }

    #[tokio::test]
    async fn dropped() {
        let (command, pipe) = with_pipe("dropped", PIPELINE).await;
        let options = Options::default();
        let pipe = tokio::select! {
            ended = exec(&command, &options) => panic!("{ended:?}"),
            pipe = pipe => pipe.unwrap(),
        };
        // The command ends although this thread, the only one of the runtime, waits.
        let start = Instant::now();
        assert_eq!(rest_of(pipe), "cleaned up\n");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
