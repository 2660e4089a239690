//! What cluster-http costs, with one worker unless the row says another number.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Group, Who, cost, gain, milliseconds, program, rate};
use crate::examples::CLUSTER_HTTP;
use crate::harness::http::{Client, GET};
use crate::harness::processes::{children, cpu_time, memory, signal_to};
use crate::harness::server::Server;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[cost("cluster-http: start to first answer", "ms")],
        rounds: 11,
        sample: |who| Ok(vec![start(who, 1)?.1]),
    },
    Group {
        rows: &[
            rate("cluster-http: requests", "/s"),
            cost("cluster-http: server CPU for a request", "µs"),
            cost("cluster-http: memory of a worker", "MiB"),
        ],
        rounds: 5,
        sample: |who| {
            let (server, _) = start(who, 1)?;
            let Load { rate, cpu, .. } = load(&server, true)?;
            Ok(vec![rate, cpu, memory(worker(&server))?])
        },
    },
    Group {
        rows: &[
            rate("cluster-http: new connections", "/s"),
            cost("cluster-http: server CPU for a new connection", "µs"),
            cost("cluster-http: primary's CPU for a new connection", "µs"),
        ],
        rounds: 5,
        sample: |who| new_connections(who, 1),
    },
    Group {
        rows: &[
            rate("cluster-http: new connections, 64 workers", "/s"),
            cost("cluster-http: server CPU for one, 64 workers", "µs"),
            cost("cluster-http: primary's CPU for one, 64 workers", "µs"),
        ],
        rounds: 3,
        sample: |who| new_connections(who, 64),
    },
    Group {
        rows: &[cost(
            "cluster-http: death of a worker to its replacement's answer",
            "ms",
        )],
        rounds: 11,
        sample: |who| Ok(vec![death_to_answer(who)?]),
    },
    Group {
        rows: &[
            gain("cluster-http: idle connections held", ""),
            cost("cluster-http: memory of an idle connection", "KiB"),
        ],
        rounds: 3,
        sample: idle,
    },
];

/// Clients of a load.
const CLIENTS: usize = 64;

/// Short enough that the free ports for new connections are not used up.
const LOAD: Duration = Duration::from_secs(1);

const IDLE: rlim_t = 10_000;

/// Starts the server. Returns it with the milliseconds until its first answer.
fn start(who: Who, workers: usize) -> Result<(Server, f64)> {
    let began = Instant::now();
    let server = Server::starting(program(who, &CLUSTER_HTTP), workers)?;
    wait_for_answer(&server)?;
    Ok((server, milliseconds(began.elapsed())))
}

/// The baseline is one process, with any number of workers.
fn new_connections(who: Who, workers: usize) -> Result<Vec<f64>> {
    let (server, _) = start(who, workers)?;
    if who == Who::Baseline {
        let Load { rate, cpu, .. } = load(&server, false)?;
        return Ok(vec![rate, cpu, f64::NAN]);
    }
    server.wait_for_workers(workers)?;
    let Load {
        rate,
        cpu,
        of_primary,
    } = load(&server, false)?;
    Ok(vec![rate, cpu, of_primary])
}

/// Sends requests until there is an answer. After some time without one, as happens with Node, it
/// tries a new connection.
fn wait_for_answer(server: &Server) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        let client = Client::connect_with_patience(server.address, Duration::from_millis(50));
        if client.and_then(|mut client| client.get()).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_micros(200));
    }
    bail!("no answer: {:?}", server.program.stderr())
}

/// The process that answers: the only child, or the server itself if it has no child.
fn worker(server: &Server) -> u32 {
    let primary = server.program.pid();
    children(primary).first().copied().unwrap_or(primary)
}

/// The CPU time of the primary and its workers.
fn cpu_of(server: &Server) -> Result<Duration> {
    let primary = server.program.pid();
    let processes = children(primary).into_iter().chain([primary]);
    processes.map(cpu_time).sum()
}

/// What a load has measured.
struct Load {
    /// Answers a second.
    rate: f64,
    /// The CPU time of the server for an answer, in microseconds.
    cpu: f64,
    /// The part of the primary.
    of_primary: f64,
}

/// Sends requests, from clients that keep their connections, or open a new one for each request.
#[tokio::main(flavor = "current_thread")]
async fn load(server: &Server, keep: bool) -> Result<Load> {
    let address = server.address;
    let mut first = TcpStream::connect(address).await?;
    first.write_all(GET.as_bytes()).await?;
    // An answer arrives in one piece, and all have the same length.
    let length = first.read(&mut [0; 4096]).await?;

    let primary = server.program.pid();
    let (cpu, of_primary) = (cpu_of(server)?, cpu_time(primary)?);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut answer = vec![0; length];
            let mut connection = TcpStream::connect(address).await?;
            let mut answers = 0;
            while began.elapsed() < LOAD {
                if !keep && answers > 0 {
                    connection = TcpStream::connect(address).await?;
                }
                connection.write_all(GET.as_bytes()).await?;
                connection.read_exact(&mut answer).await?;
                answers += 1;
            }
            anyhow::Ok(answers)
        });
    }
    let mut answers = 0;
    while let Some(client) = clients.join_next().await {
        answers += client??;
    }
    let answers = f64::from(answers);
    let rate = answers / began.elapsed().as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / answers;
    Ok(Load {
        rate,
        cpu: each(cpu_of(server)? - cpu),
        of_primary: each(cpu_time(primary)? - of_primary),
    })
}

/// The baseline is the start of a bare server: it replaces no worker.
fn death_to_answer(who: Who) -> Result<f64> {
    let (server, first_answer) = start(who, 1)?;
    if who == Who::Baseline {
        return Ok(first_answer);
    }
    let worker = worker(&server);
    let began = Instant::now();
    signal_to(worker, Signal::SIGKILL)?;
    wait_for_answer(&server)?;
    Ok(milliseconds(began.elapsed()))
}

/// How many connections answer once all are open, and the memory that each takes.
fn idle(who: Who) -> Result<Vec<f64>> {
    // This process and the server have some dozen other descriptors.
    const OTHERS: rlim_t = 200;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = most.min(IDLE + OTHERS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, most)?;
    let (server, _) = start(who, 1)?;
    let worker = worker(&server);
    let before = memory(worker)?;
    let mut clients = Vec::new();
    for number in OTHERS..limit {
        // Otherwise the accept queue of a slow server could overflow.
        if number % 100 == 0 {
            wait_for_answer(&server)?;
        }
        clients.push(server.connect()?);
    }
    // Node closes a connection 5 s after its last answer. So each connection gets one request, now.
    clients.retain_mut(|client| client.get().is_ok());
    let each = (memory(worker)? - before) * 1024.0 / clients.len() as f64;
    // The baseline has no memory for a connection.
    let each = if who == Who::Baseline { f64::NAN } else { each };
    Ok(vec![clients.len() as f64, each])
}
