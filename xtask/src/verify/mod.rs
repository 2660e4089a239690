//! `cargo xtask verify`: runs the programs as a user does, and looks at their output, how they end,
//! and what they leave running.

mod cases;
mod cluster_http;
mod copies;
mod exec_count;
mod fork_ipc;
mod generated;
mod hosts;
mod inherited;
#[path = "../../../fork-ipc/src/inspect.rs"]
mod inspect;
mod prelude;
mod readmes;
mod redis_jobs;
mod settings;
mod spawn_ls;
mod suite;
mod units;
mod worker_sum;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::examples::{CLUSTER_HTTP, EXAMPLES, EXEC_COUNT, FORK_IPC, SPAWN_LS, WORKER_SUM};
use crate::harness::programs;
use crate::harness::run::Sweep;
use suite::Suite;

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
    let suite = Suite::default();
    register(&suite)?;
    let checks = suite.checks();
    if let Some(filter) = &arguments.filter {
        arguments.filter = Some(select(&checks, filter, arguments.exact)?);
    }
    if arguments.list {
        // `| head` ends a list quietly.
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl)? };
    }
    let conclusion = libtest_mimic::run(&arguments, checks);
    let of_node = suite::passed_with_node_only();
    if of_node > 0 {
        let passed = conclusion.num_passed;
        eprintln!("{of_node} of the {passed} that passed ran only Node's program, to compare with");
    }
    Ok(conclusion.exit_code())
}

fn register(suite: &Suite) -> Result<()> {
    units::checks(suite)?;
    // Those that build go first: the other checks run in the meantime.
    copies::lint(&suite.group("copies"));
    hosts::format(&suite.group("hosts"));
    inherited::checks(suite);
    for example in EXAMPLES {
        cases::checks(&suite.example(*example))?;
    }
    spawn_ls::checks(&suite.example(SPAWN_LS));
    exec_count::checks(&suite.example(EXEC_COUNT));
    fork_ipc::checks(&suite.example(FORK_IPC));
    cluster_http::checks(&suite.example(CLUSTER_HTTP));
    worker_sum::checks(&suite.example(WORKER_SUM));
    generated::checks(suite);
    readmes::checks(&suite.group("readmes"));
    copies::checks(&suite.group("copies"));
    hosts::checks(&suite.group("hosts"));
    redis_jobs::checks(&suite.group("hosts").group("redis_jobs"));
    Ok(())
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
