//! The checks of spawn-ls.

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::case::{Example, Expected, looks};
use super::run::{
    Go, code, interrupt_unread, read_late, run, same, start, start_on, start_unread, wait_until,
    wait_until_blocked, wait_until_full, wait_until_gone,
};
use crate::procfs::memory;

pub const SPAWN_LS: Example = Example {
    name: "spawn-ls",
    script: "node/spawn-ls.mjs",
};

/// As much as Node takes from a pipe in one read.
const CHUNK: usize = 64 * 1024;

pub fn checks() -> Vec<Trial> {
    let sh = |name: &str, script: &str| SPAWN_LS.case(name, ["sh", "-c", script]);
    let cases = [
        sh("close_with_a_code", "exit 3").stdout("child process exited with code 3\n"),
        sh("close_with_a_code_past_255", "exit 300").stdout("child process exited with code 44\n"),
        sh("close_by_a_signal", "kill -9 $$").stdout("child process exited with code null\n"),
        sh("stderr", "echo no >&2; exit 2")
            .stdout("child process exited with code 2\n")
            .stderr("stderr: no\n\n"),
        sh("no_final_newline", "printf 'one\ntwo'")
            .stdout("stdout: one\ntwo\nchild process exited with code 0\n"),
        SPAWN_LS
            .case("no_shell", ["echo", "$HOME", "|", "wc", "-l", "*"])
            .stdout("stdout: $HOME | wc -l *\n\nchild process exited with code 0\n"),
        SPAWN_LS
            .case("an_option_of_the_command", ["printf", "%s", "--help"])
            .stdout("stdout: --help\nchild process exited with code 0\n"),
        SPAWN_LS
            .case("an_empty_stdin", ["cat"])
            .stdout("child process exited with code 0\n"),
        SPAWN_LS
            .case("bytes_pass_untouched", ["printf", r"\377\000\302"])
            .stdout(b"stdout: \xff\0\xc2\nchild process exited with code 0\n")
            .but_node(
                Expected::default()
                    .stdout("stdout: \u{fffd}\0\u{fffd}\nchild process exited with code 0\n"),
            ),
        SPAWN_LS
            .case("no_such_program", ["nosuch"])
            .stderr("spawn-ls: cannot spawn nosuch: No such file or directory (os error 2)\n")
            .status(1)
            .but_node(
                Expected::default()
                    .stderr_holds("Error: spawn nosuch ENOENT")
                    .status(1),
            ),
        SPAWN_LS
            .case("a_folder_is_no_program", ["/"])
            .stderr("spawn-ls: cannot spawn /: Permission denied (os error 13)\n")
            .status(1)
            .but_node(
                Expected::default()
                    .stderr_holds("Error: spawn / EACCES")
                    .status(1),
            ),
    ];
    let mut checks: Vec<Trial> = cases.into_iter().flat_map(|case| case.checks()).collect();
    checks.extend(SPAWN_LS.checks_of_both(looks![
        the_documents_program,
        a_line_in_pieces,
        streams_as_it_comes,
        close_waits_for_the_pipes,
    ]));
    checks.extend(SPAWN_LS.checks(looks![
        chunks_are_64_kib_at_most,
        a_chunk_of_64_kib,
        pieces_that_come_together,
        pieces_that_keep_coming,
        a_gigabyte_in_little_memory,
        stdout_closed_early,
        stdout_full,
        a_signal_ends_the_child_too,
        a_signal_while_the_reader_sleeps,
        a_signal_while_the_close_line_waits,
        a_slow_reader_without_blocking,
    ]));
    checks.push(SPAWN_LS.help("Usage: spawn-ls [COMMAND [ARG]...]", "ls -lh /usr"));
    checks
}

fn the_documents_program(command: Command) -> Result<()> {
    let mut ls = Command::new("ls");
    ls.args(["-lh", "/usr"]);
    let listing = run(ls)?.stdout();
    let output = run(command)?;
    let expected = format!("stdout: {listing}\nchild process exited with code 0\n");
    same("stdout", expected, output.stdout())?;
    output.ended_with("", 0)
}

/// `ls` writes its line in four pieces, which come as one chunk: that is a matter of time, and
/// on a busy machine not of one try.
fn a_line_in_pieces(mut command: Command) -> Result<()> {
    command.args(["ls", "/nope"]);
    let line = "stderr: ls: cannot access '/nope': No such file or directory\n\n";
    let mut tries = Vec::new();
    while tries.len() < 5 {
        let mut again = Command::new(command.get_program());
        let output = run({
            again.args(command.get_args()).stdin(Stdio::null());
            again
        })?;
        same(
            "stdout",
            "child process exited with code 2\n",
            &output.stdout(),
        )?;
        same("status", 0, code(output.status))?;
        if output.stderr() == line {
            return Ok(());
        }
        tries.push(output.stderr());
    }
    bail!("it came as {tries:?}")
}

/// The child goes on only when its first words have come through.
fn streams_as_it_comes(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    let script = format!("echo a; {}; echo b >&2; {}; echo c", go.wait(1), go.wait(2));
    let program = start({
        command.args(["sh", "-c", &script]);
        command
    })?;
    program.wait_for_stdout("stdout: a\n\n")?;
    go.say(1)?;
    wait_until("stderr to come", || {
        Ok((program.stderr() == "stderr: b\n\n").then_some(()))
    })?;
    go.say(2)?;
    let output = program.finish()?;
    let expected = "stdout: a\n\nstdout: c\n\nchild process exited with code 0\n";
    same("stdout", expected, &output.stdout())?;
    output.ended_with_status(0)
}

/// The process ends first, and a grandchild writes after that.
fn close_waits_for_the_pipes(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    let script = format!("({}; echo late) & echo $$; exit 4", go.wait(1));
    command.args(["sh", "-c", &script]);
    let program = start(command)?;
    let child = wait_until("the child's number", || {
        let stdout = program.stdout();
        Ok(stdout.split_once('\n').map(|(line, _)| line.to_owned()))
    })?;
    let child = child.trim_start_matches("stdout: ").to_owned();
    wait_until_gone(child.parse()?)?;
    same("stdout", format!("stdout: {child}\n\n"), program.stdout())?;
    go.say(1)?;
    let output = program.finish()?;
    let expected = format!("stdout: {child}\n\nstdout: late\n\nchild process exited with code 4\n");
    same("stdout", expected, output.stdout())?;
    output.ended_with("", 0)
}

fn chunks_are_64_kib_at_most(mut command: Command) -> Result<()> {
    command.args(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"]);
    let stdout = run(command)?.stdout();
    let chunks = stdout
        .strip_suffix("child process exited with code 0\n")
        .context("the close line")?;
    let mut total = 0;
    for chunk in chunks.lines() {
        let data = chunk.strip_prefix("stdout: ").context("the prefix")?;
        ensure!(data.len() <= CHUNK, "a chunk of {} bytes", data.len());
        total += data.len();
    }
    same("bytes", 1_000_000, total)
}

/// The reader sleeps until there is as much as one can have.
fn a_chunk_of_64_kib(mut command: Command) -> Result<()> {
    command.args(["sh", "-c", "echo $$; exec head -c 1000000 /dev/zero"]);
    let (program, stdout) = start_unread(command)?;
    let mut stdout = BufReader::with_capacity(1, stdout);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let child = line.trim().trim_start_matches("stdout: ").parse()?;
    wait_until_full(stdout.get_ref())?;
    wait_until_blocked(child, 1)?;
    let mut rest = Vec::new();
    stdout.into_inner().read_to_end(&mut rest)?;
    program.finish()?.ended_with("", 0)?;
    let longest = rest.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    same("longest line", Some("stdout: ".len() + CHUNK), longest)
}

/// That a millisecond is enough for the second is, on a busy machine, not a matter of one try.
fn pieces_that_come_together(_: Command) -> Result<()> {
    let mut tries = Vec::new();
    while tries.len() < 20 {
        let mut command = SPAWN_LS.port();
        command.args(["sh", "-c", "printf one; sleep 0.001; printf two"]);
        let stdout = run(command)?.stdout();
        if stdout.starts_with("stdout: onetwo\n") {
            return Ok(());
        }
        tries.push(stdout);
    }
    bail!("they came as {tries:?}")
}

fn pieces_that_keep_coming(mut command: Command) -> Result<()> {
    let script = "i=0; while [ $i -lt 200 ]; do printf x; sleep 0.001; i=$((i + 1)); done";
    command.args(["sh", "-c", script]);
    let stdout = run(command)?.stdout();
    let chunks = stdout.lines().count();
    ensure!(chunks > 20, "they came as {chunks}: {stdout:?}");
    Ok(())
}

fn a_gigabyte_in_little_memory(mut command: Command) -> Result<()> {
    const GIGABYTE: usize = 1 << 30;
    let go = Go::new()?;
    let script = format!("head -c {GIGABYTE} /dev/zero; {}", go.wait(1));
    command.args(["sh", "-c", &script]);
    let (program, mut stdout) = start_unread(command)?;
    let mut passed = 0;
    let mut chunk = vec![0; CHUNK];
    while passed < GIGABYTE {
        let read = stdout.read(&mut chunk)?;
        ensure!(read > 0, "it ended after {passed} bytes");
        passed += read;
    }
    let peak = memory(program.pid(), "VmHWM")?;
    ensure!(peak < 32.0, "it took {peak} MiB");
    go.say(1)?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    ensure!(
        rest.ends_with("child process exited with code 0\n"),
        "{rest:?}"
    );
    program.finish()?.ended_with("", 0)
}

/// As where stdout is shared with Node.
fn a_slow_reader_without_blocking(mut command: Command) -> Result<()> {
    command.args(["head", "-c", "1000000", "/dev/zero"]);
    let written = read_late(command)?;
    let zeros = written.iter().filter(|byte| **byte == 0).count();
    same("bytes of the command", 1_000_000, zeros)
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    // `yes` would end by itself; what comes after it would not.
    command.args(["sh", "-c", "yes; exec sleep 1000"]);
    let (program, stdout) = start_unread(command)?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    same("stdout", "stdout: y\n", &line)?;
    let output = program.finish()?;
    output.ended_with("", 0)
}

/// There is room for nothing, and nothing but that line to write.
fn a_signal_while_the_close_line_waits(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    command.args(["sh", "-c", &go.tell(1)]);
    let (stdout, mut theirs) = pipe()?;
    fcntl(&theirs, FcntlArg::F_SETPIPE_SZ(4096))?;
    theirs.write_all(&[0; 4096])?;
    let program = start_on(command, theirs)?;
    wait_until_gone(go.hear(1)?)?;
    program.signal(Signal::SIGINT)?;
    program.finish()?.ended_with("", -(Signal::SIGINT as i32))?;
    drop(stdout);
    Ok(())
}

fn stdout_full(command: Command) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" echo a >/dev/full"]);
    shell.arg(command.get_program());
    let output = run(shell)?;
    let expected = "spawn-ls: cannot write to stdout: No space left on device (os error 28)\n";
    output.ended_with(expected, 1)
}

fn a_signal_ends_the_child_too(_: Command) -> Result<()> {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let mut command = SPAWN_LS.port();
        command.args(["sh", "-c", "echo up; exec sleep 1000"]);
        let program = start(command)?;
        program.wait_for_stdout("up")?;
        program.signal(signal)?;
        program.finish()?.ended_with("", -(signal as i32))?;
    }
    Ok(())
}

fn a_signal_while_the_reader_sleeps(mut command: Command) -> Result<()> {
    command.arg("yes");
    interrupt_unread(command)
}
