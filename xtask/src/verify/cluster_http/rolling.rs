//! Rolling restarts.

use std::os::unix::fs::symlink;

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("one_by_one", |command| {
        let server = Server::start(command, 2)?;
        let old = server.workers();
        // Each worker holds some of these, and takes its time to shut down.
        let clients = served_clients(&server, 40)?;
        server.program.signal(Signal::SIGHUP)?;
        let primary = server.program.pid();
        wait_until("the workers to be replaced", || {
            let count = children(primary).len();
            ensure!(count <= 3, "{count} workers at a time");
            let replaced = server.program.stderr().matches(" replaced\n").count();
            Ok(replaced == old.len())
        })?;
        drop(clients);
        server.shut_down()
    });

    suite.check("deployment_by_mv", || {
        let deployed = Deployed::new()?;
        let release = |number| deployed.replace_by_itself_after(&format!("echo {number} >&2;"));
        deploys_under_load(&deployed, "./program", release)
    });

    // The old release is removed before the signal.
    suite.check("deployment_by_symlink", || {
        let deployed = Deployed::new()?;
        let folder = deployed.folder.path();
        let release = |number: usize| {
            fs::create_dir(folder.join(number.to_string()))?;
            if number > 0 {
                deployed.replace_by_itself_after(&format!("echo {number} >&2;"))?;
            }
            fs::rename(deployed.path(), folder.join(format!("{number}/program")))?;
            symlink(number.to_string(), folder.join("next"))?;
            fs::rename(folder.join("next"), folder.join("current"))?;
            if number > 0 {
                fs::remove_dir_all(folder.join((number - 1).to_string()))?;
            }
            Ok(())
        };
        release(0)?;
        deploys_under_load(&deployed, "current/program", release)
    });

    suite.check("broken_binary", || {
        old_workers_stay(
            "exec <&-; sleep 0.2; exit 7",
            2,
            "exited before it was ready (exit status: 7)",
        )
    });

    // It is killed after ten seconds.
    suite.check("new_worker_never_ready", || {
        old_workers_stay("exec cat", 1, "was not ready within 10s")
    });

    // The new version serves, and dies when it has been ready for a moment.
    suite.check("new_worker_dies", || {
        let (deployed, server) = Deployed::serve(3)?;
        let old = server.workers();
        let gates = Gates::new()?;
        let dies = format!("{} || (sleep 0.3; kill -9 $$) &", gates.is_open(1));
        deployed.replace_by_itself_after(&dies)?;
        server.program.signal(Signal::SIGHUP)?;
        let stopped = " has died\n";
        server.program.wait_for_stderr(stopped)?;
        gates.open(1)?;
        server.wait_for_workers(3)?;
        let stderr = server.program.stderr();
        same("restarts stopped", &1, &stderr.matches(stopped).count())?;
        let now = server.workers();
        let stay = old.iter().filter(|pid| now.contains(pid));
        same("old workers that stay", &2, &stay.count())?;
        served_client(&server)?;
        server.shut_down()
    });

    // A worker that starts at the signal may be of the old version. A terminal sends the signal to
    // the whole group: it does not reach that worker.
    suite.check("worker_that_starts", || {
        let deployed = Deployed::new()?;
        let mut command = Command::new(deployed.path());
        command.process_group(0);
        let server = Server::start(command, 2)?;
        let gates = Gates::new()?;
        deployed.replace_by_itself_after(&format!("{}; {};", gates.report(1), gates.wait(2)))?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        let starting = gates.reported(1)?;
        deployed.replace_by_itself()?;
        server.program.signal_group(Signal::SIGHUP)?;
        // The primary handles the signal before the death.
        thread::sleep(Duration::from_millis(100));
        gates.open(2)?;
        let replaced = format!("worker {starting} replaced\n");
        server.program.wait_for_stderr(&replaced)?;
        server.wait_for_replacements(&old)?;
        server.shut_down()
    });

    suite.check("death_while_the_new_worker_starts", || {
        let (deployed, server) = Deployed::serve(1)?;
        let gates = Gates::new()?;
        deployed.replace_by(&format!("{}; exec cat", gates.report(1)))?;
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        gates.reported(1)?;
        deployed.replace_by_itself()?;
        signal_to(old[0], Signal::SIGKILL)?;
        let start = Instant::now();
        server.wait_for_replacements(&old)?;
        // The program does not wait for the new worker that is never ready.
        takes_less_than(8, start)?;
        served_client(&server)?;
        server.shut_down()
    });

    // The primary sees both at the same time, in either order.
    suite.check("shutdown_when_the_new_worker_is_ready", || {
        for _ in 0..5 {
            let (deployed, server) = Deployed::serve(1)?;
            let gates = Gates::new()?;
            deployed.replace_by_itself_after(&format!(
                "{}; {};",
                gates.report(1),
                gates.wait(2)
            ))?;
            server.program.signal(Signal::SIGHUP)?;
            let new = gates.reported(1)?;
            server.program.signal(Signal::SIGSTOP)?;
            gates.open(2)?;
            let started = format!("Worker {new} started\n");
            server.program.wait_for_stdout(&started)?;
            let mut client = server.connect()?;
            client.send(GET)?;
            server.program.signal(Signal::SIGTERM)?;
            server.program.signal(Signal::SIGCONT)?;
            same("body", "hello world\n", &client.answer()?.body)?;
            drop(client);
            server.program.finish()?.ended_with_code(0)?;
        }
        Ok(())
    });
}

/// Brings new releases into service. Each says its number on stderr.
fn deploys_under_load(
    deployed: &Deployed,
    path: &str,
    release: impl Fn(usize) -> Result<()>,
) -> Result<()> {
    let mut command = Command::new(path);
    command.current_dir(deployed.folder.path());
    let server = Server::start(command, 2)?;
    let load = Load::start(server.address, 8);
    let (start, mut releases) = (Instant::now(), 0);
    while releases == 0 || start.elapsed() < settings().load {
        releases += 1;
        release(releases)?;
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_replacements(&old)?;
        let stderr = server.program.stderr();
        let new = stderr.lines().filter(|line| *line == releases.to_string());
        same("new workers", &2, &new.count())?;
    }
    let tally = load.stop();
    eprintln!("{releases} deployments: {tally}");
    ensure!(tally.failures.is_empty(), "{tally:?}");
    ensure!(tally.served > releases, "{tally}");
    // The old workers were replaced.
    let stdout = server.program.stdout();
    ensure!(!stdout.contains(" died\n"), "{stdout}");
    server.shut_down()
}

/// A rolling restart to such a program leaves all workers as they are.
fn old_workers_stay(script: &str, workers: usize, says: &str) -> Result<()> {
    let (deployed, server) = Deployed::serve(workers)?;
    deployed.replace_by(script)?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    let stopped = "cluster-http: the rolling restart has stopped: worker ";
    server.program.wait_for_stderr(stopped)?;
    server.program.wait_for_stderr(says)?;
    same("workers", &old, &server.workers())?;
    served_client(&server)?;
    server.shut_down()
}
