//! The programs: the examples, the same programs for Node, and the runtimes.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::examples::{EXAMPLES, Example, SPAWN_LS};

/// Programs that cargo has built, by their names.
pub type Programs = BTreeMap<String, PathBuf>;

static BUILT: OnceLock<Programs> = OnceLock::new();

/// Builds each example as `cargo run --package` does, with `options` such as `--release`. May be
/// called only once.
///
/// # Errors
///
/// When they do not build. The compiler's errors are on stderr.
pub fn build(options: &[&str]) -> Result<()> {
    let mut built = Programs::new();
    // One by one: together, cargo would build them with the features that any of them needs.
    for example in EXAMPLES {
        let mut cargo = cargo();
        cargo.args(["build", "--package", example.name]);
        built.extend(executables(cargo.args(options))?);
    }
    ensure!(BUILT.set(built).is_ok(), "the examples are built once");
    Ok(())
}

/// A cargo command for all examples.
pub fn of_examples(args: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(args);
    for example in EXAMPLES {
        cargo.args(["--package", example.name]);
    }
    cargo
}

/// Runs a cargo command that builds programs.
pub fn executables(cargo: &mut Command) -> Result<Programs> {
    let built = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "{cargo:?} failed");
    let messages = String::from_utf8(built.stdout)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    };
    Ok(messages.lines().filter_map(executable).collect())
}

impl Example {
    /// Its program.
    pub fn program(&self) -> &'static Path {
        let built = BUILT.get().expect("`build` comes first");
        &built[self.name]
    }

    /// Its command. Its stdin is a pipe that stays open and to which nothing is written.
    pub fn rust_command(&self) -> Command {
        let mut command = Command::new(self.program());
        // A user may have set this. No output depends on it.
        command.stdin(Stdio::piped()).env("RUST_BACKTRACE", "1");
        command
    }

    /// The command of the program for Node, with the same stdin.
    pub fn node_command(&self) -> Command {
        let mut command = self.node();
        command.stdin(Stdio::piped());
        command
    }

    /// The same program for Node, as a command.
    pub fn node(&self) -> Command {
        let mut node = Command::new("node");
        node.arg(root().join(self.name).join(self.script));
        node
    }
}

/// A shell command in the folder of the workspace. It finds `cargo` and the Rust programs.
pub fn shell(command: &str) -> Command {
    let folders = [env!("CARGO").as_ref(), SPAWN_LS.program()].map(|path: &Path| path.parent());
    let mut path: Vec<_> = folders.into_iter().flatten().map(PathBuf::from).collect();
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env(
            "PATH",
            env::join_paths(path).expect("no folder's name has a colon"),
        )
        .current_dir(root());
    shell
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is in the workspace's folder")
}

/// A script or a program for a check or the bench.
pub fn peer(name: &str) -> PathBuf {
    root().join("xtask/peers").join(name)
}

/// The cargo that has built this program.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

/// A JavaScript runtime that may be on the path.
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

    /// The command line that runs a script.
    pub fn script(self, script: &Path) -> Command {
        let mut command = Command::new(self.name());
        if self == Self::Deno {
            command.args(["run", "--quiet", "--allow-all"]);
        }
        command.arg(script);
        command
    }

    pub fn is_there(self) -> bool {
        static THERE: LazyLock<Vec<Runtime>> = LazyLock::new(|| {
            let answers = |runtime: &Runtime| {
                let mut command = Command::new(runtime.name());
                let answer = command.arg("--version").stdin(Stdio::null()).output();
                answer.is_ok_and(|answer| answer.status.success())
            };
            Runtime::ALL.into_iter().filter(answers).collect()
        });
        THERE.contains(&self)
    }
}
