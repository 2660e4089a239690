//! Workers that die.

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("killed_workers_under_load", |command| {
        const CLIENTS: usize = 8;
        let server = Server::start(command, 2)?;
        let load = Load::start(server.address, CLIENTS);
        let start = Instant::now();
        let mut kills = 0;
        while start.elapsed() < settings().load {
            let workers = server.workers();
            let killed = workers[kills % workers.len()];
            signal_to(killed, Signal::SIGKILL)?;
            server.wait_for_death(killed)?;
            server.wait_for_workers(2)?;
            kills += 1;
        }
        let tally = load.stop();
        eprintln!("{kills} kills: {tally}");
        // What a worker holds when it is killed is at most one request of each client.
        ensure!(tally.failures.len() <= kills * CLIENTS, "{tally:?}");
        for failure in &tally.failures {
            use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            let kind = failure.kind();
            ensure!(
                matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof),
                "{failure}"
            );
        }
        ensure!(tally.slowest < Duration::from_secs(3), "{tally}");
        ensure!(tally.served > kills, "{tally}");
        server.shut_down()
    });

    // `kill` without a number, as an operator types it.
    suite.rust("terminated_worker", |command| {
        let server = Server::start(command, 1)?;
        let client = served_client(&server)?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGTERM)?;
        gets_last_answer(client)?;
        server.wait_for_death(old[0])?;
        server.wait_for_replacements(&old)?;
        served_client(&server)?;
        server.shut_down()
    });

    // It is started again and again, and the other one serves.
    suite.check("worker_never_ready", || {
        let (deployed, server) = Deployed::serve(2)?;
        deployed.replace_by("exit 7")?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        wait_until("three warnings", || {
            let stderr = server.program.stderr();
            let warnings = stderr.matches(" exited before it was ready (exit status: 7)\n");
            Ok(warnings.count() >= 3)
        })?;
        same("workers", &old[1..], &server.workers())?;
        served_client(&server)?;
        deployed.replace_by_itself()?;
        server.wait_for_workers(2)?;
        server.shut_down()
    });

    // A worker that dies soon after each start is not started many times a second for ever.
    suite.check("crash_loop", || {
        let (deployed, server) = Deployed::serve(1)?;
        deployed.replace_by_itself_after("(sleep 0.05; kill -9 $$) &")?;
        signal_to(server.workers()[0], Signal::SIGKILL)?;
        let (mut deaths, mut last_death) = (0, Instant::now());
        wait_until("more than six deaths, and then a pause", || {
            let now = server.program.stdout().matches(" died\n").count();
            if now > deaths {
                (deaths, last_death) = (now, Instant::now());
            }
            let paused = last_death.elapsed() > Duration::from_secs(1);
            Ok(deaths > 6 && paused)
        })?;
        server.stop()
    });

    suite.on_linux().check("first_worker_never_ready", || {
        let says = " exited before it was ready (exit status: 7)\n";
        gives_up(Some("exit 7"), "cluster-http: worker ", says)
    });

    suite.on_linux().check("no_program_to_start", || {
        let says = "/program (deleted): No such file or directory (os error 2)\n";
        gives_up(None, "cluster-http: cannot start ", says)
    });

    suite
        .on_linux()
        .check("signal_while_the_first_worker_starts", || {
            let gates = Gates::new()?;
            let (program, _deployed) =
                without_its_file(Some(&format!("{}; exec cat", gates.report(1))))?;
            gates.reported(1)?;
            program.signal(Signal::SIGTERM)?;
            program.finish()?.ended_with("", 0)
        });

    suite
        .on_linux()
        .rust("deaths_leave_nothing_behind", |command| {
            const WORKERS: usize = 8;
            let server = Server::start(command, WORKERS)?;
            let kill_all = || -> Result<()> {
                let old = server.workers();
                for pid in &old {
                    signal_to(*pid, Signal::SIGKILL)?;
                }
                server.wait_for_replacements(&old)?;
                Ok(())
            };
            let primary = server.program.pid();
            let descriptors = || fs::read_dir(format!("/proc/{primary}/fd")).map(Iterator::count);
            kill_all()?;
            let before = (descriptors()?, memory(primary)?);
            let start = Instant::now();
            let mut deaths = 0;
            while start.elapsed() < settings().load {
                kill_all()?;
                deaths += WORKERS;
            }
            eprintln!("{deaths} deaths");
            wait_until("the primary to have as many descriptors as before", || {
                Ok(descriptors()? == before.0)
            })?;
            let grown = memory(primary)? - before.1;
            ensure!(grown < 1.0, "{deaths} deaths took {grown} MiB");
            same("children, also zombies", &WORKERS, &children(primary).len())?;
            server.shut_down()
        });
}

/// Starts the program from a deleted file. Linux adds ` (deleted)` to the path of such a file: the
/// primary starts its workers from that path, where `script` is.
fn without_its_file(script: Option<&str>) -> Result<(Running, Deployed)> {
    let deployed = Deployed::new()?;
    if let Some(script) = script {
        deployed.replace_by(script)?;
        fs::rename(
            deployed.path(),
            deployed.folder.path().join("program (deleted)"),
        )?;
        deployed.replace_by_itself()?;
    }
    let mut shell = Command::new("sh");
    let script = "exec 3<\"$0\"; rm \"$0\"; exec /proc/self/fd/3 127.0.0.1:0 1";
    shell.args(["-c", script]).arg(deployed.path());
    Ok((start(shell)?, deployed))
}

/// The program fails with one line: `start`…`end`.
fn gives_up(script: Option<&str>, start: &str, end: &str) -> Result<()> {
    let (program, _deployed) = without_its_file(script)?;
    program.finish()?.failed(start, end)
}
