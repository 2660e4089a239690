//! Node's `cluster`: an HTTP server of several processes, all on one port.
//!
//! ```sh
//! cargo run -p cluster-http                            # http://localhost:8000
//! cargo run -p cluster-http -- 127.0.0.1:3000 4        # another address, four workers
//! ```

mod cluster;
mod http;

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::process::{self, ExitCode};
use std::thread;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use tokio::net::TcpListener;

use cluster::{Cluster, Event, Primary};

const USAGE: &str = "\
Usage: cluster-http [ADDR [WORKERS]]

Serves HTTP on ADDR, as host:port, by WORKERS processes. Port 0 is any free one.
SIGTERM and SIGINT drain it and end it, SIGHUP replaces the workers one by one.
Default: every address, port 8000; one worker for each CPU
";

/// More than any machine has CPUs, and less than any has descriptors.
const MOST_WORKERS: usize = 1024;

/// `if (cluster.isPrimary)`, of which [`worker`] is the `else`.
async fn primary(addresses: &[SocketAddr], workers: usize) -> Result<()> {
    let cluster = Cluster::listen(addresses, workers)
        .with_context(|| format!("cannot listen on {}", addresses[0]))?;
    say(&format!("Master {} is running", process::id()))?;

    // cluster.fork() for each worker, and again for each that dies.
    let ended = cluster.run(|event| {
        match event {
            Event::Exit { pid, .. } => say(&format!("worker {pid} died"))?,
            Event::Listening(address) => warn(&format!("listening on {}", url(address))),
            Event::Trouble(what) => warn(&what),
        }
        Ok(())
    });
    Ok(ended.await?)
}

async fn worker(listener: TcpListener, mut primary: Primary) -> Result<()> {
    primary.ready().await;
    // On a thread: requests do not wait for whoever reads this.
    thread::spawn(|| say(&format!("Worker {} started", process::id())));
    // Here it is an HTTP server that shares the port. It can be any TCP server.
    http::serve(listener, hello, primary.stop()).await;
    Ok(())
}

async fn hello(request: Request<Incoming>) -> Response<Full<Bytes>> {
    http::discard(request.into_body());
    Response::new("hello world\n".into())
}

/// The address as one types it: the one that stands for every address is not one to go to.
fn url(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("http://localhost:{}/", address.port()),
        false => format!("http://{address}/"),
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Nobody has to read this.
fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "cluster-http: {line}");
}

async fn run() -> Result<()> {
    // SAFETY: nothing has touched a descriptor but the runtime, which owns those it opened.
    if let Some((listener, primary)) = unsafe { cluster::worker()? } {
        return worker(listener, primary).await;
    }

    let args = std::env::args_os().skip(1);
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    let addresses = match args.next().as_deref() {
        Some("--help") => return Ok(write!(io::stdout(), "{USAGE}")?),
        Some(address) => address
            .to_socket_addrs()
            .with_context(|| format!("ADDR is '{address}', which is not a host:port to listen on, such as 127.0.0.1:3000"))?
            .collect(),
        // Every IPv6 address and every IPv4 one; only the latter where there is no IPv6.
        None => vec![
            (Ipv6Addr::UNSPECIFIED, 8000).into(),
            (Ipv4Addr::UNSPECIFIED, 8000).into(),
        ],
    };
    let workers = args.next().unwrap_or(num_cpus::get().to_string());
    let Ok(workers @ 1..=MOST_WORKERS) = workers.parse() else {
        bail!("WORKERS is '{workers}', which is not a whole number from 1 to {MOST_WORKERS}");
    };
    if args.next().is_some() {
        bail!("more than two arguments: cluster-http [ADDR [WORKERS]]");
    }
    primary(&addresses, workers).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        // `| head -1` has read all it wants: not an error, and nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cluster-http: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
