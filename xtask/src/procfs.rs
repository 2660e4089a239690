//! What the system tells of processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A line of a process's status in KiB, such as `VmRSS`, as MiB.
pub fn memory(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib: f64 = value
        .context("its memory")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib / 1024.0)
}

/// The processes that a process has started, zombies too.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

/// The time a process has run on a CPU.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanoseconds = stat.split(' ').next().context("its time")?;
        total += nanoseconds.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}
