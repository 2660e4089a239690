//! The checks of what the examples inherit from the process that starts them: an ignored SIGCHLD,
//! blocked signals, limits, and the process id 1. Node undoes the first two.

use nix::sys::signal::{SigHandler, SigSet, signal};

use super::prelude::*;

/// An example and its command lines.
#[derive(Clone, Copy)]
struct Start {
    example: Example,
    /// A command line that ends soon, and its output.
    args: &'static [&'static str],
    stdout: &'static str,
    /// A command line that never ends, but leaves nothing running when the program ends.
    endless: &'static [&'static str],
    /// Limits of descriptors below what it needs.
    descriptors: &'static [u32],
}

const STARTS: [Start; 3] = [
    Start {
        example: SPAWN_LS,
        args: &["echo", "hi"],
        stdout: "stdout: hi\n\nchild process exited with code 0\n",
        endless: &["sh", "-c", "while echo a; do sleep 0.1; done"],
        descriptors: &[4, 5, 6, 7, 8],
    },
    Start {
        example: EXEC_COUNT,
        args: &["echo hi"],
        stdout: "Number of files: hi\n\n",
        endless: &["sleep 1000"],
        descriptors: &[4, 5, 6, 7, 8],
    },
    Start {
        example: FORK_IPC,
        args: &[
            "sh",
            "-c",
            "echo '{}' >&$NODE_CHANNEL_FD; cat <&$NODE_CHANNEL_FD >/dev/null",
        ],
        stdout: "Message from child: {}\n",
        endless: &["sh", "-c", "cat <&$NODE_CHANNEL_FD >/dev/null"],
        descriptors: &[4, 8, 9, 11, 13],
    },
];

pub fn checks(suite: &Suite) {
    for start in STARTS {
        let suite = suite.example(start.example).group("inherited");
        suite.both("sigchld_ignored", move |mut command| {
            ignore_sigchld(command.args(start.args));
            run(command)?.printed(start.stdout)
        });
        suite.rust("signals_blocked", move |command| {
            signals_blocked(command, start.endless)
        });
        // The system needs four descriptors to start a program, which includes number 3. That one
        // may have been inherited.
        suite.rust("no_descriptors", move |mut command| {
            command.args(start.args);
            let name = format!("{}: ", start.example.name);
            for limit in start.descriptors {
                let shell = format!("exec 3>&-; ulimit -n {limit}");
                let output = run(below_a_shell(&shell, &command))?;
                output.failed(&name, "Too many open files (os error 24)\n")?;
            }
            Ok(())
        });
    }

    let can_unshare = unshare(&mut Command::new("true")).status();
    let can_unshare = can_unshare.is_ok_and(|status| status.success());
    for (example, shell) in [(SPAWN_LS, &["sh", "-c"][..]), (EXEC_COUNT, &[])] {
        let suite = suite.example(example).group("inherited");
        suite
            .only_if(can_unshare, "it needs unshare")
            .both("process_1", move |command| process_1(command, shell));
    }

    // It starts no process, and opens no descriptor.
    let suite = suite.example(WORKER_SUM).group("inherited");
    suite.rust("signals_blocked", |command| {
        signals_blocked(command, &["18446744073709551615"])
    });
}

/// Starts the program with SIGCHLD ignored. A shell cannot: dash does not ignore this signal.
pub fn ignore_sigchld(command: &mut Command) {
    // SAFETY: between fork and exec, the closure makes one system call, and no more.
    unsafe {
        command.pre_exec(|| {
            signal(Signal::SIGCHLD, SigHandler::SigIgn)?;
            Ok(())
        });
    }
}

/// Starts the program with all signals blocked.
pub fn block_signals(command: &mut Command) {
    // SAFETY: between fork and exec, the closure makes one system call, and no more.
    unsafe { command.pre_exec(|| Ok(SigSet::all().thread_block()?)) };
}

fn signals_blocked(mut command: Command, endless: &[&str]) -> Result<()> {
    block_signals(command.args(endless));
    let program = start(command)?;
    program.signal(Signal::SIGTERM)?;
    program.finish()?.ended_with_code(-(Signal::SIGTERM as i32))
}

/// Runs the command as process 1, like the first process of a container.
fn unshare(command: &mut Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--pid", "--fork"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    unshare
}

/// Process 1 ignores SIGTERM unless it has a handler. The command goes on.
fn process_1(mut command: Command, shell: &[&str]) -> Result<()> {
    let gates = Gates::new()?;
    let script = format!("{}; {}; echo end", gates.report(1), gates.wait(2));
    command.args(shell).arg(script);
    let unshare = start(unshare(&mut command))?;
    gates.reported(1)?;
    for process in children(unshare.pid()) {
        signal_to(process, Signal::SIGTERM)?;
    }
    gates.open(2)?;
    let output = unshare.finish()?;
    ensure!(output.stdout().contains("end\n"), "{:?}", output.stdout());
    output.ended_with("", 0)
}
