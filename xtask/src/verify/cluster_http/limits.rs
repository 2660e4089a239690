//! Descriptors and other limits.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::{Deployed, hello};
use crate::examples::CLUSTER_HTTP;
use crate::harness::processes::signal_to;
use crate::harness::run::{below_a_shell, run, waits_without_cpu};
use crate::harness::server::Server;
use crate::harness::{same, wait_until};
use crate::verify::case::scenarios;
use crate::verify::inherited::{block_signals, ignore_sigchld};

pub fn checks() -> Vec<Trial> {
    let mut checks = CLUSTER_HTTP.scenarios(
        "limits::",
        scenarios![
            too_few_descriptors_to_start,
            sigchld_ignored,
            signals_blocked,
            hangup_ignored,
            interrupt_ignored,
        ],
    );
    checks.extend(CLUSTER_HTTP.scenarios_on_linux(
        "limits::",
        scenarios![
            limit_of_descriptors_raised,
            out_of_descriptors,
            nothing_leaks_below_a_worker,
        ],
    ));
    checks
}

fn limit_of_descriptors_raised(command: Command) -> Result<()> {
    let server = Server::start(below_a_shell("ulimit -S -n 64", &command), 1)?;
    for pid in [server.program.pid(), server.workers()[0]] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let mut words = line.context("the limit")?.split_whitespace().skip(3);
        let (soft, hard) = (words.next(), words.next());
        same("soft and hard limit", &hard, &soft)?;
    }
    server.shut_down()
}

fn too_few_descriptors_to_start(command: Command) -> Result<()> {
    let output = run(below_a_shell("exec 3>&-; ulimit -n 4", &command))?;
    let says = "cluster-http: cannot start the async runtime: Too many open files (os error 24)\n";
    output.ended_with(says, 1)
}

/// It pauses, and goes on when connections are closed.
fn out_of_descriptors(command: Command) -> Result<()> {
    let server = Server::start(below_a_shell("ulimit -n 40", &command), 1)?;
    let worker = server.workers()[0];
    let clients = (0..60)
        .map(|_| server.connect())
        .collect::<Result<Vec<_>>>()?;
    wait_until("the worker to have as many descriptors as it can", || {
        let descriptors = fs::read_dir(format!("/proc/{worker}/fd"))?.count();
        Ok((descriptors >= 40).then_some(()))
    })?;
    waits_without_cpu(worker)?;
    waits_without_cpu(server.program.pid())?;
    same("workers", &vec![worker], &server.workers())?;
    drop(clients);
    same("answer", &hello(), &server.connect()?.get()?)?;
    same("workers", &vec![worker], &server.workers())?;
    server.shut_down()
}

/// A worker's children inherit none of its sockets.
fn nothing_leaks_below_a_worker(command: Command) -> Result<()> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let server = Server::start(command, 1)?;
    let mut client = server.connect()?;
    same("answer", &hello(), &client.get()?)?;
    let worker = server.workers()[0];
    for file in fs::read_dir(format!("/proc/{worker}/fdinfo"))? {
        let file = file?;
        let number = file.file_name().to_string_lossy().into_owned();
        let info = fs::read_to_string(file.path())?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.context("its flags")?.trim(), 8)?;
        let link = fs::read_link(format!("/proc/{worker}/fd/{number}"))?;
        let is_socket = link.to_string_lossy().starts_with("socket:");
        ensure!(
            !is_socket || flags & CLOSE_ON_EXEC != 0,
            "socket {number} is inherited"
        );
    }
    server.shut_down()
}

/// The primary gets the exit status of a worker all the same.
fn sigchld_ignored(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let mut command = deployed.command();
    ignore_sigchld(&mut command);
    let server = Server::start(command, 1)?;
    deployed.replace_by("exit 7")?;
    server.program.signal(Signal::SIGHUP)?;
    server
        .program
        .wait_for_stderr("exited before it was ready (exit status: 7)")?;
    server.shut_down()
}

fn signals_blocked(mut command: Command) -> Result<()> {
    block_signals(&mut command);
    let server = Server::start(command, 1)?;
    let old = server.workers();
    signal_to(old[0], Signal::SIGKILL)?;
    server.wait_for_replacements(&old)?;
    same("answer", &hello(), &server.connect()?.get()?)?;
    server.shut_down()
}

/// As by `nohup`.
fn hangup_ignored(command: Command) -> Result<()> {
    is_ignored("HUP", Signal::SIGHUP, &command)
}

/// As by a shell's `&`.
fn interrupt_ignored(command: Command) -> Result<()> {
    is_ignored("INT", Signal::SIGINT, &command)
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
    let status = fs::read_to_string(format!("/proc/{}/status", server.program.pid()))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = u64::from_str_radix(pending.context("its signals")?.trim(), 16)?;
    ensure!(
        pending & (1 << (signal as i32 - 1)) != 0,
        "it is not blocked"
    );
    server.shut_down()
}
