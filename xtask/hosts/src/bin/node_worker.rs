//! A Rust program that a Node server forks for computations that are slow in JavaScript. Several
//! run at the same time.

#[path = "../ipc.rs"]
mod ipc;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

#[derive(Deserialize)]
struct Request {
    id: u32,
    #[serde(flatten)]
    task: Task,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Task {
    /// The `nth` Fibonacci number.
    Fibonacci { nth: u32 },
    /// How many letters `text` has.
    Letters { text: String },
}

#[derive(Serialize)]
struct Response {
    id: u32,
    /// `null` if it is too large.
    result: Option<u64>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut process = ipc::process()?;
    loop {
        match process.next_message::<Request>().await {
            Ok(Some(Request { id, task })) => {
                let sender = process.sender();
                tokio::spawn(async move {
                    let result = spawn_blocking(|| compute(task)).await.unwrap_or(None);
                    // It fails when the server has ended.
                    let _ = sender.send(&Response { id, result }).await;
                });
            }
            Ok(None) => return Ok(()),
            // Other requests can be read.
            Err(error) => writeln!(io::stderr(), "{error}")?,
        }
    }
}

fn compute(task: Task) -> Option<u64> {
    match task {
        Task::Fibonacci { nth } => fibonacci(nth),
        Task::Letters { text } => {
            let letters = text.chars().filter(|c| c.is_alphabetic());
            Some(letters.count() as u64)
        }
    }
}

fn fibonacci(nth: u32) -> Option<u64> {
    let (mut this, mut next) = (0_u64, 1);
    for _ in 0..nth {
        (this, next) = (next, this.checked_add(next)?);
    }
    Some(this)
}
