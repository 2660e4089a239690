//! What the checks and the bench share: how they start programs, look at them, and talk to them.

pub mod gate;
pub mod http;
#[path = "../../../fork-ipc/src/ipc.rs"]
pub mod ipc;
pub mod packages;
pub mod pipes;
pub mod processes;
pub mod programs;
pub mod run;
pub mod server;

use std::fmt::Debug;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use similar::TextDiff;

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

/// Runs `work`, which may block for ever, on a thread of its own.
///
/// # Errors
///
/// When it takes longer than [`LIMIT`], or fails.
pub fn within_limit<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    done.recv_timeout(LIMIT)?
}

/// Compares lines, in any order.
pub fn same_lines(what: &str, expected: &str, actual: &str) -> Result<()> {
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
        lines.sort();
        lines
    };
    same(what, &sorted(expected), &sorted(actual))
}

/// Compares two values. The error shows where they differ.
pub fn same<E, A>(what: &str, expected: &E, actual: &A) -> Result<()>
where
    E: PartialEq<A> + Debug + ?Sized,
    A: Debug + ?Sized,
{
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (format!("{expected:#?}"), format!("{actual:#?}"));
    // `Debug` writes a string in one line. This splits it into its own lines.
    let (expected, actual) = (
        expected.replace("\\n", "\\n\n"),
        actual.replace("\\n", "\\n\n"),
    );
    let diff = TextDiff::from_lines(&expected, &actual);
    bail!(
        "{what} differs\n{}",
        diff.unified_diff()
            .context_radius(2)
            .header("expected", "actual")
    )
}
