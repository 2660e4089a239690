//! Cases: command lines with their expected output, in the text files of `xtask/cases/`. Each runs
//! with the Rust program. Where Node must do the same, it also runs with the program for Node.

use std::str;

use anyhow::bail;

use super::prelude::*;
use crate::harness::programs::shell;

/// A part of a file, between two empty lines.
struct Case {
    name: String,
    /// For the shell.
    command: String,
    /// A runtime or a file, without which it is ignored.
    needs: Option<String>,
    rust: Expected,
    node: Node,
}

/// What the program for Node does.
enum Node {
    Same,
    Differs(Expected),
    /// It has no such feature.
    NotRun,
}

/// What a program prints, and how it ends.
#[derive(Clone, Default)]
struct Expected {
    stdout: String,
    stderr: String,
    status: i32,
    /// Whether the lines of its stdout may come in any order.
    any_order: bool,
}

/// The cases of the suite's example.
pub fn checks(suite: &Suite) -> Result<()> {
    let file = format!("xtask/cases/{}.txt", suite.of().name);
    let text = fs::read_to_string(root().join(&file)).with_context(|| file.clone())?;
    let mut line = 1;
    for part in text.split("\n\n") {
        let place = format!("the case at {file}:{line}");
        line += part.matches('\n').count() + 2;
        if let Some(case) = Case::parse(part).with_context(|| place.clone())? {
            case.register(suite, &place);
        }
    }
    Ok(())
}

impl Case {
    /// `None` if the part has only comments.
    fn parse(part: &str) -> Result<Option<Self>> {
        let mut lines = part.lines().filter(|line| !line.starts_with('#'));
        let Some(name) = lines.next() else {
            return Ok(None);
        };
        let command = lines.next().and_then(|line| line.strip_prefix("$ "));
        let mut case = Self {
            name: name.to_owned(),
            command: command.context("no '$ ' below the name")?.to_owned(),
            needs: None,
            rust: Expected::default(),
            node: Node::Same,
        };
        for line in lines {
            let expected = match &mut case.node {
                Node::Differs(expected) => expected,
                _ => &mut case.rust,
            };
            if let Some(text) = line.strip_prefix("2>") {
                expected.stderr += text.strip_prefix(' ').unwrap_or(text);
                expected.stderr += "\n";
            } else if let Some(text) = line.strip_prefix('>') {
                expected.stdout += text.strip_prefix(' ').unwrap_or(text);
                expected.stdout += "\n";
            } else if let Some(needs) = line.strip_prefix("needs ") {
                case.needs = Some(needs.to_owned());
            } else if let Some(status) = line.strip_prefix("status ") {
                expected.status = status.parse().context("the status is no number")?;
            } else {
                let any_order = line == "under Node, in any order:";
                case.node = match line {
                    "not under Node" => Node::NotRun,
                    "under Node:" | "under Node, in any order:" => Node::Differs(Expected {
                        any_order,
                        ..Expected::default()
                    }),
                    _ => bail!("an unknown kind of line: {line}"),
                };
            }
        }
        Ok(Some(case))
    }

    /// A check with the Rust program, and one with Node's.
    fn register(self, suite: &Suite, place: &str) {
        let suite = match &self.needs {
            Some(needs) => &suite.only_if(is_there(needs), &format!("there is no {needs}")),
            None => suite,
        };
        let example = suite.of();
        let expected_of_node = match self.node {
            Node::Same => Some(self.rust.clone()),
            Node::Differs(expected) => Some(expected),
            Node::NotRun => None,
        };
        let (expected, command) = (self.rust, self.command.clone());
        suite.check_at(place, &self.name, move || expected.check(&command));
        if let Some(expected) = expected_of_node {
            let script = root().join(example.name).join(example.script);
            let node = format!("node '{}'", script.display());
            let command = self.command.replacen(example.name, &node, 1);
            suite.node_at(place, &self.name, move || expected.check(&command));
        }
    }
}

impl Expected {
    /// Runs the command. Its stdin is a pipe that stays open and to which nothing is written.
    fn check(&self, command: &str) -> Result<()> {
        let mut shell = shell(command);
        shell.stdin(Stdio::piped());
        self.compare(&run(shell)?)
            .with_context(|| format!("$ {command}"))
    }

    fn compare(&self, output: &Output) -> Result<()> {
        let stdout = str::from_utf8(&output.stdout).context("stdout is not UTF-8")?;
        let stderr = str::from_utf8(&output.stderr).context("stderr is not UTF-8")?;
        if self.any_order {
            same("stdout", &sorted(&self.stdout), &sorted(stdout))?;
        } else if !fits(&self.stdout, stdout) {
            same("stdout", &self.stdout[..], stdout)?;
        }
        if !fits(&self.stderr, stderr) {
            same("stderr", &self.stderr[..], stderr)?;
        }
        same("status", &self.status, &output.code())
    }
}

/// Whether there is a file, or a runtime of that name.
fn is_there(what: &str) -> bool {
    let mut runtimes = Runtime::ALL.into_iter();
    let runtime = runtimes.find(|runtime| runtime.name() == what);
    runtime.map_or_else(|| Path::new(what).exists(), Runtime::is_there)
}

fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<_> = lines.split_inclusive('\n').collect();
    lines.sort_unstable();
    lines
}

/// Whether a text is the one expected, in which `...` stands for any text.
fn fits(expected: &str, text: &str) -> bool {
    let Some((start, expected)) = expected.split_once("...") else {
        return expected == text;
    };
    let mut rest = text.strip_prefix(start);
    while let Some(text) = rest {
        if fits(expected, text) {
            return true;
        }
        let mut chars = text.chars();
        rest = chars.next().map(|_| chars.as_str());
    }
    false
}
