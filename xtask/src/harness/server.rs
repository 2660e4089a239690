//! A cluster that serves.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::http::{Client, free_port};
use super::run::{Running, start};
use super::wait::{wait_for, wait_until};

pub struct Server {
    pub program: Running,
    pub address: SocketAddr,
}

impl Server {
    /// Starts the Rust program on a free port of 127.0.0.1.
    pub fn start(command: Command, workers: usize) -> Result<Self> {
        Self::start_on(command, "127.0.0.1:0", workers)
    }

    pub fn start_on(mut command: Command, address: &str, workers: usize) -> Result<Self> {
        command.args([address, &workers.to_string()]);
        let server = Self::listening(start(command)?)?;
        server.wait_for_workers(workers)?;
        Ok(server)
    }

    /// Waits until the Rust program has said where it listens.
    pub fn listening(program: Running) -> Result<Self> {
        let address = program.wait_for_address()?;
        Ok(Self { program, address })
    }

    /// Starts the Rust program, or the one for Node, which does not say its address.
    pub fn start_either(command: Command, workers: usize) -> Result<Self> {
        let server = Self::starting(command, workers)?;
        server.wait_for_workers(workers)?;
        wait_for("the server to listen", || Ok(server.connect().ok()))?;
        Ok(server)
    }

    /// Starts any program on a free port, and does not wait until it listens.
    pub fn starting(mut command: Command, workers: usize) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        command.args([address.to_string(), workers.to_string()]);
        let program = start(command)?;
        Ok(Self { program, address })
    }

    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.address).context("cannot connect")
    }

    pub fn connect_many(&self, count: usize) -> Result<Vec<Client>> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// The workers that have started and neither died nor been replaced, from what the program has
    /// printed.
    pub fn workers(&self) -> Vec<u32> {
        let numbers = |text: &str, before: &str, after: &str| -> Vec<u32> {
            let number = |line: &str| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
            text.lines().filter_map(number).collect()
        };
        let (stdout, stderr) = (self.program.stdout(), self.program.stderr());
        let died = numbers(&stdout, "worker ", " died");
        let replaced = numbers(&stderr, "cluster-http: worker ", " replaced");
        let mut workers = numbers(&stdout, "Worker ", " started");
        workers.retain(|pid| !died.contains(pid) && !replaced.contains(pid));
        workers
    }

    /// Waits until this many workers have started, and returns them.
    pub fn wait_for_workers(&self, count: usize) -> Result<Vec<u32>> {
        self.wait_for(&format!("{count} workers"), |workers| {
            workers.len() == count
        })
    }

    /// Waits until the program has reported the death of a worker.
    pub fn wait_for_death(&self, pid: u32) -> Result<()> {
        self.program
            .wait_for_stdout(&format!("worker {pid} died\n"))
    }

    /// Waits until all of these workers have been replaced, and returns the new ones.
    pub fn wait_for_replacements(&self, old: &[u32]) -> Result<Vec<u32>> {
        self.wait_for("the workers to be replaced", |workers| {
            workers.len() == old.len() && !workers.iter().any(|pid| old.contains(pid))
        })
    }

    fn wait_for(&self, what: &str, there: impl Fn(&[u32]) -> bool) -> Result<Vec<u32>> {
        wait_for(what, || {
            Ok(Some(self.workers()).filter(|workers| there(workers)))
        })
        .with_context(|| format!("{:?} {:?}", self.program.stdout(), self.program.stderr()))
    }

    /// Waits until the program takes no more connections.
    pub fn wait_for_refusal(&self) -> Result<()> {
        wait_until("connections to be refused", || {
            let refused = TcpStream::connect(self.address).err();
            Ok(refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
        })
    }

    /// Ends it, however it ends.
    pub fn stop(self) -> Result<()> {
        self.program.signal(Signal::SIGTERM)?;
        self.program.finish()?;
        Ok(())
    }

    /// Shuts it down as an operator does.
    pub fn shut_down(self) -> Result<()> {
        self.program.signal(Signal::SIGTERM)?;
        self.program.finish()?.ended_with_code(0)
    }
}
