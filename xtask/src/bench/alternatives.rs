//! spawn.rs and exec.rs beside other ways to run a command in Rust: what they cost, and what they
//! leave running. `xtask/alternatives` is a program that runs a command in each way.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::report::{Median, figure, machine, with_spread};
use crate::copy::copy;
use crate::examples::{EXEC_COUNT, SPAWN_LS};
use crate::harness::packages::{cargo_in, mirror, package};
use crate::harness::processes::is_running;
use crate::harness::programs::{executables, root};
use crate::harness::run::{run, start};
use crate::harness::wait_for;

const ROUNDS: usize = 7;

/// A file or a crate and, after a comma, what is set. The first is the baseline.
const WAYS: [&str; 10] = [
    "tokio::process",
    "tokio::process, kill_on_drop",
    "spawn.rs",
    "spawn.rs, process_group",
    "exec.rs",
    "duct",
    "processkit",
    "processkit, kill_on_parent_death",
    IN_CGROUPS,
    "tokio-process-stream",
];

/// processkit puts a command into a cgroup where it can, and otherwise into a process group.
const IN_CGROUPS: &str = "processkit, in cgroups";

const HEAD: &str = "\
    | | version | one command, ms | 8 at a time, commands/s | streaming, GB/s | after a time limit \
    | after a drop | after `kill -9` | after a time limit, grandchild by `setsid` |\n\
    |---|---|--:|--:|--:|---|---|---|---|\n";

/// The program's tasks for the columns of the costs.
const COSTS: [&str; 3] = ["one", "eight", "stream"];

/// The program's tasks for the columns of what still runs, with what starts the grandchild.
const ENDS: [(&str, &str); 4] = [
    ("limit", ""),
    ("drop", ""),
    ("kill", ""),
    ("limit", "setsid"),
];

/// What is streamed. processkit splits all output into lines.
const LINE: &str = "A line of 64 bytes, of which the last one is the end of a line.\n";
const LINES: usize = 1 << 22;

/// No way takes so long to end a command.
const GRACE: Duration = Duration::from_secs(4);

/// The package of the program, with the files copied into it.
pub fn lay_out() -> Result<PathBuf> {
    package("alternatives", "xtask/alternatives/Cargo.lock", |folder| {
        mirror(&root().join("xtask/alternatives"), folder)?;
        copy(&[SPAWN_LS.files, EXEC_COUNT.files].concat(), folder)
    })
}

/// Measures all ways. Returns the table, in Markdown.
pub fn table() -> Result<String> {
    let package = lay_out()?;
    let mut built = executables(cargo_in(&package)?.args(["build", "--release"]))?;
    let path = built.remove("alternatives").context("it is not built")?;
    let mut program = Program {
        path,
        has_cgroups: false,
    };
    let mechanism = run(program.command(WAYS[0], "mechanism"))?.stdout();
    program.has_cgroups = mechanism == "CgroupV2\n";
    let ways = WAYS.into_iter();
    let ways = ways.filter(|way| *way != IN_CGROUPS || program.has_cgroups);
    let folder = TempDir::new()?;
    let text = folder.path().join("text");
    fs::write(&text, LINE.repeat(LINES))?;

    let mut samples = HashMap::<_, Vec<f64>>::new();
    for round in 1..=ROUNDS {
        eprintln!("round {round}/{ROUNDS}");
        for task in COSTS {
            for way in ways.clone() {
                let sample = program.sample(way, task, &text);
                let sample = sample.with_context(|| format!("{way}: {task}"))?;
                samples.entry((way, task)).or_default().push(sample);
            }
        }
    }
    let lock = fs::read_to_string(package.join("Cargo.lock"))?;
    let mut table = HEAD.to_owned();
    for way in ways {
        table += &format!("| {way} | {} |", version(way, &lock).unwrap_or("—"));
        for task in COSTS {
            let (of_way, baseline) = (&samples[&(way, task)], &samples[&(WAYS[0], task)]);
            let ratios = of_way.iter().zip(baseline).map(|(way, base)| way / base);
            table += &match Median::of(ratios) {
                None => " — |".to_owned(),
                ratio => {
                    let median = figure(Median::of(of_way.iter().copied()));
                    format!(" {median} ({}) |", with_spread(ratio))
                }
            };
        }
        let ends = thread::scope(|scope| {
            let left = |(task, starter)| program.left_running(way, task, starter);
            let threads = ENDS.map(|end| scope.spawn(move || left(end)));
            threads.map(|thread| thread.join().expect("it does not panic"))
        });
        for left in ends {
            table += &format!(" {} |", left?);
        }
        table += "\n";
    }
    Ok(format!("{table}\n{}", machine()?))
}

/// The version of a way's crate.
fn version<'a>(way: &str, lock: &'a str) -> Option<&'a str> {
    let name = way.split([':', ',']).next()?;
    let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    entry.split('"').next()
}

struct Program {
    path: PathBuf,
    /// Whether processkit can create cgroups.
    has_cgroups: bool,
}

impl Program {
    fn command(&self, way: &str, task: &str) -> Command {
        let mut command = Command::new(&self.path);
        if self.has_cgroups && way.starts_with("processkit") && way != IN_CGROUPS {
            // Where it can create none, as for most users.
            let hide = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"";
            command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", hide]);
            command.arg(&self.path);
        }
        command.args([way, task]).stdin(Stdio::null());
        command
    }

    fn sample(&self, way: &str, task: &str, text: &Path) -> Result<f64> {
        // exec.rs returns the output at its end.
        if (way, task) == ("exec.rs", "stream") {
            return Ok(f64::NAN);
        }
        let mut command = self.command(way, task);
        match task {
            "stream" => command.arg("cat").arg(text),
            _ => command.arg("true"),
        };
        let output = run(command)?;
        output.ended_with("", 0)?;
        let seconds: f64 = output.stdout().trim_end().parse()?;
        Ok(match task {
            "one" => seconds * 1000.0,
            "eight" => 1.0 / seconds,
            _ => (LINE.len() * LINES) as f64 / seconds / 1e9,
        })
    }

    /// What still runs of a command and the process that it has started.
    fn left_running(&self, way: &str, task: &str, starter: &str) -> Result<&'static str> {
        let folder = TempDir::new()?;
        let pids = folder.path().join("pids");
        let grandchild = "sh -c 'echo $PPID $$ > \"$0\"; exec sleep 1000' \"$0\"";
        let mut command = self.command(way, task);
        command.args(["sh", "-c", &format!("{starter} {grandchild} & wait")]);
        let program = start(command.arg(&pids))?;
        let pids: Vec<u32> = wait_for("the grandchild to start", || {
            let pids = fs::read_to_string(&pids).unwrap_or_default();
            let is_complete = pids.ends_with('\n');
            Ok(is_complete.then(|| pids.split_whitespace().flat_map(str::parse).collect()))
        })?;
        match task {
            "kill" => program.signal(Signal::SIGKILL)?,
            _ => program.wait_for_stdout("over\n")?,
        }
        let over = Instant::now();
        let running = || pids.iter().map(|pid| is_running(*pid)).collect::<Vec<_>>();
        while running().contains(&true) && over.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(20));
        }
        let left = match running()[..] {
            [false, false] => "nothing",
            [false, true] => "grandchild",
            [true, false] => "command",
            _ => "both",
        };
        let cgroups = format!("*/processkit-{}-*", program.pid());
        drop(program);
        if way == IN_CGROUPS {
            // A program that is killed leaves them.
            let mut find = Command::new("find");
            find.args(["/sys/fs/cgroup", "-depth", "-type", "d"]);
            find.args(["-path", &cgroups, "-delete"]).status()?;
        }
        Ok(left)
    }
}
