//! `cargo xtask bench`: what each example costs, beside the same program for Node, and beside
//! a bare one that no program could beat.
//!
//! All of it goes through the programs' own command lines, built with `--release`. In each
//! round the three are measured one after the other, so that a ratio is of neighbours.

mod chart;
mod cluster;
mod fork;
mod peer;
mod process;
mod report;
mod worker;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::programs::{self, Runtime};

pub use peer::main as peer_main;

const USAGE: &str = "\
Usage: cargo xtask bench [FILTER] [--json | --write]

Measures the examples whose rows hold FILTER, and prints a table.
--json   prints JSON instead, with every sample
--write  also writes the table and the chart into the README
";

/// Whose cost a sample is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Port,
    Node,
    /// A bare program that does the same and nothing else.
    Limit,
}

impl Who {
    const ALL: [Self; 3] = [Self::Port, Self::Node, Self::Limit];
}

/// One thing that is measured.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    unit: &'static str,
    better: Better,
}

#[derive(Clone, Copy, PartialEq)]
enum Better {
    Less,
    More,
}

/// Rows that are measured together.
struct Group {
    rows: &'static [Row],
    rounds: usize,
    /// Takes one sample of each row. `NAN` where a row does not apply.
    sample: fn(Who) -> Result<Vec<f64>>,
}

/// What came out for a row: a sample for each round.
struct Measured {
    row: Row,
    samples: Vec<(Who, Vec<f64>)>,
}

/// Measures what `args` select, which are those of the usage.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let done = match cfg!(debug_assertions) {
        true => again_with_release(&args),
        false => run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// The load and the bare programs are in here, and have to be fast too.
fn again_with_release(args: &[String]) -> Result<ExitCode> {
    let mut cargo = programs::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "xtask",
        "--",
        "bench",
    ]);
    let status = cargo.args(args).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(args: &[String]) -> Result<ExitCode> {
    let (options, filters): (Vec<&str>, Vec<&str>) = args
        .iter()
        .map(String::as_str)
        .partition(|arg| arg.starts_with('-'));
    let filter = match filters[..] {
        [] => "",
        [filter] => filter,
        _ => bail!("more than one filter\n{USAGE}"),
    };
    let (json, write) = match options[..] {
        [] => (false, false),
        ["--json"] => (true, false),
        ["--write"] if filter.is_empty() => (false, true),
        ["--write"] => bail!("the README wants all rows: --write takes no filter"),
        ["--help"] => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        _ => bail!("unknown options {options:?}\n{USAGE}"),
    };

    programs::build(&["--release"])?;
    let groups = [
        process::GROUPS,
        fork::GROUPS,
        cluster::GROUPS,
        worker::GROUPS,
    ];
    let groups: Vec<&Group> = groups
        .into_iter()
        .flatten()
        .filter(|group| group.rows.iter().any(|row| row.name.contains(filter)))
        .collect();
    ensure!(!groups.is_empty(), "no row holds '{filter}'");
    let measured = measure(&groups)?;

    if json {
        println!("{}", report::json(&measured)?);
        return Ok(ExitCode::SUCCESS);
    }
    let table = report::table(&measured)?;
    println!("{table}");
    if write {
        report::write(&table)?;
        chart::write(&measured)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(groups: &[&Group]) -> Result<Vec<Measured>> {
    let rounds: usize = groups.iter().map(|group| group.rounds).sum();
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} {msg}")?;
    let progress = ProgressBar::new(rounds as u64).with_style(style);
    let who: Vec<Who> = Who::ALL
        .into_iter()
        .filter(|who| *who != Who::Node || Runtime::Node.is_there())
        .collect();

    let mut all = Vec::new();
    for group in groups {
        let empty = |row: &Row| Measured {
            row: *row,
            samples: who.iter().map(|who| (*who, Vec::new())).collect(),
        };
        let mut measured: Vec<Measured> = group.rows.iter().map(empty).collect();
        progress.set_message(group.rows[0].name);
        for _ in 0..group.rounds {
            for (number, who) in who.iter().enumerate() {
                let samples = (group.sample)(*who)
                    .with_context(|| format!("{} of {who:?}", group.rows[0].name))?;
                for (measured, sample) in measured.iter_mut().zip(samples) {
                    measured.samples[number].1.push(sample);
                }
            }
            progress.inc(1);
        }
        all.extend(measured);
    }
    progress.finish_and_clear();
    Ok(all)
}

// What the groups use to take their samples.

/// An example, or its other half for Node.
fn program(who: Who, example: &str, script: &str) -> Command {
    match who {
        Who::Node => {
            let mut node = Command::new("node");
            node.arg(programs::root().join(example).join(script));
            node
        }
        _ => Command::new(programs::example(example)),
    }
}

/// This program as one of the bare ones.
fn bare(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peer").args(args);
    Ok(command)
}

/// How long a command takes on average, in milliseconds.
fn mean_run(command: &mut Command, times: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..times {
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
    }
    Ok(milliseconds(start.elapsed() / times))
}

/// Keeps `work`, and what it starts, on one CPU. Where processes take turns, most of the time
/// on two goes to waking the other one, or not, as the scheduler deals them out.
fn on_one_cpu<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let this_thread = Pid::from_raw(0);
    let all = sched_getaffinity(this_thread)?;
    let mut one = CpuSet::new();
    one.set(sched_getcpu()?)?;
    sched_setaffinity(this_thread, &one)?;
    let done = work();
    sched_setaffinity(this_thread, &all)?;
    done
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A program that is killed when this is dropped.
struct Started {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

fn start(mut command: Command) -> Result<Started> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    Ok(Started { child, stdout })
}

impl Started {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "it ended");
        Ok(line)
    }

    /// Reads what is left, and waits for the end.
    fn finish(mut self) -> Result<()> {
        self.stdout.read_to_end(&mut Vec::new())?;
        ensure!(self.child.wait()?.success(), "it failed");
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
