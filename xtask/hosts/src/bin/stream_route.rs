//! An axum service that streams the output of a command to each client:
//! `stream_route COMMAND [ARG]...`. When a client closes its connection, its command is killed,
//! with all processes that it has started. Prints its address.

#[path = "../spawn.rs"]
mod spawn;

use std::io::{self, Write};
use std::process::Stdio;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use spawn::{ChildProcess, Event, spawn};

#[tokio::main]
async fn main() -> io::Result<()> {
    let app = Router::new().route("/", get(stream));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The runtime ends with this function, and drops all connections with their commands.
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn stream() -> Result<Body, StatusCode> {
    let mut args = std::env::args_os().skip(1);
    let mut command = Command::new(args.next().unwrap_or("date".into()));
    command.args(args).stdin(Stdio::null()).process_group(0);
    let child = spawn(&mut command).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    // The next piece is read only after the client has received this one.
    let pieces = futures_util::stream::try_unfold(child, async |mut child| {
        let piece = next_piece(&mut child).await?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, child)))
    });
    Ok(Body::from_stream(pieces))
}

async fn next_piece(child: &mut ChildProcess) -> io::Result<Option<Bytes>> {
    while let Some(event) = child.next_event().await? {
        match event {
            Event::Stdout(data) => return Ok(Some(Bytes::copy_from_slice(&data))),
            // The service's log.
            Event::Stderr(data) => drop(io::stderr().write_all(&data)),
            Event::Exit(_) => {}
            Event::Close(status) if status.success() => {}
            // The response ends without its last chunk. By this the client sees the failure.
            Event::Close(status) => return Err(io::Error::other(status.to_string())),
        }
    }
    Ok(None)
}
