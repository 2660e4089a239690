//! A queue of jobs for four threads. A job that fails or panics is reported by its name, and its
//! thread takes the next one.

#[path = "../worker.rs"]
mod worker;

use std::io::{self, LineWriter, Write};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use worker::{BoxError, Event, ParentPort};

/// Some jobs are bad: more than there are threads.
fn count_primes(below: u32) -> anyhow::Result<usize> {
    anyhow::ensure!(below % 50 != 13, "{below} is unlucky");
    assert!(below % 50 != 14, "{below} is worse");
    let is_prime = |n: &u32| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0);
    Ok((2..below).filter(is_prime).count())
}

type Done = (u32, Result<usize, BoxError>);

fn work(jobs: &Receiver<u32>, parent_port: &ParentPort<Done>) -> Result<(), BoxError> {
    for below in jobs {
        parent_port.post_message((below, worker::attempt(|| count_primes(below))));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    // The queue has room for eight jobs. `send` waits while it is full.
    let (queue, jobs) = bounded(8);
    let events = worker::start(4, jobs, work)?;
    let filling = thread::spawn(move || (0..200).try_for_each(|job| queue.send(job)));
    let mut results = Vec::new();
    // It writes a line in one piece, also while a thread panics.
    let mut log = LineWriter::new(io::stderr());
    for (worker, event) in events {
        match event {
            Event::Message((below, Ok(primes))) => results.push((below, primes)),
            Event::Message((below, Err(error))) => {
                writeln!(log, "worker {worker}: primes below {below}: {error}")?;
            }
            Event::Error(_) | Event::Exit(_) => {}
        }
    }
    let filled = filling.join().expect("it does not panic");
    filled.expect("the workers end after the queue");
    let last = results.iter().max();
    writeln!(io::stdout(), "{} results, the last {last:?}", results.len())
}
