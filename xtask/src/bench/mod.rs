//! `cargo xtask bench`: what each example costs, beside the same program for Node, and beside a
//! baseline: a bare program that does the same and nothing else.
//!
//! The programs are built with `--release` and started by their own command lines. In each round
//! the three are measured one after the other, so that a ratio compares samples of the same moment.

pub mod alternatives;
mod chart;
mod cluster_http;
mod exec_count;
mod fork_ipc;
mod report;
mod spawn_ls;
mod worker_sum;

use std::io::{BufRead, BufReader, Lines, Write, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use os_pipe::PipeReader;
use tempfile::TempDir;

use crate::examples::Example;
use crate::harness::programs::{Runtime, build, cargo, executables};
use crate::harness::run::{Running, Sweep, start_on};

const USAGE: &str = "\
Usage: cargo xtask bench [FILTER | --write]
       cargo xtask bench --alternatives [--write]

Measures the rows whose names contain FILTER, and prints a table.
--write         measures all rows, and also writes the table to xtask/COSTS.md and the chart to
                xtask/bench.svg
--alternatives  measures other ways to run a command in Rust beside spawn.rs and exec.rs, instead";

/// Which program a sample is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Rust,
    Node,
    Baseline,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Less is better.
    Cost,
    /// More is better. Its inverse is a cost: the time for one unit of work.
    Rate,
    /// More is better, and it says nothing about cost.
    Gain,
}

const fn cost(name: &'static str, unit: &'static str) -> Row {
    let kind = Kind::Cost;
    Row { name, unit, kind }
}

const fn rate(name: &'static str, unit: &'static str) -> Row {
    let kind = Kind::Rate;
    Row { name, unit, kind }
}

const fn gain(name: &'static str, unit: &'static str) -> Row {
    let kind = Kind::Gain;
    Row { name, unit, kind }
}

/// What is measured of each example.
const GROUPS: [&[Group]; 5] = [
    spawn_ls::GROUPS,
    exec_count::GROUPS,
    fork_ipc::GROUPS,
    cluster_http::GROUPS,
    worker_sum::GROUPS,
];

/// Rows that are measured together.
pub struct Group {
    rows: &'static [Row],
    rounds: usize,
    /// Takes one sample of each row. `NAN` where a row does not apply.
    sample: fn(Who) -> Result<Vec<f64>>,
}

/// The samples of a row, one for each round.
struct Measured {
    row: Row,
    samples: Vec<(Who, Vec<f64>)>,
}

/// Measures the rows that `args` select.
pub fn main(args: impl Iterator<Item = String>) -> Result<ExitCode> {
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (filter, write) = match words[..] {
        [] | ["--alternatives"] => ("", false),
        ["--write"] | ["--alternatives", "--write"] => ("", true),
        ["-h" | "--help"] => {
            writeln!(stdout(), "{USAGE}")?;
            return Ok(ExitCode::SUCCESS);
        }
        [filter] if !filter.starts_with('-') => (filter, false),
        _ => bail!("unknown arguments {words:?}\n{USAGE}"),
    };
    let groups = select(filter)?;
    if cfg!(debug_assertions) {
        // The clients are part of this program, so it must be optimized.
        let mut release = cargo();
        release.args(["run", "--quiet", "--release", "--package", "xtask", "--"]);
        let status = release.arg("bench").args(args).status()?;
        return Ok(ExitCode::from(u8::from(!status.success())));
    }

    // SAFETY: no thread has been started.
    let _sweep = unsafe { Sweep::new()? };
    if words.contains(&"--alternatives") {
        let table = alternatives::table()?;
        writeln!(stdout(), "{table}")?;
        if write {
            report::write("cargo xtask bench --alternatives --write", &table)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    build(&["--release"])?;
    build_baseline()?;

    let mut measured = measure(&groups)?;
    measured.retain(|measured| measured.row.name.contains(filter));

    let table = report::table(&measured)?;
    writeln!(stdout(), "{table}")?;
    if write {
        report::write("cargo xtask bench --write", &table)?;
        chart::write(&measured)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The groups with a row whose name contains `filter`.
///
/// # Errors
///
/// When there are none.
fn select(filter: &str) -> Result<Vec<&'static Group>> {
    let groups = || GROUPS.into_iter().flatten();
    let rows = || groups().flat_map(|group| group.rows);
    if !rows().any(|row| row.name.contains(filter)) {
        let names: Vec<_> = rows().map(|row| row.name).collect();
        bail!(
            "no row contains '{filter}'; the rows are\n  {}",
            names.join("\n  ")
        );
    }
    let has_row = |group: &&Group| group.rows.iter().any(|row| row.name.contains(filter));
    Ok(groups().filter(has_row).collect())
}

fn measure(groups: &[&Group]) -> Result<Vec<Measured>> {
    let mut who = vec![Who::Rust, Who::Node, Who::Baseline];
    who.retain(|who| *who != Who::Node || Runtime::Node.is_there());

    let mut all = Vec::new();
    for (number, group) in (1..).zip(groups) {
        eprintln!("{number}/{}: {}", groups.len(), group.rows[0].name);
        let empty = |row: &Row| Measured {
            row: *row,
            samples: who.iter().map(|who| (*who, Vec::new())).collect(),
        };
        let mut measured: Vec<Measured> = group.rows.iter().map(empty).collect();
        for _ in 0..group.rounds {
            for (number, who) in who.iter().enumerate() {
                let samples = (group.sample)(*who)
                    .with_context(|| format!("{} of {who:?}", group.rows[0].name))?;
                for (measured, sample) in measured.iter_mut().zip(samples) {
                    measured.samples[number].1.push(sample);
                }
            }
        }
        all.extend(measured);
    }
    Ok(all)
}

/// Pins `work`, and all processes and threads that it starts, to one CPU. On two CPUs, processes
/// that take turns spend most of their time on waking each other, and how much depends on the
/// scheduler.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn on_one_cpu(work: impl FnOnce() -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
    use nix::unistd::Pid;

    let this_thread = Pid::from_raw(0);
    let all = sched_getaffinity(this_thread)?;
    let mut one = CpuSet::new();
    one.set(sched_getcpu()?)?;
    sched_setaffinity(this_thread, &one)?;
    let done = work();
    sched_setaffinity(this_thread, &all)?;
    done
}

/// The other systems cannot do that.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn on_one_cpu(_: impl FnOnce() -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    Ok(vec![f64::NAN])
}

static BASELINE: OnceLock<PathBuf> = OnceLock::new();

/// Builds the program of the baselines.
fn build_baseline() -> Result<()> {
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--package", "xtask"]);
    let built = executables(cargo.args(["--bin", "baseline"]))?;
    let path = built
        .into_values()
        .next()
        .context("no baseline was built")?;
    BASELINE.get_or_init(|| path);
    Ok(())
}

/// An example, the same program for Node, or its baseline.
fn program(who: Who, example: &Example) -> Command {
    match who {
        Who::Rust => Command::new(example.program()),
        Who::Node => example.node(),
        Who::Baseline => {
            let mut baseline = Command::new(BASELINE.get().expect("it is built first"));
            baseline.arg(example.name);
            baseline
        }
    }
}

/// Starts a program whose lines are read as they come.
fn start(mut command: Command) -> Result<(Running, Lines<BufReader<PipeReader>>)> {
    let (reader, writer) = os_pipe::pipe()?;
    command.stdin(Stdio::null());
    let program = start_on(command, writer)?;
    Ok((program, BufReader::new(reader).lines()))
}

/// How long a command takes on average, in milliseconds.
fn mean_run(command: &mut Command, times: u32) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..times {
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
    }
    Ok(milliseconds(began.elapsed() / times))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// How many runs make a sample. Node's take long, so they are fewer.
fn runs(who: Who) -> u32 {
    if who == Who::Node { 2 } else { 20 }
}

/// The duration of an example without arguments in an empty folder, and its overhead over the
/// command alone.
fn whole_run(who: Who, example: &Example, bare: &mut Command) -> Result<Vec<f64>> {
    let folder = TempDir::new()?;
    let bare = mean_run(bare.current_dir(folder.path()), 20)?;
    if who == Who::Baseline {
        return Ok(vec![bare, f64::NAN]);
    }
    let mut command = program(who, example);
    let whole = mean_run(command.current_dir(folder.path()), runs(who))?;
    Ok(vec![whole, whole - bare])
}
