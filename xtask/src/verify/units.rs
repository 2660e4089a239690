//! The unit tests in the examples, each as a check.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Completion;

use super::suite::Suite;
use crate::examples::EXEC_COUNT;
use crate::harness::programs::{executables, of_examples};
use crate::harness::run::{Output, below_a_shell, run, unshared};

pub fn checks(suite: &Suite) -> Result<()> {
    for (example, program) in executables(&mut of_examples(&["test", "--no-run"]))? {
        if example == EXEC_COUNT.name {
            let program = program.clone();
            suite
                .group(&example)
                .where_succeeds(
                    with_busybox("true".as_ref()),
                    "it needs unshare and a busybox",
                )
                .check("unit_tests_with_busybox", move || {
                    let output = run(with_busybox(&program))?;
                    ensure!(output.code() == 0, "{}{}", output.stdout(), output.stderr());
                    Ok(())
                });
        }
        let list = run_tests(&program, &["--list", "--format=terse"])?;
        list.ended_with_code(0)?;
        for test in list.stdout().lines() {
            let test = test
                .strip_suffix(": test")
                .context("an unknown kind of test")?;
            let name = test.replace("tests::", "");
            let (program, test) = (program.clone(), test.to_owned());
            let place = format!("the unit tests of {example}");
            suite
                .group(&example)
                .add(place, name, move || run_test(&program, &test));
        }
    }
    Ok(())
}

fn run_test(program: &Path, test: &str) -> Result<Completion> {
    let output = run_tests(program, &["--exact", test])?;
    let stdout = output.stdout();
    if let Some((_, reason)) = stdout.split_once("... ignored, ") {
        let reason = reason.lines().next().unwrap_or("");
        return Ok(Completion::ignored_with(reason));
    }
    // A panic is in this output, with the file and the line.
    ensure!(
        output.code() == 0 && stdout.contains("ok. 1 passed;"),
        "{stdout}{}",
        output.stderr()
    );
    Ok(Completion::Completed)
}

fn run_tests(program: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    run(command.args(args).stdin(Stdio::null()))
}

/// A program for which `/bin/sh` is busybox, as on Alpine.
fn with_busybox(program: &Path) -> Command {
    let mut command = Command::new(program);
    let mount = "mount --bind \"$(command -v busybox)\" /bin/sh";
    unshared(
        &["--mount"],
        &below_a_shell(mount, command.arg("--test-threads=2")),
    )
}
