//! The checks of exec-count.

use super::prelude::*;

/// The limit for the bytes of each stream.
const MEBIBYTE: usize = 1024 * 1024;

const STDOUT_IS_TOO_LONG: &str =
    "RangeError [ERR_CHILD_PROCESS_STDIO_MAXBUFFER]: stdout maxBuffer length exceeded";

pub fn checks(suite: &Suite) {
    suite.both("largest_output", |mut command| {
        let zeros = format!("head -c {MEBIBYTE} /dev/zero");
        command.arg(format!("{zeros}; {zeros} >&2"));
        let output = run(command)?;
        let expected = [b"Number of files: ", &[0; MEBIBYTE][..], b"\n"].concat();
        ensure!(output.stdout == expected, "{} bytes", output.stdout.len());
        output.ended_with("", 0)
    });

    // What a command leaves running, with an output of its own, is not killed.
    suite.both("background_process_goes_on", |mut command| {
        let gates = Gates::new()?;
        let background = format!("{}; {}", gates.wait(1), gates.report(2));
        command.arg(format!("({background}) >/dev/null 2>&1 & echo started"));
        let program = start(command)?;
        program.wait_for_stdout("Number of files: started\n\n")?;
        wait_until_ended(program.pid())?;
        gates.open(1)?;
        gates.reported(2)?;
        program.finish()?.ended_with("", 0)
    });

    suite.check("signal_ends_the_command", || {
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
    });

    suite.check("kill_ends_a_command_just_started", || {
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
    });

    // The program cannot start a thread, and the guard cannot start a `sleep`. Both send SIGKILL at
    // once.
    let version = with_five_processes(54321, EXEC_COUNT.rust_command().arg("--version"));
    let suite_of_root = suite.where_succeeds(version, "it needs root and util-linux");
    for (user, name, end) in [
        (54321, "max_buffer", "yes"),
        (54322, "kill", "kill -9 $PPID; wait"),
    ] {
        let name = format!("limit_of_processes::{name}");
        suite_of_root.rust(name, move |mut command| {
            let more = "prlimit --pid $$ --nproc=50:; for i in 1 2 3 4 5 6; do sleep 1000 & done";
            command.arg(format!("trap '' TERM; {more}; {end}"));
            let output = run(with_five_processes(user, &command))?;
            match end {
                "yes" => output.ended_with(&format!("exec error: {STDOUT_IS_TOO_LONG}\n"), 0),
                _ => output.ended_by(Signal::SIGKILL),
            }
        });
    }

    where_a_shell_can_be_hidden(suite).rust("no_shell", |mut command| {
        command.arg("true");
        let stderr = "exec error: Error: spawn /bin/sh ENOENT\n";
        run(without_a_shell(&command))?.ended_with(stderr, 0)
    });

    // Ctrl-C reaches all processes of the program's group.
    suite.rust("interrupt_in_a_terminal", |command| {
        pipeline_ends(command, Signal::SIGINT, Running::signal_group)
    });

    suite.rust("signal_while_stdout_is_full", |mut command| {
        command.arg("head -c 1000000 /dev/zero");
        let (program, stdout) = start_unread(command)?;
        stdout.wait_until_full()?;
        program.signal(Signal::SIGINT)?;
        program.finish()?.ended_by(Signal::SIGINT)
    });

    suite.rust("stdout_closed_early", |mut command| {
        let gates = Gates::new()?;
        command.arg(format!("{}; echo late", gates.wait(1)));
        let (program, stdout) = start_unread(command)?;
        stdout.close()?;
        gates.open(1)?;
        program.finish()?.ended_with("", 0)
    });

    // Node makes its pipes non-blocking.
    suite.rust("nonblocking_stdout", |mut command| {
        command.arg("head -c 1000000 /dev/zero");
        let expected = [b"Number of files: ", &[0; 1_000_000][..], b"\n"].concat();
        let written = read_late(command)?;
        ensure!(written == expected, "{} bytes differ", written.len());
        Ok(())
    });
}

/// Ends the program by `signal` while a pipeline runs. On SIGTERM, one part of the pipeline cleans
/// up. The others do not end by themselves.
fn pipeline_ends(
    mut command: Command,
    signal: Signal,
    send: fn(&Running, Signal) -> Result<()>,
) -> Result<()> {
    let gates = Gates::new()?;
    let (report_1, report_2) = (gates.report(1), gates.report(2));
    let cleans_up = format!("trap 'sleep 0.2; {report_2}; exit' TERM");
    let part = format!("{cleans_up}; {report_1}; while :; do sleep 0.01; done");
    command
        .arg(format!("({part}) 2>/dev/null | sleep 1000 | sleep 1000"))
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

/// The program as a user who may have five processes, or more if the program raises the limit.
fn with_five_processes(user: u32, command: &Command) -> Command {
    let user = format!("setpriv --reuid={user} --regid={user} --clear-groups");
    below_a_shell(
        &format!("prlimit --pid $$ --nproc=5:50; set {user} \"$@\""),
        command,
    )
}

pub fn where_a_shell_can_be_hidden(suite: &Suite) -> Suite {
    let version = without_a_shell(EXEC_COUNT.rust_command().arg("--version"));
    suite.where_succeeds(version, "it needs unshare")
}

/// The program where `/bin` is empty.
pub fn without_a_shell(command: &Command) -> Command {
    let mount = "mount -t tmpfs none \"$(readlink -f /bin)\"";
    unshared(&["--mount"], &below_a_shell(mount, command))
}
