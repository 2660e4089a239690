//! `cargo xtask verify`: runs the programs as a user does, and looks at their output, how they end,
//! and what they leave running.

mod case;
pub mod cluster_http;
mod copies;
pub mod exec_count;
pub mod fork_ipc;
mod generated;
mod hosts;
mod inherited;
#[path = "../../../fork-ipc/src/inspect.rs"]
mod inspect;
mod readmes;
mod settings;
pub mod spawn_ls;
mod units;
pub mod worker_sum;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::examples::EXAMPLES;
use crate::harness::programs::{self, Runtime};
use crate::harness::run::Sweep;
use crate::verify::settings::settings;

/// Most checks wait for something most of the time.
const THREADS: usize = 12;

/// Builds the programs and runs the checks that `args` select. The arguments are those of libtest.
pub fn main(args: impl Iterator<Item = String>) -> Result<ExitCode> {
    let mut arguments = Arguments::from_iter(["verify".into()].into_iter().chain(args));
    arguments.test_threads.get_or_insert(THREADS);
    // SAFETY: no thread has been started.
    let _sweep = unsafe { Sweep::new()? };
    settings::read()?;
    programs::build(&[])?;
    let checks = checks()?;
    if let Some(filter) = &arguments.filter {
        arguments.filter = Some(select(&checks, filter, arguments.exact)?);
    }
    if arguments.list {
        // `| head` ends a list quietly.
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl)? };
    }
    Ok(libtest_mimic::run(&arguments, checks).exit_code())
}

fn checks() -> Result<Vec<Trial>> {
    let mut checks = units::checks()?;
    // Those that build go first: the other checks run in the meantime.
    checks.push(copies::lint());
    checks.push(hosts::format());
    checks.extend(inherited::checks());
    checks.extend(EXAMPLES.iter().flat_map(|example| (example.checks)()));
    checks.extend(generated::checks());
    checks.extend(readmes::checks());
    checks.extend(copies::checks());
    checks.extend(hosts::checks());
    Ok(checks)
}

/// What a filter selects. With `--exact`, the filter is the whole name of a check. Otherwise it is
/// the start of one group's name, or else a part of checks' names.
///
/// # Errors
///
/// When it selects nothing.
fn select(checks: &[Trial], filter: &str, exact: bool) -> Result<String> {
    let names = || checks.iter().map(Trial::name);
    let groups: BTreeSet<_> = names().filter_map(|name| name.split("::").next()).collect();
    let mut begun = groups.iter().filter(|group| group.starts_with(filter));
    if let (Some(group), None, false) = (begun.next(), begun.next(), exact) {
        return Ok(format!("{group}::"));
    }
    if names().any(|name| name == filter || !exact && name.contains(filter)) {
        return Ok(filter.to_owned());
    }
    let groups: Vec<_> = groups.into_iter().collect();
    let groups = groups.join(", ");
    bail!("no check is called '{filter}'; the groups are {groups}")
}

/// A check that needs only the programs.
fn check(name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(failed))
}

/// A check that is ignored where a runtime is missing.
fn check_with(
    runtime: Runtime,
    name: impl Into<String>,
    check: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let missing = format!("{} is not on the path", runtime.name());
    check_if(runtime.is_there(), missing, name, check)
}

/// A check that is ignored, for the reason given, unless a condition holds.
fn check_if(
    condition: bool,
    reason: impl Into<String>,
    name: impl Into<String>,
    check: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let reason = reason.into();
    Trial::ignorable_test(name, move || {
        if !condition {
            return Ok(Completion::ignored_with(reason));
        }
        check().map_err(failed)?;
        Ok(Completion::Completed)
    })
}

fn failed(error: anyhow::Error) -> Failed {
    if settings().fail_fast {
        eprintln!("{error:#}");
        Sweep::end();
    }
    format!("{error:#}").into()
}
