//! Checks that the transcripts in the READMEs are what their commands print, and that the
//! guide's figures are those of the table.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;

use super::check;
use super::run::{run, same};
use crate::programs::{self, EXAMPLES};

pub fn checks() -> Vec<Trial> {
    let of_example =
        |name: &'static str| check(format!("readmes::{name}"), move || transcripts(name));
    let mut checks: Vec<Trial> = EXAMPLES.map(of_example).into();
    checks.push(check("readmes::figures", figures));
    checks
}

/// What the guide names in italics is a row of the table below it, and its figure is that
/// row's, to two digits.
fn figures() -> Result<()> {
    let readme = fs::read_to_string(programs::root().join("README.md"))?;
    let (_, guide) = readme.split_once("\n## Which one").context("the guide")?;
    let (guide, table) = guide
        .split_once("\n## What it costs")
        .context("the table")?;
    let rows: Vec<(&str, f64)> = table
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((*cells.get(1)?, cells.get(3)?.parse().ok()?))
        })
        .collect();
    let mut claims = 0;
    // A line of the guide's own table is about one example, and names only the rest.
    let paragraphs = guide.replace("|\n|", "|\n\n|");
    for paragraph in paragraphs.split("\n\n") {
        let text = paragraph.replace("**", "").replace('\n', " ");
        for name in text.split('*').skip(1).step_by(2) {
            let mut named = rows.iter().filter(|(row, _)| row.ends_with(name));
            let (Some((_, value)), None) = (named.next(), named.next()) else {
                bail!("'{name}' is not one row of the table");
            };
            let figure = two_digits(*value);
            ensure!(
                text.contains(&figure),
                "{name} is {figure}, not so in {text}"
            );
            claims += 1;
        }
    }
    ensure!(claims > 0, "it makes no claim");
    Ok(())
}

/// As in prose: 0.25, 2.5 or 25,000.
fn two_digits(value: f64) -> String {
    let magnitude = value.log10().floor();
    if magnitude < 1.0 {
        return format!("{value:.*}", (1.0 - magnitude) as usize);
    }
    let unit = 10_f64.powf(magnitude - 1.0);
    let whole = ((value / unit).round() * unit).to_string();
    let thousands = whole.as_bytes().rchunks(3).rev();
    let thousands: Vec<_> = thousands.map(String::from_utf8_lossy).collect();
    thousands.join(",")
}

/// Runs the commands of a README's `console` blocks, in the folder of the workspace.
fn transcripts(example: &str) -> Result<()> {
    let readme = fs::read_to_string(programs::root().join(example).join("README.md"))?;
    let blocks = readme.split("```console\n").skip(1);
    let mut commands = 0;
    for block in blocks.filter_map(|block| block.split("```").next()) {
        // A command stands after a `$` at the start of a line, and its output below.
        for step in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            let (expected, printed) = (numbered(expected), numbered(&printed(command)?));
            same(command, expected, printed)?;
            commands += 1;
        }
    }
    ensure!(commands > 0, "it shows no transcript");
    Ok(())
}

/// What a command prints, on both streams.
fn printed(command: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec 2>&1; {command}"));
    shell.current_dir(programs::root()).stdin(Stdio::null());
    let cargo = Path::new(env!("CARGO"))
        .parent()
        .context("cargo's folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", cargo.display()));
    Ok(run(shell)?.stdout())
}

/// The text without what differs from run to run: the cluster's process numbers and port.
fn numbered(text: &str) -> String {
    let varies = |line: &&str| {
        ["Master ", "Worker ", "cluster-http: "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let numbered = |line: &str| match Some(line).filter(varies) {
        Some(line) => line
            .split(|c: char| c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("N"),
        None => line.to_owned(),
    };
    text.trim_end()
        .lines()
        .map(numbered)
        .collect::<Vec<_>>()
        .join("\n")
}
