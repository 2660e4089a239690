//! What worker-sum costs.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Group, Who, cost, gain, mean_run, milliseconds, program, start};
use crate::examples::WORKER_SUM;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[cost("worker-sum: thread start to result", "ms")],
        rounds: 15,
        sample: |who| Ok(vec![start_to_result(who)?]),
    },
    Group {
        rows: &[
            cost("worker-sum: a billion additions", "s"),
            gain("worker-sum: speed-up by a worker for each CPU", "×"),
        ],
        rounds: 5,
        sample: |who| {
            let one = additions(who, 1)?;
            let all = additions(who, thread::available_parallelism()?.get())?;
            Ok(vec![one, one / all])
        },
    },
];

/// The time between the main thread's first line and the result.
fn start_to_result(who: Who) -> Result<f64> {
    let (program, mut lines) = start(program(who, &WORKER_SUM))?;
    lines.next().context("it has ended")??;
    let began = Instant::now();
    lines.nth(1).context("it has ended")??;
    let elapsed = began.elapsed();
    program.finish()?.ended_with_code(0)?;
    Ok(milliseconds(elapsed))
}

/// The seconds that a run with a billion additions takes.
fn additions(who: Who, workers: usize) -> Result<f64> {
    let mut command = program(who, &WORKER_SUM);
    command.args(["1000000000", &workers.to_string()]);
    Ok(mean_run(&mut command, 1)? / 1000.0)
}
