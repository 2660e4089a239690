//! The figures as a table, as JSON, and in the README.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Better, Measured, Who};
use crate::programs;

/// The lines of the README between which the table stands.
const BEGIN: &str = "<!-- cargo xtask bench --write: begin -->";
const END: &str = "<!-- cargo xtask bench --write: end -->";

/// A median, and how far half of the values lie from it at most.
#[derive(Clone, Copy)]
pub struct Median {
    pub value: f64,
    spread: f64,
}

impl Median {
    /// Of nothing there is none, nor of what does not apply.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let values: Vec<f64> = values.into_iter().collect();
        let value =
            median(values.clone()).filter(|_| values.iter().all(|value| value.is_finite()))?;
        let spread = median(values.iter().map(|other| (other - value).abs()).collect())?;
        Some(Self { value, spread })
    }
}

impl Measured {
    fn of(&self, who: Who) -> &[f64] {
        let samples = self.samples.iter().find(|(whose, _)| *whose == who);
        samples.map_or(&[], |(_, samples)| samples)
    }

    pub fn median(&self, who: Who) -> Option<Median> {
        Median::of(self.of(who).iter().copied())
    }

    /// How many times as much one has as the other, round by round.
    fn ratio(&self, who: Who, to: Who) -> Option<Median> {
        Median::of(
            self.of(who)
                .iter()
                .zip(self.of(to))
                .map(|(who, to)| who / to),
        )
    }

    /// How many times worse one is than the limit.
    pub fn times_the_limit(&self, who: Who) -> Option<f64> {
        let ratio = match self.row.better {
            Better::Less => self.ratio(who, Who::Limit),
            Better::More => self.ratio(Who::Limit, who),
        };
        ratio.map(|ratio| ratio.value)
    }
}

/// The table, in Markdown, with the machine below it.
pub fn table(measured: &[Measured]) -> Result<String> {
    let mut lines = vec![
        "| | | port | Node | limit | port ÷ limit | port ÷ Node |".to_owned(),
        "|---|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    for row in measured {
        let value = |who| {
            row.median(who)
                .map_or("—".into(), |median| rounded(median.value))
        };
        let ratio = |to| match row.ratio(Who::Port, to) {
            Some(Median { value, spread }) => {
                format!("{} ± {spread:.*}", rounded(value), decimals(value))
            }
            None => "—".into(),
        };
        let better = match row.row.better {
            Better::Less => "less is better",
            Better::More => "more is better",
        };
        let unit = match row.row.unit {
            "" => better.to_owned(),
            unit => format!("{unit}, {better}"),
        };
        lines.push(format!(
            "| {} | {unit} | {} | {} | {} | {} | {} |",
            row.row.name,
            value(Who::Port),
            value(Who::Node),
            value(Who::Limit),
            ratio(Who::Limit),
            ratio(Who::Node),
        ));
    }
    lines.push(String::new());
    lines.push(machine()?);
    Ok(lines.join("\n"))
}

/// How many digits after the point make three in all, or five after it.
fn decimals(value: f64) -> usize {
    let magnitude = value.abs().max(1e-3).log10().floor();
    (2.0 - magnitude).max(0.0) as usize
}

fn rounded(value: f64) -> String {
    let decimals = decimals(value);
    if decimals > 0 {
        return format!("{value:.decimals$}");
    }
    let unit = 10_f64.powf(value.log10().floor() - 2.0);
    format!("{:.0}", (value / unit).round() * unit)
}

/// Where this was measured, in one line.
fn machine() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, value)| value)
    };
    let first_line = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().next().map(str::to_owned)
    };
    Ok(format!(
        "{} CPUs ({}), Linux {}; {}; Node {}.",
        std::thread::available_parallelism()?,
        field("model name"),
        first_line("uname", "-r").context("uname says nothing")?,
        first_line("rustc", "--version").context("rustc says nothing")?,
        first_line("node", "--version").unwrap_or("not there".into()),
    ))
}

/// All samples, for machines.
pub fn json(measured: &[Measured]) -> Result<String> {
    let rows = measured.iter().map(|row| {
        let samples = row.samples.iter().map(|(who, samples)| {
            let finite = samples
                .iter()
                .map(|sample| json!(sample.is_finite().then_some(sample)));
            (format!("{who:?}").to_lowercase(), finite.collect::<Value>())
        });
        json!({
            "name": row.row.name,
            "unit": row.row.unit,
            "less_is_better": row.row.better == Better::Less,
            "samples": samples.collect::<serde_json::Map<_, _>>(),
        })
    });
    let all = json!({ "machine": machine()?, "rows": rows.collect::<Vec<_>>() });
    Ok(serde_json::to_string_pretty(&all)?)
}

/// Puts the table where the README has one.
pub fn write(table: &str) -> Result<()> {
    let path = programs::root().join("README.md");
    let readme = fs::read_to_string(&path)?;
    let (before, rest) = readme
        .split_once(BEGIN)
        .context("the README has no place for it")?;
    let (_, after) = rest.split_once(END).context("the place has no end")?;
    fs::write(path, format!("{before}{BEGIN}\n\n{table}\n\n{END}{after}"))?;
    Ok(())
}
