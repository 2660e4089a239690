//! Two kinds of checks: a case is a command line with its expected output, and a scenario is a
//! function. Each is written once and runs with the Rust program. Where Node must do the same, it
//! also runs with the program for Node.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{check, check_if, check_with};
use crate::examples::Example;
use crate::harness::programs::Runtime;
use crate::harness::run::{Output, run, start_on};
use crate::harness::{same, same_lines};

/// A check that starts this command in its own way.
pub type Scenario = fn(Command) -> Result<()>;

/// Scenarios, with the names of their checks.
type Scenarios = Vec<(&'static str, Scenario)>;

/// Scenarios, each as the name of a function or as `name = closure`.
macro_rules! scenarios {
    ($($name:ident $(= $closure:expr)?),+ $(,)?) => {
        vec![$((stringify!($name), {
            $(let $name = $closure;)?
            $name as $crate::verify::case::Scenario
        })),+]
    };
}
pub(super) use scenarios;

impl Example {
    /// The Rust program. Its stdin is a pipe that stays open and to which nothing is written.
    pub fn rust_command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.stdin(Stdio::piped());
        command
    }

    /// The program for Node, with the same stdin.
    pub fn node_command(&self) -> Command {
        let mut command = self.node();
        command.stdin(Stdio::piped());
        command
    }

    /// A case that, unless it says otherwise, prints nothing, ends with code 0, and does the same
    /// under Node.
    pub fn case<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Case {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        Case {
            example: *self,
            name: name.to_owned(),
            args: args.collect(),
            rust: Expected::default(),
            node: Node::Same,
        }
    }

    /// Checks of scenarios with the Rust program.
    pub fn scenarios(&self, group: &str, scenarios: Scenarios) -> Vec<Trial> {
        self.scenarios_if(true, "", group, scenarios)
    }

    /// Checks of scenarios that look into `/proc`.
    pub fn scenarios_on_linux(&self, group: &str, scenarios: Scenarios) -> Vec<Trial> {
        let is_linux = cfg!(target_os = "linux");
        self.scenarios_if(is_linux, "it needs Linux's /proc", group, scenarios)
    }

    /// Checks of scenarios that are ignored, for the reason given, unless a condition holds.
    pub fn scenarios_if(
        &self,
        condition: bool,
        reason: &str,
        group: &str,
        scenarios: Scenarios,
    ) -> Vec<Trial> {
        let example = *self;
        let checks = scenarios.into_iter().map(|(name, scenario)| {
            let name = format!("{}::{group}{name}", self.name);
            let check = move || scenario(example.rust_command());
            check_if(condition, reason, name, check)
        });
        checks.collect()
    }

    /// Checks of scenarios with both programs.
    pub fn scenarios_of_both(&self, group: &str, scenarios: Scenarios) -> Vec<Trial> {
        let checks = scenarios.into_iter();
        checks
            .flat_map(|(name, scenario)| self.both(&format!("{group}{name}"), scenario))
            .collect()
    }

    /// Two checks: a scenario with the Rust program, and with the program for Node.
    pub fn both(
        &self,
        name: &str,
        scenario: impl Fn(Command) -> Result<()> + Copy + Send + 'static,
    ) -> [Trial; 2] {
        let example = *self;
        let name = format!("{}::{name}", self.name);
        [
            check(&name, move || scenario(example.rust_command())),
            check_with(Runtime::Node, format!("{name}::node"), move || {
                scenario(example.node_command())
            }),
        ]
    }

    /// A check with a stdout on a full disk.
    pub fn stdout_on_a_full_disk(&self, args: &'static [&str]) -> Trial {
        let example = *self;
        let name = format!("{}::stdout_on_a_full_disk", self.name);
        let has_device = Path::new("/dev/full").exists();
        check_if(has_device, "there is no /dev/full", name, move || {
            let disk = File::options().write(true).open("/dev/full")?;
            let mut command = example.rust_command();
            command.args(args);
            let error = "cannot write to stdout: No space left on device (os error 28)";
            let stderr = format!("{}: {error}\n", example.name);
            start_on(command, disk)?.finish()?.ended_with(&stderr, 1)
        })
    }

    /// Checks of `--help`, `-h` and `--version`.
    pub fn help(&self, usage: &'static str, default: &'static str) -> Trial {
        let example = *self;
        check(format!("{}::help", self.name), move || {
            let answer = |option: &str| {
                let mut command = example.rust_command();
                command.arg(option);
                let output = run(command)?;
                output.ended_with("", 0)?;
                Ok::<_, anyhow::Error>(output.stdout())
            };
            let help = answer("--help")?;
            same("the first line", &Some(usage), &help.lines().next())?;
            let default = format!("Default: {default}");
            same("the last line", &Some(&default[..]), &help.lines().last())?;
            same("the answer to -h", &help, &answer("-h")?)?;
            let version = format!("{} 0.1.0\n", example.name);
            same("the version", &version, &answer("--version")?)
        })
    }
}

pub struct Case {
    example: Example,
    name: String,
    args: Vec<OsString>,
    rust: Expected,
    node: Node,
}

/// What the program for Node does in a case.
enum Node {
    Same,
    Differs(Expected),
    /// It has no such feature.
    NotAsked,
}

/// The expected output and code of a case.
#[derive(Clone, Default)]
struct Expected {
    stdout: Text,
    stderr: Text,
    code: i32,
}

#[derive(Clone)]
enum Text {
    Is(Vec<u8>),
    HasLines(String),
    Contains(String),
}

impl Default for Text {
    fn default() -> Self {
        Self::Is(Vec::new())
    }
}

impl Expected {
    fn check(&self, output: &Output) -> Result<()> {
        self.stdout.check("stdout", &output.stdout)?;
        self.stderr.check("stderr", &output.stderr)?;
        same("code", &self.code, &output.code())
    }
}

impl Text {
    fn check(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let actual = String::from_utf8_lossy(bytes);
        match self {
            Self::Is(expected) => {
                // First as text, whose difference is easier to read, then as bytes.
                same(what, &*String::from_utf8_lossy(expected), &*actual)?;
                same(what, &expected[..], bytes)
            }
            Self::HasLines(expected) => same_lines(what, expected, &actual),
            Self::Contains(text) => {
                ensure!(
                    actual.contains(text),
                    "{what} does not contain {text:?}: {actual:?}"
                );
                Ok(())
            }
        }
    }
}

impl Case {
    pub fn stdout(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.expected().stdout = Text::Is(bytes.as_ref().to_vec());
        self
    }

    /// These lines, in any order.
    pub fn stdout_lines(mut self, lines: &str) -> Self {
        self.expected().stdout = Text::HasLines(lines.to_owned());
        self
    }

    pub fn stderr(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.expected().stderr = Text::Is(bytes.as_ref().to_vec());
        self
    }

    pub fn stderr_contains(mut self, text: &str) -> Self {
        self.expected().stderr = Text::Contains(text.to_owned());
        self
    }

    pub fn code(mut self, code: i32) -> Self {
        self.expected().code = code;
        self
    }

    /// Node does something else: what is set after this is expected of Node only.
    pub fn but_node(mut self) -> Self {
        self.node = Node::Differs(Expected::default());
        self
    }

    fn expected(&mut self) -> &mut Expected {
        match &mut self.node {
            Node::Differs(expected) => expected,
            _ => &mut self.rust,
        }
    }

    /// The case runs with the Rust program only, as the program for Node has no such feature.
    pub fn rust_only(mut self) -> Self {
        self.node = Node::NotAsked;
        self
    }

    /// A check with the Rust program, and one with Node if it is asked.
    pub fn checks(self) -> Vec<Trial> {
        let name = format!("{}::{}", self.example.name, self.name);
        let expected_of_node = match &self.node {
            Node::Same => Some(self.rust.clone()),
            Node::Differs(expected) => Some(expected.clone()),
            Node::NotAsked => None,
        };
        let with_node = expected_of_node.map(|expected| {
            let mut command = self.example.node_command();
            command.args(&self.args);
            check_with(Runtime::Node, format!("{name}::node"), move || {
                expected.check(&run(command)?)
            })
        });
        let mut command = self.example.rust_command();
        command.args(&self.args);
        let with_rust = check(name, move || self.rust.check(&run(command)?));
        [with_rust].into_iter().chain(with_node).collect()
    }
}

/// The checks of several cases.
pub fn checks_of(cases: impl IntoIterator<Item = Case>) -> Vec<Trial> {
    cases.into_iter().flat_map(Case::checks).collect()
}
