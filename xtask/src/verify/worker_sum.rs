//! The checks of worker-sum.

use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::case::{checks_of, scenarios};
use crate::examples::WORKER_SUM;
use crate::harness::pipes::Pipe;
use crate::harness::processes::cpu_time;
use crate::harness::run::{Output, run, start, start_on, start_unread, waits_without_cpu};
use crate::harness::{same, wait_until};

const MAIN_THREAD: &str = "This is the main thread\n";
const STARTED: &str = "This is the main thread\nThis is a worker thread\n";

pub fn checks() -> Vec<Trial> {
    let result = |result: &str| format!("{STARTED}Result from worker: {result}\n");
    // In Node, a worker's output may come after its message.
    let sum = |name: &str, args: &[&str], sum: &str| {
        let case = WORKER_SUM.case(name, args).stdout(result(sum));
        case.but_node().stdout_lines(&result(sum))
    };
    let no_number = |name: &str, num: &str| {
        let stderr = format!(
            "NUM is '{num}', which is not a whole number below 2^64\n\
             Worker stopped with exit code 1\n"
        );
        let case = WORKER_SUM.case(name, [num]);
        case.stdout(STARTED).stderr(stderr).code(1)
    };
    let refused = |name: &str, args: &[&str], stderr: &str| {
        let case = WORKER_SUM.case(name, args).rust_only();
        case.stderr(format!("worker-sum: {stderr}\n")).code(1)
    };
    let no_count = |name: &str, workers: &str| {
        let stderr = format!("WORKERS is '{workers}', which is not a whole number from 1 to 1024");
        refused(name, &["10", workers], &stderr)
    };
    let mut checks = checks_of([
        sum("document", &[], "45"),
        sum("nothing_to_add", &["0"], "0"),
        sum("one_number", &["1"], "0"),
        sum("many_numbers", &["10000000"], "49999995000000"),
        // The sum has 57 bits. A number in JavaScript has 53.
        sum(
            "past_javascript_precision",
            &["400000003"],
            "80000001000000003",
        )
        .but_node()
        .stdout_lines(&result("80000000867108900")),
        sum("past_64_bits", &["6200000000"], "19219999996900000000").rust_only(),
        no_number("word", "abc")
            .but_node()
            .stdout(STARTED)
            .stderr_contains("Worker stopped with exit code 1\n"),
        no_number("negative_number", "-1")
            .but_node()
            .stdout_lines(&result("0")),
        no_number("fraction", "1.5")
            .but_node()
            .stdout_lines(&result("1")),
        no_number("2_to_the_64th", "18446744073709551616").rust_only(),
        no_count("no_workers", "0"),
        no_count("too_many_workers", "1025"),
        no_count("workers_not_a_number", "two"),
        refused(
            "too_many_arguments",
            &["1", "2", "3"],
            "too many arguments: see --help",
        ),
    ]);
    checks.extend(WORKER_SUM.scenarios_of_both(
        "",
        scenarios![
            several_workers = |command| sums_up(command, 100_000_000, 3, 4_999_999_950_000_000)
        ],
    ));
    checks.extend(WORKER_SUM.scenarios(
        "",
        scenarios![
            as_many_workers_as_possible = |command| sums_up(command, 10, 1024, 45),
            work_is_shared,
            greatest_number,
            no_total_after_an_error,
            no_thread_starts,
            stdout_closed_early,
            stdout_closed_while_a_worker_writes,
        ],
    ));
    checks.push(WORKER_SUM.stdout_on_a_full_disk(&[]));
    checks.push(WORKER_SUM.help("Usage: worker-sum [NUM [WORKERS]]", "10, one worker"));
    checks
}

fn sums_up(mut command: Command, num: u64, workers: usize, total: u64) -> Result<()> {
    command.args([num.to_string(), workers.to_string()]);
    results(&run(command)?, workers, total).map(drop)
}

/// The workers' results, which add up to `total`. The workers' lines come in any order.
fn results(output: &Output, workers: usize, total: u64) -> Result<Vec<u64>> {
    output.ended_with("", 0)?;
    let stdout = output.stdout();
    let mut lines: Vec<_> = stdout.lines().collect();
    let last = format!("Result from {workers} workers: {total}");
    same("the first line", MAIN_THREAD.trim_end(), lines.remove(0))?;
    same("the last line", &Some(&last[..]), &lines.pop())?;
    let mut started = 0;
    let mut results = Vec::new();
    for line in lines {
        match line.strip_prefix("Result from worker: ") {
            Some(result) => results.push(result.parse()?),
            None => {
                same("a line", "This is a worker thread", line)?;
                started += 1;
            }
        }
    }
    same(
        "workers and results",
        &(workers, workers),
        &(started, results.len()),
    )?;
    let sum: u64 = results.iter().sum();
    same("the sum of the results", &total, &sum)?;
    Ok(results)
}

/// The workers compute: the compiler has not replaced their loop by a formula.
fn work_is_shared(mut command: Command) -> Result<()> {
    command.args(["2000000000", "2"]);
    let program = start(command)?;
    wait_until("it to use the CPU", || {
        ensure!(program.is_running(), "it took no time");
        Ok(cpu_time(program.pid())? > Duration::from_millis(100))
    })?;
    let results = results(&program.finish()?, 2, 1_999_999_999_000_000_000)?;
    ensure!(!results.contains(&0), "a worker had no work: {results:?}");
    Ok(())
}

/// It would take years, but it starts.
fn greatest_number(mut command: Command) -> Result<()> {
    command.args(["18446744073709551615", "2"]);
    let program = start(command)?;
    program.wait_for_stdout("This is a worker thread\nThis is a worker thread\n")?;
    program.signal(Signal::SIGTERM)?;
    program.finish()?.ended_by(Signal::SIGTERM)
}

fn no_total_after_an_error(mut command: Command) -> Result<()> {
    command.args(["abc", "2"]);
    let output = run(command)?;
    ensure!(!output.stdout().contains("Result"), "{:?}", output.stdout());
    let stderr = output.stderr();
    let stopped = stderr.matches("Worker stopped with exit code 1\n").count();
    same("workers that stopped", &2, &stopped)?;
    output.ended_with_code(1)
}

/// The system has no room for the stack of a thread.
fn no_thread_starts(mut command: Command) -> Result<()> {
    command.env("RUST_MIN_STACK", (1_u64 << 50).to_string());
    let output = run(command)?;
    same("stdout", MAIN_THREAD, &output.stdout())?;
    let error = io::Error::from(Errno::EAGAIN);
    let stderr = format!("worker-sum: cannot start a worker thread: {error}\n");
    output.ended_with(&stderr, 1)
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    command.args(["10000000", "4"]);
    let (program, stdout) = start_unread(command)?;
    stdout.close()?;
    program.finish()?.ended_with("", 0)
}

/// The pipe has room for the main thread's line, and not for the worker's.
fn stdout_closed_while_a_worker_writes(command: Command) -> Result<()> {
    let mut stdout = Pipe::new()?;
    stdout.fill_but(MAIN_THREAD.len())?;
    let program = start_on(command, stdout.writer()?)?;
    waits_without_cpu(program.pid())?;
    stdout.close()?;
    program.finish()?.ended_with("", 0)
}
