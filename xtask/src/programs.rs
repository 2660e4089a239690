//! Where the programs are that are checked and measured: the examples, their other halves
//! for Node, and the runtimes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub const EXAMPLES: [&str; 5] = [
    "spawn-ls",
    "exec-count",
    "fork-ipc",
    "cluster-http",
    "worker-sum",
];

static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();

/// Builds the examples, once, with `options` such as `--release`.
///
/// # Errors
///
/// When they do not build; the compiler has said why on stderr.
pub fn build(options: &[&str]) -> Result<()> {
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--bins",
        "--message-format=json-render-diagnostics",
    ]);
    cargo.args(EXAMPLES.iter().flat_map(|name| ["--package", name]));
    let built = cargo
        .args(options)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "the examples do not build");

    let paths = String::from_utf8(built.stdout)?
        .lines()
        .filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        })
        .collect();
    ensure!(BUILT.set(paths).is_ok(), "the examples are built once");
    Ok(())
}

/// The program of an example.
pub fn example(name: &str) -> &'static Path {
    let built = BUILT.get().expect("`build` comes first");
    &built[name]
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is in the workspace's folder")
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

/// A JavaScript runtime that may be there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Runtime {
    Node,
    Bun,
    Deno,
}

impl Runtime {
    pub const ALL: [Self; 3] = [Self::Node, Self::Bun, Self::Deno];

    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    /// The words before a script's name on the command line.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["node"],
            Self::Bun => &["bun"],
            Self::Deno => &["deno", "run", "--quiet", "--allow-all"],
        }
    }

    /// Whether it is on the path.
    pub fn is_there(self) -> bool {
        static THERE: OnceLock<Vec<Runtime>> = OnceLock::new();
        let there = THERE.get_or_init(|| {
            let answers = |runtime: &Self| {
                let mut command = Command::new(runtime.name());
                let answer = command.arg("--version").stdin(Stdio::null()).output();
                answer.is_ok_and(|answer| answer.status.success())
            };
            Self::ALL.into_iter().filter(answers).collect()
        });
        there.contains(&self)
    }
}
