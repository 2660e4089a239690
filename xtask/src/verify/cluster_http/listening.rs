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
        .check("one_address_taken", || {
            for address in ["[::1]:0", "127.0.0.1:0"] {
                let taken = TcpListener::bind(address)?.local_addr()?;
                let _listener = TcpListener::bind(taken)?;
                let command = CLUSTER_HTTP.rust_command();
                is_taken(command, &taken.port().to_string(), taken)?;
            }
            Ok(())
        });

    // Some systems have IPv6 sockets for IPv6 only, and longer accept queues than 4096.
    let can_unshare = in_a_network_of_its_own("ss -V").and_then(run);
    let can_unshare = can_unshare.is_ok_and(|output| output.status.success());
    suite.only_if(can_unshare, "it needs unshare and ss").rust(
        "settings_of_the_system",
        |command| {
            let program = command.get_program().to_string_lossy();
            let script = format!(
                "echo 1 >/proc/sys/net/ipv6/bindv6only; echo 8192 >/proc/sys/net/core/somaxconn
                 {program} 8000 1 >log 2>&1 &
                 until grep -q listening log; do sleep 0.1; done
                 ss -Hltn; kill $!; wait"
            );
            let folder = TempDir::new()?;
            let mut shell = in_a_network_of_its_own(&script)?;
            let output = run({
                shell.current_dir(folder.path());
                shell
            })?;
            let stdout = output.stdout();
            let words: Vec<_> = stdout.split_whitespace().collect();
            same(
                "accept queue and address",
                &["8192", "*:8000"],
                &words[2..4],
            )
        },
    );

    let without_proc = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let below_unshare = move |command: &Command| {
        let mut unshare = Command::new("unshare");
        unshare
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                without_proc,
            ])
            .arg(command.get_program())
            .stdin(Stdio::null());
        unshare
    };
    let can_mount = below_unshare(&Command::new("true")).output();
    suite
        .only_if(
            can_mount.is_ok_and(|output| output.status.success()),
            "it needs unshare",
        )
        .rust("no_proc", move |command| {
            let server = Server::start(below_unshare(&command), 1)?;
            let old = server.workers();
            server.program.signal(Signal::SIGHUP)?;
            server.wait_for_replacements(&old)?;
            server.shut_down()
        });

    suite
        .only_if(has_ipv6, "there is no IPv6")
        .rust("port_after_a_colon", |command| {
            answers_everywhere(command, ":0")
        });
}

/// The program that is given this address: it does not listen on what is left.
fn is_taken(mut command: Command, address: &str, taken: SocketAddr) -> Result<()> {
    command.arg(address);
    let output = run(command)?;
    let start = format!("cluster-http: cannot listen on {address}: Address already in use");
    output
        .failed(&start, "\n")
        .with_context(|| format!("{taken} is taken"))
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

/// A shell with a network of its own, in which it may change the system's settings.
fn in_a_network_of_its_own(script: &str) -> Result<Command> {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--net", "sh", "-c", script])
        .stdin(Stdio::null());
    Ok(unshare)
}
