//! The unit tests in the examples, each as a check.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Completion;

use super::suite::Suite;
use crate::harness::programs::{executables, of_examples};
use crate::harness::run::{Output, run};

pub fn checks(suite: &Suite) -> Result<()> {
    for (example, program) in executables(&mut of_examples(&["test", "--no-run"]))? {
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
