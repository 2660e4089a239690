//! What spawn-ls and exec-count cost.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Better, Group, Row, Who, mean_run, on_one_cpu, program};
use crate::procfs::memory;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[
            Row {
                name: "spawn-ls: whole run",
                unit: "ms",
                better: Better::Less,
            },
            Row {
                name: "spawn-ls: above the bare command",
                unit: "ms",
                better: Better::Less,
            },
        ],
        rounds: 15,
        sample: |who| {
            whole_run(
                who,
                "spawn-ls",
                "node/spawn-ls.mjs",
                Command::new("ls").args(["-lh", "/usr"]),
            )
        },
    },
    Group {
        rows: &[
            Row {
                name: "exec-count: whole run",
                unit: "ms",
                better: Better::Less,
            },
            Row {
                name: "exec-count: above the bare command",
                unit: "ms",
                better: Better::Less,
            },
        ],
        rounds: 15,
        sample: |who| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "find . -type f | wc -l"]);
            whole_run(who, "exec-count", "node/exec-count.mjs", &mut shell)
        },
    },
    Group {
        rows: &[Row {
            name: "spawn-ls: commands a second",
            unit: "/s",
            better: Better::More,
        }],
        rounds: 9,
        sample: |who| {
            let mut command = match who {
                Who::Limit => Command::new("true"),
                _ => program(who, "spawn-ls", "node/spawn-ls.mjs"),
            };
            if who != Who::Limit {
                command.arg("true");
            }
            Ok(vec![1000.0 / mean_run(&mut command, runs(who))?])
        },
    },
    Group {
        rows: &[
            Row {
                name: "spawn-ls: streaming on one CPU",
                unit: "GB/s",
                better: Better::More,
            },
            Row {
                name: "spawn-ls: peak memory",
                unit: "MiB",
                better: Better::Less,
            },
        ],
        rounds: 9,
        sample: |who| on_one_cpu(|| streaming(who)),
    },
];

/// How many runs make a sample: Node's take long.
fn runs(who: Who) -> u32 {
    if who == Who::Node { 2 } else { 20 }
}

/// An example without arguments, in a folder of few files.
fn whole_run(who: Who, example: &str, script: &str, bare: &mut Command) -> Result<Vec<f64>> {
    let folder = tempfile::TempDir::new()?;
    let bare = mean_run(bare.current_dir(folder.path()), 20)?;
    if who == Who::Limit {
        return Ok(vec![bare, f64::NAN]);
    }
    let mut command = program(who, example, script);
    let whole = mean_run(command.current_dir(folder.path()), runs(who))?;
    Ok(vec![whole, whole - bare])
}

/// A command's output, through the program or `cat`, to a reader that does nothing with it.
fn streaming(who: Who) -> Result<Vec<f64>> {
    const BYTES: u64 = 1 << 28;
    let count = BYTES.to_string();
    let source = ["head", "-c", &count, "/dev/zero"];

    let began = Instant::now();
    let mut head = None;
    let mut passes_on = match who {
        Who::Limit => {
            let mut command = Command::new(source[0]);
            let started = command.args(&source[1..]).stdout(Stdio::piped()).spawn()?;
            let output = head.insert(started).stdout.take().expect("stdout is piped");
            let mut cat = Command::new("cat");
            cat.stdin(output);
            cat
        }
        _ => {
            let mut command = program(who, "spawn-ls", "node/spawn-ls.mjs");
            command.args(source);
            command
        }
    };
    let mut passes_on = passes_on.stdout(Stdio::piped()).spawn()?;
    let output = passes_on.stdout.take().expect("stdout is piped");
    let mut reader = Command::new("cat")
        .stdin(output)
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak: f64 = 0.0;
    while reader.try_wait()?.is_none() {
        // It is gone between its end and the reader's.
        peak = memory(passes_on.id(), "VmHWM").unwrap_or(peak);
        thread::sleep(Duration::from_millis(1));
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(passes_on.wait()?.success(), "it failed");
    if let Some(mut head) = head {
        head.wait()?;
    }
    Ok(vec![BYTES as f64 / seconds / 1e9, peak])
}
