//! An HTTP service with a Node child that is replaced when it ends: `node_backend SCRIPT`. Each
//! request becomes a message to the child, and the child's answer becomes the response. Several
//! requests wait at the same time. Prints its address.

#[path = "../ipc.rs"]
mod ipc;

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// How long a request waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time before a child is replaced: one that ends at once is not forked again and again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Question {
    id: u64,
    word: String,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    result: Value,
}

/// A tagged enum with a floating-point number.
#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Measure {
    Length { value: u64 },
    Ratio { value: f64 },
}

/// A word, and where its result goes.
type Request = (String, oneshot::Sender<Value>);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // No feature that the copied file adds may break the program's own use of serde_json.
    let parsed = serde_json::from_str(r#"{ "type": "ratio", "value": 1.5 }"#)?;
    assert!(matches!(parsed, Measure::Ratio { value: 1.5 }));

    let script = env::args_os().nth(1).context("there is no SCRIPT")?;
    let (queue, requests) = mpsc::channel(100);
    let app = Router::new().route("/", get(ask)).with_state(queue);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "http://{}/", listener.local_addr()?)?;
    tokio::select! {
        served = axum::serve(listener, app).into_future() => Ok(served?),
        failed = answer(&script, requests) => Ok(failed?),
    }
}

/// Answers requests by a child, and by another one when it has ended.
async fn answer(script: &OsStr, mut requests: mpsc::Receiver<Request>) -> io::Result<()> {
    loop {
        let mut command = Command::new("node");
        command.arg(script);
        answer_by(ipc::fork(command)?, &mut requests).await;
        sleep(PAUSE).await;
    }
}

/// Answers requests until the child ends. Those that wait then get an error, because `waiting` is
/// dropped.
async fn answer_by(mut child: ipc::Child, requests: &mut mpsc::Receiver<Request>) {
    let mut waiting = HashMap::new();
    let mut ids = 0..;
    loop {
        tokio::select! {
            Some((word, asker)) = requests.recv() => {
                let id = ids.next().expect("there are enough numbers");
                waiting.retain(|_, asker: &mut oneshot::Sender<_>| !asker.is_closed());
                waiting.insert(id, asker);
                // In a task, because answers must be received even if the channel is full. It fails
                // when the child has ended.
                let sender = child.sender();
                tokio::spawn(async move { sender.send(&Question { id, word }).await });
            }
            answer = child.next_message::<Answer>() => match answer {
                Ok(Some(Answer { id, result })) => {
                    // The client may have left.
                    waiting.remove(&id).map(|asker| asker.send(result));
                }
                Ok(None) => return,
                // Other answers can be read.
                Err(error) => _ = writeln!(io::stderr(), "{error}"),
            },
        }
    }
}

async fn ask(
    State(queue): State<mpsc::Sender<Request>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Measure>, StatusCode> {
    let word = query.get("word").cloned().unwrap_or_default();
    let (asker, answer) = oneshot::channel();
    let result = async {
        queue.send((word, asker)).await.ok()?;
        serde_json::from_value(answer.await.ok()?).ok()
    };
    let result = timeout(PATIENCE, result).await;
    let measure = result.map_err(|_| StatusCode::GATEWAY_TIMEOUT)?;
    measure.map(Json).ok_or(StatusCode::BAD_GATEWAY)
}
