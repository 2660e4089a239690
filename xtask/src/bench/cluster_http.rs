//! What cluster-http costs, with one worker.

use std::net::SocketAddr;
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
use crate::harness::http::{Client, GET, free_port};
use crate::harness::processes::{children, cpu_time, memory, signal_to};
use crate::harness::run::{Running, start};

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[cost("cluster-http: start to first answer", "ms")],
        rounds: 11,
        sample: |who| Ok(vec![Server::start(who)?.first_answer]),
    },
    Group {
        rows: &[
            rate("cluster-http: requests", "/s"),
            cost("cluster-http: server CPU for a request", "µs"),
            cost("cluster-http: memory of a worker", "MiB"),
        ],
        rounds: 5,
        sample: |who| {
            let server = Server::start(who)?;
            let (requests, cpu) = load(&server, true)?;
            Ok(vec![requests, cpu, memory(server.worker())?])
        },
    },
    Group {
        rows: &[
            rate("cluster-http: new connections", "/s"),
            cost("cluster-http: server CPU for a new connection", "µs"),
        ],
        rounds: 5,
        sample: |who| {
            let (connections, cpu) = load(&Server::start(who)?, false)?;
            Ok(vec![connections, cpu])
        },
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

struct Server {
    program: Running,
    address: SocketAddr,
    /// Milliseconds from its start.
    first_answer: f64,
}

impl Server {
    fn start(who: Who) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = program(who, &CLUSTER_HTTP);
        command.args([&address.to_string(), "1"]);
        let began = Instant::now();
        let mut server = Self {
            program: start(command)?,
            address,
            first_answer: 0.0,
        };
        server.answer()?;
        server.first_answer = milliseconds(began.elapsed());
        Ok(server)
    }

    /// Sends requests until there is an answer. After some time without one, as happens with Node, it
    /// tries a new connection.
    fn answer(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let client = Client::connect_with_patience(self.address, Duration::from_millis(50));
            if client.and_then(|mut client| client.get()).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_micros(200));
        }
        bail!("no answer: {:?}", self.program.stderr())
    }

    /// The process that answers: the only child, or the server itself if it has no child.
    fn worker(&self) -> u32 {
        let primary = self.program.pid();
        children(primary).first().copied().unwrap_or(primary)
    }

    /// The CPU time of the primary and its worker.
    fn cpu_time(&self) -> Result<Duration> {
        let primary = self.program.pid();
        let workers = children(primary).into_iter().map(cpu_time);
        workers
            .sum::<Result<Duration>>()
            .and_then(|workers| Ok(workers + cpu_time(primary)?))
    }
}

/// Answers a second, and the microseconds of the server's CPU time for each, under clients that
/// keep their connections, or open a new one for each request.
#[tokio::main(flavor = "current_thread")]
async fn load(server: &Server, keep: bool) -> Result<(f64, f64)> {
    let address = server.address;
    let mut first = TcpStream::connect(address).await?;
    first.write_all(GET.as_bytes()).await?;
    // An answer arrives in one piece, and all have the same length.
    let length = first.read(&mut [0; 4096]).await?;

    let (cpu, began) = (server.cpu_time()?, Instant::now());
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
    let (elapsed, cpu) = (began.elapsed(), server.cpu_time()? - cpu);
    let answers = f64::from(answers);
    Ok((
        answers / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / answers,
    ))
}

/// The baseline is the start of a bare server: it replaces no worker.
fn death_to_answer(who: Who) -> Result<f64> {
    let server = Server::start(who)?;
    if who == Who::Baseline {
        return Ok(server.first_answer);
    }
    let worker = server.worker();
    let began = Instant::now();
    signal_to(worker, Signal::SIGKILL)?;
    server.answer()?;
    Ok(milliseconds(began.elapsed()))
}

/// How many connections answer once all are open, and the memory that each takes.
fn idle(who: Who) -> Result<Vec<f64>> {
    // This process and the server have some dozen other descriptors.
    const OTHERS: rlim_t = 200;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = most.min(IDLE + OTHERS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, most)?;
    let server = Server::start(who)?;
    let worker = server.worker();
    let before = memory(worker)?;
    let mut clients = Vec::new();
    for number in OTHERS..limit {
        // Otherwise the accept queue of a slow server could overflow.
        if number % 100 == 0 {
            server.answer()?;
        }
        clients.push(Client::connect(server.address)?);
    }
    // Node closes a connection 5 s after its last answer. So each connection gets one request, now.
    clients.retain_mut(|client| client.get().is_ok());
    let each = (memory(worker)? - before) * 1024.0 / clients.len() as f64;
    // The baseline has no memory for a connection.
    let each = if who == Who::Baseline { f64::NAN } else { each };
    Ok(vec![clients.len() as f64, each])
}
