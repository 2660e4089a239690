//! Descriptors and other limits.

use super::*;
use crate::verify::inherited::ignore_sigchld;
use nix::sys::signal::SigSet;

pub fn checks(suite: &Suite) {
    // At some lower limits, the async runtime panics.
    suite.rust("too_few_descriptors_to_start", |command| {
        for limit in 9..13 {
            let shell = format!("exec 3>&-; ulimit -n {limit}");
            let output = run(below_a_shell(&shell, &command))?;
            output.failed(
                "cluster-http: cannot ",
                "Too many open files (os error 24)\n",
            )?;
        }
        Ok(())
    });

    // The primary gets the exit status of a worker all the same.
    suite.check("sigchld_ignored", || {
        let (deployed, server) = Deployed::serve_with(1, ignore_sigchld)?;
        deployed.replace_by("exit 7")?;
        server.program.signal(Signal::SIGHUP)?;
        server
            .program
            .wait_for_stderr("exited before it was ready (exit status: 7)")?;
        server.shut_down()
    });

    suite.rust("signals_blocked", |mut command| {
        // SAFETY: between fork and exec, the closure makes one system call, and no more.
        unsafe { command.pre_exec(|| Ok(SigSet::all().thread_block()?)) };
        let server = Server::start(command, 1)?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        server.wait_for_replacements(&old)?;
        served_client(&server)?;
        server.shut_down()
    });

    // As by `nohup`.
    suite.rust("hangup_ignored", |command| {
        let server = Server::start(below_a_shell("trap '' HUP", &command), 1)?;
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_replacements(&old)?;
        server.shut_down()
    });

    // As by a script's `&`.
    suite.rust("interrupt_ignored", |command| {
        let server = Server::start(below_a_shell("trap '' INT", &command), 1)?;
        server.program.signal(Signal::SIGINT)?;
        server.program.finish()?.ended_with_code(0)
    });

    suite
        .on_linux()
        .rust("limit_of_descriptors_raised", |command| {
            let server = Server::start(below_a_shell("ulimit -S -n 64", &command), 1)?;
            for pid in [server.program.pid(), server.workers()[0]] {
                let limits = field(&format!("{pid}/limits"), "Max open files")?;
                let mut words = limits.split_whitespace();
                let (soft, hard) = (words.next(), words.next());
                same("soft and hard limit", &hard, &soft)?;
            }
            server.shut_down()
        });

    // It pauses, and goes on when connections are closed.
    suite.on_linux().rust("out_of_descriptors", |command| {
        let server = Server::start(below_a_shell("ulimit -n 40", &command), 1)?;
        let worker = server.workers()[0];
        let clients = server.connect_many(60)?;
        wait_until("the worker to have as many descriptors as it can", || {
            let descriptors = fs::read_dir(format!("/proc/{worker}/fd"))?.count();
            Ok(descriptors >= 40)
        })?;
        waits_without_cpu(worker)?;
        waits_without_cpu(server.program.pid())?;
        same("workers", &vec![worker], &server.workers())?;
        drop(clients);
        served_client(&server)?;
        same("workers", &vec![worker], &server.workers())?;
        server.shut_down()
    });

    // Only the other worker has descriptors. A connection that the first one refuses does not wait.
    let can_limit = Command::new("prlimit").arg("--version").output().is_ok();
    suite
        .only_if(can_limit, "it needs prlimit")
        .rust("one_worker_out_of_descriptors", |command| {
            let server = Server::start(command, 2)?;
            let mut prlimit = Command::new("prlimit");
            let pid = server.workers()[0].to_string();
            prlimit.args(["--pid", &pid, "--nofile=3:3"]);
            run(prlimit)?.ended_with("", 0)?;
            let start = Instant::now();
            for _ in 0..100 {
                served_client(&server)?;
            }
            // It took more than five seconds when each waited for 50 ms.
            takes_less_than(4, start)?;
            server.shut_down()
        });

    // A worker's children inherit none of its sockets.
    suite
        .on_linux()
        .rust("nothing_leaks_below_a_worker", |command| {
            const CLOSE_ON_EXEC: u32 = 0o2_000_000;
            let server = Server::start(command, 1)?;
            let _client = served_client(&server)?;
            let worker = server.workers()[0];
            for file in fs::read_dir(format!("/proc/{worker}/fd"))? {
                let file = file?;
                let number = file.file_name().to_string_lossy().into_owned();
                let flags = field(&format!("{worker}/fdinfo/{number}"), "flags:")?;
                let flags = u32::from_str_radix(&flags, 8)?;
                let link = fs::read_link(file.path())?;
                let is_socket = link.to_string_lossy().starts_with("socket:");
                ensure!(
                    !is_socket || flags & CLOSE_ON_EXEC != 0,
                    "socket {number} is inherited"
                );
            }
            server.shut_down()
        });
}

/// What a file in `/proc` says after some words at the start of a line.
fn field(file: &str, words: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{file}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix(words));
    Ok(field.context("no such line")?.trim().to_owned())
}
