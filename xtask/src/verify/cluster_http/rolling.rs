//! Rolling restarts.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::{Deployed, get_until_last, hello, last_hello};
use crate::examples::CLUSTER_HTTP;
use crate::harness::gate::Gates;
use crate::harness::http::{Load, Tally};
use crate::harness::processes::{children, signal_to};
use crate::harness::run::start;
use crate::harness::server::Server;
use crate::harness::{same, wait_until};
use crate::verify::case::scenarios;
use crate::verify::settings::settings;

pub fn checks() -> Vec<Trial> {
    CLUSTER_HTTP.scenarios(
        "rolling::",
        scenarios![
            under_load,
            one_by_one,
            new_binary,
            broken_binary,
            new_worker_closes_its_socket,
            new_worker_never_ready,
            death_while_the_new_worker_starts,
            hangup_of_the_terminal,
            hangup_right_after_the_first_line,
        ],
    )
}

fn under_load(command: Command) -> Result<()> {
    let server = Server::start(command, 2)?;
    let load = Load::start(server.address, 8);
    let start = Instant::now();
    let mut restarts = 0;
    while start.elapsed() < settings().storm {
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_replacements(&old)?;
        restarts += 1;
    }
    let Tally {
        served,
        failures,
        slowest,
    } = load.stop();
    let failed = failures.len();
    eprintln!(
        "{restarts} rolling restarts: {served} served, {failed} failed, the slowest took {slowest:?}"
    );
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(served > restarts, "only {served} served");
    server.shut_down()
}

fn one_by_one(command: Command) -> Result<()> {
    let server = Server::start(command, 2)?;
    let old = server.workers();
    // Each worker holds some of these, and takes its time to shut down.
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = server.connect()?;
        same("answer", &hello(), &client.get()?)?;
        clients.push(client);
    }
    server.program.signal(Signal::SIGHUP)?;
    let primary = server.program.pid();
    wait_until("the workers to be replaced", || {
        let count = children(primary).len();
        ensure!(count <= 3, "{count} workers at a time");
        let replaced = server.program.stderr().matches(" replaced\n").count();
        Ok((replaced == old.len()).then_some(()))
    })?;
    drop(clients);
    server.shut_down()
}

fn new_binary(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(deployed.command(), 2)?;
    let real = CLUSTER_HTTP.program().display();
    deployed.replace_by(&format!("echo new >&2; exec {real} \"$@\""))?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    server.wait_for_replacements(&old)?;
    let stderr = server.program.stderr();
    same(
        "new workers",
        &2,
        &stderr.lines().filter(|line| *line == "new").count(),
    )?;
    for pid in &old {
        // They did not die: they were replaced.
        ensure!(
            !server
                .program
                .stdout()
                .contains(&format!("worker {pid} died"))
        );
    }
    same("answer", &hello(), &server.connect()?.get()?)?;
    server.shut_down()
}

fn broken_binary(_: Command) -> Result<()> {
    old_workers_stay("exit 7", 2, "exited before it was ready (exit status: 7)")
}

/// It is never ready, and does not end by itself.
fn new_worker_closes_its_socket(_: Command) -> Result<()> {
    old_workers_stay(
        "exec </dev/null; exec sleep 1000",
        1,
        "exited before it was ready (signal: 9",
    )
}

/// It is killed after ten seconds.
fn new_worker_never_ready(_: Command) -> Result<()> {
    old_workers_stay("exec cat", 1, "was not ready within 10s")
}

/// A rolling restart to such a program leaves all workers as they are.
fn old_workers_stay(script: &str, workers: usize, says: &str) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(deployed.command(), workers)?;
    deployed.replace_by(script)?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    for pid in &old {
        server
            .program
            .wait_for_stderr(&format!("; worker {pid} stays\n"))?;
    }
    ensure!(
        server.program.stderr().contains(says),
        "{:?}",
        server.program.stderr()
    );
    same("workers", &old, &server.workers())?;
    same("answer", &hello(), &server.connect()?.get()?)?;
    server.shut_down()
}

fn death_while_the_new_worker_starts(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(deployed.command(), 1)?;
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
    ensure!(
        start.elapsed().as_secs() < 8,
        "it took {:?}",
        start.elapsed()
    );
    same("answer", &hello(), &server.connect()?.get()?)?;
    server.shut_down()
}

/// A terminal sends the signal to the whole group, also while a worker starts.
fn hangup_of_the_terminal(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let mut command = deployed.command();
    command.process_group(0);
    let server = Server::start(command, 1)?;
    let gates = Gates::new()?;
    let real = CLUSTER_HTTP.program().display();
    let script = format!("{}; {}; exec {real} \"$@\"", gates.report(1), gates.wait(2));
    deployed.replace_by(&script)?;
    let mut client = server.connect()?;
    same("answer", &hello(), &client.get()?)?;
    let old = server.workers();
    server.program.signal_group(Signal::SIGHUP)?;
    let starting = gates.reported(1)?;
    server.program.signal_group(Signal::SIGHUP)?;
    gates.open(2)?;
    server
        .program
        .wait_for_stdout(&format!("Worker {starting} started\n"))?;
    same("answer", &last_hello(), &get_until_last(&mut client)?)?;
    drop(client);
    server
        .program
        .wait_for_stderr(&format!("worker {} replaced\n", old[0]))?;
    server.shut_down()
}

fn hangup_right_after_the_first_line(_: Command) -> Result<()> {
    for _ in 0..10 {
        let mut command = CLUSTER_HTTP.rust_command();
        command.args(["127.0.0.1:0", "1"]);
        let program = start(command)?;
        program.wait_for_stdout("is running\n")?;
        program.signal(Signal::SIGHUP)?;
        let server = Server::listening(program)?;
        same("status", &200, &server.connect()?.get()?.status)?;
        server.shut_down()?;
    }
    Ok(())
}
