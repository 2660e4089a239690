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

    // As by `nohup` and by a script's `&`, or by a parent that blocks signals. The primary gets the
    // exit status of a worker also where SIGCHLD is ignored.
    suite.check("signals_ignored_and_blocked", || {
        let deployed = Deployed::new()?;
        let mut command = below_a_shell("trap '' HUP INT", &Command::new(deployed.path()));
        ignore_sigchld(&mut command);
        // SAFETY: between fork and exec, the closure makes one system call, and no more.
        unsafe { command.pre_exec(|| Ok(SigSet::all().thread_block()?)) };
        let server = Server::start(command, 1)?;
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_replacements(&old)?;
        deployed.replace_by("exit 7")?;
        server.program.signal(Signal::SIGHUP)?;
        let says = "exited before it was ready (exit status: 7)";
        server.program.wait_for_stderr(says)?;
        server.program.signal(Signal::SIGINT)?;
        server.program.finish()?.ended_with_code(0)
    });

    // The worker's limit is raised.
    suite
        .on_linux()
        .rust("limit_of_descriptors_raised", |command| {
            let server = Server::start(below_a_shell("ulimit -S -n 64", &command), 1)?;
            let limits = fs::read_to_string(format!("/proc/{}/limits", server.workers()[0]))?;
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max open files"));
            let words: Vec<_> = line.context("no such limit")?.split_whitespace().collect();
            same("soft and hard limit", &words[4], &words[3])?;
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
    suite
        .where_succeeds(Command::new("prlimit").arg("--version"), "it needs prlimit")
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
                let info = fs::read_to_string(format!("/proc/{worker}/fdinfo/{number}"))?;
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = u32::from_str_radix(flags.context("no flags")?.trim(), 8)?;
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
