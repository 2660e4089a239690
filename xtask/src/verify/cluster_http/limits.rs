//! Descriptors and other limits.

use super::*;
use crate::verify::inherited::ignore_sigchld;
use nix::sys::signal::SigSet;

pub fn checks(suite: &Suite) {
    suite.rust("too_few_descriptors_to_start", |command| {
        for limit in 4..12 {
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

    // As by `nohup`, and as by a shell's `&`.
    suite.rust("hangup_ignored", |command| {
        is_ignored("HUP", Signal::SIGHUP, &command)
    });

    suite.rust("interrupt_ignored", |command| {
        is_ignored("INT", Signal::SIGINT, &command)
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

fn is_ignored(name: &str, signal: Signal, command: &Command) -> Result<()> {
    let server = Server::start(below_a_shell(&format!("trap '' {name}"), command), 1)?;
    let workers = server.workers();
    server.program.signal(signal)?;
    // The primary would act on `signal` before the worker's death.
    signal_to(workers[0], Signal::SIGKILL)?;
    server.wait_for_death(workers[0])?;
    server.wait_for_workers(1)?;
    let started = server.program.stdout().matches(" started\n").count();
    same("workers started", &2, &started)?;
    // The system has not delivered it.
    let pending = field(&format!("{}/status", server.program.pid()), "ShdPnd:")?;
    let pending = u64::from_str_radix(&pending, 16)?;
    ensure!(
        pending & (1 << (signal as i32 - 1)) != 0,
        "it is not blocked"
    );
    server.shut_down()
}
