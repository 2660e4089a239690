//! An HTTP service that uses a library that is not thread-safe, as many C libraries are. One thread
//! owns the library, and the requests wait in a queue for that thread. Prints its address.

use std::cell::Cell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A stand-in for the library. `Cell` makes it unsafe to share, so the compiler rejects a second
/// thread that uses it.
#[derive(Default)]
struct Counter(Cell<u64>);

impl Counter {
    fn add(&self, number: u64) -> u64 {
        let sum = self.0.get().checked_add(number);
        self.0.set(sum.expect("the sum is below 2^64"));
        self.0.get()
    }
}

struct Request {
    number: u64,
    answer: oneshot::Sender<u64>,
}

fn own_the_library(mut requests: mpsc::Receiver<Request>) {
    let mut serve = |counter: Counter| {
        while let Some(Request { number, answer }) = requests.blocking_recv() {
            // This fails if the client has closed its connection.
            let _ = answer.send(counter.add(number));
        }
    };
    // After a panic in the library, the next request gets a new one.
    while catch_unwind(AssertUnwindSafe(|| serve(Counter::default()))).is_err() {}
}

async fn add(
    State(queue): State<mpsc::Sender<Request>>,
    Path(number): Path<u64>,
) -> Result<String, StatusCode> {
    let (answer, sum) = oneshot::channel();
    let request = Request { number, answer };
    let sent = queue.send(request).await;
    sent.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    // This fails if the library has panicked.
    let sum = sum.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(sum.to_string())
}

#[tokio::main]
async fn main() -> io::Result<()> {
    // The queue has room for 100 requests. `send` waits while it is full.
    let (queue, requests) = mpsc::channel(100);
    thread::spawn(move || own_the_library(requests));
    let app = Router::new().route("/{number}", get(add)).with_state(queue);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    axum::serve(listener, app).await
}
