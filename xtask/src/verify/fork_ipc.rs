//! The checks of fork-ipc. What its files do by themselves is in their unit tests.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::case::{Case, checks_of, scenarios};
use super::inspect::inspect;
use super::{check, check_with};
use crate::examples::FORK_IPC;
use crate::harness::gate::Gates;
use crate::harness::pipes::Pipe;
use crate::harness::programs::{Runtime, peer};
use crate::harness::run::{read_late, run, start, start_on, start_unread};
use crate::harness::{LIMIT, ipc, same, within_limit};

const EXCHANGE: &str = "\
Message from parent: { hello: 'world' }
Message from child: { foo: 'bar' }
";

pub fn checks() -> Vec<Trial> {
    let mut checks = checks_of([
        FORK_IPC.case("document", [""; 0]).stdout(EXCHANGE),
        FORK_IPC
            .case(
                "rust_child",
                [FORK_IPC.program().as_os_str(), "child".as_ref()],
            )
            .stdout(EXCHANGE),
        sh(
            "internal_messages",
            r#"printf '{"cmd":"%s"}\n' NODE_A NODE_ mine >&$NODE_CHANNEL_FD
               cat <&$NODE_CHANNEL_FD >&2"#,
        )
        .stdout("Message from child: { cmd: 'NODE_' }\nMessage from child: { cmd: 'mine' }\n")
        .stderr("{\"hello\":\"world\"}\n"),
        sh(
            "invalid_utf_8",
            r#"printf '"a\377b"\n' >&$NODE_CHANNEL_FD; cat <&$NODE_CHANNEL_FD >/dev/null"#,
        )
        .stdout("Message from child: a\u{fffd}b\n"),
        sh(
            "message_after_disconnect",
            "echo 1 >&$NODE_CHANNEL_FD; cat <&$NODE_CHANNEL_FD >/dev/null
             echo 2 >&$NODE_CHANNEL_FD",
        )
        .stdout("Message from child: 1\nMessage from child: 2\n")
        .but_node()
        .stdout("Message from child: 1\n"),
        FORK_IPC
            .case("script", ["nosuch.mjs"])
            .stderr(
                "fork-ipc: cannot fork nosuch.mjs: No such file or directory (os error 2); \
                 to fork a script, use 'node nosuch.mjs'\n",
            )
            .code(1)
            .rust_only(),
        FORK_IPC
            .case("no_such_program", ["nosuch"])
            .stderr("fork-ipc: cannot fork nosuch: No such file or directory (os error 2)\n")
            .code(1)
            .but_node()
            .stderr_contains("Error: spawn nosuch ENOENT")
            .code(1),
    ]);
    checks.extend(checks_of(failing_children()));
    checks.extend(checks_of(standard_streams_as_channel()));
    checks.extend(bad_channel_fds());
    for runtime in Runtime::ALL {
        checks.extend(exchanges(runtime));
    }
    checks.extend(FORK_IPC.scenarios(
        "",
        scenarios![
            channel_fd_of_another,
            nonblocking_channel,
            nonblocking_stdout,
            stdout_closed_early,
            stdout_closed_before,
            child_ends_when_the_parent_is_killed,
        ],
    ));
    checks.extend([
        check_with(
            Runtime::Node,
            "fork-ipc::failing_child::throws",
            node_throws,
        ),
        check_with(Runtime::Node, "fork-ipc::handle", handle),
        FORK_IPC.help(
            "Usage: fork-ipc [COMMAND [ARG]...]",
            "this program, as `fork-ipc child`",
        ),
    ]);
    checks
}

/// A case whose child is a shell script. Its `$0` is the Rust program.
fn sh(name: &str, script: &str) -> Case {
    let program = FORK_IPC.program().as_os_str();
    FORK_IPC.case(
        name,
        ["sh".as_ref(), "-c".as_ref(), script.as_ref(), program],
    )
}

fn failing_children() -> Vec<Case> {
    let says = |name: &str, script: &str, stderr: &str| {
        let case = sh(&format!("failing_child::{name}"), script);
        case.stderr(stderr).code(1)
    };
    let fails = |name: &str, script: &str, error: &str| {
        says(name, script, &format!("fork-ipc: {error}\n")).rust_only()
    };
    let unanswered = |status: &str| format!("the child ended before it answered ({status})");
    let exits = &unanswered("exit status: 3");
    let not_json = "a message is not JSON: 'no json' (expected ident at line 1 column 2)";
    let receives = "head -n 1 <&$NODE_CHANNEL_FD >&2";
    let received = "{\"hello\":\"world\"}\n";
    vec![
        fails("exits", "exit 3", exits),
        fails("exits_with_0", "exit 0", &unanswered("exit status: 0")),
        fails(
            "is_killed",
            "kill -9 $$",
            &unanswered("signal: 9 (SIGKILL)"),
        ),
        // It would wait for ever.
        fails(
            "sends_no_json",
            "echo no json >&$NODE_CHANNEL_FD; exec sleep 1000",
            not_json,
        ),
        fails(
            "sends_half_a_line",
            "printf '{\"half\":' >&$NODE_CHANNEL_FD",
            "the channel closed within the message '{\"half\":'",
        ),
        fails(
            "sends_an_endless_line",
            "yes 2>/dev/null | tr -d '\\n' 2>/dev/null >&$NODE_CHANNEL_FD",
            &format!(
                "a message is longer than 67108864 bytes: '{}…'",
                "y".repeat(40)
            ),
        ),
        says(
            "receives_and_exits",
            &format!("{receives}; exit 3"),
            &format!("{received}fork-ipc: {exits}\n"),
        )
        // Node's parent ends silently.
        .but_node()
        .stderr(received),
        says(
            "receives_and_sends_no_json",
            &format!("{receives}; echo no json >&$NODE_CHANNEL_FD"),
            &format!("{received}fork-ipc: {not_json}\n"),
        )
        .but_node()
        .stderr_contains("SyntaxError")
        .code(1),
        says(
            "answers_and_fails",
            &format!("{receives}; echo '[]' >&$NODE_CHANNEL_FD; exit 4"),
            &format!("{received}fork-ipc: the child failed (exit status: 4)\n"),
        )
        .stdout("Message from child: []\n")
        .but_node()
        .stdout("Message from child: []\n")
        .stderr(received),
    ]
}

fn node_throws() -> Result<()> {
    let script = "process.on('message', () => { throw 'no' })";
    let mut command = FORK_IPC.rust_command();
    command.args(["node", "--eval", script]);
    let output = run(command)?;
    let error = "fork-ipc: the child ended before it answered (exit status: 1)\n";
    ensure!(output.stderr().ends_with(error), "{:?}", output.stderr());
    output.ended_with_code(1)
}

/// Node takes the handle. The Rust program refuses it, and the child goes on.
fn handle() -> Result<()> {
    let expected = ["after it\nMessage from child: the last", "with a handle"];
    let commands = [FORK_IPC.rust_command(), FORK_IPC.node_command()];
    for (mut command, expected) in commands.into_iter().zip(expected) {
        // Without a warning that the handle was not accepted.
        command
            .args(["node", "--no-warnings"])
            .arg(peer("handle.mjs"));
        run(command)?.printed(&format!("Message from child: {expected}\n"))?;
    }
    Ok(())
}

/// Each has its child's end on a standard stream.
fn standard_streams_as_channel() -> Vec<Case> {
    let child = |number: u32| {
        sh(
            &format!("channel_fd::{number}"),
            &format!(
                "fd=$NODE_CHANNEL_FD; NODE_CHANNEL_FD={number} exec \"$0\" child {number}<&$fd"
            ),
        )
        .rust_only()
    };
    // What the child prints goes to the channel.
    let error = "fork-ipc: a message is not JSON: 'Message from parent: { hello: 'world' }' \
                 (expected value at line 1 column 1)\n";
    vec![
        child(0).stdout(EXCHANGE),
        child(1).stderr(error).code(1),
        child(2).stdout(EXCHANGE),
    ]
}

/// `fork-ipc child` with a file as descriptor 8, a listener as descriptor 9, and no channel.
fn bad_channel_fds() -> Vec<Trial> {
    let fails = |name: &str, environment: Vec<(&'static str, &'static str)>, error: String| {
        check(format!("fork-ipc::channel_fd::{name}"), move || {
            let mut command = Command::new("sh");
            command
                .args(["-c", "exec \"$0\" child 8</dev/null 9<&0"])
                .arg(FORK_IPC.program())
                .stdin(OwnedFd::from(TcpListener::bind("127.0.0.1:0")?))
                .env_remove("NODE_CHANNEL_FD")
                .envs(environment);
            run(command)?.ended_with(&format!("fork-ipc: {error}\n"), 1)
        })
    };
    let no_number = |name, fd| {
        let error = format!("NODE_CHANNEL_FD is '{fd}', which is not a file descriptor");
        fails(name, vec![("NODE_CHANNEL_FD", fd)], error)
    };
    let no_channel = |name, fd, what: &str| {
        let error = format!("NODE_CHANNEL_FD is {fd}, which is not {what}");
        fails(name, vec![("NODE_CHANNEL_FD", fd)], error)
    };
    vec![
        fails(
            "missing",
            vec![],
            "NODE_CHANNEL_FD is not set: this process was not started by fork()".into(),
        ),
        no_number("word", "x"),
        no_number("empty", ""),
        no_number("negative", "-1"),
        no_number("too_large", "4294967296"),
        no_channel("closed", "99", "open"),
        no_channel("file", "8", "a connected Unix socket"),
        no_channel("stderr", "2", "a connected Unix socket"),
        no_channel("listener", "9", "a connected Unix socket"),
        fails(
            "advanced_serialization",
            vec![
                ("NODE_CHANNEL_FD", "9"),
                ("NODE_CHANNEL_SERIALIZATION_MODE", "advanced"),
            ],
            "NODE_CHANNEL_SERIALIZATION_MODE is not 'json', the only one supported here".into(),
        ),
    ]
}

/// A name, and messages.
type Messages = (&'static str, fn() -> Value);

const DOCUMENT: Messages = ("document", || json!([{ "foo": "bar" }]));

const VALUES: Messages = ("values", || {
    json!([
        null, false, true, 0, -1.5, 1e21, 1e-7, 9_007_199_254_740_991_u64, "", "two\nlines",
        "\u{8}\t\u{0}\u{1b}\u{7f}\u{85}\u{2028}\\\"", "Grüße, 世界 👋🏽", [], {}, [[[[1]]]],
        { "z": 1, "a": 2, "10": 3, "9": 4, "": 5, "é": 6, "__proto__": 7 },
        { "cmd": "node_x" }, { "cmd": ["NODE_x"] },
        [1, 2, 3, 4, 5, 6, 7, "an array of more than six entries, which takes several lines"],
    ])
});

const THOUSAND: Messages = ("thousand", || {
    (0..1000).map(|n| json!({ "n": n })).collect()
});

const MEGABYTE: Messages = ("megabyte", || json!(["ä".repeat(1 << 19)]));

/// Exchanges with another runtime, as parent and as child.
fn exchanges(runtime: Runtime) -> Vec<Trial> {
    let mut checks = Vec::new();
    let mut add = |kind: &str, (name, messages): Messages, exchange: Exchange, how| {
        let name = format!("fork-ipc::{kind}::{}::{name}", runtime.name());
        let exchange = move || exchange(runtime, how, &messages());
        checks.push(check_with(runtime, name, exchange));
    };
    for messages in [DOCUMENT, VALUES, THOUSAND, MEGABYTE] {
        add("parent_that_spawns", messages, child_of, "spawn");
        // Deno's fork() puts arguments of its own before the program's.
        if runtime != Runtime::Deno {
            add("parent_that_forks", messages, child_of, "fork");
        }
        add("child_that_echoes", messages, echoed_by, "");
    }
    // The parent disconnects after the first message. What the child has not written yet is lost.
    for messages in [DOCUMENT, MEGABYTE] {
        add("child_that_stays", messages, parent_of, "stay");
        add("child_that_disconnects", messages, parent_of, "disconnect");
    }
    checks
}

type Exchange = fn(Runtime, &str, &Value) -> Result<()>;

/// `fork-ipc child` and a parent that sends it the messages.
fn child_of(runtime: Runtime, how: &str, messages: &Value) -> Result<()> {
    let file = file_of(messages)?;
    let mut command = runtime.script(&peer("parent.mjs"));
    command
        .arg(how)
        .arg(FORK_IPC.program())
        .arg(file.path())
        .stdin(Stdio::null());
    let answers = list(messages)?.len();
    let end = json!({ "answers": answers, "others": [], "code": 0, "signal": null });
    let expected = printed("parent", messages)? + &format!("{end}\n");
    run(command)?.printed(&expected)
}

/// `fork-ipc` and a child that answers with the messages.
fn parent_of(runtime: Runtime, then: &str, messages: &Value) -> Result<()> {
    let file = file_of(messages)?;
    let child = runtime.script(&peer("child.mjs"));
    let mut command = FORK_IPC.rust_command();
    command.arg(child.get_program()).args(child.get_args());
    command.arg(file.path()).arg(then);
    let expected = "{\"hello\":\"world\"}\n".to_owned() + &printed("child", messages)?;
    run(command)?.printed(&expected)
}

/// `ipc.rs` and a child that sends each message back.
fn echoed_by(runtime: Runtime, _: &str, messages: &Value) -> Result<()> {
    let messages = list(messages)?.clone();
    within_limit(move || {
        let mut child = ipc::fork(runtime.script(&peer("echo.mjs")))?;
        for message in &messages {
            ensure!(child.send(message)?, "the child has closed the channel");
        }
        for message in &messages {
            same("message", &Some(message), &child.next_message()?.as_ref())?;
        }
        child.disconnect();
        same("message after the last", &None, &child.next_message()?)?;
        same("code", &Some(0), &child.wait()?.code())
    })
}

fn list(messages: &Value) -> Result<&Vec<Value>> {
    messages.as_array().context("an array")
}

/// What `fork-ipc` prints of messages.
fn printed(from: &str, messages: &Value) -> Result<String> {
    let line = |message| format!("Message from {from}: {}\n", inspect(message));
    Ok(list(messages)?.iter().map(line).collect())
}

/// A file for a script.
pub fn file_of(messages: &Value) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    serde_json::to_writer(&mut file, messages)?;
    Ok(file)
}

/// The environment of a process that Node has forked reaches all that this process starts.
fn channel_fd_of_another(mut command: Command) -> Result<()> {
    command
        .env("NODE_CHANNEL_FD", "1")
        .env("NODE_CHANNEL_SERIALIZATION_MODE", "advanced");
    run(command)?.printed(EXCHANGE)
}

/// A parent can make both ends non-blocking.
fn nonblocking_channel(_: Command) -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(LIMIT))?;
    theirs.set_nonblocking(true)?;
    let mut command = Command::new(FORK_IPC.program());
    command
        .arg("child")
        .env("NODE_CHANNEL_FD", "0")
        .stdin(OwnedFd::from(theirs));
    let program = start(command)?;
    let mut answers = BufReader::new(ours.try_clone()?);
    for _ in 0..2 {
        // The program waits for each.
        writeln!(ours, "[]")?;
        answers.read_line(&mut String::new())?;
    }
    drop((ours, answers));
    let expected = "Message from parent: []\n".repeat(2);
    program.finish()?.printed(&expected)
}

/// Node makes its pipes non-blocking.
fn nonblocking_stdout(mut command: Command) -> Result<()> {
    let script = "printf '\"%0200000d\"\\n' 7 >&$NODE_CHANNEL_FD";
    command.args(["sh", "-c", script]);
    let expected = format!("Message from child: {}7\n", "0".repeat(199_999));
    let stdout = String::from_utf8(read_late(command)?)?;
    same("stdout", &expected, &stdout)
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    let gates = Gates::new()?;
    let wait_1 = gates.wait(1);
    let script = format!("{wait_1}; echo '{{}}' >&$NODE_CHANNEL_FD; exec sleep 1000");
    command.args(["sh", "-c", &script]);
    let (program, stdout) = start_unread(command)?;
    stdout.close()?;
    gates.open(1)?;
    program.finish()?.ended_with("", 0)
}

/// The parent and the child have the same stdout.
fn stdout_closed_before(command: Command) -> Result<()> {
    let pipe = Pipe::new()?;
    let writer = pipe.writer()?;
    pipe.close()?;
    start_on(command, writer)?.finish()?.ended_with("", 0)
}

fn child_ends_when_the_parent_is_killed(mut command: Command) -> Result<()> {
    let gates = Gates::new()?;
    let script = format!("{}; {}; exec \"$0\" child", gates.report(1), gates.wait(2));
    command.args(["sh", "-c", &script]).arg(FORK_IPC.program());
    let program = start(command)?;
    gates.reported(1)?;
    program.signal(Signal::SIGKILL)?;
    gates.open(2)?;
    // The child still gets the message. Nobody gets its answer.
    program.finish()?.ended_by(Signal::SIGKILL)
}
