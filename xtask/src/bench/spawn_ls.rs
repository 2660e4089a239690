//! What spawn-ls costs.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use os_pipe::pipe;

use super::{Group, Who, cost, mean_run, on_one_cpu, program, rate, runs, whole_run};
use crate::examples::SPAWN_LS;
use crate::harness::processes::memory;
use crate::harness::run::start_on;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[
            cost("spawn-ls: whole run", "ms"),
            cost("spawn-ls: overhead of a whole run", "ms"),
        ],
        rounds: 11,
        sample: |who| whole_run(who, &SPAWN_LS, Command::new("ls").args(["-lh", "/usr"])),
    },
    Group {
        rows: &[rate("spawn-ls: commands a second", "/s")],
        rounds: 9,
        sample: |who| {
            let run = match who {
                Who::Baseline => mean_run(&mut Command::new("true"), runs(who)),
                _ => mean_run(program(who, &SPAWN_LS).arg("true"), runs(who)),
            };
            Ok(vec![1000.0 / run?])
        },
    },
    Group {
        rows: &[
            rate("spawn-ls: streaming", "GB/s"),
            cost("spawn-ls: peak memory", "MiB"),
        ],
        rounds: 5,
        sample: streaming,
    },
    Group {
        rows: &[rate("spawn-ls: streaming on one CPU", "GB/s")],
        rounds: 5,
        sample: |who| on_one_cpu(|| streaming(who)),
    },
];

/// A command's output, through the program or `cat`, to a reader that does nothing with it.
fn streaming(who: Who) -> Result<Vec<f64>> {
    const BYTES: u64 = 1 << 28;
    let count = BYTES.to_string();
    let source = ["head", "-c", &count, "/dev/zero"];

    let began = Instant::now();
    let mut head = None;
    let mut command = match who {
        Who::Baseline => {
            let (output, writer) = pipe()?;
            let mut command = Command::new(source[0]);
            command.args(&source[1..]);
            head = Some(start_on(command, writer)?);
            let mut cat = Command::new("cat");
            cat.stdin(output);
            cat
        }
        _ => {
            let mut command = program(who, &SPAWN_LS);
            command.args(source);
            command
        }
    };
    let (output, writer) = pipe()?;
    command.stderr(Stdio::null());
    let program = start_on(command, writer)?;
    let pid = program.pid();
    let watching = thread::spawn(move || {
        let mut peak = 0.0_f64;
        // The loop ends with the process: a zombie has no memory.
        while let Ok(now @ 0.001..) = memory(pid) {
            peak = peak.max(now);
            thread::sleep(Duration::from_millis(10));
        }
        peak
    });
    let mut reader = Command::new("cat");
    let status = reader.stdin(output).stdout(Stdio::null()).status()?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(status.success(), "the reader failed: {status}");
    for program in [Some(program), head].into_iter().flatten() {
        program.finish()?.ended_with_code(0)?;
    }
    let peak = watching.join().expect("it does not panic");
    Ok(vec![BYTES as f64 / seconds / 1e9, peak])
}
