//! `cargo xtask host`: builds and runs a host program. Host programs are of the kind that people
//! paste the files to copy into.

use std::fs;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::copy::{copy, doc_comment, first_sentence};
use crate::examples::files;
use crate::harness::packages::{cargo_in, mirror, package};
use crate::harness::programs::{executables, root};

/// The package of the host programs.
const PACKAGE: &str = "xtask/hosts";

pub fn main(mut args: impl Iterator<Item = String>) -> Result<ExitCode> {
    let hosts = hosts()?;
    let Some(name) = args.next() else {
        for (name, what) in hosts {
            writeln!(stdout(), "{name:14}{what}")?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    if !hosts.iter().any(|(host, _)| *host == name) {
        bail!("there is no '{name}'; `cargo xtask host` lists the host programs");
    }
    let mut cargo = cargo_in(&lay_out()?)?;
    cargo.args(["build", "--bin", &name]);
    if !stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    let programs = executables(&mut cargo)?;
    let program = programs.get(&name).context("cargo has not built it")?;
    // The program replaces this process, so that signals reach it.
    Err(Command::new(program).args(args).exec()).context("cannot start it")
}

/// The package of the host programs, with the files copied into it.
pub fn lay_out() -> Result<PathBuf> {
    package("hosts", &format!("{PACKAGE}/Cargo.lock"), |folder| {
        mirror(&root().join(PACKAGE), folder)?;
        copy(&files().collect::<Vec<_>>(), folder)
    })
}

/// The names of the host programs, each with the first sentence of its comment.
pub fn hosts() -> Result<Vec<(String, String)>> {
    let mut hosts = Vec::new();
    for entry in fs::read_dir(root().join(PACKAGE).join("src/bin"))? {
        let path = entry?.path();
        if path.extension() == Some("rs".as_ref()) {
            let name = path.file_stem().unwrap_or_default();
            let what = first_sentence(&doc_comment(&path)?);
            hosts.push((name.to_string_lossy().into_owned(), what));
        }
    }
    hosts.sort();
    Ok(hosts)
}
