//! Graceful shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

pub fn checks(suite: &Suite) {
    // `finish` sees that no worker stays.
    suite.both("workers_of_a_killed_primary", |command| {
        let server = Server::start_either(command, 2)?;
        server.program.signal(Signal::SIGKILL)?;
        server.program.finish()?.ended_with_code(-9)
    });

    suite.rust("sigterm", |command| shuts_down(command, Signal::SIGTERM));

    suite.rust("sigint", |command| shuts_down(command, Signal::SIGINT));

    // As Ctrl-C does.
    suite.rust("sigint_to_the_group", |command| {
        shuts_down_as_a_group(command, Signal::SIGINT)
    });

    // As `timeout` does, twice.
    suite.rust("sigterm_to_the_group", |command| {
        shuts_down_as_a_group(command, Signal::SIGTERM)
    });

    // As pm2 does. Workers leave these signals to the primary.
    suite.rust("signals_to_every_process", |command| {
        let server = Server::start(command, 2)?;
        let mut in_flight = server.connect_many(8)?;
        for client in &mut in_flight {
            client.send("GET / HTTP/1.1\r\nHo")?;
        }
        let workers = server.workers();
        for signal in [Signal::SIGHUP, Signal::SIGINT] {
            for worker in &workers {
                signal_to(*worker, signal)?;
            }
        }
        server.program.signal(Signal::SIGINT)?;
        server.wait_for_refusal()?;
        for client in &mut in_flight {
            client.send("st: a\r\n\r\n")?;
            same("body", &hello().body, &client.answer()?.body)?;
        }
        drop(in_flight);
        server.program.finish()?.ended_with_code(0)
    });

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
        let mut idle = served_client(&server)?;
        let start = Instant::now();
        server.program.signal(Signal::SIGTERM)?;
        ensure!(idle.is_closed(), "the idle connection stays open");
        let taken = start.elapsed();
        let expected = Duration::from_secs(1)..Duration::from_millis(4500);
        ensure!(expected.contains(&taken), "it is closed after {taken:?}");
        drop(idle);
        server.program.finish()?.ended_with_code(0)
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

    // It does not keep the port.
    suite.rust("stopped_worker_of_a_killed_primary", |command| {
        let server = Server::start(command, 1)?;
        let worker = server.workers()[0];
        let address = server.address;
        signal_to(worker, Signal::SIGSTOP)?;
        server.program.signal(Signal::SIGKILL)?;
        server.wait_for_refusal()?;
        let other = Server::start_on(CLUSTER_HTTP.rust_command(), &address.to_string(), 1)?;
        same("answer", &hello(), &Client::connect(address)?.get()?)?;
        other.shut_down()?;
        signal_to(worker, Signal::SIGCONT)?;
        server.program.finish()?.ended_with_code(-9)
    });
}

fn shuts_down(command: Command, signal: Signal) -> Result<()> {
    let server = Server::start(command, 2)?;
    let kept_alive = served_client(&server)?;
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HTTP/1.1\r\nHo")?;
    let just_opened = server.connect()?;

    server.program.signal(signal)?;
    server.wait_for_refusal()?;
    gets_last_answer(just_opened).context("to the one just opened")?;
    in_flight.send("st: a\r\n\r\n")?;
    last_answer(in_flight).context("to the one in flight")?;
    gets_last_answer(kept_alive).context("to the one kept alive")?;
    let output = server.program.finish()?;
    ensure!(!output.stdout().contains("died"), "{:?}", output.stdout());
    output.ended_with_code(0)
}

fn shuts_down_as_a_group(mut command: Command, signal: Signal) -> Result<()> {
    command.process_group(0);
    let server = Server::start(command, 2)?;
    let client = served_client(&server)?;
    server.program.signal(signal)?;
    server.program.signal_group(signal)?;
    server.wait_for_refusal()?;
    gets_last_answer(client)?;
    server.program.finish()?.ended_with_code(0)
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
