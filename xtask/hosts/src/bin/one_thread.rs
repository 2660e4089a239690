//! An HTTP service that uses a library that is not thread-safe, as many C libraries are. One thread
//! owns the library, and the requests wait in a queue for that thread. Prints its address.

use std::cell::Cell;
use std::io::{self, Write};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A stand-in for the library. `Cell` makes it unsafe to share, so the compiler rejects a second
/// thread that uses it.
struct Counter(Cell<u64>);

impl Counter {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

type Asker = oneshot::Sender<u64>;

#[tokio::main]
async fn main() -> io::Result<()> {
    // The queue has room for 100 requests. `send` waits while it is full.
    let (queue, mut requests) = mpsc::channel::<Asker>(100);
    thread::spawn(move || {
        let counter = Counter(Cell::new(0));
        while let Some(asker) = requests.blocking_recv() {
            // This fails if the client has closed its connection.
            let _ = asker.send(counter.next());
        }
    });
    let app = Router::new().route("/", get(next)).with_state(queue);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    axum::serve(listener, app).await
}

async fn next(State(queue): State<mpsc::Sender<Asker>>) -> Result<String, StatusCode> {
    let (asker, answer) = oneshot::channel();
    // Both can fail only if the thread has panicked.
    queue
        .send(asker)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let number = answer
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(number.to_string())
}
