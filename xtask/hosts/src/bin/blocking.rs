//! Long computations in an async program. A semaphore limits them to one for each CPU, so that many
//! requests do not start many threads.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn sum_of_squares(below: u64) -> u64 {
    let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
    MOST.fetch_max(running, Ordering::Relaxed);
    let sum = (0..below).map(|n| n * n).sum();
    RUNNING.fetch_sub(1, Ordering::Relaxed);
    sum
}

async fn compute(permits: Arc<Semaphore>, below: u64) -> Result<u64> {
    let permit = permits.acquire_owned().await?;
    // The closure owns the permit: the computation goes on when its caller is cancelled.
    let computation = spawn_blocking(move || {
        let sum = sum_of_squares(below);
        drop(permit);
        sum
    });
    Ok(computation.await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let permits = Arc::new(Semaphore::new(cpus));
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        tasks.spawn(compute(permits.clone(), 100_000));
    }
    while let Some(sum) = tasks.join_next().await {
        assert_eq!(sum??, 333_328_333_350_000);
    }
    let most = MOST.load(Ordering::Relaxed);
    assert!(most <= cpus, "{most} ran at a time");
    writeln!(io::stdout(), "100 sums")?;
    Ok(())
}
