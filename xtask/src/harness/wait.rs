//! How a check waits, with a limit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::runtime::Builder;

/// How long a check waits for a condition. Even on a slow machine, none takes this long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Errors
///
/// When it is not so within [`LIMIT`], or `is_so` fails.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(is_so()?.then_some(())))
}

/// Calls `ask` again and again until it returns an answer. The pause between two calls grows from 2
/// to 20 ms.
///
/// # Errors
///
/// When there is no answer within [`LIMIT`], or `ask` fails.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        let pause = start.elapsed() / 10;
        thread::sleep(pause.clamp(Duration::from_millis(2), Duration::from_millis(20)));
    }
    bail!("waited {LIMIT:?} for {what}")
}

/// Checks that something has not taken too long.
pub fn takes_less_than(seconds: u64, start: Instant) -> Result<()> {
    let taken = start.elapsed();
    ensure!(taken < Duration::from_secs(seconds), "it took {taken:?}");
    Ok(())
}

/// Runs async work on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}
