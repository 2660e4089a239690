//! What fork-ipc costs.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Better, Group, Row, Started, Who, bare, milliseconds, on_one_cpu, program, start};
use crate::procfs::{children, memory};
use crate::programs;
use crate::verify::fork_ipc::ipc;
use crate::verify::run::signal_to;

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[Row {
            name: "fork-ipc: to the first reply",
            unit: "ms",
            better: Better::Less,
        }],
        rounds: 15,
        sample: |who| Ok(vec![first_reply(who)?]),
    },
    Group {
        rows: &[
            Row {
                name: "fork-ipc: round trips on one CPU",
                unit: "/s",
                better: Better::More,
            },
            Row {
                name: "fork-ipc: messages one way, all answered",
                unit: "/s",
                better: Better::More,
            },
        ],
        rounds: 9,
        sample: |who| {
            Ok(vec![
                on_one_cpu(|| exchange(who, How::Turns))?,
                exchange(who, How::Stream)?,
            ])
        },
    },
    Group {
        rows: &[
            Row {
                name: "fork-ipc: memory of a parent",
                unit: "MiB",
                better: Better::Less,
            },
            Row {
                name: "fork-ipc: memory of a child",
                unit: "MiB",
                better: Better::Less,
            },
        ],
        rounds: 5,
        sample: |who| Ok(vec![parents_memory(who)?, childs_memory(who)?]),
    },
];

const QUESTION: &[u8] = b"{\"hello\":\"world\"}\n";

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// A message after the answer to the last.
    Turns,
    /// All messages at once; their answers are read meanwhile.
    Stream,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::Stream => "stream",
        }
    }

    fn count(self) -> usize {
        match self {
            Self::Turns => 5_000,
            Self::Stream => 20_000,
        }
    }
}

/// From the start of the parent to the child's first message.
fn first_reply(who: Who) -> Result<f64> {
    let began = Instant::now();
    if who == Who::Limit {
        let (mut child, mut socket) = bare_child()?;
        socket.write_all(QUESTION)?;
        BufReader::new(&socket).read_line(&mut String::new())?;
        let elapsed = began.elapsed();
        drop(socket);
        child.wait()?;
        return Ok(milliseconds(elapsed));
    }
    let mut parent = start(program(who, "fork-ipc", "node/parent.mjs"))?;
    while !parent.line()?.starts_with("Message from child") {}
    let elapsed = began.elapsed();
    parent.finish()?;
    Ok(milliseconds(elapsed))
}

/// Messages a second between two processes of a kind.
fn exchange(who: Who, how: How) -> Result<f64> {
    let count = how.count();
    let seconds = match who {
        Who::Port => {
            let mut command = Command::new(programs::example("fork-ipc"));
            command.arg("child").stdout(Stdio::null());
            let (mut child, mut sender, mut receiver) = ipc::fork(command)?;
            let question = json!({ "hello": "world" });
            // The first shows that the child is up.
            sender.send(&question)?;
            receiver.next().context("the channel closed")??;
            let began = Instant::now();
            match how {
                How::Turns => {
                    for _ in 0..count {
                        sender.send(&question)?;
                        receiver.next().context("the channel closed")??;
                    }
                    sender.disconnect();
                }
                How::Stream => {
                    let sending = thread::spawn(move || {
                        (0..count).try_for_each(|_| sender.send(&question))?;
                        sender.disconnect();
                        Ok::<_, io::Error>(())
                    });
                    let answers = receiver.collect::<Result<Vec<_>, _>>()?;
                    ensure!(answers.len() == count, "{} answers", answers.len());
                    sending.join().expect("it does not panic")?;
                }
            }
            let elapsed = began.elapsed();
            child.wait()?;
            elapsed.as_secs_f64()
        }
        Who::Node => {
            let mut node = Command::new("node");
            node.arg(programs::root().join("xtask/peers/rounds.mjs"));
            node.arg(programs::root().join("fork-ipc/node/child.mjs"));
            node.args([how.name(), &count.to_string()]);
            let mut parent = start(node)?;
            let seconds = parent.line()?.trim().parse()?;
            parent.finish()?;
            seconds
        }
        Who::Limit => {
            let (mut child, mut socket) = bare_child()?;
            let mut reader = BufReader::new(socket.try_clone()?);
            let mut line = String::new();
            socket.write_all(QUESTION)?;
            reader.read_line(&mut line)?;
            let began = Instant::now();
            match how {
                How::Turns => {
                    for _ in 0..count {
                        socket.write_all(QUESTION)?;
                        line.clear();
                        reader.read_line(&mut line)?;
                    }
                }
                How::Stream => {
                    let sending = thread::spawn(move || {
                        (0..count).try_for_each(|_| socket.write_all(QUESTION))?;
                        socket.shutdown(std::net::Shutdown::Write)
                    });
                    ensure!(reader.lines().count() == count, "too few answers");
                    sending.join().expect("it does not panic")?;
                    let elapsed = began.elapsed();
                    child.wait()?;
                    return Ok(count as f64 / elapsed.as_secs_f64());
                }
            }
            let elapsed = began.elapsed();
            drop((socket, reader));
            child.wait()?;
            elapsed.as_secs_f64()
        }
    };
    Ok(count as f64 / seconds)
}

/// A bare process, and a socket to it.
fn bare_child() -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = bare(&["echo"])?;
    let child = command.stdin(OwnedFd::from(theirs)).spawn()?;
    Ok((child, ours))
}

/// Of a parent whose child says nothing.
fn parents_memory(who: Who) -> Result<f64> {
    if who == Who::Limit {
        return Ok(f64::NAN);
    }
    let mut command = program(who, "fork-ipc", "node/parent.mjs");
    command.args(["sh", "-c", "echo up; exec sleep 60"]);
    let mut parent: Started = start(command)?;
    parent.line()?;
    let pid = parent.child.id();
    let memory = memory(pid, "VmRSS");
    for child in children(pid)? {
        signal_to(child, Signal::SIGKILL)?;
    }
    memory
}

/// Of a child that has answered once.
fn childs_memory(who: Who) -> Result<f64> {
    if who == Who::Limit {
        let (mut child, mut socket) = bare_child()?;
        socket.write_all(QUESTION)?;
        BufReader::new(&socket).read_line(&mut String::new())?;
        let memory = memory(child.id(), "VmRSS");
        drop(socket);
        child.wait()?;
        return memory;
    }
    let mut command = program(who, "fork-ipc", "node/child.mjs");
    if who == Who::Port {
        command.arg("child");
    }
    command.stdout(Stdio::null());
    let (mut child, mut sender, mut receiver) = ipc::fork(command)?;
    sender.send(&json!({ "hello": "world" }))?;
    receiver.next().context("the channel closed")??;
    let memory = memory(child.id(), "VmRSS");
    drop((sender, receiver));
    child.wait()?;
    memory
}
