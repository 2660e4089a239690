//! A job queue for four threads. Two of the jobs make their thread fail.

#[path = "../worker.rs"]
mod worker;

use std::io::{self, Write};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use worker::{Event, ParentPort};

/// Counts the primes below each number of the queue. Fails at 13, and panics at 14.
fn count_primes(
    jobs: &Receiver<u32>,
    parent_port: &ParentPort<(u32, usize)>,
) -> anyhow::Result<()> {
    for below in jobs {
        anyhow::ensure!(below != 13, "13 is unlucky");
        assert!(below != 14, "14 is worse");
        let is_prime = |n: &u32| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0);
        parent_port.post_message((below, (2..below).filter(is_prime).count()));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    // The queue has room for eight jobs. `send` waits while it is full.
    let (queue, jobs) = bounded(8);
    let events = worker::start(4, jobs, count_primes)?;
    let filling = thread::spawn(move || (0..200).try_for_each(|job| queue.send(job)));
    let (mut results, mut errors, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Message(result) => results.push(result),
            Event::Error(error) => errors.push(error.to_string()),
            Event::Exit(code) => codes.push(code),
        }
    }
    filling
        .join()
        .expect("it does not panic")
        .expect("two workers are left");
    results.sort_unstable();
    errors.sort_unstable();
    codes.sort_unstable();
    writeln!(
        io::stdout(),
        "{} results, the last {:?}",
        results.len(),
        results.last()
    )?;
    writeln!(io::stdout(), "{errors:?} {codes:?}")
}
