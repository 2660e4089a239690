//! The checks of exec-count.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::case::{checks_of, scenarios};
use crate::examples::EXEC_COUNT;
use crate::harness::gate::Gates;
use crate::harness::processes::wait_until_ended;
use crate::harness::run::{Running, read_late, run, start, start_unread};

/// The limit for the bytes of each stream.
const MEBIBYTE: usize = 1024 * 1024;

pub fn checks() -> Vec<Trial> {
    let sh = |name: &str, command: &str| EXEC_COUNT.case(name, [command]);
    let failed = |name: &str, command: &str, stderr: &str| {
        let stderr = format!("exec error: Error: Command failed: {command}\n{stderr}\n");
        sh(name, command).stderr(stderr)
    };
    let too_much = |name: &str, command: &str, stream: &str| {
        sh(name, command).stderr(format!(
            "exec error: RangeError [ERR_CHILD_PROCESS_STDIO_MAXBUFFER]: \
             {stream} maxBuffer length exceeded\n"
        ))
    };
    let zeros = format!("head -c {MEBIBYTE} /dev/zero");
    let all_zeros = [b"Number of files: ", &[0; MEBIBYTE][..], b"\n"].concat();
    let mut checks = checks_of([
        failed("exit_code", "exit 3", ""),
        failed(
            "exit_code_with_output",
            "echo out; echo err >&2; exit 1",
            "err\n",
        ),
        failed("killed_by_a_signal", "kill -9 $$", ""),
        sh("stderr_is_no_error", "echo err >&2").stdout("Number of files: \n"),
        sh("largest_output", &format!("{zeros}; {zeros} >&2")).stdout(all_zeros),
        too_much("one_byte_more", &format!("{zeros}; echo"), "stdout"),
        too_much(
            "one_byte_more_on_stderr",
            &format!("({zeros}; echo) >&2"),
            "stderr",
        ),
        too_much("endless", "yes", "stdout"),
        too_much("endless_on_stderr", "yes >&2", "stderr"),
        sh("invalid_utf_8", r"printf 'a\377b\342\202'")
            .stdout("Number of files: a\u{fffd}b\u{fffd}\n"),
        sh("empty_stdin", "cat; echo end")
            .stdout("Number of files: end\n\n")
            .rust_only(),
        sh("waits_for_the_pipes", "(sleep 0.2; echo late) & echo early")
            .stdout("Number of files: early\nlate\n\n"),
        sh("empty_command", "")
            .stderr("exec-count: COMMAND is empty\n")
            .code(1)
            .but_node()
            .stderr_contains("ERR_INVALID_ARG_VALUE")
            .code(1),
        EXEC_COUNT
            .case("too_many_arguments", ["ls", "/"])
            .stderr("exec-count: too many arguments: see --help\n")
            .code(1)
            .rust_only(),
        EXEC_COUNT
            .case("argument_not_utf_8", [OsStr::from_bytes(b"echo \xff")])
            .stderr("exec-count: echo \u{fffd} is not UTF-8\n")
            .code(1)
            .rust_only(),
    ]);
    checks
        .extend(EXEC_COUNT.scenarios_of_both("", scenarios![document, background_process_goes_on]));
    checks.extend(EXEC_COUNT.scenarios(
        "",
        scenarios![
            signal_ends_the_command,
            kill_ends_a_command_just_started,
            // Ctrl-C reaches all processes of the program's group.
            interrupt_in_a_terminal =
                |command| pipeline_ends(command, Signal::SIGINT, Running::signal_group),
            signal_while_stdout_is_full,
            stdout_closed_early,
            nonblocking_stdout,
        ],
    ));
    checks.push(EXEC_COUNT.stdout_on_a_full_disk(&["echo a"]));
    checks.push(EXEC_COUNT.help("Usage: exec-count [COMMAND]", "find . -type f | wc -l"));
    checks
}

fn document(mut command: Command) -> Result<()> {
    let folder = TempDir::new()?;
    fs::create_dir(folder.path().join("deeper"))?;
    for name in ["a", "b", "deeper/c"] {
        fs::write(folder.path().join(name), [])?;
    }
    command.current_dir(folder.path());
    run(command)?.printed("Number of files: 3\n\n")
}

/// What a command leaves running, with an output of its own, is not killed.
fn background_process_goes_on(mut command: Command) -> Result<()> {
    let gates = Gates::new()?;
    let background = format!("{}; {}", gates.wait(1), gates.report(2));
    command.arg(format!("({background}) >/dev/null 2>&1 & echo started"));
    let program = start(command)?;
    program.wait_for_stdout("Number of files: started\n\n")?;
    wait_until_ended(program.pid())?;
    gates.open(1)?;
    gates.reported(2)?;
    program.finish()?.ended_with("", 0)
}

/// Ends the program by `signal` while a pipeline runs. On SIGTERM, one part of the pipeline prints
/// and cleans up. The others do not end by themselves.
fn pipeline_ends(
    mut command: Command,
    signal: Signal,
    send: fn(&Running, Signal) -> Result<()>,
) -> Result<()> {
    let gates = Gates::new()?;
    let (report_1, report_2) = (gates.report(1), gates.report(2));
    let cleans_up = format!("trap 'sleep 0.2; echo ending >&2; {report_2}; exit' TERM");
    let part = format!("{cleans_up}; {report_1}; while :; do sleep 0.01; done");
    command
        .arg(format!("({part}) | sleep 1000 | sleep 1000"))
        .process_group(0);
    // SIGQUIT may leave a core file.
    let folder = TempDir::new()?;
    command.current_dir(folder.path());
    let program = start(command)?;
    gates.reported(1)?;
    send(&program, signal)?;
    program.finish()?.ended_by(signal)?;
    gates.reported(2)?;
    Ok(())
}

fn signal_ends_the_command(_: Command) -> Result<()> {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGKILL,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ] {
        pipeline_ends(EXEC_COUNT.rust_command(), signal, Running::signal)?;
    }
    Ok(())
}

fn kill_ends_a_command_just_started(_: Command) -> Result<()> {
    let start_one = |_| {
        let mut command = EXEC_COUNT.rust_command();
        command.arg("kill -9 $PPID; sleep 1000 | sleep 1000");
        start(command)
    };
    let programs = (0..10).map(start_one).collect::<Result<Vec<_>>>()?;
    for program in programs {
        program.finish()?.ended_by(Signal::SIGKILL)?;
    }
    Ok(())
}

fn signal_while_stdout_is_full(mut command: Command) -> Result<()> {
    command.arg("head -c 1000000 /dev/zero");
    let (program, stdout) = start_unread(command)?;
    stdout.wait_until_full()?;
    program.signal(Signal::SIGINT)?;
    program.finish()?.ended_by(Signal::SIGINT)
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    let gates = Gates::new()?;
    command.arg(format!("{}; echo late", gates.wait(1)));
    let (program, stdout) = start_unread(command)?;
    stdout.close()?;
    gates.open(1)?;
    program.finish()?.ended_with("", 0)
}

/// Node makes its pipes non-blocking.
fn nonblocking_stdout(mut command: Command) -> Result<()> {
    command.arg("head -c 1000000 /dev/zero");
    let expected = [b"Number of files: ", &[0; 1_000_000][..], b"\n"].concat();
    let written = read_late(command)?;
    ensure!(written == expected, "{} bytes differ", written.len());
    Ok(())
}
