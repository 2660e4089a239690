//! A Rust program that a Node server forks for computations that are slow in JavaScript.

#[path = "../ipc.rs"]
mod ipc;

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Request {
    /// The `nth` Fibonacci number.
    Fibonacci { id: u32, nth: u32 },
    /// How many letters `text` has.
    Letters { id: u32, text: String },
}

#[derive(Serialize)]
struct Response {
    id: u32,
    result: u64,
}

fn main() -> anyhow::Result<()> {
    // SAFETY: it changes the environment, and no other thread has been started.
    let mut process = unsafe { ipc::process()? };
    while let Some(message) = process.next_message()? {
        let response = match serde_json::from_value(message)? {
            Request::Fibonacci { id, nth } => Response {
                id,
                result: fibonacci(nth),
            },
            Request::Letters { id, text } => {
                let letters = text.chars().filter(|c| c.is_alphabetic());
                Response {
                    id,
                    result: letters.count() as u64,
                }
            }
        };
        process.send(&serde_json::to_value(response)?)?;
    }
    Ok(())
}

fn fibonacci(nth: u32) -> u64 {
    let (mut this, mut next) = (0, 1);
    for _ in 0..nth {
        (this, next) = (next, this + next);
    }
    this
}
