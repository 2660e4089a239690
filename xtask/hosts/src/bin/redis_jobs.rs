//! A queue of jobs for several machines: `redis_jobs URL [SECONDS]`. The threads are those of
//! `jobs`, and a Redis stream feeds them. Start it any number of times, on any number of machines.
//!
//! To add a job, call `XADD primes * below 1000`, which returns the job's id. The result is then in
//! the hash `primes:results`, or the error in `primes:failures`, under that id.
//!
//! Each job is done at least once. It is acknowledged together with its result. If that does not
//! happen within SECONDS (60), its process has died, and another process takes the job. SECONDS
//! must be more than two jobs take: a job waits until a thread is free. With `appendonly yes` in
//! its configuration, Redis keeps the jobs when it is restarted.

#[path = "../worker.rs"]
mod worker;

use std::env;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use redis::streams::{StreamAutoClaimOptions, StreamId, StreamReadOptions};
use redis::{Client, Connection, RedisResult, TypedCommands};
use worker::{BoxError, Event, ParentPort};

const STREAM: &str = "primes";
const GROUP: &str = "workers";
/// All processes use one name: XAUTOCLAIM decides by time, not by name.
const CONSUMER: &str = "worker";
/// A job that ends its process each time is a failure after so many tries.
const MAX_TRIES: usize = 3;

struct Job {
    entry: StreamId,
    tries: usize,
}

fn count_primes(job: &Job) -> Result<usize> {
    ensure!(job.tries <= MAX_TRIES, "{MAX_TRIES} tries had no result");
    let below: u32 = job.entry.get("below").context("'below' is no number")?;
    let is_prime = |n: &u32| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0);
    Ok((2..below).filter(is_prime).count())
}

type Done = (String, Result<usize, BoxError>);

fn work(jobs: &Receiver<Job>, parent_port: &ParentPort<Done>) -> Result<(), BoxError> {
    for job in jobs {
        let result = worker::attempt(|| count_primes(&job));
        parent_port.post_message((job.entry.id, result));
    }
    Ok(())
}

/// Takes jobs out of Redis, for ever. Those of processes that have died come first.
fn feed(mut redis: Connection, patience: Duration, queue: &Sender<Job>) -> Result<()> {
    let patience = patience.as_millis() as u64;
    let claim = || StreamAutoClaimOptions::default().count(1);
    let read = StreamReadOptions::default().group(GROUP, CONSUMER);
    let read = read.count(1).block(1000);
    let mut cursor = "0-0".to_owned();
    loop {
        let old = redis.xautoclaim_options(STREAM, GROUP, CONSUMER, patience, &cursor, claim())?;
        cursor = old.next_stream_id;
        if let Some(entry) = old.claimed.into_iter().next() {
            let pending = redis.xpending_count(STREAM, GROUP, &entry.id, &entry.id, 1)?;
            let tries = pending.ids.first().map_or(1, |job| job.times_delivered);
            let _ = writeln!(io::stderr(), "job {}: try {tries}", entry.id);
            queue.send(Job { entry, tries })?;
        } else if let Some(new) = redis.xread_options(&[STREAM], &[">"], &read)? {
            for entry in new.keys.into_iter().flat_map(|stream| stream.ids) {
                queue.send(Job { entry, tries: 1 })?;
            }
        }
    }
}

fn connect(client: &Client) -> RedisResult<Connection> {
    let connection = client.get_connection()?;
    // A server that has vanished is an error.
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}

/// Ends only if Redis fails. Then a supervisor has to start it again.
fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let url = args.next().context("usage: redis_jobs URL [SECONDS]")?;
    let patience = Duration::from_secs(args.next().map_or(Ok(60), |seconds| seconds.parse())?);
    let client = Client::open(url)?;
    let mut redis = connect(&client)?;
    let created = redis.xgroup_create_mkstream(STREAM, GROUP, "0");
    created.or_else(|error| match error.code() {
        Some("BUSYGROUP") => Ok(()),
        _ => Err(error),
    })?;
    // No job waits in the queue: another process may have a free thread.
    let (queue, jobs) = bounded(0);
    let events = worker::start(4, jobs, work)?;
    let jobs_in = connect(&client)?;
    let feeding = thread::spawn(move || feed(jobs_in, patience, &queue));
    for (_worker, event) in events {
        if let Event::Message((id, result)) = event {
            let (hash, value) = match result {
                Ok(primes) => ("primes:results", primes.to_string()),
                Err(error) => ("primes:failures", error.to_string()),
            };
            let mut transaction = redis::pipe();
            transaction.atomic().hset(hash, &id, value);
            transaction.xack(STREAM, GROUP, &[&id]).xdel(STREAM, &[&id]);
            transaction.exec(&mut redis)?;
        }
    }
    feeding.join().expect("it does not panic")
}
