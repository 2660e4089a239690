//! An async HTTP service with a Node child: `node_backend SCRIPT`. Each request becomes a message
//! to the child, and the child's answer becomes the response. Several requests wait at the same
//! time. Prints its address.

#[path = "../ipc.rs"]
mod ipc;

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

#[derive(Serialize)]
struct Question {
    id: u64,
    word: String,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    result: Measure,
}

/// A tagged enum with a floating-point number.
#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Measure {
    Length { value: u64 },
    Ratio { value: f64 },
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Measure>>>>;

#[derive(Clone)]
struct Backend {
    sender: ipc::Sender,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // No feature that the copied file adds may break the program's own use of serde_json.
    let parsed = serde_json::from_str(r#"{ "type": "ratio", "value": 1.5 }"#)?;
    assert!(matches!(parsed, Measure::Ratio { value: 1.5 }));

    let mut command = Command::new("node");
    command.args(std::env::args().skip(1));
    let child = ipc::fork(command)?;
    let backend = Backend {
        sender: child.sender(),
        waiting: Waiting::default(),
        next: Arc::default(),
    };
    let waiting = backend.waiting.clone();
    thread::spawn(move || {
        let received = receive(child, &waiting);
        // The child has exited. The requests that still wait get an error.
        waiting.lock().expect("no thread panics").clear();
        received
    });
    let app = Router::new().route("/", get(ask)).with_state(backend);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    Ok(axum::serve(listener, app).await?)
}

/// Passes each answer of the child to the request that waits for it. Runs on a thread of its own,
/// because receiving blocks.
fn receive(mut child: ipc::Child, waiting: &Waiting) -> anyhow::Result<()> {
    while let Some(message) = child.next_message()? {
        let answer: Answer = serde_json::from_value(message)?;
        let asker = waiting.lock().expect("no thread panics").remove(&answer.id);
        asker.map(|asker| asker.send(answer.result));
    }
    Ok(())
}

async fn ask(
    State(backend): State<Backend>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Measure>, StatusCode> {
    let id = backend.next.fetch_add(1, Ordering::Relaxed);
    let word = query.get("word").cloned().unwrap_or_default();
    let (asker, answer) = oneshot::channel();
    backend
        .waiting
        .lock()
        .expect("no thread panics")
        .insert(id, asker);
    let question = serde_json::to_value(Question { id, word }).expect("it is JSON");
    // Sending blocks if the child does not receive fast enough.
    let sender = backend.sender.clone();
    let sent = spawn_blocking(move || sender.send(&question)).await;
    match sent {
        Ok(Ok(true)) => answer.await.map(Json).map_err(|_| StatusCode::BAD_GATEWAY),
        _ => {
            backend
                .waiting
                .lock()
                .expect("no thread panics")
                .remove(&id);
            Err(StatusCode::BAD_GATEWAY)
        }
    }
}
