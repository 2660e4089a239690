//! A case: a command line of an example, and what must come of it. It is written once and
//! runs under the port always, and under the same program for Node where there is one.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::run::{self, Output, same};
use super::{check, check_with};
use crate::programs::{self, Runtime};

/// What a check does with a program that is yet to be started.
pub type Look = fn(Command) -> Result<()>;

/// Functions, each with its name, which becomes its check's.
macro_rules! looks {
    ($($look:ident),+ $(,)?) => {
        [$((stringify!($look), $look as $crate::verify::case::Look)),+]
    };
}
pub(super) use looks;

/// An example's two halves: the port's program, and Node's script.
#[derive(Clone, Copy)]
pub struct Example {
    pub name: &'static str,
    /// In the example's folder.
    pub script: &'static str,
}

impl Example {
    /// Runs the port.
    pub fn port(&self) -> Command {
        prepared(Command::new(programs::example(self.name)))
    }

    /// Runs the same program for Node.
    pub fn node(&self) -> Command {
        let mut command = Command::new("node");
        command.arg(programs::root().join(self.name).join(self.script));
        prepared(command)
    }

    /// A case with these arguments, which unless it says otherwise ends with status 0 and
    /// prints nothing, as it does under Node.
    pub fn case<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Case {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        Case {
            example: *self,
            name: name.to_owned(),
            args: args.collect(),
            port: Expected::default(),
            node: Node::Same,
        }
    }

    /// Checks of more than a run's end, for the port and for Node.
    pub fn checks_of_both<const N: usize>(&self, looks: [(&str, Look); N]) -> Vec<Trial> {
        let example = *self;
        let of_node = looks.map(|(name, look)| {
            let name = format!("{}::{name}::node", self.name);
            check_with(Runtime::Node, name, move || look(example.node()))
        });
        self.checks(looks).into_iter().chain(of_node).collect()
    }

    /// Checks of more than a run's end, for the port.
    pub fn checks<const N: usize>(&self, looks: [(&str, Look); N]) -> Vec<Trial> {
        let example = *self;
        let of_port = looks.map(|(name, look)| {
            let name = format!("{}::{name}", self.name);
            check(name, move || look(example.port()))
        });
        of_port.into()
    }

    /// The check of `--help`: the first line, and what the last one calls the default.
    pub fn help(&self, usage: &'static str, default: &'static str) -> Trial {
        let example = *self;
        check(format!("{}::help", self.name), move || {
            let mut command = example.port();
            command.arg("--help");
            let output = run::run(command)?;
            output.ended_with("", 0)?;
            let stdout = output.stdout();
            same("the first line", Some(usage), stdout.lines().next())?;
            let default = format!("Default: {default}");
            same("the last line", Some(&default[..]), stdout.lines().last())
        })
    }
}

/// On a stdin that nobody writes to, and that does not end.
fn prepared(mut command: Command) -> Command {
    command.stdin(Stdio::piped());
    command
}

#[derive(Clone)]
pub struct Case {
    example: Example,
    name: String,
    args: Vec<OsString>,
    port: Expected,
    node: Node,
}

/// What Node's program does with the same case.
#[derive(Clone)]
enum Node {
    Same,
    Differs(Expected),
    /// The case is about something that it does not have.
    NotAsked,
}

/// What must come of a case.
#[derive(Clone, Default)]
pub struct Expected {
    stdout: Text,
    stderr: Text,
    status: i32,
}

#[derive(Clone)]
enum Text {
    Is(Vec<u8>),
    Holds(String),
}

impl Default for Text {
    fn default() -> Self {
        Self::Is(Vec::new())
    }
}

impl Expected {
    pub fn stdout(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdout = Text::Is(bytes.as_ref().to_vec());
        self
    }

    pub fn stderr(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stderr = Text::Is(bytes.as_ref().to_vec());
        self
    }

    pub fn stderr_holds(mut self, text: &str) -> Self {
        self.stderr = Text::Holds(text.to_owned());
        self
    }

    pub fn status(mut self, status: i32) -> Self {
        self.status = status;
        self
    }

    fn meets(&self, output: &Output) -> Result<()> {
        self.stdout.meets("stdout", &output.stdout)?;
        self.stderr.meets("stderr", &output.stderr)?;
        same("status", self.status, run::code(output.status))
    }
}

impl Text {
    fn meets(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let actual = String::from_utf8_lossy(bytes);
        match self {
            // As text, which is easier to read, unless that would hide a difference.
            Self::Is(expected) if expected != bytes => {
                same(what, String::from_utf8_lossy(expected), actual)?;
                same(what, &expected[..], bytes)
            }
            Self::Is(_) => Ok(()),
            Self::Holds(text) => {
                ensure!(
                    actual.contains(text),
                    "{what} does not hold {text:?}: {actual:?}"
                );
                Ok(())
            }
        }
    }
}

impl Case {
    pub fn stdout(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.port = self.port.stdout(bytes);
        self
    }

    pub fn stderr(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.port = self.port.stderr(bytes);
        self
    }

    pub fn status(mut self, status: i32) -> Self {
        self.port = self.port.status(status);
        self
    }

    /// States what Node does, where the port departs from it.
    pub fn but_node(mut self, expected: Expected) -> Self {
        self.node = Node::Differs(expected);
        self
    }

    /// Leaves Node out: the case is about something that its program does not have.
    pub fn port_only(mut self) -> Self {
        self.node = Node::NotAsked;
        self
    }

    /// The checks of this case: one for the port, and one for Node if it is asked.
    pub fn checks(self) -> Vec<Trial> {
        let name = format!("{}::{}", self.example.name, self.name);
        let of_node = match &self.node {
            Node::Same => Some(self.port.clone()),
            Node::Differs(expected) => Some(expected.clone()),
            Node::NotAsked => None,
        };
        let node = of_node.map(|expected| {
            let case = self.clone();
            let name = format!("{name}::node");
            check_with(Runtime::Node, name, move || {
                expected.meets(&case.run(case.example.node())?)
            })
        });
        let port = check(name, move || {
            self.port.meets(&self.run(self.example.port())?)
        });
        std::iter::once(port).chain(node).collect()
    }

    fn run(&self, mut command: Command) -> Result<Output> {
        command.args(&self.args);
        run::run(command)
    }
}
