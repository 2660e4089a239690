//! The unit tests in the examples, each as a check.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};

use super::failed;
use crate::harness::programs::{executables, of_examples};
use crate::harness::run::{Output, run};

pub fn checks() -> Result<Vec<Trial>> {
    let mut checks = Vec::new();
    for (example, program) in executables(&mut of_examples(&["test", "--no-run"]))? {
        let list = run_tests(&program, &["--list", "--format=terse"])?;
        list.ended_with_code(0)?;
        for test in list.stdout().lines() {
            let test = test
                .strip_suffix(": test")
                .context("an unknown kind of test")?;
            let name = format!("{example}::{}", test.replace("tests::", ""));
            let (program, test) = (program.clone(), test.to_owned());
            checks.push(Trial::ignorable_test(name, move || {
                run_test(&program, &test).map_err(failed)
            }));
        }
    }
    Ok(checks)
}

fn run_test(program: &Path, test: &str) -> Result<Completion> {
    let output = run_tests(program, &["--exact", test])?;
    output.ended_with_code(0)?;
    let stdout = output.stdout();
    if let Some((_, reason)) = stdout.split_once("... ignored, ") {
        return Ok(Completion::ignored_with(
            reason.lines().next().unwrap_or(""),
        ));
    }
    ensure!(stdout.contains("ok. 1 passed;"), "{stdout}");
    Ok(Completion::Completed)
}

fn run_tests(program: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    run(command)
}
