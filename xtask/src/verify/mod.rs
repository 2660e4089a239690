//! `cargo xtask verify`: runs the programs as a user does, and looks at what they print,
//! how they end and what they leave running.

mod case;
pub mod client;
mod cluster_http;
mod copies;
mod exec_count;
pub mod fork_ipc;
mod generated;
mod readmes;
pub mod run;
mod server;
mod settings;
mod spawn_ls;
mod worker_sum;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::programs::{self, Runtime};

/// Most checks wait for something most of the time.
const THREADS: usize = 8;

/// Builds the programs and runs the checks that `args`, which are libtest's, select.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let mut arguments = Arguments::from_iter(std::iter::once("verify".into()).chain(args));
    arguments.test_threads.get_or_insert(THREADS);
    run_checks(&arguments).unwrap_or_else(|error| {
        eprintln!("verify: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_checks(arguments: &Arguments) -> Result<ExitCode> {
    // SAFETY: no thread has been started.
    let _sweep = unsafe { run::Sweep::new()? };
    settings::read()?;
    if arguments.list {
        // `| head` ends a list quietly.
        // SAFETY: the default has no code of ours to run.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl)? };
    } else {
        programs::build(&[])?;
    }
    let checks = [
        spawn_ls::checks(),
        exec_count::checks(),
        fork_ipc::checks(),
        cluster_http::checks(),
        worker_sum::checks(),
        generated::checks(),
        copies::checks(),
        readmes::checks(),
    ];
    let checks = checks.into_iter().flatten().collect();
    Ok(libtest_mimic::run(arguments, checks).exit_code())
}

/// A check that needs nothing but the programs.
fn check(name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(failed))
}

/// A check that is left out where a runtime is missing.
fn check_with(
    runtime: Runtime,
    name: impl Into<String>,
    check: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if !runtime.is_there() {
            let why = format!("{} is not on the path", runtime.name());
            return Ok(Completion::ignored_with(why));
        }
        check().map_err(failed)?;
        Ok(Completion::Completed)
    })
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}
