//! What fork-ipc costs.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Error, Result, ensure};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::try_join;

use super::{Group, Who, cost, milliseconds, on_one_cpu, program, rate, start};
use crate::examples::FORK_IPC;
use crate::harness::processes::memory;
use crate::harness::programs::{Runtime, peer, root};
use crate::harness::run::{self, Running};
use crate::harness::{block_on, ipc};

pub const GROUPS: &[Group] = &[
    Group {
        rows: &[cost("fork-ipc: to the first reply", "ms")],
        rounds: 11,
        sample: |who| Ok(vec![first_reply(who)?]),
    },
    Group {
        rows: &[rate("fork-ipc: round trips on one CPU", "/s")],
        rounds: 5,
        sample: |who| on_one_cpu(|| Ok(vec![exchange(who, How::Turns)?])),
    },
    Group {
        rows: &[
            rate("fork-ipc: round trips", "/s"),
            rate("fork-ipc: messages without waiting for answers", "/s"),
        ],
        rounds: 5,
        sample: |who| {
            Ok(vec![
                exchange(who, How::Turns)?,
                exchange(who, How::Stream)?,
            ])
        },
    },
    Group {
        rows: &[
            cost("fork-ipc: memory of a parent", "MiB"),
            cost("fork-ipc: memory of a child", "MiB"),
        ],
        rounds: 5,
        sample: |who| Ok(vec![parents_memory(who)?, childs_memory(who)?]),
    },
    Group {
        rows: &[
            cost("fork-ipc: a message of 30 MB, one string", "s"),
            cost("fork-ipc: a message of 30 MB, a million objects", "s"),
        ],
        rounds: 3,
        sample: |who| {
            let string = "a".repeat(30_000_000);
            let objects: Vec<_> = (0..1_000_000)
                .map(|id| json!({ "id": id, "name": "abcdef" }))
                .collect();
            Ok(vec![
                print(who, json!(string))?,
                print(who, json!(objects))?,
            ])
        },
    },
];

const QUESTION: &[u8] = b"{\"hello\":\"world\"}\n";

#[derive(Clone, Copy)]
enum How {
    /// Each message is sent after the answer to the one before.
    Turns,
    /// All messages are sent without waiting. The answers are received at the same time.
    Stream,
}

/// From the start of the parent to the child's first message.
fn first_reply(who: Who) -> Result<f64> {
    let began = Instant::now();
    let (parent, mut lines) = start(program(who, &FORK_IPC))?;
    let is_answer = |line: &io::Result<String>| {
        line.as_ref()
            .is_ok_and(|line| line.starts_with("Message from child"))
    };
    lines.find(is_answer).context("it has ended")??;
    let elapsed = began.elapsed();
    parent.finish()?.ended_with_code(0)?;
    Ok(milliseconds(elapsed))
}

/// Messages a second between two processes of a kind.
fn exchange(who: Who, how: How) -> Result<f64> {
    let (name, count) = match how {
        How::Turns => ("turns", 5_000),
        How::Stream => ("stream", 20_000),
    };
    let seconds = match who {
        Who::Rust => block_on(exchange_with_rust(how, count))?,
        Who::Node => {
            let mut node = Runtime::Node.script(&peer("rounds.mjs"));
            node.arg(node_child()).args([name, &count.to_string()]);
            let (parent, mut lines) = start(node)?;
            let seconds = lines.next().context("it has ended")??.parse()?;
            parent.finish()?.ended_with_code(0)?;
            seconds
        }
        Who::Baseline => exchange_with_baseline(how, count)?,
    };
    Ok(f64::from(count) / seconds)
}

/// The seconds until `count` messages are answered, after the first answer, which shows that the
/// child is ready.
async fn exchange_with_rust(how: How, count: u32) -> Result<f64> {
    let mut child = ipc::fork(child(Who::Rust).into())?;
    let (sender, question) = (child.sender(), json!({ "hello": "world" }));
    let ask = async |times| {
        for _ in 0..times {
            sender.send(&question).await?;
        }
        anyhow::Ok(())
    };
    let mut receive = async |times| {
        for _ in 0..times {
            let answer = child.next_message::<Value>().await?;
            answer.context("the channel closed")?;
        }
        Ok(())
    };
    ask(1).await?;
    receive(1).await?;
    let began = Instant::now();
    match how {
        How::Turns => {
            for _ in 0..count {
                ask(1).await?;
                receive(1).await?;
            }
        }
        How::Stream => _ = try_join!(ask(count), receive(count))?,
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The same with the baseline. A thread sends while another one receives.
fn exchange_with_baseline(how: How, count: u32) -> Result<f64> {
    let (_child, socket) = baseline_child()?;
    let (mut reader, mut line) = (BufReader::new(&socket), String::new());
    let ask = || (&socket).write_all(QUESTION);
    let mut receive = || {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the channel closed");
        Ok(())
    };
    ask()?;
    receive()?;
    let began = Instant::now();
    match how {
        How::Turns => {
            (0..count).try_for_each(|_| ask().map_err(Error::from).and_then(|()| receive()))?
        }
        How::Stream => thread::scope(|scope| {
            let asking = scope.spawn(|| (0..count).try_for_each(|_| ask()));
            (0..count).try_for_each(|_| receive())?;
            Ok::<_, Error>(asking.join().expect("it does not panic")?)
        })?,
    }
    Ok(began.elapsed().as_secs_f64())
}

/// A run of a parent that receives this message and prints it, in seconds.
fn print(who: Who, message: Value) -> Result<f64> {
    if who == Who::Baseline {
        return Ok(f64::NAN);
    }
    let file = NamedTempFile::new()?;
    (&file).write_all(format!("{message}\n").as_bytes())?;
    let mut command = program(who, &FORK_IPC);
    command
        .args(["sh", "-c", r#"cat "$0" >&"$NODE_CHANNEL_FD""#])
        .arg(file.path());
    let began = Instant::now();
    let (parent, lines) = start(command)?;
    ensure!(lines.count() > 0, "it has printed nothing");
    parent.finish()?.ended_with_code(0)?;
    Ok(began.elapsed().as_secs_f64())
}

fn node_child() -> PathBuf {
    root().join("fork-ipc/node/child.cjs")
}

/// The child's half of fork-ipc.
fn child(who: Who) -> Command {
    let mut command = match who {
        Who::Node => Runtime::Node.script(&node_child()),
        _ => program(who, &FORK_IPC),
    };
    // Node's script takes no arguments.
    command.arg("child").stdout(Stdio::null());
    command
}

/// The child of the baseline, and a socket to it.
fn baseline_child() -> Result<(Running, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = child(Who::Baseline);
    Ok((run::start(command.stdin(OwnedFd::from(theirs)))?, ours))
}

/// The memory of a parent whose child sends nothing.
fn parents_memory(who: Who) -> Result<f64> {
    let mut command = program(who, &FORK_IPC);
    command.args(["sh", "-c", "echo up; exec sleep 60"]);
    let (parent, mut lines) = start(command)?;
    lines.next().context("it has ended")??;
    memory(parent.pid())
}

/// The memory of a child that has answered once.
fn childs_memory(who: Who) -> Result<f64> {
    if who == Who::Baseline {
        let (child, mut socket) = baseline_child()?;
        socket.write_all(QUESTION)?;
        BufReader::new(socket.try_clone()?).read_line(&mut String::new())?;
        return memory(child.pid());
    }
    block_on(async {
        let mut child = ipc::fork(child(who).into())?;
        child.send(&json!({ "hello": "world" })).await?;
        let answer: Option<Value> = child.next_message().await?;
        answer.context("the channel closed")?;
        memory(child.id().context("it has ended")?)
    })
}
