//! Node's `cluster`: an HTTP server of several processes on one port.
//!
//! ```sh
//! cargo run -p cluster-http                            # http://localhost:8000
//! cargo run -p cluster-http -- 127.0.0.1:3000 4        # another address, four workers
//! ```

mod cluster;
mod console;
mod http;

use std::process::{self, ExitCode};

use anyhow::{Result, bail};
use hyper::Response;

use cluster::{Cluster, Event};

async fn run(address: &str, workers: usize) -> Result<()> {
    match cluster::worker()? {
        // if (cluster.isMaster)
        None => {
            let mut cluster = Cluster::listen(address)?;
            // When stdout fails, the service goes on.
            console::log(format_args!("Master {} is running", process::id()));

            // Fork workers.
            for _ in 0..workers {
                cluster.fork();
            }

            while let Some(event) = cluster.next_event().await? {
                match event {
                    Event::Exit { pid, .. } => {
                        console::log(format_args!("worker {pid} died"));
                        // Optional: fork a new worker if one dies. In a shutdown this does nothing.
                        cluster.fork();
                    }
                    // The other events: the address, a replaced worker, a failed start.
                    event => console::error(event),
                }
            }
        }
        // else
        Some(mut worker) => {
            // Workers can share any TCP connection. In this case it is an HTTP server.
            // The status is 200 by default.
            let server = http::create_server(async |_| Response::new("hello world\n".to_owned()));
            // Node's .listen(): from now on, the primary sends connections.
            worker.listen();

            console::log(format_args!("Worker {} started", process::id()));

            // Node does this by itself. The loop ends when the worker has to shut down.
            while let Some(connection) = worker.accept().await {
                server.serve(connection);
            }
            server.close().await;
        }
    }
    Ok(())
}

const USAGE: &str = "\
Usage: cluster-http [ADDR [WORKERS]]

Serves HTTP on ADDR, as host:port, with WORKERS processes. Port 0 is any free one.
SIGTERM and SIGINT shut it down gracefully, SIGHUP starts a rolling restart.
Default: every address, port 8000; one worker for each CPU";

fn main() -> ExitCode {
    console::run(USAGE, async |args| match args {
        [] => run("8000", num_cpus::get()).await,
        [address] => run(address, num_cpus::get()).await,
        [address, workers] => match workers.parse() {
            Ok(workers @ 1..=1024) => run(address, workers).await,
            _ => bail!("WORKERS is '{workers}', which is not a whole number from 1 to 1024"),
        },
        _ => bail!("too many arguments: see --help"),
    })
}
