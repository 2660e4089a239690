//! Node's `worker_threads`: a thread that gets its data, computes, and posts back the result.
//!
//! ```sh
//! cargo run -p worker-sum                       # the sum of the numbers below 10
//! cargo run -p worker-sum -- 5000000000 2       # a longer one, shared out to two workers
//! ```

mod share;

use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, atomic::AtomicU64};
use std::thread;

use anyhow::{Context, Result, bail};
use crossbeam_channel::Sender;

const USAGE: &str = "\
Usage: worker-sum [NUM [WORKERS]]

Adds up the numbers from 0 to NUM - 1 in a worker thread, or in WORKERS of them.
Default: 10, one worker
";

/// How many numbers a worker takes at a time: a thousandth of a second's work.
const SHARE: u64 = 1 << 22;

/// More than any machine has use for, and less than any runs out of memory for stacks with.
const MOST_WORKERS: usize = 1024;

fn run() -> Result<ExitCode> {
    let args = std::env::args_os().skip(1);
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    let num = args.next().unwrap_or("10".into());
    let workers = args.next().unwrap_or("1".into());
    if num == "--help" {
        return Ok(write!(io::stdout(), "{USAGE}").map(|()| ExitCode::SUCCESS)?);
    }
    if args.next().is_some() {
        bail!("more than two arguments: worker-sum [NUM [WORKERS]]");
    }
    let Ok(workers @ 1..=MOST_WORKERS) = workers.parse() else {
        bail!("WORKERS is '{workers}', which is not a whole number from 1 to {MOST_WORKERS}");
    };

    say("This is the main thread")?;
    let (post_message, messages) = crossbeam_channel::unbounded();
    let next = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for _ in 0..workers {
        let (num, next, post_message) = (num.clone(), next.clone(), post_message.clone());
        let thread = thread::Builder::new()
            .spawn(move || worker(&num, &next, &post_message))
            .context("cannot start a worker")?;
        threads.push(thread);
    }
    // Now only the workers hold senders: the messages end when the workers have.
    drop(post_message);

    // on('message')
    let mut total = 0;
    for result in messages {
        say(&format!("Result from worker: {result}"))?;
        total += result;
    }

    // on('error') and on('exit')
    let mut status = ExitCode::SUCCESS;
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => continue,
            Ok(Err(error)) if is_broken_pipe(&error) => return Err(error),
            Ok(Err(error)) => warn(&format!("{error:#}")),
            Err(_panic) => {}
        }
        warn("Worker stopped with exit code 1");
        status = ExitCode::FAILURE;
    }
    if workers > 1 && status == ExitCode::SUCCESS {
        say(&format!("Result from {workers} workers: {total}"))?;
    }
    Ok(status)
}

fn worker(num: &str, next: &AtomicU64, post_message: &Sender<u128>) -> Result<()> {
    say("This is a worker thread")?;
    let Ok(num) = num.parse() else {
        bail!("NUM is '{num}', which is not a whole number below 2^64");
    };
    // The sum of all the numbers below 2^64 has 127 bits.
    let mut counter: u128 = 0;
    while let Some(share) = share::take(next, num, SHARE) {
        for i in share {
            // Without `black_box` the compiler would know the sum, and do no work.
            counter += u128::from(black_box(i));
        }
    }
    Ok(post_message.send(counter)?)
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to stdout")
}

fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn main() -> ExitCode {
    // A panic is one line on stderr, as any error is. That it was one, `join` tells.
    std::panic::set_hook(Box::new(|panic| {
        warn(panic.payload_as_str().unwrap_or("a panic"))
    }));

    match run() {
        Ok(status) => status,
        // `| head -1` has read all it wants: not an error, and nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            warn(&format!("worker-sum: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
