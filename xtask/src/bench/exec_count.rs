//! What exec-count costs.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::{Group, Who, cost, milliseconds, rate, start, whole_run};
use crate::examples::EXEC_COUNT;
use crate::harness::exec::{Options, exec};
use crate::harness::programs::{Runtime, peer};

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[
            cost("exec-count: whole run", "ms"),
            cost("exec-count: overhead of a whole run", "ms"),
        ],
        rounds: 11,
        sample: |who| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "find . -type f | wc -l"]);
            whole_run(who, &EXEC_COUNT, &mut shell)
        },
    },
    Group {
        rows: &[
            cost("exec-count: one command in a program", "ms"),
            rate("exec-count: commands a second, 8 at a time", "/s"),
        ],
        rounds: 11,
        sample: |who| {
            let count = if who == Who::Node { 40 } else { 400 };
            Ok(vec![
                milliseconds(commands(who, count, 1)? / count),
                f64::from(count) / commands(who, count, 8)?.as_secs_f64(),
            ])
        },
    },
];

/// How long it takes to run commands that do nothing, on one thread. The baseline is tokio alone.
fn commands(who: Who, count: u32, at_once: u32) -> Result<Duration> {
    if who == Who::Node {
        let mut node = Runtime::Node.script(&peer("exec.mjs"));
        node.args([count.to_string(), at_once.to_string()]);
        let (program, mut lines) = start(node)?;
        let seconds = lines.next().context("it has ended")??.parse()?;
        program.finish()?.ended_with_code(0)?;
        return Ok(Duration::from_secs_f64(seconds));
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first command starts the guard.
        run(who, 1).await?;
        let began = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..at_once {
            all.spawn(run(who, count / at_once));
        }
        while let Some(ended) = all.join_next().await {
            ended??;
        }
        Ok(began.elapsed())
    })
}

async fn run(who: Who, count: u32) -> Result<()> {
    for _ in 0..count {
        if who == Who::Rust {
            exec(":", &Options::default()).await?;
        } else {
            let mut shell = tokio::process::Command::new("/bin/sh");
            let output = shell.args(["-c", ":"]).output().await?;
            ensure!(output.status.success(), "{}", output.status);
        }
    }
    Ok(())
}
