//! Checks that what people copy works where they put it: each example's folder alone, and
//! each file to copy with the crates that its header names and the programs that it shows.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::run::{Output, Running, run, same, start, wait_until};
use super::{check, check_with};
use crate::programs::{self, Runtime};

pub fn checks() -> Vec<Trial> {
    vec![
        check("copies::spawn-ls", || {
            let stdout = alone("spawn-ls")?.run(&["echo", "hi"])?.stdout();
            same(
                "stdout",
                "stdout: hi\n\nchild process exited with code 0\n",
                &stdout,
            )
        }),
        check("copies::exec-count", || {
            let stdout = alone("exec-count")?.run(&["echo hi"])?.stdout();
            same("stdout", "Number of files: hi\n\n", &stdout)
        }),
        check("copies::fork-ipc", || {
            let stdout = alone("fork-ipc")?.run(&[])?.stdout();
            let expected = "Message from parent: { hello: 'world' }\n\
                            Message from child: { foo: 'bar' }\n";
            same("stdout", expected, &stdout)
        }),
        check("copies::cluster-http", || {
            let stdout = alone("cluster-http")?.run(&["--help"])?.stdout();
            ensure!(stdout.starts_with("Usage: cluster-http"), "{stdout:?}");
            Ok(())
        }),
        check("copies::worker-sum", worker_sum_and_a_panic),
        check("copies::exec.rs", || {
            let output = pasted("exec-count/src/exec.rs", 0)?.run(&[])?;
            let names = fs::read_dir("/")?
                .flatten()
                .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
            same(
                "stdout",
                format!("{} names\n", names.count()),
                output.stdout(),
            )
        }),
        check("copies::chunk.rs", || {
            let output = pasted("spawn-ls/src/chunk.rs", 0)?.run(&[])?;
            same("stdout", "a chunk of 8 bytes\n", &output.stdout())
        }),
        check("copies::inspect.rs", || {
            let output = pasted("fork-ipc/src/inspect.rs", 0)?.run(&[])?;
            same("stdout", "{ \"it's\": [ 1, null ] }\n", &output.stdout())
        }),
        check("copies::stdio.rs", || {
            let output = pasted("fork-ipc/src/stdio.rs", 0)?.run(&[])?;
            same("stdout", "hello\n", &output.stdout())
        }),
        check_with(Runtime::Node, "copies::ipc.rs::forks_node", || {
            let copy = pasted("fork-ipc/src/ipc.rs", 0)?;
            let echo = programs::root().join("xtask/peers/echo.mjs");
            fs::copy(echo, copy.folder.path().join("child.js"))?;
            fs::write(
                copy.folder.path().join("package.json"),
                r#"{"type":"module"}"#,
            )?;
            let output = copy.run(&[])?;
            same(
                "stdout",
                "the child answers {\"hello\":\"world\"}\nthe child ended: exit status: 0\n",
                &output.stdout(),
            )
        }),
        check_with(Runtime::Node, "copies::ipc.rs::is_forked_by_node", || {
            let copy = pasted("fork-ipc/src/ipc.rs", 1)?;
            let mut node = Command::new("node");
            node.args(["--eval", FORKS_A_PROGRAM])
                .arg(&copy.program)
                .stdin(Stdio::null());
            same("stdout", "{ heard: 'hi' }\n", &run(node)?.stdout())
        }),
        check(
            "copies::ipc.rs::nothing_leaks_below_the_child",
            nothing_leaks_below_the_child,
        ),
        check("copies::ipc.rs::after_a_bad_line", after_a_bad_line),
        check("copies::share.rs", || {
            let output = pasted("worker-sum/src/share.rs", 0)?.run(&[])?;
            same("stdout", "10000\n", &output.stdout())
        }),
        check("copies::cluster.rs", cluster),
        check("copies::http.rs", http),
    ]
}

const FORKS_A_PROGRAM: &str = "
    const child = require('child_process')
        .fork('argument', { execPath: process.argv[1], execArgv: [] });
    child.on('message', (message) => { console.log(message); child.disconnect(); });
    child.send('hi');
";

/// A package outside the workspace, and the program it has been built to.
struct Copy {
    folder: TempDir,
    program: PathBuf,
}

impl Copy {
    fn build(folder: TempDir, name: &str) -> Result<Self> {
        fs::copy(
            programs::root().join("Cargo.lock"),
            folder.path().join("Cargo.lock"),
        )?;
        // What the crates were built to is kept: it takes a minute the first time.
        let target = programs::root().join("target/copies").join(name);
        let mut cargo = programs::cargo();
        cargo
            .current_dir(folder.path())
            .env("CARGO_TARGET_DIR", &target);
        // The workspace has been built: all crates are there.
        let built = cargo.args(["build", "--quiet", "--offline"]).output()?;
        let said = String::from_utf8_lossy(&built.stderr);
        ensure!(
            built.status.success() && said.is_empty(),
            "cargo build says: {said}"
        );
        Ok(Self {
            folder,
            program: target.join("debug").join(name),
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let output = run(self.command(args))?;
        output.ended_with("", 0)?;
        Ok(output)
    }
}

/// An example's folder, copied alone.
fn alone(example: &str) -> Result<Copy> {
    let folder = TempDir::new()?;
    let from = programs::root().join(example);
    copy_sources(&from, folder.path())?;
    Copy::build(folder, example)
}

fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from.join("Cargo.toml"), to.join("Cargo.toml"))?;
    fs::create_dir(to.join("src"))?;
    for file in fs::read_dir(from.join("src"))? {
        let file = file?;
        fs::copy(file.path(), to.join("src").join(file.file_name()))?;
    }
    Ok(())
}

/// A file to copy, in a new package with the crates that its header names, and with the
/// program that it shows as its `number`th example.
fn pasted(file: &str, number: usize) -> Result<Copy> {
    let text = fs::read_to_string(programs::root().join(file))?;
    let program = blocks(&text, "rust,ignore").into_iter().nth(number);
    with_program(file, &program.context("no such example")?, number)
}

fn with_program(file: &str, program: &str, number: usize) -> Result<Copy> {
    let from = programs::root().join(file);
    let text = fs::read_to_string(&from)?;
    let crates = blocks(&text, "toml").concat();
    let stem = from.file_stem().context("its name")?.to_string_lossy();
    let name = format!("with-{stem}-{number}");

    let folder = TempDir::new()?;
    // The workspace's edition is the latest: here it is the one before.
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [dependencies]\n{crates}"
    );
    fs::write(folder.path().join("Cargo.toml"), manifest)?;
    fs::create_dir(folder.path().join("src"))?;
    fs::copy(&from, folder.path().join("src").join(format!("{stem}.rs")))?;
    fs::write(folder.path().join("src/main.rs"), program)?;
    Copy::build(folder, &name)
}

/// The blocks of a language in the doc comment at the head of a file.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let header = text.lines().map_while(|line| line.strip_prefix("//!"));
    let mut blocks = Vec::new();
    let mut within = None;
    for line in header {
        let line = line.strip_prefix(' ').unwrap_or(line);
        match (&mut within, line.strip_prefix("```")) {
            (None, Some(opened)) => within = Some((opened == language, String::new())),
            (Some(_), Some(_)) => {
                let block = within.take().filter(|(wanted, _)| *wanted);
                blocks.extend(block.map(|(_, block)| block));
            }
            (Some((_, block)), None) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// Nobody's arguments make the worker panic, so its copy is changed until it does.
fn worker_sum_and_a_panic() -> Result<()> {
    let copy = alone("worker-sum")?;
    let started = "This is the main thread\nThis is a worker thread\n";
    same(
        "stdout",
        format!("{started}Result from worker: 45\n"),
        copy.run(&[])?.stdout(),
    )?;

    let main = copy.folder.path().join("src/main.rs");
    let source = fs::read_to_string(&main)?;
    let work = "black_box(i)";
    ensure!(source.contains(work), "the work has changed");
    let panics = "black_box(if i > 1 { panic!(\"thrown at {i}\") } else { i })";
    fs::write(&main, source.replace(work, panics))?;
    let copy = Copy::build(copy.folder, "worker-sum")?;
    let output = run(copy.command(&[]))?;
    same("stdout", started, &output.stdout())?;
    output.ended_with("thrown at 2\nWorker stopped with exit code 1\n", 1)
}

fn nothing_leaks_below_the_child() -> Result<()> {
    let program = r#"
        mod ipc;
        fn main() -> std::io::Result<()> {
            // SAFETY: this is the first line of `main`.
            let channel = unsafe { ipc::channel_from_env()? };
            let mut below = std::process::Command::new("sh");
            below.args(["-c", "env | grep ^NODE_CHANNEL; ls -l /proc/$$/fd | grep socket: ; echo end"]);
            below.status()?;
            drop(channel);
            Ok(())
        }
    "#;
    let copy = with_program("fork-ipc/src/ipc.rs", program, 2)?;
    let mut parent = Command::new(programs::example("fork-ipc"));
    parent.arg(&copy.program).stdin(Stdio::null());
    let output = run(parent)?;
    same("stdout", "end\n", &output.stdout())?;
    let says = "fork-ipc: the child ended before it answered (exit status: 0)\n";
    output.ended_with(says, 1)
}

/// In a program of its own: a shell takes no number of a descriptor that has two digits.
fn after_a_bad_line() -> Result<()> {
    let program = r#"
        mod ipc;
        fn main() -> std::io::Result<()> {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "printf 'no json\n{}\n' >&$NODE_CHANNEL_FD"]);
            let (mut child, _sender, receiver) = ipc::fork(command)?;
            for message in receiver {
                println!("{}", message.is_ok());
            }
            child.wait()?;
            Ok(())
        }
    "#;
    let copy = with_program("fork-ipc/src/ipc.rs", program, 3)?;
    same("stdout", "false\ntrue\n", &copy.run(&[])?.stdout())
}

fn cluster() -> Result<()> {
    let program = start(pasted("cluster-http/src/cluster.rs", 0)?.command(&[]))?;
    let address = line_after(&program, "Listening(", ")")?;
    let mut answer = String::new();
    TcpStream::connect(address)?.read_to_string(&mut answer)?;
    same("answer", "hello\n", &answer)?;
    program.signal(Signal::SIGTERM)?;
    program.finish()?.ended_with("", 0)
}

fn http() -> Result<()> {
    use std::io::Write;
    let program = start(pasted("cluster-http/src/http.rs", 0)?.command(&[]))?;
    let address = line_after(&program, "http://", "/")?;
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(connection).read_line(&mut status)?;
    same("status line", "HTTP/1.1 200 OK\r\n", &status)
}

/// What stands between two texts on stdout, once it does.
fn line_after(program: &Running, before: &str, after: &str) -> Result<String> {
    wait_until("the address on stdout", || {
        let stdout = program.stdout();
        let found = stdout
            .split_once(before)
            .and_then(|(_, rest)| rest.split_once(after));
        Ok(found.map(|(address, _)| address.to_owned()))
    })
}
