//! What worker-sum costs.

use std::hint::black_box;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use super::{Better, Group, Row, Who, mean_run, milliseconds, program, start};

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[Row {
            name: "worker-sum: thread start to result",
            unit: "ms",
            better: Better::Less,
        }],
        rounds: 15,
        sample: |who| Ok(vec![start_to_result(who)?]),
    },
    Group {
        rows: &[
            Row {
                name: "worker-sum: a billion additions",
                unit: "s",
                better: Better::Less,
            },
            Row {
                name: "worker-sum: speed-up by a worker for each CPU",
                unit: "×",
                better: Better::More,
            },
        ],
        rounds: 7,
        sample: |who| {
            let one = additions(who, 1)?;
            Ok(vec![
                one,
                one / additions(who, thread::available_parallelism()?.get())?,
            ])
        },
    },
];

const BILLION: u64 = 1_000_000_000;

/// Between the main thread's first line and the result's.
fn start_to_result(who: Who) -> Result<f64> {
    if who == Who::Limit {
        let began = Instant::now();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || sender.send(black_box(45)));
        receiver.recv()?;
        let elapsed = began.elapsed();
        thread.join().expect("it does not panic")?;
        return Ok(milliseconds(elapsed));
    }
    let mut run = start(program(who, "worker-sum", "node/worker-sum.mjs"))?;
    run.line()?;
    let began = Instant::now();
    run.line()?;
    run.line()?;
    let elapsed = began.elapsed();
    run.finish()?;
    Ok(milliseconds(elapsed))
}

/// The seconds that a billion additions take, all in all.
fn additions(who: Who, workers: usize) -> Result<f64> {
    if who != Who::Limit {
        let mut command: Command = program(who, "worker-sum", "node/worker-sum.mjs");
        command.args([BILLION.to_string(), workers.to_string()]);
        return Ok(mean_run(&mut command, 1)? / 1000.0);
    }
    let began = Instant::now();
    let share = BILLION / workers as u64;
    let threads: Vec<_> = (0..workers as u64)
        .map(|number| {
            let range = number * share..(number + 1) * share;
            thread::spawn(move || range.fold(0, |sum: u64, i| sum.wrapping_add(black_box(i))))
        })
        .collect();
    for thread in threads {
        black_box(thread.join().expect("it does not panic"));
    }
    Ok(began.elapsed().as_secs_f64())
}
