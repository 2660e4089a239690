//! Long computations in an async program. A semaphore limits them to one for each CPU, so that many
//! requests do not start many threads.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn sum_of_squares(below: u64) -> Result<u64> {
    let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
    MOST.fetch_max(running, Ordering::Relaxed);
    let sum = (0..below).try_fold(0_u64, |sum, n| sum.checked_add(n * n));
    RUNNING.fetch_sub(1, Ordering::Relaxed);
    sum.context("the sum is too large")
}

async fn compute(permits: Arc<Semaphore>, below: u64) -> Result<u64> {
    let permit = permits.acquire_owned().await?;
    // The closure owns the permit: the computation goes on when its caller is cancelled.
    let computation = spawn_blocking(move || {
        let _permit = permit;
        sum_of_squares(below)
    });
    // A panic in it is an error, too.
    computation.await?
}

#[tokio::main]
async fn main() -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let permits = Arc::new(Semaphore::new(cpus));
    let mut tasks = JoinSet::new();
    for below in (100_000..100_100).chain([5_000_000]) {
        let computation = compute(permits.clone(), below);
        tasks.spawn(async move { (below, computation.await) });
    }
    let mut sums = 0;
    while let Some(computed) = tasks.join_next().await {
        match computed? {
            (_, Ok(_)) => sums += 1,
            (below, Err(error)) => writeln!(io::stderr(), "squares below {below}: {error}")?,
        }
    }
    let most = MOST.load(Ordering::Relaxed);
    ensure!(most <= cpus, "{most} ran at a time");
    writeln!(io::stdout(), "{sums} sums")?;
    Ok(())
}
