//! Workers that die.

use std::os::fd::AsRawFd;

use super::*;
use crate::verify::hosts::HOSTS;

pub fn checks(suite: &Suite) {
    // One client ends a worker with each request, as fast as it can. The others lose what a dead
    // worker held.
    suite.check("poisonous_client", || {
        const CLIENTS: usize = 8;
        for workers in [1, 2, 4] {
            let mut command = HOSTS.command("axum_service")?;
            command.args(["--greeting", "hi", "127.0.0.1:0", &workers.to_string()]);
            let server = Server::listening(start(command)?)?;
            let load = Load::start(server.address, CLIENTS);
            let (start, mut crashes) = (Instant::now(), 0);
            while start.elapsed() < settings().load {
                ensure!(server.connect()?.get_at("/abort").is_err(), "no crash");
                crashes += 1;
            }
            let tally = load.stop();
            eprintln!("{workers} workers, {crashes} crashes: {tally}");
            ensure!(tally.failures.len() <= crashes * CLIENTS, "{tally:?}");
            ensure!(tally.slowest < Duration::from_millis(1500), "{tally}");
            ensure!(crashes > 10 && tally.served > crashes, "{tally}");
            server.shut_down()?;
        }
        Ok(())
    });

    // The numbers are from 1 to the number of workers.
    suite.check("ids", || {
        let mut command = HOSTS.command("axum_service")?;
        command.args(["--greeting", "hi", "127.0.0.1:0", "2"]);
        let server = Server::listening(start(command)?)?;
        let ask = |path| -> Result<String> { Ok(server.connect()?.get_at(path)?.body) };
        let both = |what: &str| {
            let mut missing = vec!["1", "2"];
            wait_until(what, || {
                let id = ask("/id")?;
                ensure!(id == "1" || id == "2", "{id}");
                missing.retain(|other| *other != id);
                Ok(missing.is_empty())
            })
        };
        both("both numbers")?;
        for (signal, is_replaced) in [(Signal::SIGKILL, false), (Signal::SIGTERM, true)] {
            let old: u32 = ask("/pid")?.parse()?;
            signal_to(old, signal)?;
            let exit = format!("Exit {{ pid: {old}, ");
            server.program.wait_for_stderr(&exit)?;
            let replaced = format!("is_replaced: {is_replaced} }}");
            server.program.wait_for_stderr(&replaced)?;
            both("both numbers after a death")?;
        }
        server.program.signal(Signal::SIGHUP)?;
        wait_until("two replacements", || {
            Ok(server.program.stderr().matches("Replaced").count() == 2)
        })?;
        both("both numbers after a rolling restart")?;
        server.shut_down()
    });

    // It is started again and again, and the other one serves.
    suite.check("worker_never_ready", || {
        let (deployed, server) = Deployed::serve(2)?;
        let gates = Gates::new()?;
        deployed.replace_by_itself_after(&format!("{} || exit 7;", gates.is_open(1)))?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        wait_until("three warnings", || {
            let stderr = server.program.stderr();
            let warnings = stderr.matches(" exited before it was ready (exit status: 7)\n");
            Ok(warnings.count() >= 3)
        })?;
        same("workers", &old[1..], &server.workers())?;
        served_client(&server)?;
        gates.open(1)?;
        server.wait_for_workers(2)?;
        server.shut_down()
    });

    // The replacements of a worker that dies right after each start begin 50 ms apart.
    suite.rust("crash_loop", |command| {
        let server = Server::start(command, 1)?;
        let (start, mut deaths) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) {
            let worker = server.wait_for_workers(1)?[0];
            signal_to(worker, Signal::SIGKILL)?;
            server.wait_for_death(worker)?;
            deaths += 1;
        }
        let most = start.elapsed().as_millis() / 50 + 2;
        ensure!(deaths > 1 && deaths <= most, "{deaths} deaths");
        server.shut_down()
    });

    // New workers start at once, and so do as many replacements. 50 ms apart, either would take five
    // seconds.
    suite.rust("all_workers_killed", |command| {
        let began = Instant::now();
        let server = Server::start(command, 100)?;
        let old = server.workers();
        for worker in &old {
            signal_to(*worker, Signal::SIGKILL)?;
        }
        server.wait_for_replacements(&old)?;
        let elapsed = began.elapsed();
        ensure!(elapsed < Duration::from_secs(4), "it took {elapsed:?}");
        server.shut_down()
    });

    // `kill` without a number, as an operator types it. The replacement serves while the worker
    // shuts down, with an open upload. The exit is announced at the exit, and starts no second
    // replacement.
    suite.rust("only_worker_terminated", |command| {
        let server = Server::start(command, 1)?;
        let mut upload = server.connect()?;
        upload.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n")?;
        // Then the worker has the upload, too.
        served_client(&server)?;
        let old = server.workers()[0];
        signal_to(old, Signal::SIGTERM)?;
        server.wait_for_workers(2)?;
        // The old one gets none of these.
        drop(served_clients(&server, 10)?);
        upload.send("\r\nthe body.")?;
        last_answer(upload)?;
        server.wait_for_death(old)?;
        thread::sleep(Duration::from_millis(200));
        same("workers", &1, &children(server.program.pid()).len())?;
        served_client(&server)?;
        server.shut_down()
    });

    // Linux adds ` (deleted)` to the path of a program whose file has been replaced. The primary
    // starts its workers from that path.
    suite.on_linux().check("first_worker_never_ready", || {
        let deployed = Deployed::new()?;
        let file = fs::File::open(deployed.path())?;
        deployed.replace_by("exit 7")?;
        let path = deployed.folder.path().join("program (deleted)");
        fs::rename(deployed.path(), path)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.arg0("program").args(["127.0.0.1:0", "1"]);
        let says = " exited before it was ready (exit status: 7)\n";
        run(command)?.failed("cluster-http: worker ", says)
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
