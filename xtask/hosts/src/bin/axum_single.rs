//! An axum service in one process, on all CPUs, with a graceful shutdown: `axum_single [ADDRESS]`.
//! SIGTERM and Ctrl-C end it. Prints its address.

use std::future::IntoFuture;
use std::io::{self, Write};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Requests that take longer than this after the signal are lost. Without a limit, one client could
/// keep the process for ever.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow));
    let (shut_down, must_shut_down) = oneshot::channel::<()>();
    let server = axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(must_shut_down.await) })
        .into_future();
    let server = tokio::spawn(server);

    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(shut_down);
    let _ = timeout(GRACE, server).await;
    Ok(())
}

async fn slow() -> &'static str {
    let _ = writeln!(io::stderr(), "slow request");
    sleep(Duration::from_secs(1)).await;
    "at last\n"
}
