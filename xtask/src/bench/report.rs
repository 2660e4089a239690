//! The figures as a table, and in the page of the costs.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use sysinfo::System;

use super::{Kind, Measured, Who};
use crate::harness::programs::root;

/// The page with the tables.
const PAGE: &str = "xtask/COSTS.md";

/// A median, and the median distance of the values from it.
pub struct Median {
    value: f64,
    spread: f64,
}

impl Median {
    /// `None` when there are no values, or where a row does not apply.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            // `NAN` comes last.
            values.last().filter(|last| last.is_finite())?;
            Some(values[values.len() / 2])
        };
        let value = median(values.clone().collect())?;
        let spread = median(values.map(|other| (other - value).abs()).collect())?;
        Some(Self { value, spread })
    }
}

impl Measured {
    fn of(&self, who: Who) -> &[f64] {
        let samples = self.samples.iter().find(|(whose, _)| *whose == who);
        samples.map_or(&[], |(_, samples)| samples)
    }

    /// One divided by the other, for each round.
    fn ratio(&self, who: Who, to: Who) -> Option<Median> {
        let pairs = self.of(who).iter().zip(self.of(to));
        Median::of(pairs.map(|(who, to)| who / to))
    }

    /// The cost of a program divided by the cost of the baseline.
    pub fn times_the_baseline(&self, who: Who) -> Option<f64> {
        let ratio = match self.row.kind {
            Kind::Cost => self.ratio(who, Who::Baseline),
            Kind::Rate => self.ratio(Who::Baseline, who),
            Kind::Gain => None,
        };
        ratio.map(|ratio| ratio.value)
    }
}

/// The table, in Markdown, with the machine below it.
pub fn table(measured: &[Measured]) -> Result<String> {
    let mut table = "| | | Rust | Node | baseline | Rust / baseline | Rust / Node |\n\
                     |---|---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for measured in measured {
        let better = match measured.row.kind {
            Kind::Cost => "less is better",
            Kind::Rate | Kind::Gain => "more is better",
        };
        let unit = match measured.row.unit {
            "" => better.to_owned(),
            unit => format!("{unit}, {better}"),
        };
        let value = |who| figure(Median::of(measured.of(who).iter().copied()));
        let ratio = |to| with_spread(measured.ratio(Who::Rust, to));
        table += &format!(
            "| {} | {unit} | {} | {} | {} | {} | {} |\n",
            measured.row.name,
            value(Who::Rust),
            value(Who::Node),
            value(Who::Baseline),
            ratio(Who::Baseline),
            ratio(Who::Node),
        );
    }
    Ok(format!("{table}\n{}", machine()?))
}

pub fn figure(median: Option<Median>) -> String {
    median.map_or("—".into(), |median| rounded(median.value))
}

pub fn with_spread(median: Option<Median>) -> String {
    match median {
        Some(Median { value, spread }) => {
            format!("{} ± {spread:.*}", rounded(value), decimals(value))
        }
        None => "—".into(),
    }
}

/// How many digits after the point a figure has: three digits in all, or at most five after the
/// point.
fn decimals(value: f64) -> usize {
    let magnitude = value.abs().max(1e-3).log10().floor();
    (2.0 - magnitude).max(0.0) as usize
}

/// A figure with three significant digits.
fn rounded(value: f64) -> String {
    let decimals = decimals(value);
    if decimals > 0 {
        return format!("{value:.decimals$}");
    }
    let unit = 10_f64.powf(value.abs().log10().floor() - 2.0);
    format!("{:.0}", (value / unit).round() * unit)
}

/// Where this was measured, in one line.
pub fn machine() -> Result<String> {
    let mut system = System::new();
    system.refresh_cpu_all();
    let cpu = system.cpus().first().map_or("unknown", |cpu| cpu.brand());
    let kernel = System::kernel_version().unwrap_or_default();
    let kernel: Vec<_> = kernel.split('.').take(2).collect();
    let first_line = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().next().map(str::to_owned)
    };
    Ok(format!(
        "{} CPUs ({cpu}), {} {}; {}; {}.",
        thread::available_parallelism()?,
        std::env::consts::OS,
        kernel.join("."),
        first_line("rustc", "--version").context("rustc prints nothing")?,
        first_line("node", "--version").map_or("no Node".into(), |node| format!("Node {node}")),
    ))
}

/// Writes a table into the page, between the lines that name the command.
pub fn write(command: &str, table: &str) -> Result<()> {
    let [begin, end] = ["begin", "end"].map(|edge| format!("<!-- {command}: {edge} -->"));
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let place = || format!("{PAGE} has no lines '{begin}' and '{end}'");
    let (before, rest) = page.split_once(&begin).with_context(place)?;
    let (_, after) = rest.split_once(&end).with_context(place)?;
    fs::write(path, format!("{before}{begin}\n\n{table}\n\n{end}{after}"))?;
    Ok(())
}
