//! The checks of worker-sum, and of its file to copy, which is copied here.

#[path = "../../../worker-sum/src/share.rs"]
mod share;

use std::collections::HashMap;
use std::io::{Write, pipe};
use std::iter;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::thread;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::case::{Example, Expected, looks};
use super::check;
use super::run::{close, run, same, start, start_on, start_unread, wait_until_full};

const WORKER_SUM: Example = Example {
    name: "worker-sum",
    script: "node/worker-sum.mjs",
};

const STARTED: &str = "This is the main thread\nThis is a worker thread\n";

pub fn checks() -> Vec<Trial> {
    let sum = |name: &str, num: &str| WORKER_SUM.case(name, [num]);
    let refused = |name: &str, num: &str| {
        sum(name, num)
            .stdout(STARTED)
            .stderr(format!(
                "NUM is '{num}', which is not a whole number below 2^64\n\
                 Worker stopped with exit code 1\n"
            ))
            .status(1)
    };
    let no_workers = |name: &str, workers: &str| {
        WORKER_SUM
            .case(name, ["10", workers])
            .stderr(format!(
                "worker-sum: WORKERS is '{workers}', which is not a whole number from 1 to 1024\n"
            ))
            .status(1)
            .port_only()
    };
    let cases = [
        WORKER_SUM
            .case("the_documents_program", [""; 0])
            .stdout(format!("{STARTED}Result from worker: 45\n")),
        sum("nothing_to_add", "0").stdout(format!("{STARTED}Result from worker: 0\n")),
        sum("one", "1").stdout(format!("{STARTED}Result from worker: 0\n")),
        // One more and one less than the share that is taken at a time.
        sum("a_share_less_one", "4194303")
            .stdout(format!("{STARTED}Result from worker: 8796086730753\n")),
        sum("a_share_and_one", "4194305")
            .stdout(format!("{STARTED}Result from worker: 8796095119360\n")),
        sum("ten_million", "10000000")
            .stdout(format!("{STARTED}Result from worker: 49999995000000\n")),
        // The sum has 57 bits, Node's numbers have 53.
        sum("past_nodes_precision", "400000003")
            .stdout(format!("{STARTED}Result from worker: 80000001000000003\n"))
            .but_node(
                Expected::default()
                    .stdout(format!("{STARTED}Result from worker: 80000000867108900\n")),
            ),
        refused("a_word", "abc").but_node(
            Expected::default()
                .stdout(STARTED)
                .stderr_holds("Worker stopped with exit code 1\n"),
        ),
        refused("a_negative_number", "-1")
            .but_node(Expected::default().stdout(format!("{STARTED}Result from worker: 0\n"))),
        refused("a_fraction", "1.5")
            .but_node(Expected::default().stdout(format!("{STARTED}Result from worker: 1\n"))),
        refused("one_past_the_greatest", "18446744073709551616").port_only(),
        no_workers("no_workers", "0"),
        no_workers("too_many_workers", "1025"),
        no_workers("workers_that_are_no_number", "two"),
        WORKER_SUM
            .case("three_arguments", ["1", "2", "3"])
            .stderr("worker-sum: more than two arguments: worker-sum [NUM [WORKERS]]\n")
            .status(1)
            .port_only(),
    ];
    let mut checks: Vec<Trial> = cases.into_iter().flat_map(|case| case.checks()).collect();
    checks.extend(WORKER_SUM.checks_of_both(looks![several_workers]));
    checks.extend(WORKER_SUM.checks(looks![
        a_sum_past_64_bits,
        the_greatest_num_is_taken,
        many_workers,
        each_worker_has_its_share,
        stdout_closed_early,
        stdout_closed_while_a_worker_writes,
        no_total_of_failures,
    ]));
    checks.push(check(
        "worker-sum::share::the_greatest_num",
        the_greatest_num,
    ));
    checks.push(check(
        "worker-sum::share::each_number_once",
        each_number_once,
    ));
    checks.push(WORKER_SUM.help("Usage: worker-sum [NUM [WORKERS]]", "10, one worker"));
    checks
}

/// Three workers' lines, in whatever order, between the first line and the total.
fn several_workers(mut command: Command) -> Result<()> {
    command.args(["100000000", "3"]);
    let stdout = run(command)?.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    same(
        "the first line",
        Some(&"This is the main thread"),
        lines.first(),
    )?;
    let last = "Result from 3 workers: 4999999950000000";
    same("the last line", Some(&last), lines.last())?;
    let mut counts = HashMap::new();
    let mut total = 0;
    for line in &lines[1..lines.len() - 1] {
        let result = line.strip_prefix("Result from worker: ");
        total += result.map_or(Ok(0), str::parse::<u64>)?;
        *counts
            .entry(result.map_or(*line, |_| "a result"))
            .or_default() += 1;
    }
    let expected = HashMap::from([("This is a worker thread", 3), ("a result", 3)]);
    same("lines between", expected, counts)?;
    same("the workers' sum", 4999999950000000, total)
}

fn a_sum_past_64_bits(mut command: Command) -> Result<()> {
    command.arg("6200000000");
    let stdout = run(command)?.stdout();
    let result = "Result from worker: 19219999996900000000";
    same("the last line", Some(result), stdout.lines().last())
}

fn each_worker_has_its_share(mut command: Command) -> Result<()> {
    command.args(["2000000000", "2"]);
    let stdout = run(command)?.stdout();
    let results = stdout
        .lines()
        .filter(|line| line.starts_with("Result from worker: "));
    let idle = results.filter(|line| line.ends_with(": 0")).count();
    same("workers without work", 0, idle)
}

/// It would take years, but it starts.
fn the_greatest_num_is_taken(mut command: Command) -> Result<()> {
    command.args(["18446744073709551615", "2"]);
    let program = start(command)?;
    program.wait_for_stdout("This is a worker thread\nThis is a worker thread\n")?;
    program.signal(Signal::SIGTERM)?;
    program.finish()?.ended_with("", -15)
}

fn no_total_of_failures(mut command: Command) -> Result<()> {
    command.args(["abc", "2"]);
    let output = run(command)?;
    ensure!(!output.stdout().contains("Result"), "{:?}", output.stdout());
    output.ended_with_status(1)
}

/// The end of the way there: nothing overflows.
fn the_greatest_num() -> Result<()> {
    let next = AtomicU64::new(u64::MAX - 1);
    same(
        "the last share",
        Some(u64::MAX - 1..u64::MAX),
        share::take(&next, u64::MAX, 1000),
    )?;
    same("after it", None, share::take(&next, u64::MAX, 1000))
}

fn each_number_once() -> Result<()> {
    const SHARE: u64 = 10;
    const NUM: u64 = 3000 * SHARE + 7;
    let next = AtomicU64::new(0);
    let all_at_once = Barrier::new(4);
    let take = || {
        all_at_once.wait();
        iter::from_fn(|| share::take(&next, NUM, SHARE)).collect::<Vec<_>>()
    };
    let mut shares = thread::scope(|scope| {
        let takers = [0; 4].map(|_| scope.spawn(take));
        takers
            .map(|taker| taker.join().expect("it does not panic"))
            .concat()
    });
    shares.sort_by_key(|share| share.start);
    let mut end = 0;
    for share in shares {
        same("the start of a share", end, share.start)?;
        ensure!(share.end - share.start <= SHARE, "a share of {share:?}");
        end = share.end;
    }
    same("the end of the last", NUM, end)
}

fn many_workers(mut command: Command) -> Result<()> {
    command.args(["10", "1024"]);
    let output = run(command)?;
    same("stderr", "", &output.stderr())?;
    let stdout = output.stdout();
    same("lines", 1 + 2 * 1024 + 1, stdout.lines().count())?;
    ensure!(
        stdout.ends_with("\nResult from 1024 workers: 45\n"),
        "{stdout:?}"
    );
    Ok(())
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    command.args(["10000000", "4"]);
    let (program, stdout) = start_unread(command)?;
    close(stdout)?;
    let output = program.finish()?;
    output.ended_with("", 0)
}

/// There is room for the main thread's line, and not for the worker's.
fn stdout_closed_while_a_worker_writes(command: Command) -> Result<()> {
    const ROOM: usize = "This is the main thread\n".len();
    let (stdout, mut theirs) = pipe()?;
    fcntl(&theirs, FcntlArg::F_SETPIPE_SZ(4096))?;
    theirs.write_all(&[0; 4096 - ROOM])?;
    let program = start_on(command, theirs)?;
    wait_until_full(&stdout)?;
    close(stdout)?;
    program.finish()?.ended_with("", 0)
}
