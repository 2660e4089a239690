//! An axum service in a cluster: `axum_service --greeting WORD ADDRESS [WORKERS]`.

#[path = "../cluster/mod.rs"]
mod cluster;

use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::Listener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use cluster::{Cluster, Event, Worker};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (greeting, address, workers) = match &args[..] {
        [option, greeting, address] if option == "--greeting" => (greeting, address, 2),
        [option, greeting, address, workers] if option == "--greeting" => {
            (greeting, address, workers.parse()?)
        }
        _ => bail!("usage: axum_service --greeting WORD ADDRESS [WORKERS]"),
    };
    match cluster::worker()? {
        Some(worker) => serve(worker, greeting.clone()).await?,
        None => supervise(address, workers).await?,
    }
    Ok(())
}

async fn supervise(address: &str, workers: usize) -> io::Result<()> {
    let mut cluster = Cluster::listen(address)?;
    for _ in 0..workers {
        cluster.fork();
    }
    while let Some(event) = cluster.next_event().await? {
        let _ = writeln!(io::stderr(), "{event:?}");
        if let Event::Exit { .. } = event {
            cluster.fork();
        }
    }
    Ok(())
}

async fn serve(mut worker: Worker, greeting: String) -> io::Result<()> {
    let id = worker.id();
    let app = Router::new()
        .route("/", get(move || async move { greeting }))
        .route("/pid", get(async || std::process::id().to_string()))
        .route("/id", get(move || async move { id.to_string() }))
        .route("/slow", get(slow))
        .route("/abort", get(abort))
        .route(
            "/socket",
            get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)),
        );
    worker.listen();
    let (shut_down, must_shut_down) = oneshot::channel::<()>();
    let connections = Connections {
        worker,
        shut_down: Some(shut_down),
    };
    axum::serve(connections, app)
        .with_graceful_shutdown(async { drop(must_shut_down.await) })
        .await
}

async fn slow() {
    let _ = writeln!(io::stderr(), "slow request");
    sleep(Duration::from_secs(1)).await;
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message @ Message::Text(_))) = socket.recv().await {
        if socket.send(message).await.is_err() {
            break;
        }
    }
}

/// Ends the process, as a crash in C code does.
async fn abort() -> String {
    std::process::abort()
}

/// The connections of a worker, as axum's `Listener`.
struct Connections {
    worker: Worker,
    /// Dropped when the worker has to shut down.
    shut_down: Option<oneshot::Sender<()>>,
}

impl Listener for Connections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        while let Some(connection) = self.worker.accept().await {
            if let Ok(client) = connection.peer_addr() {
                return (connection, client);
            }
        }
        self.shut_down = None;
        pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
