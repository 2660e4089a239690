//! The checks of exec-count, and of its file to copy, which is copied here.

#[path = "../../../exec-count/src/exec.rs"]
mod exec;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::exec::{Cause, Error, Options, Output, exec};
use super::case::{Example, Expected, looks};
use super::check;
use super::run::{
    Go, LIMIT, close, interrupt_unread, read_late, run, same, start, start_unread, wait_until_gone,
};

pub const EXEC_COUNT: Example = Example {
    name: "exec-count",
    script: "node/exec-count.mjs",
};

/// `exec`'s default limit for each stream.
const MEBIBYTE: usize = 1024 * 1024;

pub fn checks() -> Vec<Trial> {
    let sh = |name: &str, command: &str| EXEC_COUNT.case(name, [command]);
    let too_much = |stream: &str| {
        format!(
            "exec error: RangeError [ERR_CHILD_PROCESS_STDIO_MAXBUFFER]: \
             {stream} maxBuffer length exceeded\n"
        )
    };
    let zeros = format!("head -c {MEBIBYTE} /dev/zero");
    let mut all_of_it = b"Number of files: ".to_vec();
    all_of_it.resize(all_of_it.len() + MEBIBYTE, 0);
    all_of_it.push(b'\n');

    let cases = [
        sh("exit_code", "exit 3").stderr("exec error: Error: Command failed: exit 3\n\n"),
        sh("exit_code_with_output", "echo out; echo err >&2; exit 1")
            .stderr("exec error: Error: Command failed: echo out; echo err >&2; exit 1\nerr\n\n"),
        sh("killed_by_a_signal", "kill -9 $$")
            .stderr("exec error: Error: Command failed: kill -9 $$\n\n"),
        sh("stderr_alone_is_no_error", "echo err >&2").stdout("Number of files: \n"),
        sh("a_mebibyte", &zeros).stdout(all_of_it),
        sh("one_byte_more", &format!("{zeros}; echo")).stderr(too_much("stdout")),
        sh("one_byte_more_on_stderr", &format!("({zeros}; echo) >&2")).stderr(too_much("stderr")),
        sh("without_end", "yes").stderr(too_much("stdout")),
        sh("without_end_on_stderr", "yes >&2").stderr(too_much("stderr")),
        sh("bytes_that_are_no_utf_8", r"printf 'a\377b\342\202'")
            .stdout("Number of files: a\u{fffd}b\u{fffd}\n"),
        sh("an_empty_stdin", "cat; echo end").stdout("Number of files: end\n\n"),
        EXEC_COUNT
            .case("an_empty_command", [""])
            .stderr("exec-count: COMMAND is empty\n")
            .status(1)
            .but_node(
                Expected::default()
                    .stderr_holds("ERR_INVALID_ARG_VALUE")
                    .status(1),
            ),
        EXEC_COUNT
            .case("two_arguments", ["ls", "/"])
            .stderr(
                "exec-count: more than one argument: \
                 quote the command, as in exec-count 'ls | wc -l'\n",
            )
            .status(1)
            .port_only(),
        EXEC_COUNT
            .case(
                "an_argument_that_is_no_utf_8",
                [std::ffi::OsStr::from_bytes(b"echo \xff")],
            )
            .stderr("exec-count: echo \u{fffd} is not UTF-8\n")
            .status(1)
            .port_only(),
    ];
    let mut checks: Vec<Trial> = cases.into_iter().flat_map(|case| case.checks()).collect();
    checks.extend(EXEC_COUNT.checks_of_both(looks![the_documents_program]));
    checks.extend(EXEC_COUNT.checks(looks![
        stdout_closed_early,
        a_signal_ends_the_command_too,
        a_signal_while_the_reader_sleeps,
        a_slow_reader_without_blocking,
    ]));
    checks.push(EXEC_COUNT.help("Usage: exec-count [COMMAND]", "find . -type f | wc -l"));
    checks.extend([
        check("exec-count::exec::output", output),
        check("exec-count::exec::error", error),
        check("exec-count::exec::defaults", defaults),
        check("exec-count::exec::timeout", timeout),
        check("exec-count::exec::max_buffer", max_buffer),
        check("exec-count::exec::kill_signal", kill_signal),
        check(
            "exec-count::exec::a_command_that_will_not_end",
            a_command_that_will_not_end,
        ),
        check("exec-count::exec::cwd", cwd),
        check("exec-count::exec::env", env),
        check("exec-count::exec::session", session),
        check("exec-count::exec::dropped", dropped),
    ]);
    checks
}

fn the_documents_program(mut command: Command) -> Result<()> {
    let folder = TempDir::new()?;
    fs::create_dir(folder.path().join("deeper"))?;
    for name in ["a", "b", "deeper/c"] {
        fs::write(folder.path().join(name), [])?;
    }
    let output = run({
        command.current_dir(folder.path());
        command
    })?;
    same("stdout", "Number of files: 3\n\n", &output.stdout())?;
    output.ended_with("", 0)
}

/// As where stdout is shared with Node.
fn a_slow_reader_without_blocking(mut command: Command) -> Result<()> {
    command.arg("head -c 1000000 /dev/zero");
    let written = read_late(command)?;
    same(
        "bytes",
        "Number of files: \n".len() + 1_000_000,
        written.len(),
    )
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    command.arg(format!("{}; echo late", go.wait(1)));
    let (program, stdout) = start_unread(command)?;
    close(stdout)?;
    go.say(1)?;
    let output = program.finish()?;
    output.ended_with("", 0)
}

fn a_signal_ends_the_command_too(_: Command) -> Result<()> {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ] {
        let up = Go::new()?;
        let mut command = EXEC_COUNT.port();
        command.arg(format!("{}; sleep 1000 | sleep 1000", up.tell(1)));
        // SIGQUIT may leave a core file.
        let folder = TempDir::new()?;
        command.current_dir(folder.path());
        let program = start(command)?;
        up.hear(1)?;
        program.signal(signal)?;
        program.finish()?.ended_with("", -(signal as i32))?;
    }
    Ok(())
}

fn a_signal_while_the_reader_sleeps(mut command: Command) -> Result<()> {
    command.arg("head -c 1000000 /dev/zero");
    interrupt_unread(command)
}

// The options, through the file to copy.

#[tokio::main(flavor = "current_thread")]
async fn call(command: &str, options: Options) -> Result<Output, Error> {
    let called = exec(command, &options);
    let ended = tokio::time::timeout(LIMIT, called).await;
    ended.expect("a command ends when it has to")
}

fn failure(command: &str, options: Options) -> Result<Error> {
    match call(command, options) {
        Ok(output) => bail!("it did not fail, and wrote {output:?}"),
        Err(error) => Ok(error),
    }
}

fn output() -> Result<()> {
    let output = call("echo out; echo err >&2", Options::default())?;
    same("stdout", "out\n", &output.stdout)?;
    same("stderr", "err\n", &output.stderr)
}

fn error() -> Result<()> {
    let command = "echo out; echo err >&2; exit 3";
    let error = failure(command, Options::default())?;
    ensure!(matches!(error.cause, Cause::Exit), "{error:?}");
    same("cmd", command, &error.cmd)?;
    same(
        "code, signal, killed",
        (Some(3), None, false),
        (error.code, error.signal, error.killed),
    )?;
    same(
        "outputs",
        ("out\n", "err\n"),
        (&error.stdout, &error.stderr),
    )?;

    let error = failure("kill -9 $$", Options::default())?;
    same(
        "code, signal, killed",
        (None, Some(9), false),
        (error.code, error.signal, error.killed),
    )
}

fn defaults() -> Result<()> {
    let defaults = Options::default();
    same("timeout", None, defaults.timeout)?;
    same("max_buffer", MEBIBYTE, defaults.max_buffer)?;
    same("kill_signal", Signal::SIGTERM, defaults.kill_signal)?;
    same("cwd", None, defaults.cwd)?;
    same("env", None, defaults.env)
}

fn timeout() -> Result<()> {
    let inner = Go::new()?;
    // Node would end the shell, and leave what it has started.
    let command = format!("echo so far; sh -c '{}; exec sleep 1000'; :", inner.tell(1));
    let error = failure(
        &command,
        Options {
            timeout: Some(Duration::from_millis(500)),
            ..Options::default()
        },
    )?;
    ensure!(matches!(error.cause, Cause::Timeout), "{error:?}");
    same(
        "code, signal, killed",
        (None, Some(15), true),
        (error.code, error.signal, error.killed),
    )?;
    same("stdout", "so far\n", &error.stdout)?;
    same(
        "text",
        format!("Error: Command failed: {command}\n"),
        error.to_string(),
    )?;
    wait_until_gone(inner.hear(1)?)?;

    // Its outputs have ended long before.
    let options = Options {
        timeout: Some(Duration::from_millis(200)),
        ..Options::default()
    };
    let error = failure("exec >&- 2>&-; sleep 1000", options)?;
    ensure!(matches!(error.cause, Cause::Timeout), "{error:?}");
    Ok(())
}

fn max_buffer() -> Result<()> {
    let options = Options {
        max_buffer: 5,
        ..Options::default()
    };
    let error = failure("printf 123456; printf x >&2; sleep 1000", options.clone())?;
    ensure!(
        matches!(error.cause, Cause::MaxBuffer("stdout")),
        "{error:?}"
    );
    same(
        "code, signal, killed",
        (None, Some(15), true),
        (error.code, error.signal, error.killed),
    )?;
    same("stdout", "12345", &error.stdout)?;
    let no_limit = Options {
        max_buffer: usize::MAX,
        ..Options::default()
    };
    same("stdout", "12345", &call("printf 12345", no_limit)?.stdout)?;
    let error = failure("printf 123456 >&2", options.clone())?;
    ensure!(
        matches!(error.cause, Cause::MaxBuffer("stderr")),
        "{error:?}"
    );
    same("stdout", "12345", &call("printf 12345", options)?.stdout)
}

fn kill_signal() -> Result<()> {
    let error = failure(
        "exec sleep 1000",
        Options {
            timeout: Some(Duration::from_millis(50)),
            kill_signal: Signal::SIGINT,
            ..Options::default()
        },
    )?;
    same("signal", Some(2), error.signal)?;

    // All of the command hears it, and has its time to end by itself while the shell waits.
    // (What the shell says of its children would meet a pipe that nobody reads.)
    let heard = Go::new()?;
    let command = format!(
        "exec 2>/dev/null; trap wait TERM; (trap '{}; exit' TERM; echo up; while :; do sleep 0.01; done) & wait",
        heard.tell(1)
    );
    let options = Options {
        max_buffer: 2,
        ..Options::default()
    };
    failure(&command, options)?;
    heard.hear(1)?;
    Ok(())
}

fn a_command_that_will_not_end() -> Result<()> {
    let began = Instant::now();
    let error = failure(
        "trap '' TERM; echo on; while :; do sleep 0.1; done",
        Options {
            max_buffer: 2,
            ..Options::default()
        },
    )?;
    same("signal", Some(9), error.signal)?;
    let taken = began.elapsed();
    ensure!(
        taken < Duration::from_secs(10),
        "it is killed after {taken:?}, not after two seconds"
    );

    // Here it is not the shell that will not.
    let inner = Go::new()?;
    let ignores = format!(
        "(trap '' TERM; {}; exec sleep 1000)",
        inner.tell(1).replace("$$", "$(sh -c 'echo $PPID')")
    );
    let command = format!("{ignores} & {}; yes", inner.wait(1));
    let error = failure(&command, Options::default())?;
    ensure!(
        matches!(error.cause, Cause::MaxBuffer("stdout")),
        "{error:?}"
    );
    wait_until_gone(inner.hear(1)?)
}

fn cwd() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().canonicalize()?;
    let options = Options {
        cwd: Some(path.clone()),
        ..Options::default()
    };
    same(
        "pwd",
        format!("{}\n", path.display()),
        call("pwd", options.clone())?.stdout,
    )?;
    drop(folder);
    let error = failure("pwd", options)?;
    same("text", "Error: spawn /bin/sh ENOENT", &error.to_string())
}

fn env() -> Result<()> {
    let options = Options {
        env: Some(vec![("A".into(), "1".into())]),
        ..Options::default()
    };
    same("output", "1-\n", &call("echo $A-$HOME", options)?.stdout)
}

/// So that it can be killed whole, and cannot ask on a terminal.
fn session() -> Result<()> {
    let output = call("cut -d' ' -f6 /proc/$$/stat; echo $$", Options::default())?;
    let (session, shell) = output.stdout.trim().split_once('\n').unwrap_or_default();
    same("session", shell, session)
}

fn dropped() -> Result<()> {
    let inner = Arc::new(Go::new()?);
    // It would survive SIGTERM.
    let script = format!(
        // The shell says of its child what ended it, to a pipe that nobody reads.
        "exec 2>/dev/null; trap : TERM; {}; while :; do sleep 0.1; done",
        inner.tell(1)
    );
    let command = format!("sh -c '{script}' | cat");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let pid = runtime.block_on(async {
        let options = Options::default();
        tokio::select! {
            ended = exec(&command, &options) => bail!("it ended: {ended:?}"),
            pid = tokio::task::spawn_blocking(move || inner.hear(1)) => pid?,
        }
    })?;
    wait_until_gone(pid)
}
