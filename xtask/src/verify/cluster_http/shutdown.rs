//! Graceful shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("sigterm", |command| shuts_down(command, Signal::SIGTERM));

    suite.rust("sigint", |command| shuts_down(command, Signal::SIGINT));

    suite.check("sigterm_right_after_the_first_line", || {
        for _ in 0..10 {
            let mut command = CLUSTER_HTTP.rust_command();
            command.args(["127.0.0.1:0", "2"]);
            let program = start(command)?;
            program.wait_for_stdout("is running\n")?;
            program.signal(Signal::SIGTERM)?;
            program.finish()?.ended_with_code(0)?;
        }
        Ok(())
    });

    // The server allows two seconds for a request on its way.
    suite.rust("idle_connection", |command| {
        let server = Server::start(command, 1)?;
        let address = server.address.to_string();
        let mut idle = served_client(&server)?;
        let start = Instant::now();
        server.program.signal(Signal::SIGTERM)?;
        ensure!(idle.is_closed(), "the idle connection stays open");
        let taken = start.elapsed();
        let expected = Duration::from_secs(1)..Duration::from_millis(4500);
        ensure!(expected.contains(&taken), "it is closed after {taken:?}");
        drop(idle);
        server.program.finish()?.ended_with_code(0)?;
        // The closed connection is in TIME_WAIT, which does not block the port.
        Server::start_on(CLUSTER_HTTP.rust_command(), &address, 1)?.shut_down()
    });

    // It takes longer than a connection may be idle.
    suite.rust("long_request", |command| {
        let server = Server::start(command, 1)?;
        let mut in_flight = server.connect()?;
        in_flight.send("GET / HTTP/1.1\r\nHo")?;
        server.program.signal(Signal::SIGTERM)?;
        thread::sleep(Duration::from_secs(3));
        in_flight.send("st: a\r\n\r\n")?;
        same("answer", &last_hello(), &in_flight.answer()?)?;
        drop(in_flight);
        server.program.finish()?.ended_with_code(0)
    });

    // It sends many requests before it reads the first answer. It gets its last answer, although
    // more of its requests have arrived.
    suite.check("pipelining_client", || {
        for _ in 0..5 {
            let server = Server::start(CLUSTER_HTTP.rust_command(), 1)?;
            let mut client = server.connect()?;
            let mut sender = client.try_clone()?;
            let sent = Arc::new(AtomicUsize::new(0));
            let counter = sent.clone();
            let sending = thread::spawn(move || {
                while sender.send(GET.repeat(10)).is_ok() {
                    counter.fetch_add(10, Ordering::Relaxed);
                }
            });
            wait_until("the server to read no more", || {
                let before = sent.load(Ordering::Relaxed);
                thread::sleep(Duration::from_millis(200));
                let is_blocked = before > 0 && before == sent.load(Ordering::Relaxed);
                Ok(is_blocked)
            })?;
            server.program.signal(Signal::SIGTERM)?;
            server.wait_for_refusal()?;
            // Nothing ends the connection before an answer has said that it is the last.
            let start = Instant::now();
            while !client.answer()?.closes {
                ensure!(start.elapsed() < LIMIT, "no answer is the last");
            }
            // Otherwise it sends, and the server reads, for two seconds more.
            client.half_close()?;
            sending.join().expect("it does not panic");
            server.program.finish()?.ended_with_code(0)?;
        }
        Ok(())
    });

    // The worker is stopped when they connect.
    suite.rust("waiting_connections", |command| {
        let server = Server::start(command, 1)?;
        let worker = server.workers()[0];
        signal_to(worker, Signal::SIGSTOP)?;
        let clients = server.connect_many(200)?;
        server.program.signal(Signal::SIGTERM)?;
        signal_to(worker, Signal::SIGCONT)?;
        for client in clients {
            gets_last_answer(client)?;
        }
        server.program.finish()?.ended_with_code(0)
    });

    // A worker that hangs is killed after 15 seconds.
    suite.rust("stopped_worker", |command| {
        let server = Server::start(command, 2)?;
        signal_to(server.workers()[0], Signal::SIGSTOP)?;
        let _clients = server.connect_many(4)?;
        server.shut_down()
    });

    // The only worker has died, and its replacement is never ready. The clients cannot be served.
    suite.check("without_workers", || {
        let (deployed, server) = Deployed::serve(1)?;
        deployed.replace_by("exec cat")?;
        let old = server.workers();
        signal_to(old[0], Signal::SIGKILL)?;
        server.wait_for_death(old[0])?;
        let _clients = server.connect_many(10)?;
        server.program.signal(Signal::SIGTERM)?;
        let start = Instant::now();
        server.program.finish()?.ended_with_code(0)?;
        takes_less_than(5, start)
    });

    suite.check("second_signal", || {
        ends_at_once_by(Signal::SIGINT)?;
        ends_at_once_by(Signal::SIGTERM)
    });

    suite.rust("requests_of_a_killed_primary", |command| {
        let server = Server::start(command, 1)?;
        let client = served_client(&server)?;
        server.program.signal(Signal::SIGKILL)?;
        gets_last_answer(client)?;
        server.program.finish()?.ended_with_code(-9)
    });
}

fn shuts_down(mut command: Command, signal: Signal) -> Result<()> {
    command.process_group(0);
    let server = Server::start(command, 2)?;
    let kept_alive = served_client(&server)?;
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HTTP/1.1\r\nHo")?;
    let just_opened = server.connect()?;

    // As pm2 does. Workers leave these signals to the primary.
    for worker in server.workers() {
        signal_to(worker, Signal::SIGHUP)?;
        signal_to(worker, Signal::SIGINT)?;
    }
    // Twice, as `timeout` does, and to the whole group, as Ctrl-C does.
    server.program.signal(signal)?;
    server.program.signal_group(signal)?;
    server.wait_for_refusal()?;
    gets_last_answer(just_opened).context("to the one just opened")?;
    in_flight.send("st: a\r\n\r\n")?;
    last_answer(in_flight).context("to the one in flight")?;
    gets_last_answer(kept_alive).context("to the one kept alive")?;
    let output = server.program.finish()?;
    ensure!(!output.stdout().contains("died"), "{:?}", output.stdout());
    output.ended_with_code(0)
}

fn ends_at_once_by(second: Signal) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.rust_command(), 1)?;
    let worker = server.workers()[0];
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HT")?;
    server.program.signal(Signal::SIGTERM)?;
    server.wait_for_refusal()?;
    thread::sleep(2 * SAME_SIGNAL);
    let start = Instant::now();
    server.program.signal(second)?;
    let output = server.program.finish()?;
    wait_until_ended(worker)?;
    // The worker alone would wait for the rest of the request, for five seconds.
    takes_less_than(3, start)?;
    let says = "cluster-http: ended at once by a second signal\n";
    ensure!(output.stderr().ends_with(says), "{:?}", output.stderr());
    output.ended_with_code(1)
}
