//! A stdout or a stderr that fails does not harm the service.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Result;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::hello;
use super::shutdown::SAME_SIGNAL;
use crate::examples::CLUSTER_HTTP;
use crate::harness::http::{Client, free_port};
use crate::harness::pipes::Pipe;
use crate::harness::processes::{children, signal_to};
use crate::harness::run::{below_a_shell, start_on, start_unread};
use crate::harness::server::Server;
use crate::harness::{same, wait_until};
use crate::verify::case::scenarios;

pub fn checks() -> Vec<Trial> {
    let mut checks = CLUSTER_HTTP.scenarios(
        "output::",
        scenarios![stdout_closed, stdout_full, stderr_full_at_a_second_signal],
    );
    checks.extend(CLUSTER_HTTP.scenarios_if(
        Path::new("/dev/full").exists(),
        "there is no /dev/full",
        "output::",
        scenarios![stdout_on_a_full_disk],
    ));
    checks
}

/// Kills the workers a few times. Each is replaced.
fn serves_on(server: Server) -> Result<()> {
    let primary = server.program.pid();
    for _ in 0..3 {
        let old = wait_until("a worker", || Ok(children(primary).first().copied()))?;
        signal_to(old, Signal::SIGKILL)?;
        wait_until("another worker", || {
            let now = children(primary);
            Ok((now.len() == 1 && now[0] != old).then_some(()))
        })?;
        same("answer", &hello(), &server.connect()?.get()?)?;
    }
    server.shut_down()
}

fn stdout_closed(mut command: Command) -> Result<()> {
    command.args(["127.0.0.1:0", "1"]);
    let (program, mut stdout) = start_unread(command)?;
    for _ in 0..2 {
        stdout.read_line()?;
    }
    stdout.close()?;
    serves_on(Server::listening(program)?)
}

fn stdout_full(mut command: Command) -> Result<()> {
    command.args(["127.0.0.1:0", "1"]);
    let mut pipe = Pipe::new()?;
    pipe.fill()?;
    serves_on(Server::listening(start_on(command, pipe.writer()?)?)?)
}

fn stdout_on_a_full_disk(mut command: Command) -> Result<()> {
    command.args(["127.0.0.1:0", "1"]);
    let disk = File::options().write(true).open("/dev/full")?;
    serves_on(Server::listening(start_on(command, disk)?)?)
}

/// Nobody reads its stderr, and a request is not finished.
fn stderr_full_at_a_second_signal(mut command: Command) -> Result<()> {
    let mut stderr = Pipe::new()?;
    stderr.fill()?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    command.args([&address.to_string(), "1"]);
    let shell = below_a_shell("exec 2>&1 >/dev/null", &command);
    let program = start_on(shell, stderr.writer()?)?;
    let mut client = wait_until("it to serve", || Ok(Client::connect(address).ok()))?;
    same("answer", &hello(), &client.get()?)?;
    client.send("GET / HT")?;
    let server = Server { program, address };
    server.program.signal(Signal::SIGTERM)?;
    server.wait_for_refusal()?;
    thread::sleep(2 * SAME_SIGNAL);
    server.program.signal(Signal::SIGTERM)?;
    server.program.finish()?.ended_with_code(1)
}
