//! The checks of what the examples inherit from the process that starts them: an ignored SIGCHLD,
//! which Node resets, and the process id 1.

use nix::sys::signal::{SigHandler, signal};

use super::prelude::*;

pub fn checks(suite: &Suite) {
    let close = "stdout: hi\n\nchild process exited with code 0\n";
    sigchld_ignored(&suite.example(SPAWN_LS), &["echo", "hi"], close);
    let count = "Number of files: hi\n\n";
    sigchld_ignored(&suite.example(EXEC_COUNT), &["echo hi"], count);
    let answer = "echo '{}' >&$NODE_CHANNEL_FD; cat <&$NODE_CHANNEL_FD >/dev/null";
    let message = "Message from child: {}\n";
    sigchld_ignored(&suite.example(FORK_IPC), &["sh", "-c", answer], message);

    for (example, shell) in [(SPAWN_LS, &["sh", "-c"][..]), (EXEC_COUNT, &[])] {
        let suite = suite.example(example).group("inherited");
        suite
            .where_succeeds(as_process_1(&Command::new("true")), "it needs unshare")
            .both("process_1", move |command| process_1(command, shell));
    }
}

fn sigchld_ignored(suite: &Suite, args: &[&'static str], stdout: &'static str) {
    let args = args.to_vec();
    let suite = suite.group("inherited");
    suite.both("sigchld_ignored", move |mut command| {
        ignore_sigchld(command.args(args));
        run(command)?.printed(stdout)
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

/// Runs the command as process 1, like the first process of a container.
fn as_process_1(command: &Command) -> Command {
    unshared(&["--pid", "--fork"], command)
}

/// Process 1 ignores SIGTERM unless it has a handler. The command goes on.
fn process_1(mut command: Command, shell: &[&str]) -> Result<()> {
    let gates = Gates::new()?;
    let script = format!("{}; {}; echo end", gates.report(1), gates.wait(2));
    command.args(shell).arg(script);
    let unshare = start(as_process_1(&command))?;
    gates.reported(1)?;
    for process in children(unshare.pid()) {
        signal_to(process, Signal::SIGTERM)?;
    }
    gates.open(2)?;
    let output = unshare.finish()?;
    ensure!(output.stdout().contains("end\n"), "{:?}", output.stdout());
    output.ended_with("", 0)
}
