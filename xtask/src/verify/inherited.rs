//! The checks of what the examples inherit from the process that starts them: an ignored SIGCHLD,
//! which Node resets, a stdout that cannot be written to, and the process id 1.

use nix::sys::signal::{SigHandler, signal};
use tempfile::tempfile;

use super::prelude::*;

/// An example and its command lines.
#[derive(Clone, Copy)]
struct Start {
    example: Example,
    /// A command line that ends soon, and its output.
    args: &'static [&'static str],
    stdout: &'static str,
}

const STARTS: [Start; 3] = [
    Start {
        example: SPAWN_LS,
        args: &["echo", "hi"],
        stdout: "stdout: hi\n\nchild process exited with code 0\n",
    },
    Start {
        example: EXEC_COUNT,
        args: &["echo hi"],
        stdout: "Number of files: hi\n\n",
    },
    Start {
        example: FORK_IPC,
        args: &[
            "sh",
            "-c",
            "echo '{}' >&$NODE_CHANNEL_FD; cat <&$NODE_CHANNEL_FD >/dev/null",
        ],
        stdout: "Message from child: {}\n",
    },
];

pub fn checks(suite: &Suite) {
    for start in STARTS {
        let suite = suite.example(start.example).group("inherited");
        suite.both("sigchld_ignored", move |mut command| {
            ignore_sigchld(command.args(start.args));
            run(command)?.printed(start.stdout)
        });
        stdout_that_fails(&suite, start.args);
    }

    let can_unshare = unshare(&mut Command::new("true")).status();
    let can_unshare = can_unshare.is_ok_and(|status| status.success());
    for (example, shell) in [(SPAWN_LS, &["sh", "-c"][..]), (EXEC_COUNT, &[])] {
        let suite = suite.example(example).group("inherited");
        suite
            .only_if(can_unshare, "it needs unshare")
            .both("process_1", move |command| process_1(command, shell));
    }

    stdout_that_fails(&suite.example(WORKER_SUM).group("inherited"), &[]);
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

/// A file that reaches the limit of `ulimit -f`. Without a handler, SIGXFSZ would kill the program.
fn stdout_that_fails(suite: &Suite, args: &'static [&str]) {
    let name = suite.of().name;
    suite.rust("stdout_at_the_limit_of_a_file", move |mut command| {
        let limited = below_a_shell("ulimit -f 0", command.args(args));
        let stderr = format!("{name}: cannot write to stdout: EFBIG: File too large\n");
        start_on(limited, tempfile()?)?
            .finish()?
            .ended_with(&stderr, 1)
    });
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
