//! The checks of the READMEs: their transcripts are run, their code stands in a file that is built,
//! and their figures are those that the bench has measured.

use std::collections::HashMap;

use super::hosts;
use super::prelude::*;
use crate::copy::blocks;
use crate::harness::packages::BUILDING;
use crate::harness::programs;
use crate::host;

/// A check of one README.
type OfReadme = fn(&Path) -> Result<()>;

pub fn checks(suite: &Suite) {
    let names = EXAMPLES.iter().map(|example| example.name);
    for folder in ["", "xtask/hosts"].into_iter().chain(names) {
        let name = match folder.rsplit('/').next() {
            None | Some("") => "root",
            Some(name) => name,
        };
        let subjects: [(_, OfReadme); 4] = [
            ("transcripts", transcripts),
            ("code", code),
            ("commands", commands),
            ("links", links),
        ];
        for (subject, of_readme) in subjects {
            let readme = Path::new(folder).join("README.md");
            suite.check(format!("{name}::{subject}"), move || {
                let _building;
                if folder == "xtask/hosts" {
                    // Its transcripts must not wait for the compiler.
                    hosts::build()?;
                    _building = BUILDING.lock();
                }
                of_readme(&readme)
            });
        }
    }

    // A figure is a link to the page of costs. Its title names the row and, unless it is the Rust
    // program's, the column, as in `[44 MiB](xtask/COSTS.md "cluster-http: memory of a worker,
    // Node")`.
    suite.check("figures", || {
        let rows = rows(&read("xtask/COSTS.md")?);
        let mut figures = 0;
        for readme in [""]
            .into_iter()
            .chain(EXAMPLES.iter().map(|example| example.name))
        {
            let text = read(Path::new(readme).join("README.md"))?.replace('\n', " ");
            for link in text.split('[').skip(1) {
                let Some((figure, target)) = link.split_once("](") else {
                    continue;
                };
                let Some((_, title)) = target.split_once("COSTS.md \"") else {
                    continue;
                };
                let title = title.split('"').next().unwrap_or("");
                let value = rows.get(title);
                let value =
                    value.with_context(|| format!("'{title}' is not a figure of the table"))?;
                let number = figure.split(' ').next().unwrap_or("");
                same(title, &two_digits(*value)[..], number)?;
                figures += 1;
            }
        }
        ensure!(figures > 0, "they give no figure");
        Ok(())
    });
}

fn read(file: impl AsRef<Path>) -> Result<String> {
    let path = root().join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Runs the commands of the `console` blocks in the folder of the workspace, as a reader would.
fn transcripts(readme: &Path) -> Result<()> {
    let blocks = blocks(&read(readme)?, "console");
    let mut commands = 0;
    for block in blocks {
        // A command stands after a `$` at the start of a line, and its output below.
        for step in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            let actual = match expected.trim_end().strip_suffix("^C") {
                None => run(shell(readme, command))?.stdout(),
                Some(lines) => until_interrupted(shell(readme, command), lines.lines().count())?,
            };
            let expected = expected.trim_end().trim_end_matches("^C");
            same(
                command,
                &without_numbers(expected),
                &without_numbers(&actual),
            )?;
            commands += 1;
        }
    }
    ensure!(commands > 0, "it shows no transcript");
    Ok(())
}

/// A command's output, with Ctrl-C after `lines` lines.
fn until_interrupted(mut shell: Command, lines: usize) -> Result<String> {
    let program = start(shell.process_group(0))?;
    wait_until("the lines of the transcript", || {
        Ok(program.stdout().lines().count() >= lines)
    })?;
    program.signal_group(Signal::SIGINT)?;
    Ok(program.finish()?.stdout())
}

/// A shell that runs a command of a README. In an example's README it starts the program that is
/// built already. The README of the workspace shows `cargo run`, so there it is run.
fn shell(readme: &Path, command: &str) -> Command {
    let example = readme.parent().unwrap_or(readme).display();
    let cargo_run = format!("cargo run -q -p {example}");
    let command = match command.strip_prefix(&cargo_run) {
        Some(args) => format!("{example}{}", args.replacen(" -- ", " ", 1)),
        None => command.to_owned(),
    };
    // What comes on both streams is in the transcript.
    let mut shell = programs::shell(&format!("exec 2>&1; {command}"));
    shell.stdin(Stdio::null());
    shell
}

/// The text without what differs from run to run: the process ids and the port of a cluster.
fn without_numbers(text: &str) -> String {
    let varies = |line: &str| {
        let starts = ["Master ", "Worker ", "worker ", "cluster-http: "];
        starts.iter().any(|start| line.starts_with(start))
    };
    let line = |line: &str| {
        let parts = line.split(|c: char| c.is_ascii_digit() && varies(line));
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        parts.join("N") + "\n"
    };
    text.trim_end().lines().map(line).collect()
}

/// Each block of Rust or JavaScript stands, but for its indentation, in a file that is built or
/// run.
fn code(readme: &Path) -> Result<()> {
    let text = read(readme)?;
    for (language, extensions) in [("rust", &["rs"][..]), ("js", &["cjs", "mjs"])] {
        let mut sources = Vec::new();
        let folders = EXAMPLES.iter().map(|example| example.name);
        for folder in folders.chain(["xtask/hosts", "xtask/peers"]) {
            collect(&root().join(folder), extensions, &mut sources)?;
        }
        for block in blocks(&text, language) {
            let block = without_indentation(&block);
            ensure!(
                sources.iter().any(|source| source.contains(&block)),
                "this stands in no file that is built:\n{block}"
            );
        }
    }
    Ok(())
}

fn without_indentation(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}

/// The files below a folder that have one of the extensions.
fn collect(folder: &Path, extensions: &[&str], into: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, extensions, into)?;
        } else if extensions
            .iter()
            .any(|wanted| path.extension() == Some(wanted.as_ref()))
        {
            into.push(without_indentation(&fs::read_to_string(path)?));
        }
    }
    Ok(())
}

/// The names in `cargo` commands exist.
fn commands(readme: &Path) -> Result<()> {
    let text = read(readme)?;
    let words: Vec<_> = text.split([' ', '\n', '`']).collect();
    let after = |command: &[&str]| -> Vec<&str> {
        let found = words.windows(command.len() + 1);
        let found = found.filter(|window| window.starts_with(command));
        found.map(|window| window[command.len()]).collect()
    };
    for name in after(&["cargo", "run", "-p"]) {
        ensure!(
            name == "<example>" || EXAMPLES.iter().any(|example| example.name == name),
            "there is no example '{name}'"
        );
    }
    for name in after(&["cargo", "xtask", "copy"]) {
        ensure!(
            name.is_empty() || files().any(|file| file.name() == name),
            "there is no file '{name}' to copy"
        );
    }
    let hosts = host::hosts()?;
    for name in after(&["cargo", "xtask", "host"]) {
        ensure!(
            ["", "NAME"].contains(&name) || hosts.iter().any(|(host, _)| host == name),
            "there is no host program '{name}'"
        );
    }
    Ok(())
}

/// Each link to a file of the project leads to one.
fn links(readme: &Path) -> Result<()> {
    let folder = root().join(readme);
    let folder = folder.parent().context("its folder")?;
    for link in read(readme)?.split("](").skip(1) {
        let file = link.split([' ', '#', ')']).next().unwrap_or("");
        ensure!(
            file.contains("://") || folder.join(file).exists(),
            "{file} leads nowhere"
        );
    }
    Ok(())
}

/// The figures of the table, by the names of their rows and columns.
fn rows(table: &str) -> HashMap<String, f64> {
    let mut rows = HashMap::new();
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let columns = [(2, ""), (3, ", Node"), (4, ", baseline")];
        for (index, column) in columns {
            if let Some(Ok(value)) = cells.get(index).map(|cell| cell.parse()) {
                rows.insert(format!("{}{column}", cells[0]), value);
            }
        }
    }
    rows
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
