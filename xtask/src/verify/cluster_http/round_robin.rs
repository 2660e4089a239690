//! How connections reach the workers.

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("stopped_worker", |command| {
        let server = Server::start(command, 4)?;
        let stopped = server.workers()[1];
        signal_to(stopped, Signal::SIGSTOP)?;
        let waiting = waiting_clients(&server, settings().load, Duration::from_secs(5));
        signal_to(stopped, Signal::SIGCONT)?;
        let waiting = waiting?;
        ensure!(waiting <= 2, "{waiting} clients waited");
        server.shut_down()
    });

    // The worker shuts down with an open upload, and gets no new connections.
    suite.rust("worker_that_shuts_down_slowly", |command| {
        let server = Server::start(command, 2)?;
        let mut uploads = server.connect_many(2)?;
        for upload in &mut uploads {
            upload.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n")?;
        }
        let old = server.workers();
        signal_to(old[0], Signal::SIGTERM)?;
        // Longer than this, the upload would be cut.
        let duration = settings().load.min(Duration::from_secs(4));
        let waiting = waiting_clients(&server, duration, Duration::from_secs(5))?;
        same("clients that waited", &0, &waiting)?;
        for upload in &mut uploads {
            upload.send("\r\nthe body.")?;
            same("status", &200, &upload.answer()?.status)?;
        }
        drop(uploads);
        server.wait_for_death(old[0])?;
        server.wait_for_workers(2)?;
        server.shut_down()
    });

    // Only clients of a worker that dies have to wait.
    suite.check("worker_that_dies_after_each_start", || {
        let (deployed, server) = Deployed::serve(2)?;
        let old = server.workers();
        // The program starts, and a moment after it is ready it is killed.
        deployed.replace_by_itself_after("(sleep 0.1; kill -9 $$) &")?;
        signal_to(old[0], Signal::SIGKILL)?;
        // Long enough for a pause before a restart, which takes two seconds.
        let duration = settings().load.max(Duration::from_secs(2));
        let waiting = waiting_clients(&server, duration, Duration::from_secs(1))?;
        let deaths = server.program.stdout().matches(" died\n").count();
        ensure!(deaths > 1, "it died {deaths} times");
        ensure!(
            waiting <= deaths,
            "{waiting} clients waited, and {deaths} workers died"
        );
        server.stop()
    });

    // The worker is stopped, so that it has taken none of them when it is killed.
    suite.rust("connections_of_a_killed_worker", |command| {
        let server = Server::start(command, 1)?;
        let worker = server.workers()[0];
        signal_to(worker, Signal::SIGSTOP)?;
        let mut clients = server.connect_many(50)?;
        for client in &mut clients {
            client.send(GET)?;
        }
        signal_to(worker, Signal::SIGKILL)?;
        for client in &mut clients {
            same("answer", &hello(), &client.answer()?)?;
        }
        drop(clients);
        server.shut_down()
    });

    suite
        .on_linux()
        .rust("connections_held_equally", |command| {
            equal_shares(command, served_clients, 105)
        });

    // A worker that runs late misses its turn.
    suite
        .on_linux()
        .rust("simultaneous_connections_held_equally", |command| {
            equal_shares(command, open_at_once, 125)
        });
}

fn open_at_once(server: &Server, count: usize) -> Result<Vec<Client>> {
    let mut clients = server.connect_many(count)?;
    for client in &mut clients {
        client.send(GET)?;
    }
    for client in &mut clients {
        same("answer", &hello(), &client.answer()?)?;
    }
    Ok(clients)
}

/// The busiest worker holds at most so many percent of the mean. On a busy machine a worker may not
/// get the CPU in time to take its turn, so each count has several tries.
fn equal_shares(
    command: Command,
    open: fn(&Server, usize) -> Result<Vec<Client>>,
    percent: usize,
) -> Result<()> {
    const WORKERS: usize = 4;
    let server = Server::start(command, WORKERS)?;
    let workers = server.workers();
    let held = || -> Result<Vec<usize>> { workers.iter().map(|pid| sockets(*pid)).collect() };
    let none = held()?;
    for count in [4, 8, 16, 64, 256] {
        let mut tries = Vec::new();
        loop {
            let clients = open(&server, count)?;
            let counts = held()?.into_iter().zip(&none);
            let counts: Vec<_> = counts.map(|(with, none)| with - none).collect();
            drop(clients);
            wait_until("the connections to close", || Ok(held()? == none))?;
            let most = counts.iter().max().context("no worker")?;
            if most * WORKERS * 100 <= count * percent {
                break;
            }
            tries.push(counts);
            ensure!(
                tries.len() < 20,
                "of {count} connections the workers held {tries:?}"
            );
        }
    }
    server.shut_down()
}

/// How many sockets a process holds.
fn sockets(pid: u32) -> Result<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let links = links.filter_map(|link| fs::read_link(link.path()).ok());
    let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
    Ok(sockets.count())
}

/// Opens 100 connections a second for a while, and returns how many clients had to wait for longer
/// than `patience`.
fn waiting_clients(server: &Server, duration: Duration, patience: Duration) -> Result<usize> {
    let start = Instant::now();
    let mut clients = Vec::new();
    while start.elapsed() < duration {
        let address = server.address;
        clients.push(thread::spawn(move || {
            Client::connect_with_patience(address, patience)?.get()
        }));
        thread::sleep(Duration::from_millis(10));
    }
    let opened = clients.len();
    let answers = clients
        .into_iter()
        .map(|client| client.join().expect("it does not panic"));
    let served = answers.filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200));
    Ok(opened - served.count())
}
