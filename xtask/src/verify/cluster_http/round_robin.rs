//! How connections reach the workers.

use super::*;

pub fn checks(suite: &Suite) {
    suite.rust("stopped_worker", |command| {
        let server = Server::start(command, 4)?;
        let stopped = server.workers()[1];
        signal_to(stopped, Signal::SIGSTOP)?;
        let waits = |_: &i32| {
            let client = Client::connect_with_patience(server.address, Duration::from_secs(5));
            client.and_then(|mut client| client.get()).is_err()
        };
        let waiting = (0..100).filter(waits).count();
        signal_to(stopped, Signal::SIGCONT)?;
        ensure!(waiting <= 2, "{waiting} clients waited");
        server.shut_down()
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
