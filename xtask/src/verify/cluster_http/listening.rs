//! Where it listens, and when it cannot.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use nix::errno::Errno;

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("worker_for_each_cpu", |mut command| {
        command.arg("127.0.0.1:0");
        let server = Server::listening(start(command)?)?;
        server.wait_for_workers(thread::available_parallelism()?.get())?;
        server.shut_down()
    });

    suite.rust("given_address_only", |command| {
        let server = Server::start(command, 1)?;
        let elsewhere = (Ipv6Addr::LOCALHOST, server.address.port());
        ensure!(
            TcpStream::connect(elsewhere).is_err(),
            "it answers at {elsewhere:?}"
        );
        server.shut_down()
    });

    suite.rust("host_name", |command| {
        let server = Server::start_on(command, "localhost:0", 1)?;
        ensure!(server.address.ip().is_loopback(), "{}", server.address);
        served_client(&server)?;
        server.shut_down()
    });

    suite.rust("port_taken", |command| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        cannot_listen(command, taken.local_addr()?)
    });

    suite.rust("port_taken_by_another_copy", |command| {
        let server = Server::start(CLUSTER_HTTP.rust_command(), 2)?;
        cannot_listen(command, server.address)?;
        server.shut_down()
    });

    // The server's closed connections are in TIME_WAIT, which does not block the port.
    suite.rust("port_free_again_at_once", |command| {
        let server = Server::start(CLUSTER_HTTP.rust_command(), 1)?;
        let mut idle = served_client(&server)?;
        let address = server.address;
        server.program.signal(Signal::SIGTERM)?;
        ensure!(idle.is_closed(), "the idle connection stays open");
        drop(idle);
        server.program.finish()?.ended_with_code(0)?;
        Server::start_on(command, &address.to_string(), 1)?.shut_down()
    });

    // Where another program has port 8000, it says that.
    suite.rust("default_port", |command| {
        let program = start(command)?;
        let serves = wait_for("the default port to be named", || {
            let stderr = program.stderr();
            let serves = stderr.contains("listening on http://localhost:8000/\n");
            let taken = stderr.contains("cannot listen on 8000: Address already in use");
            Ok((serves || taken).then_some(serves))
        })?;
        if serves {
            program.signal(Signal::SIGTERM)?;
        }
        program.finish()?.ended_with_code(i32::from(!serves))
    });

    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    suite
        .only_if(has_ipv6, "there is no IPv6")
        .rust("every_address", |command| {
            answers_everywhere(command, "[::]:0")
        });

    suite
        .only_if(has_ipv6, "there is no IPv6")
        .rust("port_alone", |command| answers_everywhere(command, "0"));

    suite
        .only_if(has_ipv6, "there is no IPv6")
        .rust("port_after_a_colon", |command| {
            answers_everywhere(command, ":0")
        });
}

fn answers_everywhere(command: Command, address: &str) -> Result<()> {
    let server = Server::start_on(command, address, 2)?;
    let url = format!("listening on http://localhost:{}/\n", server.address.port());
    server.program.wait_for_stderr(&url)?;
    let port = server.address.port();
    for address in [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ] {
        let answer = Client::connect(address)?.get()?;
        same(&format!("answer at {address}"), &hello(), &answer)?;
    }
    server.shut_down()
}

fn cannot_listen(mut command: Command, address: SocketAddr) -> Result<()> {
    command.arg(address.to_string());
    let output = run(command)?;
    same("stdout", "", &output.stdout())?;
    let error = io::Error::from(Errno::EADDRINUSE);
    let stderr = format!("cluster-http: cannot listen on {address}: {error}\n");
    output.ended_with(&stderr, 1)
}
