//! A cluster that serves, for the checks of cluster-http.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::client::{Answer, Client, free_port};
use super::run::{Running, start, wait_until};
use crate::programs;

/// A cluster that serves.
pub struct Server {
    pub program: Running,
    pub address: SocketAddr,
}

impl Server {
    /// Starts the port on a free port of 127.0.0.1.
    pub fn start(command: Command, workers: usize) -> Result<Self> {
        Self::start_on(command, "127.0.0.1:0", workers)
    }

    pub fn start_on(mut command: Command, address: &str, workers: usize) -> Result<Self> {
        command.args([address, &workers.to_string()]);
        let server = Self::of(start(command)?)?;
        server.wait_for_workers(workers)?;
        Ok(server)
    }

    /// Waits until the port has said where it listens.
    pub fn of(program: Running) -> Result<Self> {
        let url = wait_until("the program to listen", || {
            let stderr = program.stderr();
            let url = stderr.split_once("listening on http://");
            let url = url.and_then(|(_, rest)| rest.split_once('/'));
            if url.is_none() && !program.is_running()? {
                bail!("it ended: {stderr}");
            }
            Ok(url.map(|(address, _)| address.to_owned()))
        })?;
        let address = url.replace("localhost", "127.0.0.1").parse()?;
        Ok(Self { program, address })
    }

    /// Starts the port or Node's program, which does not tell its address.
    pub fn start_either(mut command: Command, workers: usize) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        command.args([address.to_string(), workers.to_string()]);
        let server = Self {
            program: start(command)?,
            address,
        };
        server.wait_for_workers(workers)?;
        wait_until("the server to answer", || {
            Ok(TcpStream::connect(address).ok())
        })?;
        Ok(server)
    }

    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.address).context("cannot connect")
    }

    /// The workers that have said that they started, and have not been said to have died.
    pub fn workers(&self) -> Vec<u32> {
        let stdout = self.program.stdout();
        let number = |line: &str, before: &str, after: &str| {
            line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
        };
        let mut workers = Vec::new();
        for line in stdout.lines() {
            workers.extend(number(line, "Worker ", " started"));
            let died: Option<u32> = number(line, "worker ", " died");
            workers.retain(|pid| Some(*pid) != died);
        }
        workers
    }

    /// Waits until so many workers are up, and returns them.
    pub fn wait_for_workers(&self, count: usize) -> Result<Vec<u32>> {
        wait_until(&format!("{count} workers to be up"), || {
            let workers = self.workers();
            Ok((workers.len() == count).then_some(workers))
        })
        .with_context(|| format!("{:?} {:?}", self.program.stdout(), self.program.stderr()))
    }

    /// Waits until none of these workers is among as many others.
    pub fn wait_for_successors(&self, old: &[u32]) -> Result<Vec<u32>> {
        wait_until("the workers to be replaced", || {
            let workers = self.workers();
            let all_new = !workers.iter().any(|pid| old.contains(pid));
            Ok((all_new && workers.len() == old.len()).then_some(workers))
        })
        .with_context(|| format!("{:?} {:?}", self.program.stdout(), self.program.stderr()))
    }

    /// Waits until no connection is taken any more.
    pub fn wait_for_refusal(&self) -> Result<()> {
        wait_until("connections to be refused", || {
            match TcpStream::connect(self.address) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Some(())),
                _ => Ok(None),
            }
        })
    }

    /// Ends it, Node's too, which does not drain.
    pub fn stop(self) -> Result<()> {
        self.program.signal(Signal::SIGTERM)?;
        self.program.finish()?;
        Ok(())
    }

    /// Ends it as an operator would.
    pub fn end(self) -> Result<()> {
        self.program.signal(Signal::SIGTERM)?;
        self.program.finish()?.ended_with_status(0)
    }
}

pub fn hello() -> Answer {
    Answer {
        status: 200,
        closes: false,
        body: "hello world\n".into(),
    }
}

pub fn last_hello() -> Answer {
    Answer {
        closes: true,
        ..hello()
    }
}

/// Asks until an answer says that it is the last.
pub fn get_until_last(client: &mut Client) -> Result<Answer> {
    wait_until("the last answer", || {
        let answer = client.get()?;
        Ok(answer.closes.then_some(answer))
    })
}

/// The program in a place of its own, where it can be replaced.
pub struct Deployed {
    pub folder: TempDir,
}

impl Deployed {
    pub fn new() -> Result<Self> {
        let example = programs::example("cluster-http");
        let folder = TempDir::new_in(example.parent().context("its folder")?)?;
        let deployed = Self { folder };
        deployed.replace_by_itself()?;
        Ok(deployed)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    pub fn replace_by_itself(&self) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::hard_link(programs::example("cluster-http"), &new)?;
        Ok(fs::rename(new, self.path())?)
    }

    /// By another process: what this one has open for writing cannot be started as long as
    /// any program that is being started meanwhile has it open, too.
    pub fn replace_by(&self, script: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "echo \"$1\" > new; chmod +x new; mv new program",
            "sh",
        ]);
        shell.arg(format!("#!/bin/sh\n{script}"));
        let status = shell.current_dir(self.folder.path()).status()?;
        ensure!(status.success(), "cannot write the script");
        Ok(())
    }
}
