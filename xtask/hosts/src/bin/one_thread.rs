//! A library that is not thread-safe, as many C libraries are, behind HTTP: one thread has it, and
//! the requests queue for that thread. It prints its address.

use std::cell::Cell;
use std::io::{self, Write};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// It stands for the library. The compiler lets no second thread have it.
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
    // When 100 requests wait, the next ones wait for a place in the queue.
    let (queue, mut requests) = mpsc::channel::<Asker>(100);
    thread::spawn(move || {
        let counter = Counter(Cell::new(0));
        while let Some(asker) = requests.blocking_recv() {
            // It fails when the client has gone.
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
    // Both fail only if the thread has panicked.
    queue
        .send(asker)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let number = answer
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(number.to_string())
}
