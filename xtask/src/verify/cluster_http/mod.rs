//! The checks of cluster-http, by subject.

mod http;
mod limits;
mod listening;
mod output;
mod restarts;
mod rolling;
mod round_robin;
mod shutdown;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::examples::CLUSTER_HTTP;
use crate::harness::http::{Answer, Client};
use crate::harness::run::run;
use crate::harness::wait_until;

pub fn checks() -> Vec<Trial> {
    let mut checks = vec![CLUSTER_HTTP.help(
        "Usage: cluster-http [ADDR [WORKERS]]",
        "every address, port 8000; one worker for each CPU",
    )];
    checks.extend(http::checks());
    checks.extend(listening::checks());
    checks.extend(round_robin::checks());
    checks.extend(restarts::checks());
    checks.extend(shutdown::checks());
    checks.extend(rolling::checks());
    checks.extend(output::checks());
    checks.extend(limits::checks());
    checks
}

fn hello() -> Answer {
    Answer {
        status: 200,
        closes: false,
        body: "hello world\n".into(),
    }
}

/// The answer after which the connection is closed.
fn last_hello() -> Answer {
    Answer {
        closes: true,
        ..hello()
    }
}

/// Asks until an answer says that it is the last.
fn get_until_last(client: &mut Client) -> Result<Answer> {
    wait_until("the last answer", || {
        let answer = client.get()?;
        Ok(answer.closes.then_some(answer))
    })
}

/// The program in a folder of its own, where it can be replaced.
struct Deployed {
    folder: TempDir,
}

impl Deployed {
    fn new() -> Result<Self> {
        // A hard link needs the same file system.
        let beside = CLUSTER_HTTP.program().parent().context("its folder")?;
        let folder = TempDir::new_in(beside)?;
        let deployed = Self { folder };
        deployed.replace_by_itself()?;
        Ok(deployed)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn command(&self) -> Command {
        Command::new(self.path())
    }

    fn replace_by_itself(&self) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::hard_link(CLUSTER_HTTP.program(), &new)?;
        Ok(fs::rename(new, self.path())?)
    }

    /// Replaces the program by a shell script. Another process writes it: a child of another check
    /// could hold this process's descriptor between fork and exec, and a file open for writing cannot
    /// be run.
    fn replace_by(&self, script: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "echo \"$1\" > new; chmod +x new; mv new program",
            "sh",
        ]);
        shell
            .arg(format!("#!/bin/sh\n{script}"))
            .current_dir(self.folder.path());
        run(shell)?.ended_with("", 0)
    }
}
