//! What the system knows about processes.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

use super::wait::wait_until;

pub fn signal_to(pid: u32, signal: Signal) -> Result<()> {
    kill(unistd::Pid::from_raw(i32::try_from(pid)?), signal)
        .with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// The processes that a process has started and not yet reaped.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = Some(Pid::from_u32(pid));
    all(ProcessRefreshKind::nothing())
        .processes()
        .values()
        .filter(|process| process.parent() == parent)
        .map(|process| process.pid().as_u32())
        .collect()
}

/// The processes, except zombies, that have a variable in their environment which starts with this.
/// macOS hides the environment of its own programs, such as `sh`: they are not found there.
pub fn with_variable(start: &str) -> Vec<u32> {
    let environment = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    let has_variable = |process: &&sysinfo::Process| {
        let mut variables = process.environ().iter();
        variables.any(|variable| variable.as_encoded_bytes().starts_with(start.as_bytes()))
    };
    all(environment)
        .processes()
        .values()
        .filter(|process| process.status() != ProcessStatus::Zombie)
        .filter(has_variable)
        .map(|process| process.pid().as_u32())
        .collect()
}

/// The resident set size of a process, in MiB.
pub fn memory(pid: u32) -> Result<f64> {
    let refresh = ProcessRefreshKind::nothing().with_memory();
    let bytes = look(pid, refresh, sysinfo::Process::memory)?;
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// The command line of a process, with its id.
pub fn command_line(pid: u32) -> String {
    let refresh = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    let words = look(pid, refresh, |process| process.cmd().join(" ".as_ref()));
    let words = words.unwrap_or_default();
    format!("'{}' (process {pid})", words.to_string_lossy())
}

/// How long a process has run on a CPU.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let refresh = ProcessRefreshKind::nothing().with_cpu();
    let milliseconds = look(pid, refresh, sysinfo::Process::accumulated_cpu_time)?;
    Ok(Duration::from_millis(milliseconds))
}

/// Whether a process still runs. A zombie does not.
pub fn is_running(pid: u32) -> bool {
    let status = look(pid, ProcessRefreshKind::nothing(), sysinfo::Process::status);
    status.is_ok_and(|status| status != ProcessStatus::Zombie)
}

pub fn wait_until_ended(pid: u32) -> Result<()> {
    wait_until(&format!("process {pid} to end"), || Ok(!is_running(pid)))
}

fn all(refresh: ProcessRefreshKind) -> System {
    let mut system = System::new();
    let refresh = refresh.without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, false, refresh);
    system
}

fn look<T>(pid: u32, refresh: ProcessRefreshKind, what: fn(&sysinfo::Process) -> T) -> Result<T> {
    let mut system = System::new();
    let pid = Pid::from_u32(pid);
    let refresh = refresh.without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, refresh);
    system
        .process(pid)
        .map(what)
        .with_context(|| format!("there is no process {pid}"))
}
