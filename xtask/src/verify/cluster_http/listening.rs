//! Where it listens, and when it cannot.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::hello;
use crate::examples::CLUSTER_HTTP;
use crate::harness::http::Client;
use crate::harness::run::{run, start};
use crate::harness::server::Server;
use crate::harness::{same, wait_until};
use crate::verify::case::{checks_of, scenarios};

pub fn checks() -> Vec<Trial> {
    let refused = |name: &str, args: &[&str], says: &str| {
        let case = CLUSTER_HTTP.case(&format!("listening::{name}"), args);
        case.stderr(format!("cluster-http: {says}\n"))
            .code(1)
            .rust_only()
    };
    let unavailable = io::Error::from(Errno::EADDRNOTAVAIL);
    let mut checks = checks_of([
        refused(
            "address_without_port",
            &["localhost"],
            "cannot listen on localhost: invalid socket address: write host:port, such as \
             127.0.0.1:3000, or a port alone",
        ),
        refused(
            "no_workers",
            &["127.0.0.1:0", "0"],
            "WORKERS is '0', which is not a whole number from 1 to 1024",
        ),
        refused(
            "workers_not_a_number",
            &["127.0.0.1:0", "two"],
            "WORKERS is 'two', which is not a whole number from 1 to 1024",
        ),
        refused(
            "three_arguments",
            &["127.0.0.1:0", "1", "2"],
            "too many arguments: see --help",
        ),
        refused(
            "address_of_another_machine",
            &["192.0.2.1:0"],
            &format!("cannot listen on 192.0.2.1:0: {}", unavailable),
        ),
    ]);
    checks.extend(CLUSTER_HTTP.scenarios(
        "listening::",
        scenarios![
            worker_for_each_cpu,
            given_address_only,
            host_name,
            ipv6_address_without_port,
            port_taken,
            port_taken_by_another_copy,
            port_free_again_at_once,
            default_port,
        ],
    ));
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    checks.extend(CLUSTER_HTTP.scenarios_if(
        has_ipv6,
        "there is no IPv6",
        "listening::",
        scenarios![every_address, port_alone],
    ));
    checks
}

fn worker_for_each_cpu(mut command: Command) -> Result<()> {
    command.arg("127.0.0.1:0");
    let server = Server::listening(start(command)?)?;
    server.wait_for_workers(thread::available_parallelism()?.get())?;
    server.shut_down()
}

fn answers_everywhere(server: Server) -> Result<()> {
    let url = format!("listening on http://localhost:{}/\n", server.address.port());
    server.program.wait_for_stderr(&url)?;
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let mut client = Client::connect((ip, server.address.port()).into())?;
        same(&format!("answer at {ip}"), &hello(), &client.get()?)?;
    }
    server.shut_down()
}

fn every_address(command: Command) -> Result<()> {
    answers_everywhere(Server::start_on(command, "[::]:0", 2)?)
}

fn port_alone(_: Command) -> Result<()> {
    for address in ["0", ":0"] {
        answers_everywhere(Server::start_on(CLUSTER_HTTP.rust_command(), address, 1)?)?;
    }
    Ok(())
}

fn given_address_only(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let elsewhere = (Ipv6Addr::LOCALHOST, server.address.port());
    ensure!(
        TcpStream::connect(elsewhere).is_err(),
        "it answers at {elsewhere:?}"
    );
    server.shut_down()
}

fn host_name(command: Command) -> Result<()> {
    let server = Server::start_on(command, "localhost:0", 1)?;
    ensure!(server.address.ip().is_loopback(), "{}", server.address);
    same("answer", &hello(), &server.connect()?.get()?)?;
    server.shut_down()
}

/// Not a port alone.
fn ipv6_address_without_port(mut command: Command) -> Result<()> {
    command.arg("::1");
    let output = run(command)?;
    let stderr = output.stderr();
    let hint = ": write host:port, such as 127.0.0.1:3000, or a port alone\n";
    ensure!(
        stderr.starts_with("cluster-http: cannot listen on ::1: ") && stderr.ends_with(hint),
        "{stderr:?}"
    );
    output.ended_with_code(1)
}

fn port_taken(command: Command) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    cannot_listen(command, taken.local_addr()?)
}

fn port_taken_by_another_copy(command: Command) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.rust_command(), 2)?;
    cannot_listen(command, server.address)?;
    server.shut_down()
}

fn cannot_listen(mut command: Command, address: SocketAddr) -> Result<()> {
    command.arg(address.to_string());
    let output = run(command)?;
    same("stdout", "", &output.stdout()[..])?;
    let error = io::Error::from(Errno::EADDRINUSE);
    let stderr = format!("cluster-http: cannot listen on {address}: {error}\n");
    output.ended_with(&stderr, 1)
}

/// The server's closed connections are in TIME_WAIT, which does not block the port.
fn port_free_again_at_once(command: Command) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.rust_command(), 1)?;
    let mut idle = server.connect()?;
    same("answer", &hello(), &idle.get()?)?;
    let address = server.address;
    server.program.signal(Signal::SIGTERM)?;
    ensure!(idle.is_closed(), "the idle connection stays open");
    drop(idle);
    server.program.finish()?.ended_with_code(0)?;
    Server::start_on(command, &address.to_string(), 1)?.shut_down()
}

/// Where another program has port 8000, it says that.
fn default_port(command: Command) -> Result<()> {
    let program = start(command)?;
    let serves = wait_until("the default port to be named", || {
        let stderr = program.stderr();
        let serves = stderr.contains("listening on http://localhost:8000/\n");
        let taken = stderr.contains("cannot listen on 8000: Address already in use");
        Ok((serves || taken).then_some(serves))
    })?;
    if serves {
        program.signal(Signal::SIGTERM)?;
    }
    program.finish()?.ended_with_code(i32::from(!serves))
}
