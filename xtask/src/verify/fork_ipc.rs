//! The checks of fork-ipc, and of its files, which are copied here.

#[path = "../../../fork-ipc/src/inspect.rs"]
pub mod inspect;
#[path = "../../../fork-ipc/src/ipc.rs"]
pub mod ipc;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::case::{Example, Expected, looks};
use super::run::{Go, close, code, run, same, start, start_unread};
use super::{check, check_with};
use crate::programs::{self, Runtime};

const FORK_IPC: Example = Example {
    name: "fork-ipc",
    script: "node/parent.mjs",
};

const EXCHANGE: &str = "\
Message from parent: { hello: 'world' }
Message from child: { foo: 'bar' }
";

/// Messages as JSON, and as Node prints them.
const PRINTED: &[(&str, &str)] = &[
    (r#"{"hello":"world"}"#, "{ hello: 'world' }"),
    (
        r#"{"a":1,"b":[1,2,3],"c":{"d":null,"e":true}}"#,
        "{ a: 1, b: [ 1, 2, 3 ], c: { d: null, e: true } }",
    ),
    (r#"{"z":1,"a":2,"m":3}"#, "{ z: 1, a: 2, m: 3 }"),
    ("[]", "[]"),
    ("{}", "{}"),
    ("[[]]", "[ [] ]"),
    (r#"{"a":[],"b":{}}"#, "{ a: [], b: {} }"),
    ("[[[[]]]]", "[ [ [ [] ] ] ]"),
    ("[[[[1]]]]", "[ [ [ [Array] ] ] ]"),
    (r#"[[[{"a":1}]]]"#, "[ [ [ [Object] ] ] ]"),
    ("null", "null"),
    ("false", "false"),
    ("[true,false,null]", "[ true, false, null ]"),
    ("0", "0"),
    ("[-1.5,1e-7,1e+21]", "[ -1.5, 1e-7, 1e+21 ]"),
    ("9007199254740991", "9007199254740991"),
    (r#""a bare string""#, "a bare string"),
    (r#""""#, ""),
    (r#""two\nlines""#, "two\nlines"),
    (r#"["plain"]"#, "[ 'plain' ]"),
    (r#"["it's"]"#, r#"[ "it's" ]"#),
    (r#"["it's \"so\""]"#, r#"[ `it's "so"` ]"#),
    (r#"["it's \"so\" `too`"]"#, r#"[ 'it\'s "so" `too`' ]"#),
    (r#"["it's \"so\" ${too}"]"#, r#"[ 'it\'s "so" ${too}' ]"#),
    (r#"["\"so\""]"#, r#"[ '"so"' ]"#),
    (
        r#"["\b\t\n\f\r\u0000\u000b\u001b\u007f\u0085\\"]"#,
        r"[ '\b\t\n\f\r\x00\x0B\x1B\x7F\x85\\' ]",
    ),
    (r#"["Grüße, 世界 👋🏽"]"#, "[ 'Grüße, 世界 👋🏽' ]"),
    (
        r#"{"a_1":1,"_":2,"$":3,"a-b":4,"":5,"é":6,"it's":7,"a b":8}"#,
        r#"{ a_1: 1, _: 2, '$': 3, 'a-b': 4, '': 5, 'é': 6, "it's": 7, 'a b': 8 }"#,
    ),
    (r#"{"1":1,"1a":2}"#, "{ '1': 1, '1a': 2 }"),
    (r#"{"__proto__":1}"#, "{ ['__proto__']: 1 }"),
    (r#"{"cmd":"node_x"}"#, "{ cmd: 'node_x' }"),
    (r#"{"cmd":["NODE_x"]}"#, "{ cmd: [ 'NODE_x' ] }"),
];

/// Messages, and how they are printed.
type Messages = Vec<(Value, String)>;

/// Messages with a name for the check.
type Set = (&'static str, fn() -> Messages);

const THE_DOCUMENTS_MESSAGE: Set = ("the_documents_message", || {
    vec![(json!({ "foo": "bar" }), "{ foo: 'bar' }".into())]
});

const VALUES: Set = ("values", || {
    let parsed = |(json, printed): &(&str, &str)| {
        let message = serde_json::from_str(json).expect("it is JSON");
        (message, (*printed).to_owned())
    };
    PRINTED.iter().map(parsed).collect()
});

const A_THOUSAND: Set = ("a_thousand", || {
    let message = |n| (json!({ "n": n }), format!("{{ n: {n} }}"));
    (0..1000).map(message).collect()
});

const A_MEGABYTE: Set = ("a_megabyte", || {
    let long = "ä".repeat(1 << 19);
    vec![(json!(long), long)]
});

pub fn checks() -> Vec<Trial> {
    let cases = [
        FORK_IPC
            .case("the_documents_program", [""; 0])
            .stdout(EXCHANGE),
        FORK_IPC
            .case(
                "internal_messages_are_kept",
                [
                    "sh",
                    "-c",
                    r#"for cmd in NODE_INTERNAL NODE_ mine; do
                           echo "{\"cmd\":\"$cmd\"}" >&$NODE_CHANNEL_FD
                       done"#,
                ],
            )
            .stdout("Message from child: { cmd: 'NODE_' }\nMessage from child: { cmd: 'mine' }\n")
            .port_only(),
        FORK_IPC
            .case(
                "numbers_keep_their_digits",
                [
                    "sh",
                    "-c",
                    "echo '[12345678901234567890123,0.10,1e+21]' >&$NODE_CHANNEL_FD",
                ],
            )
            .stdout("Message from child: [ 12345678901234567890123, 0.10, 1e+21 ]\n")
            .port_only(),
        FORK_IPC
            .case("no_such_program", ["nosuch"])
            .stderr("fork-ipc: cannot fork nosuch: No such file or directory (os error 2)\n")
            .status(1)
            .but_node(
                Expected::default()
                    .stderr_holds("Error: spawn nosuch ENOENT")
                    .status(1),
            ),
    ];
    let mut checks: Vec<Trial> = cases.into_iter().flat_map(|case| case.checks()).collect();
    checks.extend(failing_children());
    checks.extend(bad_descriptors());
    for runtime in Runtime::ALL {
        checks.extend(with_runtime(runtime));
    }
    checks.extend(FORK_IPC.checks(looks![
        a_leaked_descriptor_number,
        stdout_closed_early,
        the_child_ends_when_the_parent_is_killed,
    ]));
    checks.extend([
        FORK_IPC.help(
            "Usage: fork-ipc [COMMAND [ARG]...]",
            "this program, as `fork-ipc child`",
        ),
        check("fork-ipc::inspect", inspect_prints_as_expected),
        check_with(
            Runtime::Node,
            "fork-ipc::inspect::node",
            node_prints_as_expected,
        ),
        check("fork-ipc::ipc::two_threads", two_threads),
        check("fork-ipc::ipc::a_non_blocking_end", a_non_blocking_end),
        check(
            "fork-ipc::ipc::the_end_reaches_the_child_alone",
            the_end_reaches_the_child_alone,
        ),
    ]);
    checks
}

/// What a child does wrong, as a shell script on the channel, and what the parent says.
fn failing_children() -> Vec<Trial> {
    let silent = |status: &str| format!("the child ended before it answered ({status})");
    let cases = [
        ("exits", "exit 3", silent("exit status: 3")),
        ("exits_well_but_mute", "exit 0", silent("exit status: 0")),
        ("is_killed", "kill -9 $$", silent("signal: 9 (SIGKILL)")),
        // It would wait for ever, and does not know that it is not listened to.
        (
            "writes_no_json",
            "echo 'no json' >&$NODE_CHANNEL_FD; exec sleep 1000",
            "a message is not JSON: 'no json' (expected ident at line 1 column 2)".into(),
        ),
        (
            "writes_long_nonsense",
            "printf '{%050d\\n' 7 >&$NODE_CHANNEL_FD; exec sleep 1000",
            format!(
                "a message is not JSON: '{{{}…' (key must be a string at line 1 column 2)",
                "0".repeat(39)
            ),
        ),
        (
            "writes_to_the_terminal",
            "printf '\\033[31mred\\n' >&$NODE_CHANNEL_FD; exec sleep 1000",
            "a message is not JSON: '[31mred' (expected value at line 1 column 1)".into(),
        ),
        (
            "writes_an_empty_line",
            "echo >&$NODE_CHANNEL_FD; exec sleep 1000",
            "a message is not JSON: '' (EOF while parsing a value at line 1 column 0)".into(),
        ),
        (
            "ends_within_a_message",
            "printf '{\"half\":' >&$NODE_CHANNEL_FD",
            "the channel closed in the middle of '{\"half\":'".into(),
        ),
    ];
    let cases = cases.map(|(name, script, says)| {
        FORK_IPC
            .case(&format!("a_child_that::{name}"), ["sh", "-c", script])
            .stderr(format!("fork-ipc: {says}\n"))
            .status(1)
            .port_only()
    });
    let answers_and_fails = FORK_IPC
        .case(
            "a_child_that::answers_and_fails",
            ["sh", "-c", "echo '{\"a\":1}' >&$NODE_CHANNEL_FD; exit 4"],
        )
        .stdout("Message from child: { a: 1 }\n")
        .stderr("fork-ipc: the child failed (exit status: 4)\n")
        .status(1)
        .port_only();
    let under_node_too = [
        FORK_IPC
            .case(
                "a_child_that::hears_and_exits",
                ["sh", "-c", "head -n 1 <&$NODE_CHANNEL_FD >&2; exit 3"],
            )
            .stderr(
                "{\"hello\":\"world\"}\n\
                 fork-ipc: the child ended before it answered (exit status: 3)\n",
            )
            .status(1)
            // It ends silently.
            .but_node(Expected::default().stderr("{\"hello\":\"world\"}\n")),
        FORK_IPC
            .case(
                "a_child_that::hears_and_writes_no_json",
                [
                    "sh",
                    "-c",
                    "head -n 1 <&$NODE_CHANNEL_FD >&2; echo no json >&$NODE_CHANNEL_FD",
                ],
            )
            .stderr(
                "{\"hello\":\"world\"}\n\
                 fork-ipc: a message is not JSON: 'no json' (expected ident at line 1 column 2)\n",
            )
            .status(1)
            .but_node(Expected::default().stderr_holds("SyntaxError").status(1)),
    ];
    let throws = check_with(Runtime::Node, "fork-ipc::a_child_that::throws", || {
        let mut command = FORK_IPC.port();
        command.args([
            "node",
            "--eval",
            "process.on('message', () => { throw 'no' })",
        ]);
        let output = run(command)?;
        let says = "fork-ipc: the child ended before it answered (exit status: 1)\n";
        ensure!(output.stderr().ends_with(says), "{:?}", output.stderr());
        same("status", 1, code(output.status))
    });
    let cases = cases
        .into_iter()
        .chain([answers_and_fails])
        .chain(under_node_too);
    cases
        .flat_map(|case| case.checks())
        .chain([throws])
        .collect()
}

/// What can be wrong with the child's `NODE_CHANNEL_FD`, and what it says.
fn bad_descriptors() -> Vec<Trial> {
    let cases = [
        ("missing", None, "is not set: nothing forked this process"),
        ("no_number", Some("x"), "is 'x', no number from 3 on"),
        ("empty", Some(""), "is '', no number from 3 on"),
        ("negative", Some("-1"), "is '-1', no number from 3 on"),
        ("closed", Some("99"), "is 99, which is not open"),
        (
            "a_standard_stream",
            Some("0"),
            "is '0', no number from 3 on",
        ),
        ("no_socket", Some("9"), "is 9, which is not a socket"),
    ];
    let checks = cases.map(|(name, value, says)| {
        check(format!("fork-ipc::channel_fd::{name}"), move || {
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$0\" child 9</dev/null"]);
            command
                .arg(programs::example("fork-ipc"))
                .stdin(Stdio::null());
            command.env_remove("NODE_CHANNEL_FD");
            command.envs(value.map(|value| ("NODE_CHANNEL_FD", value)));
            let says = format!("fork-ipc: NODE_CHANNEL_FD {says}\n");
            run(command)?.ended_with(&says, 1)
        })
    });
    let nobody = check("fork-ipc::channel_fd::connected_to_nobody", || {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" child 9<&0"]);
        command
            .arg(programs::example("fork-ipc"))
            .env("NODE_CHANNEL_FD", "9")
            .stdin(OwnedFd::from(TcpListener::bind("127.0.0.1:0")?));
        let says = "fork-ipc: NODE_CHANNEL_FD is 9, which is connected to nobody\n";
        run(command)?.ended_with(says, 1)
    });
    let advanced = check("fork-ipc::channel_fd::advanced_serialization", || {
        let script = "NODE_CHANNEL_SERIALIZATION_MODE=advanced exec \"$0\" child";
        let mut command = FORK_IPC.port();
        command.args(["sh", "-c", script]);
        command.arg(programs::example("fork-ipc"));
        let says = "fork-ipc: NODE_CHANNEL_SERIALIZATION_MODE is not 'json', \
                    the only one known here\n\
                    fork-ipc: the child ended before it answered (exit status: 1)\n";
        run(command)?.ended_with(says, 1)
    });
    checks.into_iter().chain([nobody, advanced]).collect()
}

/// The channel with another runtime on the other side, as parent and as child.
fn with_runtime(runtime: Runtime) -> Vec<Trial> {
    let name = runtime.name();
    let mut checks = Vec::new();
    let mut add =
        |way: String, look: fn(Runtime, &str, Messages) -> Result<()>, option, set: Set| {
            let name = format!("fork-ipc::{way}::{}", set.0);
            checks.push(check_with(runtime, name, move || {
                look(runtime, option, set.1())
            }));
        };
    for set in [THE_DOCUMENTS_MESSAGE, VALUES, A_THOUSAND, A_MEGABYTE] {
        add(format!("spawned_by_{name}"), under, "spawn", set);
        // Deno's fork() hands arguments of its own to any program.
        if runtime != Runtime::Deno {
            add(format!("forked_by_{name}"), under, "fork", set);
        }
        add(format!("echoed_by_{name}"), echoed, "", set);
    }
    // What a child has not written yet when its parent disconnects, which fork-ipc does after
    // the first message, is lost with each of the three.
    for set in [THE_DOCUMENTS_MESSAGE, A_MEGABYTE] {
        add(format!("over_{name}_that_stays"), over, "stay", set);
        add(
            format!("over_{name}_that_disconnects"),
            over,
            "disconnect",
            set,
        );
    }
    checks
}

/// `fork-ipc child` under a parent that sends it the messages.
fn under(runtime: Runtime, way: &str, messages: Messages) -> Result<()> {
    let file = as_file(messages.iter().map(|(message, _)| message))?;
    let mut command = Command::new(runtime.words()[0]);
    command
        .args(&runtime.words()[1..])
        .arg(peer("parent.mjs"))
        .arg(way);
    command
        .arg(programs::example("fork-ipc"))
        .arg(file.path())
        .stdin(Stdio::null());
    let output = run(command)?;

    let heard = messages
        .iter()
        .map(|(_, printed)| format!("Message from parent: {printed}\n"));
    let ended = json!({ "answers": messages.len(), "others": [], "code": 0, "signal": null });
    same(
        "stdout",
        heard.collect::<String>() + &format!("{ended}\n"),
        output.stdout(),
    )?;
    output.ended_with("", 0)
}

/// `fork-ipc` over a child that answers with the messages.
fn over(runtime: Runtime, then: &str, messages: Messages) -> Result<()> {
    let file = as_file(messages.iter().map(|(message, _)| message))?;
    let mut command = FORK_IPC.port();
    command
        .args(runtime.words())
        .arg(peer("child.mjs"))
        .arg(file.path())
        .arg(then);
    let output = run(command)?;

    let heard = messages
        .iter()
        .map(|(_, printed)| format!("Message from child: {printed}\n"));
    let expected = "{\"hello\":\"world\"}\n".to_owned() + &heard.collect::<String>();
    same("stdout", expected, output.stdout())?;
    output.ended_with("", 0)
}

/// A child that sends each message back, over the file to copy.
fn echoed(runtime: Runtime, _: &str, messages: Messages) -> Result<()> {
    let mut command = Command::new(runtime.words()[0]);
    command.args(&runtime.words()[1..]).arg(peer("echo.mjs"));
    let (mut child, mut sender, mut receiver) = ipc::fork(command)?;
    let mut talk = || -> Result<()> {
        for (message, _) in &messages {
            sender.send(message)?;
        }
        for (message, printed) in &messages {
            let back = receiver.next().context("the channel closed")??;
            same("a message", message, &back)?;
            same("a message as printed", printed, &inspect::inspect(&back))?;
        }
        Ok(())
    };
    let talk = talk();
    if talk.is_err() {
        let _ = child.kill();
    }
    sender.disconnect();
    let rest = receiver.count();
    let status = child.wait()?;
    talk?;
    same("messages after the last", 0, rest)?;
    same("status", 0, code(status))
}

fn as_file<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Result<NamedTempFile> {
    let messages: Vec<&Value> = messages.into_iter().collect();
    let mut file = NamedTempFile::new()?;
    file.write_all(json!(messages).to_string().as_bytes())?;
    Ok(file)
}

fn peer(script: &str) -> PathBuf {
    programs::root().join("xtask/peers").join(script)
}

fn a_leaked_descriptor_number(mut command: Command) -> Result<()> {
    command
        .env("NODE_CHANNEL_FD", "1")
        .env("NODE_CHANNEL_SERIALIZATION_MODE", "advanced");
    let output = run(command)?;
    same("stdout", EXCHANGE, &output.stdout())?;
    output.ended_with("", 0)
}

fn stdout_closed_early(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    let script = format!(
        "{}; echo '{{}}' >&$NODE_CHANNEL_FD; exec sleep 1000",
        go.wait(1)
    );
    command.args(["sh", "-c", &script]);
    let (program, stdout) = start_unread(command)?;
    close(stdout)?;
    go.say(1)?;
    program.finish()?.ended_with("", 0)
}

fn the_child_ends_when_the_parent_is_killed(mut command: Command) -> Result<()> {
    let go = Go::new()?;
    let script = format!("{}; {}; exec \"$0\" child", go.tell(1), go.wait(2));
    command.args(["sh", "-c", &script]);
    command.arg(programs::example("fork-ipc"));
    let program = start(command)?;
    go.hear(1)?;
    program.signal(Signal::SIGKILL)?;
    go.say(2)?;
    // It hears what was sent before, if that was, answers nobody, and ends.
    program.finish()?.ended_with("", -9)
}

fn inspect_prints_as_expected() -> Result<()> {
    for (json, printed) in PRINTED {
        same(
            json,
            *printed,
            &inspect::inspect(&serde_json::from_str(json)?),
        )?;
    }
    Ok(())
}

fn node_prints_as_expected() -> Result<()> {
    let messages: Vec<_> = PRINTED
        .iter()
        .map(|(json, _)| Ok((serde_json::from_str(json)?, String::new())))
        .collect::<Result<_>>()?;
    let expected: String = PRINTED
        .iter()
        .map(|(_, printed)| format!("{printed}\n"))
        .collect();
    same(
        "stdout",
        expected,
        node_prints(messages.iter().map(|(message, _)| message))?,
    )
}

/// What Node's console.log makes of messages, a line each.
pub fn node_prints<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Result<String> {
    let file = as_file(messages)?;
    let mut command = Command::new("node");
    command
        .arg(peer("inspect.mjs"))
        .arg(file.path())
        .stdin(Stdio::null());
    Ok(run(command)?.stdout())
}

/// More than the channel holds in each direction: one thread alone would block for ever.
fn two_threads() -> Result<()> {
    const MANY: usize = 50_000;
    let mut command = Command::new(programs::example("fork-ipc"));
    command.arg("child").stdout(Stdio::null());
    let (mut child, mut sender, receiver) = ipc::fork(command)?;
    let writing = thread::spawn(move || {
        for n in 0..MANY {
            sender.send(&json!({ "n": n }))?;
        }
        sender.disconnect();
        Ok::<_, io::Error>(())
    });
    let answers = receiver.collect::<Result<Vec<_>, _>>()?;
    writing.join().expect("it does not panic")?;
    same("answers", MANY, answers.len())?;
    ensure!(
        answers
            .iter()
            .all(|answer| *answer == json!({ "foo": "bar" }))
    );
    ensure!(child.wait()?.success());
    Ok(())
}

/// As a parent's may be that made both its ends so.
fn a_non_blocking_end() -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" child 9<&0"])
        .arg(programs::example("fork-ipc"))
        .env("NODE_CHANNEL_FD", "9")
        .stdin(OwnedFd::from(theirs));
    let program = start(command)?;
    let mut answers = BufReader::new(ours.try_clone()?);
    for _ in 0..2 {
        // It waits for each.
        writeln!(ours, "{{}}")?;
        answers.read_line(&mut String::new())?;
    }
    drop((ours, answers));
    program.finish()?.ended_with("", 0)
}

fn the_end_reaches_the_child_alone() -> Result<()> {
    let mut command = Command::new("cat");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (mut child, sender, receiver) = ipc::fork(command)?;
    let ends = |pid: u32| -> Result<usize> {
        let links = fs::read_dir(format!("/proc/{pid}/fd"))?;
        let links = links.map(|link| fs::read_link(link?.path()));
        Ok(links
            .flatten()
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count())
    };
    let mut other = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let counts = (ends(child.id()), ends(other.id()));
    drop((child.stdin.take(), other.stdin.take()));
    child.wait()?;
    other.wait()?;
    drop((sender, receiver));
    same(
        "sockets of the child and of another",
        (1, 0),
        (counts.0?, counts.1?),
    )
}
