//! The checks of spawn-ls.

use super::prelude::*;

/// The longest piece of output, in bytes.
const CHUNK: usize = 64 * 1024;

pub fn checks(suite: &Suite) {
    suite.both("document", |command| {
        let mut ls = Command::new("ls");
        ls.args(["-lh", "/usr"]);
        let listing = run(ls)?.stdout();
        let expected = format!("stdout: {listing}\nchild process exited with code 0\n");
        run(command)?.printed(&expected)
    });

    suite.both("stdout_before_stderr", |command| {
        let stdout_first = |stdout: &str| stdout.starts_with("stdout: ");
        mostly(&command, &["ls", "/nope", "/usr"], stdout_first)?;
        mostly(&command, &["sh", "-c", "echo b >&2; echo a"], stdout_first)
    });

    // GNU's `ls` writes its error in four pieces.
    suite.both("line_written_in_pieces", |command| {
        let mut ls = Command::new("ls");
        ls.arg("/nope");
        let expected = format!("stderr: {}\n", run(ls)?.stderr());
        mostly(&command, &["ls", "/nope"], |stdout| {
            stdout.contains(&expected)
        })
    });

    suite.both("as_few_pieces_as_node", |command| {
        let pieces = |stdout: &str| stdout.matches("stdout: ").count();
        mostly(&command, &["seq", "20000"], move |stdout| {
            pieces(stdout) <= 4
        })?;
        // A program that writes through a buffer of 8 KiB.
        let script = "printf %08192d 0; printf %0808d 0";
        mostly(&command, &["sh", "-c", script], move |stdout| {
            pieces(stdout) == 1
        })
    });

    // The command goes on only when its first output has arrived.
    suite.both("streaming", |mut command| {
        let gates = Gates::new()?;
        let (wait_1, wait_2) = (gates.wait(1), gates.wait(2));
        let script = format!("echo a; {wait_1}; echo b >&2; {wait_2}; echo c");
        let program = start(command.args(["sh", "-c", &script]))?;
        program.wait_for_stdout("stdout: a\n\n")?;
        gates.open(1)?;
        program.wait_for_stderr("stderr: b\n\n")?;
        gates.open(2)?;
        let output = program.finish()?;
        let expected = "stdout: a\n\nstdout: c\n\nchild process exited with code 0\n";
        same("stdout", expected, &output.stdout())?;
        output.ended_with_code(0)
    });

    // The process ends first, and a grandchild writes after that.
    suite.both("close_waits_for_the_pipes", |mut command| {
        let gates = Gates::new()?;
        let (wait_1, report_2) = (gates.wait(1), gates.report(2));
        let script = format!("({wait_1}; echo late) & {report_2}; exit 4");
        let program = start(command.args(["sh", "-c", &script]))?;
        wait_until_ended(gates.reported(2)?)?;
        same("stdout", "", &program.stdout())?;
        gates.open(1)?;
        let expected = "stdout: late\n\nchild process exited with code 4\n";
        program.finish()?.printed(expected)
    });

    suite.both("script_without_interpreter", |mut command| {
        let folder = TempDir::new()?;
        let script = folder.path().join("script");
        // Another process writes it: a child of another check could hold this process's descriptor
        // between fork and exec, and a file open for writing cannot be run.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo 'echo \"$1\"' > \"$0\"; chmod +x \"$0\""])
            .arg(&script);
        run(shell)?.ended_with("", 0)?;
        command.arg(script).arg("from a script");
        let expected = "stdout: from a script\n\nchild process exited with code 0\n";
        run(command)?.printed(expected)
    });

    // Ctrl-C reaches all processes of the group: the command ends in its own way.
    suite.both("interrupt_in_a_terminal", |mut command| {
        let gates = Gates::new()?;
        let (report_1, report_2) = (gates.report(1), gates.report(2));
        let cleans_up = format!("trap 'sleep 0.2; {report_2}; exit' INT");
        let script = format!("{cleans_up}; {report_1}; while :; do sleep 0.01; done");
        let program = start(command.args(["sh", "-c", &script]).process_group(0))?;
        gates.reported(1)?;
        program.signal_group(Signal::SIGINT)?;
        program.finish()?.ended_by(Signal::SIGINT)?;
        gates.reported(2)?;
        Ok(())
    });

    // Also where stdout is read more slowly than the command writes.
    suite.rust("stderr_beside_endless_stdout", |mut command| {
        command.args(["sh", "-c", "yes & sleep 0.2; echo late >&2; wait"]);
        let (program, mut stdout) = start_unread(command)?;
        let mut chunk = vec![0; 1 << 16];
        wait_until("stderr to arrive", || {
            stdout.read_exact(&mut chunk)?;
            Ok(program.stderr().contains("stderr: late"))
        })?;
        stdout.close()?;
        program.finish()?.ended_with_code(0)
    });

    suite.rust("chunks_up_to_64_kib", |mut command| {
        const BYTES: usize = 1_000_000;
        let output = run(command.args(["head", "-c", &BYTES.to_string(), "/dev/zero"]))?;
        output.ended_with("", 0)?;
        let stdout = output.stdout();
        let data = stdout.strip_suffix("child process exited with code 0\n");
        let chunks = data.context("the last line is not there")?.lines();
        let chunks: Option<Vec<_>> = chunks.map(|chunk| chunk.strip_prefix("stdout: ")).collect();
        let chunks = chunks.context("a line has no prefix")?;
        let lengths = || chunks.iter().map(|chunk| chunk.len());
        same("bytes", &BYTES, &lengths().sum::<usize>())?;
        // The command is faster than this program, so most chunks are as long as they can be.
        same("the longest chunk", &Some(CHUNK), &lengths().max())
    });

    suite.rust("slow_pieces_are_not_held_back", |mut command| {
        let script = "i=0; while [ $i -lt 200 ]; do printf x; sleep 0.001; i=$((i + 1)); done";
        let pieces = run(command.args(["sh", "-c", script]))?
            .stdout()
            .matches("stdout: ")
            .count();
        ensure!(pieces > 20, "they came as {pieces}");
        Ok(())
    });

    suite.rust("constant_memory", |mut command| {
        const BYTES: usize = 1 << 28;
        let gates = Gates::new()?;
        let script = format!("head -c {BYTES} /dev/zero; {}", gates.wait(1));
        let (program, mut stdout) = start_unread(command.args(["sh", "-c", &script]))?;
        let mut chunk = vec![0; 1 << 20];
        for _ in 0..BYTES / chunk.len() {
            stdout.read_exact(&mut chunk)?;
        }
        let memory = memory(program.pid())?;
        ensure!(memory < 32.0, "it takes {memory} MiB");
        gates.open(1)?;
        let rest = stdout.read_to_end()?;
        ensure!(rest.ends_with(b"child process exited with code 0\n"));
        program.finish()?.ended_with("", 0)
    });

    // Before its first line or after it. This also ends the command.
    suite.check("stdout_closed_early", || {
        for reads_a_line in [false, true] {
            let mut command = SPAWN_LS.rust_command();
            command.args(["sh", "-c", "yes; exec sleep 1000"]);
            let (program, mut stdout) = start_unread(command)?;
            if reads_a_line {
                same("stdout", "stdout: y\n", &stdout.read_line()?)?;
            }
            stdout.close()?;
            program.finish()?.ended_with("", 0)?;
        }
        Ok(())
    });

    // Node makes its pipes non-blocking.
    suite.rust("nonblocking_stdout", |mut command| {
        let zeros = read_late(command.args(["head", "-c", "1000000", "/dev/zero"]))?
            .into_iter()
            .filter(|byte| *byte == 0);
        same("bytes", &1_000_000, &zeros.count())
    });
}

/// Runs a program up to 8 times, until 3 runs are good: on a busy machine, the speed of the
/// command varies.
fn mostly(command: &Command, args: &[&str], good: impl Fn(&str) -> bool) -> Result<()> {
    let (mut good_runs, mut bad) = (0, Vec::new());
    while good_runs < 3 {
        // Both streams in one, in the order in which they were written.
        let mut shell = below_a_shell("exec 2>&1", command);
        let stdout = run(shell.args(args))?.stdout();
        match good(&stdout) {
            true => good_runs += 1,
            false => bad.push(stdout),
        }
        ensure!(bad.len() <= 5, "it came as {bad:?}");
    }
    Ok(())
}
