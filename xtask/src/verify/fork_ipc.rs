//! The checks of fork-ipc. What its files do by themselves is in their unit tests.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::time::timeout;

use super::prelude::*;
use crate::harness::{block_on, ipc};

pub fn checks(suite: &Suite) {
    for runtime in Runtime::ALL {
        exchanges(&suite.with(runtime), runtime);
    }

    // What is no channel.
    suite.check("channel_fd::listener", || {
        let command = child_on(TcpListener::bind("127.0.0.1:0")?);
        let error = "NODE_CHANNEL_FD=3 is not a connected Unix socket";
        run(command)?.ended_with(&format!("fork-ipc: {error}\n"), 1)
    });

    // A parent can make both ends non-blocking.
    suite.check("nonblocking_channel", || {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(LIMIT))?;
        theirs.set_nonblocking(true)?;
        let program = start(child_on(theirs))?;
        let mut answers = BufReader::new(ours.try_clone()?);
        for _ in 0..2 {
            // The program waits for each.
            writeln!(ours, "[]")?;
            answers.read_line(&mut String::new())?;
        }
        drop((ours, answers));
        let expected = "Message from parent: []\n".repeat(2);
        program.finish()?.printed(&expected)
    });

    // It still gets the message, and nobody gets its answer. Node throws, too.
    suite.check("child_whose_parent_has_left", || {
        let (mut ours, theirs) = UnixStream::pair()?;
        writeln!(ours, "[]")?;
        ours.shutdown(Shutdown::Both)?;
        let output = run(child_on(theirs))?;
        same("stdout", "Message from parent: []\n", &output.stdout())?;
        let error = "cannot send a message: Broken pipe (os error 32)";
        output.ended_with(&format!("fork-ipc: {error}\n"), 1)
    });

    // Node makes its pipes non-blocking.
    suite.rust("nonblocking_stdout", |mut command| {
        let script = "printf '\"%0200000d\"\\n' 7 >&$NODE_CHANNEL_FD";
        command.args(["sh", "-c", script]);
        let expected = format!("Message from child: {}7\n", "0".repeat(199_999));
        let stdout = String::from_utf8(read_late(command)?)?;
        same("stdout", &expected, &stdout)
    });

    suite.rust("stdout_closed_early", |mut command| {
        let gates = Gates::new()?;
        let wait_1 = gates.wait(1);
        let script = format!("{wait_1}; echo '{{}}' >&$NODE_CHANNEL_FD; exec sleep 1000");
        let (program, stdout) = start_unread(command.args(["sh", "-c", &script]))?;
        stdout.close()?;
        gates.open(1)?;
        program.finish()?.ended_with("", 0)
    });

    // The parent and the child have the same stdout.
    suite.rust("stdout_closed_before", |command| {
        let pipe = Pipe::new()?;
        let writer = pipe.writer()?;
        pipe.close()?;
        start_on(command, writer)?.finish()?.ended_with("", 0)
    });

    suite.rust("child_ends_when_the_parent_is_killed", |mut command| {
        let gates = Gates::new()?;
        let script = format!("{}; {}; exec \"$0\" child", gates.report(1), gates.wait(2));
        let program = start(command.args(["sh", "-c", &script]).arg(FORK_IPC.program()))?;
        gates.reported(1)?;
        program.signal(Signal::SIGKILL)?;
        wait_until_ended(program.pid())?;
        gates.open(2)?;
        program.finish()?.ended_with_code(-(Signal::SIGKILL as i32))
    });
}

/// `fork-ipc child` with this as its channel.
fn child_on(channel: impl Into<OwnedFd>) -> Command {
    let child = FORK_IPC.program();
    let mut command = below_a_shell("exec 3<&0", Command::new(child).arg("child"));
    command.env("NODE_CHANNEL_FD", "3").stdin(channel.into());
    command
}

/// Exchanges with another runtime, as parent and as child.
fn exchanges(suite: &Suite, runtime: Runtime) {
    for (name, messages) in MESSAGES {
        let name = |kind: &str| format!("{kind}::{}::{name}", runtime.name());
        suite.check(name("parent_that_spawns"), move || {
            child_of(runtime, "spawn", &messages())
        });
        // Deno's fork() puts arguments of its own before the program's.
        if runtime != Runtime::Deno {
            suite.check(name("parent_that_forks"), move || {
                child_of(runtime, "fork", &messages())
            });
        }
        suite.check(name("child_that_echoes"), move || {
            echoed_by(runtime, &messages())
        });
    }
    // The parent disconnects after the first message. What the child has not written yet is lost.
    for (name, messages) in [DOCUMENT, MEGABYTE] {
        for then in ["stay", "disconnect"] {
            let name = format!("child_that_{then}s::{}::{name}", runtime.name());
            suite.check(name, move || parent_of(runtime, then, &messages()));
        }
    }
}

/// A message, and what Node prints of it.
type Message = (Value, String);

/// A name, and messages.
type Messages = (&'static str, fn() -> Vec<Message>);

const MESSAGES: [Messages; 4] = [DOCUMENT, VALUES, THOUSAND, MEGABYTE];

const DOCUMENT: Messages = ("document", || {
    vec![(json!({ "foo": "bar" }), "{ foo: 'bar' }".into())]
});

const VALUES: Messages = ("values", || {
    let long = "an array of more than six entries, which takes several lines";
    let lines = &format!("[\n  1,\n  2,\n  3,\n  4,\n  5,\n  6,\n  7,\n  '{long}'\n]");
    let messages = [
        (json!(null), "null"),
        (json!(false), "false"),
        (json!(0), "0"),
        (json!(-1.5), "-1.5"),
        (json!(1e21), "1e+21"),
        (json!(1e-7), "1e-7"),
        (json!(9_007_199_254_740_991_u64), "9007199254740991"),
        (json!(""), ""),
        (json!("two\nlines"), "two\nlines"),
        (
            json!("\u{8}\t\0\u{1b}\u{85}\u{2028}\\\""),
            "\u{8}\t\0\u{1b}\u{85}\u{2028}\\\"",
        ),
        (json!("Grüße, 世界 👋🏽"), "Grüße, 世界 👋🏽"),
        (json!([]), "[]"),
        (json!({}), "{}"),
        (json!([[[[1]]]]), "[ [ [ [Array] ] ] ]"),
        (
            json!({ "z": 1, "10": 2, "9": 3, "": 4, "é": 5, "__proto__": 6 }),
            "{ '9': 3, '10': 2, z: 1, '': 4, 'é': 5, ['__proto__']: 6 }",
        ),
        (json!({ "cmd": "node_x" }), "{ cmd: 'node_x' }"),
        (json!({ "cmd": ["NODE_x"] }), "{ cmd: [ 'NODE_x' ] }"),
        (json!([1, 2, 3, 4, 5, 6, 7, long]), lines),
    ];
    messages
        .map(|(message, printed)| (message, printed.into()))
        .into()
});

const THOUSAND: Messages = ("thousand", || {
    let message = |n| (json!({ "n": n }), format!("{{ n: {n} }}"));
    (0..1000).map(message).collect()
});

const MEGABYTE: Messages = ("megabyte", || {
    let text = "ä".repeat(1 << 19);
    vec![(json!(text), text)]
});

/// `fork-ipc child` and a parent that sends it the messages.
fn child_of(runtime: Runtime, how: &str, messages: &[Message]) -> Result<()> {
    let file = file_of(&values(messages))?;
    let mut command = runtime.script(&peer("parent.mjs"));
    command
        .arg(how)
        .arg(FORK_IPC.program())
        .arg(file.path())
        .stdin(Stdio::null());
    let end = json!({ "answers": messages.len(), "others": [], "code": 0, "signal": null });
    let expected = printed("parent", messages) + &format!("{end}\n");
    run(command)?.printed(&expected)
}

/// `fork-ipc` and a child that answers with the messages.
fn parent_of(runtime: Runtime, then: &str, messages: &[Message]) -> Result<()> {
    let file = file_of(&values(messages))?;
    let child = runtime.script(&peer("child.mjs"));
    let mut command = FORK_IPC.rust_command();
    command.arg(child.get_program()).args(child.get_args());
    command.arg(file.path()).arg(then);
    let expected = "{\"hello\":\"world\"}\n".to_owned() + &printed("child", messages);
    run(command)?.printed(&expected)
}

/// `ipc.rs` and a child that sends each message back.
fn echoed_by(runtime: Runtime, messages: &[Message]) -> Result<()> {
    let exchange = async {
        let mut child = ipc::fork(runtime.script(&peer("echo.mjs")).into())?;
        for (message, _) in messages {
            child.send(message).await?;
        }
        for (message, _) in messages {
            let echo: Option<Value> = child.next_message().await?;
            same("message", &Some(message), &echo.as_ref())?;
        }
        child.disconnect();
        let end: Option<Value> = child.next_message().await?;
        same("message after the last", &None, &end)?;
        same("code", &Some(0), &child.wait().await?.code())
    };
    block_on(async { timeout(LIMIT, exchange).await? })
}

fn values(messages: &[Message]) -> Value {
    messages
        .iter()
        .map(|(message, _)| message.clone())
        .collect()
}

/// What `fork-ipc` prints of messages.
fn printed(from: &str, messages: &[Message]) -> String {
    let line = |(_, printed): &Message| format!("Message from {from}: {printed}\n");
    messages.iter().map(line).collect()
}

/// A file for a script.
pub fn file_of(messages: &Value) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    serde_json::to_writer(&mut file, messages)?;
    Ok(file)
}
