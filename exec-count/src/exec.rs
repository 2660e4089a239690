//! Node's `child_process.exec()` and `execFile()`: runs a command and returns its whole output.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features fs,process,signal
//! cargo add tokio@1 --features io-util,macros,process,rt-multi-thread,signal,time
//! ```
//!
//! ```rust,ignore
//! mod exec;
//!
//! use std::io::{Write, stderr, stdout};
//! use std::{process::ExitCode, time::Duration};
//!
//! use exec::{Options, exec_file};
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     let timeout = Some(Duration::from_secs(5));
//!     let options = Options { timeout, ..Options::default() };
//!     let written = match exec_file("du", ["-sh", "/usr/bin"], &options).await {
//!         Ok(output) => write!(stdout(), "{}", output.stdout),
//!         Err(error) => {
//!             let text = error.to_string();
//!             let _ = writeln!(stderr(), "{}", text.lines().next().unwrap_or_default());
//!             return ExitCode::FAILURE;
//!         }
//!     };
//!     ExitCode::from(u8::from(written.is_err()))
//! }
//! ```
//!
//! Unsafe code: a `pre_exec`, which makes two system calls between fork and exec.

// A program may need only a part of this file.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ExitStatus, Stdio};
use std::str::{Utf8Error, from_utf8};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, fs::File, ops::Deref, path::PathBuf, thread};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setsid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long a process group has to end after its first signal, before it is sent SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The options of Node's `exec()`, under its names and with its defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the command may take before it is killed. Default: no limit.
    pub timeout: Option<Duration>,
    /// How many bytes each of stdout and stderr may have before the command is killed.
    /// Default: 1 MiB.
    pub max_buffer: usize,
    /// The signal that kills the command. Default: SIGTERM.
    pub kill_signal: Signal,
    /// The folder in which the command runs. Default: this process's.
    pub cwd: Option<PathBuf>,
    /// The whole environment of the command. Default: this process's, without `NODE_CHANNEL_FD`.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// What the command can read from its stdin: the `input` of Node's `execSync()`. Default:
    /// nothing. The command need not read all of it.
    pub input: Option<Vec<u8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: None,
            max_buffer: 1024 * 1024,
            kill_signal: Signal::SIGTERM,
            cwd: None,
            env: None,
            input: None,
        }
    }
}

/// The output of a command that succeeded, at most `max_buffer` bytes of each stream.
#[derive(Clone, Debug)]
pub struct Output {
    /// The `stdout` of Node's callback.
    pub stdout: Data,
    /// The `stderr` of Node's callback.
    pub stderr: Data,
}

/// The bytes of a stream: Node's `Buffer`. It dereferences to them (`&data[..]`). As text
/// (`data.to_string()`), what is not UTF-8 becomes U+FFFD; [`Data::text`] fails instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data(pub Vec<u8>);

/// Why a command failed, with the fields of Node's error. `Display` gives Node's text.
#[derive(Debug)]
pub struct Error {
    /// The command; for [`exec_file`], the program and its arguments, separated by spaces.
    pub cmd: String,
    /// What made it fail.
    pub cause: Cause,
    /// The exit code; `None` if the command did not exit by itself.
    pub code: Option<i32>,
    /// The signal that ended the command; `None` also if it is a real-time signal.
    pub signal: Option<Signal>,
    /// The output until then, at most `max_buffer` bytes.
    pub stdout: Data,
    /// The output until then, at most `max_buffer` bytes.
    pub stderr: Data,
}

/// What made a command fail.
#[derive(Debug)]
pub enum Cause {
    /// It ended with a code other than 0, or by a signal.
    Exit,
    /// It took longer than `timeout`, and was killed.
    Timeout,
    /// It wrote more than `max_buffer` bytes to the stream of this name, and was killed.
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
/// This waits until the program has exited and its stdout and stderr are closed.
///
/// The program runs in a session and process group of its own. The whole group is sent
/// `kill_signal` when a limit of `options` is exceeded, and SIGTERM when the future is dropped or
/// this process ends, also by Ctrl-C or SIGKILL. Two seconds later, what is left of the group is
/// sent SIGKILL. A process that has left the group, for instance with `setsid`, is not reached. The
/// program has no controlling terminal: it cannot prompt.
///
/// This process keeps the limits; a thread of it sends SIGKILL, or sends it at once if the system
/// allows no more threads. The end of this process is the work of the guard, a small `/bin/sh`
/// process that the first command starts:
///
/// - If the guard is killed, the next command starts another.
/// - Without `/bin/sh` there is none, and a program runs on when this process ends.
/// - When this process has ended, SIGPIPE kills a program that writes to its stdout or stderr, as a
///   shell does when a signal ends what it waits for. `input` ends early, too.
/// - The guard ends after this process, and process 1 has to reap it: in a container, use `--init`.
/// - If this process forks without exec, the guard also waits for the end of the fork.
///
/// The program does not get `NODE_CHANNEL_FD` and `NODE_CHANNEL_SERIALIZATION_MODE`: that channel
/// belongs to this process. SIGCHLD gets tokio's handler. Otherwise, if this process was started
/// with SIGCHLD ignored, the system would keep no exit status.
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
    let ended = match &*cmd {
        "" => Err(io::Error::other("the command is empty")),
        _ => collect(command, options, &mut stdout, &mut stderr).await,
    };
    let (stdout, stderr) = (Data(stdout), Data(stderr));
    let (status, cause) = match ended {
        Ok((status, Cause::Exit)) if status.success() => return Ok(Output { stdout, stderr }),
        Ok((status, cause)) => (Some(status), cause),
        Err(error) => (None, Cause::Io(error)),
    };
    let signal = status.and_then(|status| status.signal());
    Err(Error {
        cmd,
        cause,
        code: status.and_then(|status| status.code()),
        signal: signal.and_then(|number| Signal::try_from(number).ok()),
        stdout,
        stderr,
    })
}

/// Runs the command to its end, and says how and why it ended.
async fn collect(
    command: Command,
    options: &Options,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> io::Result<(ExitStatus, Cause)> {
    let (mut child, mut running) = start(command, options)?;
    let group = running.0.as_mut().expect("it has just been started");
    let feed = async {
        if let (Some(pipe), Some(input)) = (&mut group.stdin, &options.input) {
            // It fails when the command does not read all of it.
            let _ = pipe.write_all(input).await;
        }
        group.stdin = None;
        pending().await
    };
    // All at the same time: otherwise the command could block on one of its pipes.
    let read = async {
        tokio::try_join!(
            fill(stdout, &mut group.stdout, options.max_buffer, "stdout"),
            fill(stderr, &mut group.stderr, options.max_buffer, "stderr"),
        )?;
        child.wait().await.map_err(Cause::Io)
    };
    let ended = async {
        tokio::select! {
            ended = read => ended,
            never = feed => never,
        }
    };
    let limit = options.timeout.unwrap_or(Duration::MAX);
    match timeout(limit, ended).await.unwrap_or(Err(Cause::Timeout)) {
        Ok(status) => {
            running.0 = None;
            Ok((status, Cause::Exit))
        }
        Err(cause) => {
            running.end(options.kill_signal);
            Ok((child.wait().await?, cause))
        }
    }
}

/// Starts the command as the leader of a session and process group.
fn start(mut command: Command, options: &Options) -> io::Result<(Child, Running)> {
    let input = options.input.as_ref();
    command
        .env_remove("NODE_CHANNEL_FD")
        .env_remove("NODE_CHANNEL_SERIALIZATION_MODE")
        .stdin(input.map_or_else(Stdio::null, |_| Stdio::piped()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &options.cwd {
        command.current_dir(cwd);
    }
    if let Some(env) = &options.env {
        command.env_clear().envs(env.iter().cloned());
    }
    drop(signal(SignalKind::child())?);
    let note = Note::new();
    let number = note.0;
    let lead_a_session = move || {
        // The guard knows the group before the command can do anything.
        write_note(number, "TERM", setsid()?);
        Ok(())
    };
    // SAFETY: between fork and exec, `lead_a_session` makes two system calls, takes no lock, and
    // allocates nothing.
    unsafe { command.pre_exec(lead_a_session) };
    let mut child = command.spawn().map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        let errno = error.raw_os_error().map(Errno::from_raw);
        let reason = errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"));
        io::Error::new(error.kind(), format!("spawn {program} {reason}"))
    })?;
    let id = child.id().expect("it has not been waited for");
    let group = Group {
        id: Pid::from_raw(id as i32),
        note,
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
    };
    Ok((child, Running(Some(group))))
}

/// Reads `pipe` to its end into `buffer`, unless that takes more than `max_buffer` bytes.
async fn fill(
    buffer: &mut Vec<u8>,
    pipe: &mut Option<impl AsyncRead + Unpin>,
    max_buffer: usize,
    name: &'static str,
) -> Result<(), Cause> {
    let pipe = pipe.as_mut().expect("it is piped");
    let one_too_many = (max_buffer as u64).saturating_add(1);
    let read = pipe.take(one_too_many).read_to_end(buffer).await;
    read.map_err(Cause::Io)?;
    if buffer.len() > max_buffer {
        buffer.truncate(max_buffer);
        return Err(Cause::MaxBuffer(name));
    }
    Ok(())
}

/// The process group of a command.
struct Group {
    id: Pid,
    note: Note,
    // The pipes stay open until the group has ended. So no command takes a part of its input for the
    // whole, and SIGPIPE kills none that writes while it cleans up.
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

/// Ends the group when it is dropped. `None` if the command has ended.
struct Running(Option<Group>);

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Signal::SIGTERM);
    }
}

impl Running {
    fn end(&mut self, first_signal: Signal) {
        let Some(group) = self.0.take() else {
            return;
        };
        let id = group.id;
        let _ = killpg(id, first_signal);
        // From now on the guard only waits, and sends SIGKILL: many programs take a second SIGTERM
        // for "at once".
        write_note(group.note.0, "0", id);
        let mut ending = ENDING.lock().expect(NO_PANIC);
        ending.push((Instant::now(), group));
        if ending.len() == 1 && thread::Builder::new().spawn(kill_what_is_left).is_err() {
            let _ = killpg(id, Signal::SIGKILL);
            ending.clear();
        }
    }
}

/// The groups that have had their first signal, and when. One thread looks after all of them.
static ENDING: Mutex<Vec<(Instant, Group)>> = Mutex::new(Vec::new());

const NO_PANIC: &str = "nothing panics while this is locked";

fn kill_what_is_left() {
    let mut are_left = true;
    while are_left {
        thread::sleep(Duration::from_millis(100));
        let mut ending = ENDING.lock().expect(NO_PANIC);
        ending.retain(|(since, group)| {
            let is_over = since.elapsed() > GRACE;
            killpg(group.id, is_over.then_some(Signal::SIGKILL)).is_ok() && !is_over
        });
        are_left = !ending.is_empty();
    }
}

/// The guard: it waits for the end of its stdin, which is the end of this process. Then it ends the
/// groups that stand in the file of [`NOTES`], its descriptor 1. It prints nothing.
const GUARD_SCRIPT: &str = r#"
    trap '' HUP INT TERM
    PATH=$PATH:/usr/bin:/bin
    read -r end
    groups=
    while read -r signal group; do
        [ "$group" ] && kill "-$signal" "-$group" && groups="$groups $group"
    done <&1
    # Also when `sleep` cannot be started.
    trap 'for group in $groups; do kill -KILL "-$group"; done' EXIT
    for tenth in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        left=
        for group in $groups; do kill -0 "-$group" && left="$left $group"; done
        groups=$left
        [ "$groups" ] && sleep 0.1 || exit
    done
"#;

/// The guard, and the numbers of the notes in use.
static GUARD: Mutex<(Option<process::Child>, BTreeSet<u64>)> = Mutex::new((None, BTreeSet::new()));

/// Lines of 16 bytes: the first signal that the guard sends to a group, and the group's id. The file
/// is in memory. It survives a guard, and writing to it never blocks.
static NOTES: LazyLock<io::Result<File>> = LazyLock::new(unnamed_file);

/// A line of [`NOTES`] that a command has for itself, by its number.
struct Note(u64);

impl Note {
    /// Takes the first free line, and makes sure that the guard runs.
    fn new() -> Self {
        let (guard, numbers) = &mut *GUARD.lock().expect(NO_PANIC);
        let state = guard.as_mut().map(process::Child::try_wait);
        if !matches!(state, Some(Ok(None))) {
            *guard = start_guard().ok();
        }
        let mut free = (0..).filter(|number| numbers.insert(*number));
        Self(free.next().expect("there are more numbers than commands"))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        write_note(self.0, "", "");
        GUARD.lock().expect(NO_PANIC).1.remove(&self.0);
    }
}

fn write_note(number: u64, signal: &str, group: impl fmt::Display) {
    let mut line = [0; 16];
    if let (Ok(notes), Ok(())) = (&*NOTES, writeln!(&mut line[..], "{signal:4} {group:10}")) {
        let _ = notes.write_all_at(&line, 16 * number);
    }
}

fn start_guard() -> io::Result<process::Child> {
    let notes = NOTES.as_ref().map_err(io::Error::kind)?;
    process::Command::new("/bin/sh")
        .args(["-c", GUARD_SCRIPT])
        .stdin(Stdio::piped())
        .stdout(notes.try_clone()?)
        .stderr(Stdio::null())
        // A terminal's Ctrl-C does not reach this process group.
        .process_group(0)
        .spawn()
}

#[cfg(target_os = "linux")]
fn unnamed_file() -> io::Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    Ok(memfd_create("groups", MFdFlags::MFD_CLOEXEC)?.into())
}

#[cfg(not(target_os = "linux"))]
fn unnamed_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("exec-{}", process::id()));
    let file = File::create_new(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

impl Data {
    /// The bytes as text.
    ///
    /// # Errors
    ///
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        from_utf8(&self.0)
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
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
    use std::env;
    use std::fs::remove_file;
    use std::io::{BufRead, BufReader, Read};
    use std::path::Path;
    use std::pin::pin;

    use nix::sys::signal::kill;
    use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
    use tokio::time::sleep;

    use super::*;

    async fn failure(command: &str, options: &Options) -> Error {
        exec(command, options).await.expect_err("the command fails")
    }

    fn end(error: &Error) -> (Option<i32>, Option<Signal>) {
        (error.code, error.signal)
    }

    fn milliseconds(limit: u64) -> Options {
        Options {
            timeout: Some(Duration::from_millis(limit)),
            ..Options::default()
        }
    }

    fn bytes(max_buffer: usize) -> Options {
        Options {
            max_buffer,
            ..Options::default()
        }
    }

    fn input(input: impl Into<Vec<u8>>) -> Options {
        Options {
            input: Some(input.into()),
            max_buffer: usize::MAX,
            ..Options::default()
        }
    }

    /// A command whose descriptor 9 is a pipe, and a task that waits until this many of these
    /// commands have written a line, and returns the read end. The pipe ends when all processes of the
    /// commands have ended.
    async fn with_pipe(
        name: &str,
        command: &str,
        count: usize,
    ) -> (String, JoinHandle<BufReader<File>>) {
        let path = env::temp_dir().join(format!("exec-{name}-{}", process::id()));
        let made = exec_file("mkfifo", [&path], &Options::default()).await;
        made.expect("mkfifo makes a pipe");
        let command = format!("exec 9>'{}'; {command}", path.display());
        let pipe = spawn_blocking(move || {
            let mut pipe = BufReader::new(File::open(&path).unwrap());
            for _ in 0..count {
                pipe.read_line(&mut String::new()).unwrap();
            }
            remove_file(path).unwrap();
            pipe
        });
        (command, pipe)
    }

    /// The variable by which a test starts itself as another program.
    const PROGRAM: &str = "EXEC_TEST_PROGRAM";

    /// The test of this name in another process. There, [`PROGRAM`] has this value.
    fn program(test: &str, value: &str) -> process::Command {
        let module = module_path!().split_once("::").expect("it is in a crate").1;
        let mut program = process::Command::new(env::current_exe().unwrap());
        program.args(["--exact", &format!("{module}::{test}")]);
        program.env(PROGRAM, value).stdout(Stdio::null());
        program
    }

    /// Starts that program, kills it when the commands in it have written their first lines, and
    /// returns the others.
    async fn kill_program(test: &str, command: &str, count: usize) -> String {
        let (command, pipe) = with_pipe(test, command, count).await;
        let mut program = program(test, &command).spawn().unwrap();
        let pipe = pipe.await.unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
        rest_of(pipe)
    }

    fn guard() -> Option<u32> {
        let guard = GUARD.lock().unwrap();
        guard.0.as_ref().map(process::Child::id)
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
        assert_eq!(
            (&*output.stdout, &*output.stderr),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }

    #[tokio::test]
    async fn bytes_that_are_not_utf_8() {
        let command = r"printf 'a\377'; printf '\342\202' >&2; exit 1";
        let error = failure(command, &Options::default()).await;
        assert_eq!(
            (&error.stdout[..], &error.stderr.0[..]),
            (&b"a\xff"[..], &b"\xe2\x82"[..])
        );
        assert_eq!(error.stdout.to_string(), "a\u{fffd}");
        assert!(error.stdout.text().is_err());
        let output = exec("printf ö", &Options::default()).await.unwrap();
        assert_eq!(output.stdout.text(), Ok("ö"));
    }

    #[tokio::test]
    async fn input_comes_back() {
        let bytes: Vec<u8> = (0..1_000_000).map(|number| number as u8).collect();
        let output = exec("cat", &input(&bytes[..])).await.unwrap();
        assert!(output.stdout.0 == bytes);
        // The command writes more than a pipe holds before it reads.
        let zeros = "head -c 200000 /dev/zero";
        let output = exec(&format!("{zeros}; {zeros} >&2; cat"), &input(&bytes[..])).await;
        let output = output.unwrap();
        assert!(output.stdout[..200_000].iter().all(|byte| *byte == 0));
        assert!(output.stdout[200_000..] == bytes);
    }

    #[tokio::test]
    async fn input_that_is_not_read() {
        for (command, read) in [("head -c 3", "aaa"), (":", ""), ("exec <&-", "")] {
            let output = exec(command, &input([b'a'; 1_000_000])).await.unwrap();
            assert_eq!(output.stdout.to_string(), read);
        }
        let output = exec("cat; echo end", &input("")).await.unwrap();
        assert_eq!(output.stdout.to_string(), "end\n");
    }

    /// A process in the background has stdin open, and does not read it.
    #[tokio::test]
    async fn input_that_nobody_reads() {
        let options = Options {
            timeout: Some(Duration::from_secs(20)),
            ..input([b'a'; 1_000_000])
        };
        let command = "exec 9<&0; sleep 60 <&9 >/dev/null 2>&1 & echo $!";
        let output = exec(command, &options).await.unwrap();
        let sleep = output.stdout.to_string().trim().parse().unwrap();
        kill(Pid::from_raw(sleep), Signal::SIGKILL).unwrap();
    }

    /// The command ignores SIGTERM, and would take the part that it has got for all.
    #[tokio::test]
    async fn dropped_while_there_is_input() {
        let command = "trap '' TERM; echo up >&9; sleep 0.3; cat >/dev/null; echo all >&9";
        let (command, pipe) = with_pipe("input", command, 1).await;
        let options = input([b'a'; 1_000_000]);
        let pipe = tokio::select! {
            ended = exec(&command, &options) => panic!("{ended:?}"),
            pipe = pipe => pipe.unwrap(),
        };
        assert_eq!(rest_of(pipe), "");
    }

    #[tokio::test]
    async fn limits_while_there_is_input() {
        let input = Some(vec![b'a'; 1_000_000]);
        let options = Options {
            input: input.clone(),
            ..bytes(5)
        };
        let error = failure("cat; sleep 60", &options).await;
        assert!(matches!(error.cause, Cause::MaxBuffer("stdout")));
        assert_eq!(end(&error), (None, Some(Signal::SIGTERM)));
        assert_eq!(error.stdout.to_string(), "aaaaa");
        let options = Options {
            input,
            ..milliseconds(200)
        };
        let error = failure("exec sleep 60", &options).await;
        assert!(matches!(error.cause, Cause::Timeout));
        assert_eq!(end(&error), (None, Some(Signal::SIGTERM)));
    }

    #[tokio::test]
    async fn error() {
        let command = "echo out; echo err >&2; exit 3";
        let error = failure(command, &Options::default()).await;
        assert!(matches!(error.cause, Cause::Exit));
        assert_eq!(error.cmd, command);
        assert_eq!(end(&error), (Some(3), None));
        assert_eq!(
            (&*error.stdout, &*error.stderr),
            (&b"out\n"[..], &b"err\n"[..])
        );
        let text = format!("Error: Command failed: {command}\nerr\n");
        assert_eq!(error.to_string(), text);
        let error = failure("kill -9 $$", &Options::default()).await;
        assert_eq!(end(&error), (None, Some(Signal::SIGKILL)));
    }

    #[tokio::test]
    async fn empty_command() {
        let error = failure("", &Options::default()).await;
        assert!(matches!(error.cause, Cause::Io(_)));
        assert_eq!(end(&error), (None, None));
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
            input,
        } = Options::default();
        assert_eq!((timeout, max_buffer), (None, 1 << 20));
        assert_eq!((kill_signal, cwd), (Signal::SIGTERM, None));
        assert_eq!((env, input), (None, None));
    }

    #[tokio::test]
    async fn timeout_ends_the_pipeline() {
        let (command, pipe) = with_pipe("timeout", PIPELINE, 1).await;
        let error = failure(&command, &milliseconds(1000)).await;
        assert!(matches!(error.cause, Cause::Timeout));
        assert_eq!(end(&error), (None, Some(Signal::SIGTERM)));
        assert_eq!(error.stdout.to_string(), "so far\n");
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
        assert_eq!(end(&error), (None, Some(Signal::SIGTERM)));
        assert_eq!(error.stdout.to_string(), "12345");
        let error = failure("printf 123456 >&2; sleep 60", &bytes(5)).await;
        assert!(matches!(error.cause, Cause::MaxBuffer("stderr")));
        assert_eq!(error.stderr.to_string(), "12345");
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
        assert_eq!(end(&error), (None, Some(Signal::SIGINT)));
    }

    #[tokio::test]
    async fn command_that_ignores_the_signal() {
        let start = Instant::now();
        let error = failure("trap '' TERM; printf 123; sleep 60", &bytes(2)).await;
        assert_eq!(end(&error), (None, Some(Signal::SIGKILL)));
        assert!(start.elapsed() > Duration::from_millis(1900));

        let command = "(trap '' TERM; echo up >&9; printf 123; sleep 60) & sleep 60";
        let (command, pipe) = with_pipe("ignores", command, 1).await;
        let error = failure(&command, &bytes(2)).await;
        assert_eq!(end(&error), (None, Some(Signal::SIGTERM)));
        rest_of(pipe.await.unwrap());
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    /// Its id may become that of another group.
    #[tokio::test]
    async fn ended_group_is_forgotten() {
        let error = failure("echo $$; exec sleep 60", &milliseconds(500)).await;
        let id = error.stdout.to_string().trim().to_owned();
        let is_known = || {
            let ending = ENDING.lock().unwrap();
            ending.iter().any(|(_, group)| group.id.to_string() == id)
        };
        let ended = Instant::now();
        while is_known() {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(ended.elapsed() < GRACE, "{:?}", ended.elapsed());
        let notes = NOTES.as_ref().unwrap();
        let mut text = vec![0; notes.metadata().unwrap().len() as usize];
        notes.read_exact_at(&mut text, 0).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.split_whitespace().any(|word| word == id), "{text}");
    }

    #[tokio::test]
    async fn cwd() {
        let options = |cwd: &str| Options {
            cwd: Some(cwd.into()),
            ..Options::default()
        };
        let output = exec("pwd", &options("/")).await.unwrap();
        assert_eq!(output.stdout.to_string(), "/\n");
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
        let output = exec("echo $A-$HOME", &options).await.unwrap();
        assert_eq!(output.stdout.to_string(), "1-\n");
    }

    #[tokio::test]
    #[cfg_attr(not(target_os = "linux"), ignore = "it needs Linux's /proc")]
    async fn session() {
        let command = "cut -d ' ' -f 6 /proc/$$/stat; echo $$";
        let output = exec(command, &Options::default()).await.unwrap();
        let (session, shell) = output.stdout.text().unwrap().split_once('\n').unwrap();
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
            output.stdout.to_string(),
            r#"[a  b][it's "so"][$HOME][`id`][*; id][][-n]"#
        );
    }

    #[tokio::test]
    async fn errors_of_a_file() {
        let error = exec_file("sh", ["-c", "echo err >&2; exit 3"], &Options::default()).await;
        let error = error.unwrap_err();
        assert_eq!(error.cmd, "sh -c echo err >&2; exit 3");
        assert_eq!(end(&error), (Some(3), None));
        let text = "Error: Command failed: sh -c echo err >&2; exit 3\nerr\n";
        assert_eq!(error.to_string(), text);
        for (file, reason) in [("nosuch", "ENOENT"), ("/", "EACCES")] {
            let error = exec_file(Path::new(file), ["an argument"], &Options::default()).await;
            let error = error.unwrap_err();
            assert!(matches!(error.cause, Cause::Io(_)));
            assert_eq!(end(&error), (None, None));
            assert_eq!(error.to_string(), format!("Error: spawn {file} {reason}"));
        }
    }

    #[tokio::test]
    async fn dropped() {
        let (command, pipe) = with_pipe("dropped", PIPELINE, 1).await;
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

    #[tokio::test]
    async fn dropped_command_ignores_the_signal() {
        let command = "trap '' TERM; echo up >&9; sleep 60 & sleep 60";
        let (command, pipe) = with_pipe("stays", command, 1).await;
        let options = Options::default();
        let pipe = tokio::select! {
            ended = exec(&command, &options) => panic!("{ended:?}"),
            pipe = pipe => pipe.unwrap(),
        };
        let start = Instant::now();
        assert_eq!(rest_of(pipe), "");
        assert!(start.elapsed() > Duration::from_millis(1900));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    /// SIGTERM also ends its `sleep`.
    const CLEANS_UP: &str = "trap 'echo cleaned up >&9; exit' TERM; echo up >&9; sleep 60 & wait";

    #[tokio::test]
    async fn killed_program() {
        let Ok(command) = env::var(PROGRAM) else {
            let cleaned_up = kill_program("killed_program", CLEANS_UP, 200).await;
            return assert_eq!(cleaned_up, "cleaned up\n".repeat(200));
        };
        let mut commands = JoinSet::new();
        for _ in 0..200 {
            let command = command.clone();
            commands.spawn(async move { exec(&command, &Options::default()).await });
        }
        panic!("{:?}", commands.join_next().await);
    }

    #[tokio::test]
    async fn killed_guard() {
        let Ok(command) = env::var(PROGRAM) else {
            let cleaned_up = kill_program("killed_guard", CLEANS_UP, 2).await;
            return assert_eq!(cleaned_up, "cleaned up\n".repeat(2));
        };
        let options = Options::default();
        let mut first = pin!(exec(&command, &options));
        let killed = async {
            let guard = guard().expect("the first command has started it");
            kill(Pid::from_raw(guard as i32), Signal::SIGKILL).unwrap();
            while self::guard() == Some(guard) {
                exec(":", &options).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            ended = &mut first => panic!("{ended:?}"),
            () = killed => {}
        }
        panic!("{:?}", tokio::join!(first, exec(&command, &options)));
    }

    #[tokio::test]
    async fn stopped_guard() {
        if env::var(PROGRAM).is_err() {
            assert!(program("stopped_guard", "").status().unwrap().success());
            return;
        }
        exec(":", &Options::default()).await.unwrap();
        let guard = Pid::from_raw(guard().expect("it has been started") as i32);
        kill(guard, Signal::SIGSTOP).unwrap();
        let start = Instant::now();
        for _ in 0..500 {
            exec(":", &Options::default()).await.unwrap();
        }
        let error = failure("trap '' TERM; printf 123; sleep 60", &bytes(2)).await;
        assert_eq!(end(&error), (None, Some(Signal::SIGKILL)));
        assert!(start.elapsed() < Duration::from_secs(30));
        kill(guard, Signal::SIGCONT).unwrap();
    }

    /// A group gets SIGTERM once, also when the program ends before the group.
    #[tokio::test]
    async fn program_ends_after_the_first_signal() {
        let test = "program_ends_after_the_first_signal";
        let Ok(command) = env::var(PROGRAM) else {
            let command = "trap 'echo ending >&9' TERM; echo up >&9; echo; exec 2>/dev/null; \
                           while :; do sleep 0.01; done";
            let (command, pipe) = with_pipe(test, command, 1).await;
            assert!(program(test, &command).status().unwrap().success());
            return assert_eq!(rest_of(pipe.await.unwrap()), "ending\n");
        };
        let signalled = async {
            while ENDING.lock().unwrap().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            // The command handles its signal meanwhile: two at once would be handled as one.
            sleep(Duration::from_millis(300)).await;
        };
        let no_output = bytes(0);
        tokio::select! {
            ended = exec(&command, &no_output) => panic!("{ended:?}"),
            () = signalled => process::exit(0),
        }
    }

    #[tokio::test]
    async fn channel_of_the_program() {
        if env::var(PROGRAM).is_err() {
            let mut program = program("channel_of_the_program", "");
            program.env("NODE_CHANNEL_FD", "9");
            program.env("NODE_CHANNEL_SERIALIZATION_MODE", "json");
            assert!(program.status().unwrap().success());
            return;
        }
        let command = "echo $NODE_CHANNEL_FD$NODE_CHANNEL_SERIALIZATION_MODE";
        let output = exec(command, &Options::default()).await.unwrap();
        assert_eq!(output.stdout.to_string(), "\n");
    }
}
