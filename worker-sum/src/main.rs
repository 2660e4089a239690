//! Node's `worker_threads`: a thread that gets its data, computes, and posts back the result.
//!
//! ```sh
//! cargo run -p worker-sum                       # the sum of the numbers below 10
//! cargo run -p worker-sum -- 5000000000 2       # a longer one, by two workers
//! ```

mod console;
mod share;
mod worker;

use std::hint::black_box;
use std::process::{self, ExitCode};
use std::sync::atomic::AtomicU64;

use anyhow::{Result, bail};

use worker::{Event, ParentPort};

struct WorkerData {
    /// Parsed in the worker: if it is no number, the worker fails, and the events show that.
    num: String,
    /// The first number that no worker has taken yet. Each worker takes some at a time.
    next: AtomicU64,
}

// if (isMainThread)
fn main_thread(num: &str, workers: usize) -> Result<()> {
    console::log("This is the main thread")?;
    let (num, next) = (num.to_owned(), AtomicU64::new(0));
    let events = worker::start(workers, WorkerData { num, next }, worker_thread)?;

    let mut total = 0;
    let mut failed = false;
    for (_worker, event) in events {
        match event {
            Event::Message(result) => {
                console::log(format_args!("Result from worker: {result}"))?;
                total += result;
            }
            Event::Error(error) => console::error(error)?,
            Event::Exit(0) => {}
            Event::Exit(code) => {
                console::error(format_args!("Worker stopped with exit code {code}"))?;
                failed = true;
            }
        }
    }
    // Not in the Node program of the document.
    if failed {
        process::exit(1);
    }
    if workers > 1 {
        console::log(format_args!("Result from {workers} workers: {total}"))?;
    }
    Ok(())
}

// else
fn worker_thread(worker_data: &WorkerData, parent_port: &ParentPort<u128>) -> Result<()> {
    // Without `?`: a failing stdout is no error of the worker.
    let _ = console::log("This is a worker thread");
    let num = &worker_data.num;
    let Ok(end) = num.parse::<u64>() else {
        bail!("NUM is '{num}', which is not a whole number below 2^64");
    };

    // Simulate a CPU-intensive task
    let mut counter = 0;
    // for i in 0..num, shared with the other workers. `end` is `num` as an integer.
    for i in share::numbers(&worker_data.next, end) {
        // Without `black_box`, the compiler would replace the loop with a formula.
        counter += u128::from(black_box(i));
    }
    parent_port.post_message(counter);
    Ok(())
}

const USAGE: &str = "\
Usage: worker-sum [NUM [WORKERS]]

Adds up the numbers from 0 to NUM - 1 in a worker thread, or in WORKERS of them.
Default: 10, one worker";

fn main() -> ExitCode {
    console::run(USAGE, |args| match args {
        [] => main_thread("10", 1),
        [num] => main_thread(num, 1),
        [num, workers] => match workers.parse() {
            Ok(workers @ 1..=1024) => main_thread(num, workers),
            _ => bail!("WORKERS is '{workers}', which is not a whole number from 1 to 1024"),
        },
        _ => bail!("too many arguments: see --help"),
    })
}
