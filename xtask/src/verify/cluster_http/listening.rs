//! Where it listens, and when it cannot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

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

    suite.rust("port_taken_by_another_copy", |command| {
        let server = Server::start(CLUSTER_HTTP.rust_command(), 2)?;
        cannot_listen(command, &server.address.to_string())?;
        server.shut_down()
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
        .check("every_address", || {
            for address in ["[::]:0", "0", ":0"] {
                let server = Server::start_on(CLUSTER_HTTP.rust_command(), address, 2)?;
                let port = server.address.port();
                let url = format!("listening on http://localhost:{port}/\n");
                server.program.wait_for_stderr(&url)?;
                for host in [
                    IpAddr::from(Ipv4Addr::LOCALHOST),
                    Ipv6Addr::LOCALHOST.into(),
                ] {
                    let answer = Client::connect((host, port).into())?.get()?;
                    same(&format!("answer at {host}"), &hello(), &answer)?;
                }
                server.shut_down()?;
            }
            Ok(())
        });

    suite
        .only_if(has_ipv6, "there is no IPv6")
        .check("one_address_taken", || {
            for address in ["[::1]:0", "127.0.0.1:0"] {
                let taken = TcpListener::bind(address)?;
                let port = taken.local_addr()?.port().to_string();
                cannot_listen(CLUSTER_HTTP.rust_command(), &port).context(address)?;
            }
            Ok(())
        });

    // Some systems have IPv6 sockets for IPv6 only, and longer accept queues than 4096.
    let in_a_network_of_its_own = |script: &str| {
        let mut shell = Command::new("sh");
        unshared(&["--net"], shell.args(["-c", script]))
    };
    suite
        .where_succeeds(in_a_network_of_its_own("ss -V"), "it needs unshare and ss")
        .rust("settings_of_the_system", move |command| {
            let program = command.get_program().to_string_lossy();
            let script = format!(
                "echo 1 >/proc/sys/net/ipv6/bindv6only; echo 8192 >/proc/sys/net/core/somaxconn
                 {program} 8000 1 >log 2>&1 &
                 until grep -q listening log; do sleep 0.1; done
                 ss -Hltn; kill $!; wait"
            );
            let folder = TempDir::new()?;
            let stdout = run(in_a_network_of_its_own(&script).current_dir(&folder))?.stdout();
            let words: Vec<_> = stdout.split_whitespace().collect();
            let queue_and_address = ["8192", "*:8000"];
            same(
                "accept queue and address",
                &queue_and_address[..],
                &words[2..4],
            )
        });

    let without_proc = |command: &Command| {
        unshared(
            &["--mount"],
            &below_a_shell("mount -t tmpfs none /proc", command),
        )
    };
    suite
        .where_succeeds(without_proc(&Command::new("true")), "it needs unshare")
        .rust("no_proc", move |command| {
            let server = Server::start(without_proc(&command), 1)?;
            let old = server.workers();
            server.program.signal(Signal::SIGHUP)?;
            server.wait_for_replacements(&old)?;
            server.shut_down()
        });
}

/// The program that is given this address does not listen on what is left of it.
fn cannot_listen(mut command: Command, address: &str) -> Result<()> {
    let output = run(command.arg(address))?;
    same("stdout", "", &output.stdout())?;
    let error = io::Error::from(Errno::EADDRINUSE);
    let stderr = format!("cluster-http: cannot listen on {address}: {error}\n");
    output.ended_with(&stderr, 1)
}
