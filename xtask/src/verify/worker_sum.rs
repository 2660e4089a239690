//! The checks of worker-sum.

use super::prelude::*;

const MAIN_THREAD: &str = "This is the main thread\n";

pub fn checks(suite: &Suite) {
    suite.both("several_workers", |command| {
        sums_up(command, 10_000_000, 3, 49_999_995_000_000)
    });

    suite.rust("as_many_workers_as_possible", |command| {
        sums_up(command, 10, 1024, 45)
    });

    // The workers compute: the compiler has not replaced their loop by a formula.
    suite.rust("work_is_shared", |mut command| {
        let program = start(command.args(["1000000000", "2"]))?;
        wait_until("it to use the CPU", || {
            ensure!(program.is_running(), "it took no time");
            Ok(cpu_time(program.pid())? > Duration::from_millis(100))
        })?;
        let results = results(&program.finish()?, 2, 499_999_999_500_000_000)?;
        ensure!(!results.contains(&0), "a worker had no work: {results:?}");
        Ok(())
    });

    // It would take years, but it starts.
    suite.rust("greatest_number", |mut command| {
        let program = start(command.args(["18446744073709551615", "2"]))?;
        program.wait_for_stdout("This is a worker thread\nThis is a worker thread\n")?;
        program.signal(Signal::SIGTERM)?;
        program.finish()?.ended_by(Signal::SIGTERM)
    });

    suite.rust("no_total_after_an_error", |mut command| {
        let output = run(command.args(["abc", "2"]))?;
        ensure!(!output.stdout().contains("Result"), "{:?}", output.stdout());
        let stderr = output.stderr();
        let stopped = stderr.matches("Worker stopped with exit code 1\n").count();
        same("workers that stopped", &2, &stopped)?;
        output.ended_with_code(1)
    });

    suite.rust("stdout_closed_early", |mut command| {
        let (program, stdout) = start_unread(command.args(["10000000", "4"]))?;
        stdout.close()?;
        program.finish()?.ended_with("", 0)
    });

    // The pipe has room for the main thread's line, and not for the worker's.
    suite.rust("stdout_closed_while_a_worker_writes", |command| {
        let mut stdout = Pipe::new()?;
        stdout.fill_but(MAIN_THREAD.len())?;
        let program = start_on(command, stdout.writer()?)?;
        waits_without_cpu(program.pid())?;
        stdout.close()?;
        program.finish()?.ended_with("", 0)
    });
}

fn sums_up(mut command: Command, num: u64, workers: usize, total: u64) -> Result<()> {
    results(
        &run(command.args([num.to_string(), workers.to_string()]))?,
        workers,
        total,
    )
    .map(drop)
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
