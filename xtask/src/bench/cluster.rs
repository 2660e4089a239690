//! What cluster-http costs.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Better, Group, Row, Who, bare, milliseconds, program};
use crate::procfs::{children, cpu_time, memory};
use crate::verify::client::{Client, GET, free_port};
use crate::verify::run::signal_to;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[Row {
            name: "cluster-http: start to first answer",
            unit: "ms",
            better: Better::Less,
        }],
        rounds: 21,
        sample: |who| Ok(vec![Server::start(who)?.first_answer]),
    },
    Group {
        rows: &[
            Row {
                name: "cluster-http: requests",
                unit: "/s",
                better: Better::More,
            },
            Row {
                name: "cluster-http: server CPU for a request",
                unit: "µs",
                better: Better::Less,
            },
            Row {
                name: "cluster-http: memory of a worker",
                unit: "MiB",
                better: Better::Less,
            },
        ],
        rounds: 7,
        sample: under_load,
    },
    Group {
        rows: &[Row {
            name: "cluster-http: death of a worker to its successor's answer",
            unit: "ms",
            better: Better::Less,
        }],
        rounds: 15,
        sample: |who| Ok(vec![death_to_answer(who)?]),
    },
    Group {
        rows: &[
            Row {
                name: "cluster-http: idle connections held",
                unit: "",
                better: Better::More,
            },
            Row {
                name: "cluster-http: memory of an idle connection",
                unit: "KiB",
                better: Better::Less,
            },
        ],
        rounds: 3,
        sample: idle,
    },
];

/// Kept-alive connections under load.
const CONNECTIONS: usize = 64;

const LOAD: Duration = Duration::from_millis(1500);

const IDLE: usize = 10_000;

const PATIENCE: Duration = Duration::from_millis(50);

/// A server of one worker process.
struct Server {
    primary: Child,
    address: SocketAddr,
    /// Milliseconds from its start.
    first_answer: f64,
}

impl Server {
    fn start(who: Who) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command: Command = match who {
            Who::Limit => bare(&["http", &address.to_string()])?,
            _ => {
                let mut command = program(who, "cluster-http", "node/cluster-http.mjs");
                command.args([&address.to_string(), "1"]);
                command
            }
        };
        let began = Instant::now();
        let primary = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = Self {
            primary,
            address,
            first_answer: 0.0,
        };
        server.answer()?;
        server.first_answer = milliseconds(began.elapsed());
        Ok(server)
    }

    /// Asks until there is an answer. A client that is left hanging, as Node's can be, asks
    /// again after [`PATIENCE`].
    fn answer(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let client = Client::connect_with_patience(self.address, PATIENCE);
            match client.and_then(|mut client| client.get()) {
                Ok(_) => return Ok(()),
                Err(_) => thread::sleep(Duration::from_micros(200)),
            }
        }
        bail!("no answer")
    }

    /// The process that answers: the only child, or, if it has none, the server itself.
    fn worker(&self) -> Result<u32> {
        let primary = self.primary.id();
        Ok(children(primary)?.first().copied().unwrap_or(primary))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Node's workers leave when their primary has gone, as the port's do.
        let _ = self.primary.kill();
        let _ = self.primary.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn under_load(who: Who) -> Result<Vec<f64>> {
    let server = Server::start(who)?;
    let worker = server.worker()?;
    let mut warm_up = TcpStream::connect(server.address).await?;
    let length = ask(&mut warm_up, None).await?;

    let (cpu, began) = (cpu_time(worker)?, Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let address = server.address;
        clients.spawn(async move {
            let mut connection = TcpStream::connect(address).await?;
            let mut answers = 0;
            while began.elapsed() < LOAD {
                ask(&mut connection, Some(length)).await?;
                answers += 1;
            }
            Ok::<_, anyhow::Error>(answers)
        });
    }
    let mut answers = 0;
    while let Some(client) = clients.join_next().await {
        answers += client??;
    }
    let (elapsed, cpu) = (began.elapsed(), cpu_time(worker)? - cpu);
    let answers = f64::from(answers);
    Ok(vec![
        answers / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / answers,
        memory(worker, "VmRSS")?,
    ])
}

/// Asks once. The first answer, which comes in one piece, shows how long they all are.
async fn ask(connection: &mut TcpStream, length: Option<usize>) -> Result<usize> {
    connection.write_all(GET.as_bytes()).await?;
    let mut answer = [0; 4096];
    let mut read = 0;
    while read == 0 || length.is_some_and(|length| read < length) {
        match connection.read(&mut answer[read..]).await? {
            0 => bail!("the connection closed"),
            more => read += more,
        }
    }
    Ok(read)
}

fn death_to_answer(who: Who) -> Result<f64> {
    if who == Who::Limit {
        return Ok(Server::start(who)?.first_answer);
    }
    let server = Server::start(who)?;
    let worker = server.worker()?;
    // It is to be the death of a worker that has lived.
    thread::sleep(Duration::from_millis(150));
    let began = Instant::now();
    signal_to(worker, Signal::SIGKILL)?;
    server.answer()?;
    Ok(milliseconds(began.elapsed()))
}

fn idle(who: Who) -> Result<Vec<f64>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let server = Server::start(who)?;
    let worker = server.worker()?;
    let before = memory(worker, "VmRSS")?;
    let count = IDLE.min(usize::try_from(most).unwrap_or(IDLE).saturating_sub(200));
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(server.address)?;
        client.get()?;
        clients.push(client);
    }
    let held = fs::read_dir(format!("/proc/{worker}/fd"))?.count();
    let after = memory(worker, "VmRSS")?;
    let each = (after - before) * 1024.0 / count as f64;
    // What is not a connection are some dozen descriptors.
    let held = if held >= count { count } else { held };
    Ok(vec![
        held as f64,
        if who == Who::Limit { f64::NAN } else { each },
    ])
}
