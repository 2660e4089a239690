//! A stdout or a stderr that fails does not harm the service.

use std::net::SocketAddr;

use tempfile::tempfile;

use super::*;
use crate::harness::http::free_port;

const ONE_WORKER: [&str; 2] = ["127.0.0.1:0", "1"];

pub fn checks(suite: &Suite) {
    suite.rust("stdout_closed", |mut command| {
        command.args(ONE_WORKER);
        let (program, mut stdout) = start_unread(command)?;
        for _ in 0..2 {
            stdout.read_line()?;
        }
        stdout.close()?;
        serves_on(program)
    });

    suite.rust("stdout_full", |mut command| {
        command.args(ONE_WORKER);
        let mut pipe = Pipe::new()?;
        pipe.fill()?;
        serves_on(start_on(command, pipe.writer()?)?)
    });

    // Nobody reads its stderr, and a request is not finished.
    suite.rust("stderr_full_at_a_second_signal", |mut command| {
        let mut stderr = Pipe::new()?;
        stderr.fill()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        command.args([&address.to_string(), "1"]);
        let shell = below_a_shell("exec 2>&1 >/dev/null", &command);
        let program = start_on(shell, stderr.writer()?)?;
        let server = Server { program, address };
        wait_for("it to listen", || Ok(server.connect().ok()))?;
        let mut client = served_client(&server)?;
        client.send("GET / HT")?;
        server.program.signal(Signal::SIGTERM)?;
        server.wait_for_refusal()?;
        thread::sleep(2 * SAME_SIGNAL);
        server.program.signal(Signal::SIGTERM)?;
        server.program.finish()?.ended_with_code(1)
    });

    // Without a handler, SIGXFSZ would kill it.
    suite.rust("stdout_at_the_limit_of_a_file", |mut command| {
        let limited = below_a_shell("ulimit -f 0", command.args(ONE_WORKER));
        serves_on(start_on(limited, tempfile()?)?)
    });
}

/// Kills the workers a few times. Each is replaced.
fn serves_on(program: Running) -> Result<()> {
    let server = Server::listening(program)?;
    let primary = server.program.pid();
    for _ in 0..3 {
        let old = wait_for("a worker", || Ok(children(primary).first().copied()))?;
        signal_to(old, Signal::SIGKILL)?;
        wait_until("another worker", || {
            let now = children(primary);
            Ok(now.len() == 1 && now[0] != old)
        })?;
        served_client(&server)?;
    }
    server.shut_down()
}
