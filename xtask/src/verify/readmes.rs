//! Checks that the transcripts in the READMEs are what their commands print.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::check;
use super::run::{run, same};
use crate::programs::{self, EXAMPLES};

pub fn checks() -> Vec<Trial> {
    let of_example =
        |name: &'static str| check(format!("readmes::{name}"), move || transcripts(name));
    EXAMPLES.map(of_example).into()
}

/// Runs the commands of a README's `console` blocks, in the folder of the workspace.
fn transcripts(example: &str) -> Result<()> {
    let readme = fs::read_to_string(programs::root().join(example).join("README.md"))?;
    let blocks = readme.split("```console\n").skip(1);
    let mut commands = 0;
    for block in blocks.filter_map(|block| block.split("```").next()) {
        // A command stands after a `$` at the start of a line, and its output below.
        for step in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            let (expected, printed) = (numbered(expected), numbered(&printed(command)?));
            same(command, expected, printed)?;
            commands += 1;
        }
    }
    ensure!(commands > 0, "it shows no transcript");
    Ok(())
}

/// What a command prints, on both streams.
fn printed(command: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec 2>&1; {command}"));
    shell.current_dir(programs::root()).stdin(Stdio::null());
    let cargo = Path::new(env!("CARGO"))
        .parent()
        .context("cargo's folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", cargo.display()));
    Ok(run(shell)?.stdout())
}

/// The text without what differs from run to run: the cluster's process numbers and port.
fn numbered(text: &str) -> String {
    let varies = |line: &&str| {
        ["Master ", "Worker ", "cluster-http: "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let numbered = |line: &str| match Some(line).filter(varies) {
        Some(line) => line
            .split(|c: char| c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("N"),
        None => line.to_owned(),
    };
    text.trim_end()
        .lines()
        .map(numbered)
        .collect::<Vec<_>>()
        .join("\n")
}
