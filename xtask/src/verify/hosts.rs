//! The checks of the host programs in `xtask/hosts`: small programs of the kind that people paste
//! the files into. The files get there by `cargo xtask copy`.

use std::io::Write;

use os_pipe::pipe;
use serde_json::{Value, json};

use super::copies::Package;
use super::inherited::ignore_sigchld;
use super::prelude::*;
use crate::harness::programs::cargo;
use crate::host;

/// Starts first, because it takes long: it makes the package.
pub fn format(suite: &Suite) {
    suite
        .where_succeeds(
            cargo().args(["fmt", "--version"]),
            "rustfmt is not installed",
        )
        .check("format", || HOSTS.succeeds("fmt --check"));
}

pub fn checks(suite: &Suite) {
    suite.check("axum_service", || {
        let program = start_axum_service()?;
        let mut slow = greeted_client(&program)?;
        let first = slow.get_at("/pid")?.body;
        let (second, mut other) = wait_for("the other worker to answer", || {
            let mut other = client_of(&program)?;
            let pid = other.get_at("/pid")?.body;
            Ok((pid != first).then_some((pid, other)))
        })?;

        // A request is in flight when a worker has begun to answer it.
        let mut requests = 0;
        let mut begin_slow_request = |client: &mut Client| -> Result<()> {
            client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")?;
            requests += 1;
            wait_until("the slow request to begin", || {
                let begun = program.stderr().matches("slow request\n").count();
                Ok(begun == requests)
            })
        };

        // A crash takes the connections of its worker, and no others.
        begin_slow_request(&mut slow)?;
        ensure!(other.get_at("/abort").is_err(), "the worker did not crash");
        program.wait_for_stderr(&format!("Exit {{ pid: {second}, "))?;
        same("status of the slow request", &200, &slow.answer()?.status)?;
        greeted_client(&program)?;

        // A rolling restart lets the slow request end.
        begin_slow_request(&mut slow)?;
        program.signal(Signal::SIGHUP)?;
        same("status of the slow request", &200, &slow.answer()?.status)?;
        program.wait_for_stderr(&format!("Replaced {{ pid: {first} }}"))?;
        wait_until("both workers to be replaced", || {
            Ok(program.stderr().matches("Replaced").count() == 2)
        })?;
        greeted_client(&program)?;

        // So does a shutdown.
        let mut slow = client_of(&program)?;
        begin_slow_request(&mut slow)?;
        let _asks_more = greeted_client(&program)?;
        program.signal(Signal::SIGTERM)?;
        same("status of the slow request", &200, &slow.answer()?.status)?;
        program.finish()?.ended_with_code(0)
    });

    // The child answers some questions later than others, and some wrongly.
    suite.with(Runtime::Node).check("node_backend", || {
        let program = start(HOSTS.command("node_backend")?.arg(peer("backend.mjs")))?;
        let ask = |mut client: Client, word: &str| -> Result<_> {
            let Answer { status, body, .. } = client.get_at(&format!("/?word={word}"))?;
            Ok((status, serde_json::from_str(&body).unwrap_or_default()))
        };
        let later = |word: &'static str| -> Result<_> {
            let client = client_of(&program)?;
            Ok(thread::spawn(move || {
                ask(client, word).map(|answer| (answer, Instant::now()))
            }))
        };
        let length = |value| (200, json!({ "type": "length", "value": value }));
        let slow = later("slow")?;
        same("answer", &length(4), &ask(client_of(&program)?, "fast")?)?;
        let fast_at = Instant::now();
        let (answer, slow_at) = slow.join().expect("it does not panic")?;
        let ratio = json!({ "type": "ratio", "value": 0.25 });
        same("slow answer", &(200, ratio), &answer)?;
        ensure!(fast_at < slow_at, "the fast answer came last");

        // The child sends what is no answer. The others arrive.
        let no_answer = (502, Value::Null);
        same("wrong", &no_answer, &ask(client_of(&program)?, "wrong")?)?;
        same("odd", &length(3), &ask(client_of(&program)?, "odd")?)?;
        let error = "cannot read the message '\"no answer\"': ";
        program.wait_for_stderr(error)?;

        // No request waits for a child that has ended. Another child answers the next one.
        let never = later("never")?;
        program.wait_for_stderr("no answer yet\n")?;
        same("exit", &no_answer, &ask(client_of(&program)?, "exit")?)?;
        let (answer, _) = never.join().expect("it does not panic")?;
        same("answer when the child ends", &no_answer, &answer)?;
        same("next", &length(4), &ask(client_of(&program)?, "next")?)?;

        // The child ends with the channel.
        program.signal(Signal::SIGTERM)?;
        program.finish()?.ended_with_code(-(Signal::SIGTERM as i32))
    });

    suite.with(Runtime::Node).check("node_worker", || {
        let mut node = Command::new("node");
        node.arg(peer("server.mjs"))
            .arg(HOSTS.program("node_worker")?)
            .stdin(Stdio::null());
        run(node)?.printed("[ 12586269025, 10, 55 ]\n")
    });

    suite
        .where_succeeds(
            Command::new("python3").arg("--version"),
            "python3 is not on the path",
        )
        .check("python_child", || {
            HOSTS.prints(
                "python_child",
                "[2, 4, 4, 4, 5, 5, 7, 9]: 5 ± 2\n[]: no numbers\n",
            )
        });

    suite.check("commands", || {
        let folder = TempDir::new()?;
        let program = start(HOSTS.command("commands")?.arg(folder.path()))?;
        program.wait_for_stdout("waiting\n")?;
        program.signal(Signal::SIGINT)?;
        program.finish()?.ended_by(Signal::SIGINT)?;
        let marks = fs::read_dir(folder.path())?.map(|mark| Ok(mark?.file_name().into_string()));
        let mut marks: Vec<_> = marks.collect::<Result<_>>()?;
        marks.sort();
        let all = ["abort", "drop", "interrupt", "timeout"];
        let expected: Vec<_> = all.map(|name| Ok(format!("cleaned-{name}"))).into();
        same("the marks of the commands", &expected, &marks)
    });

    suite.check("stream", || HOSTS.prints("stream", "10000000 bytes\n"));

    // No line is lost or mixed with another one, wherever the chunks end.
    suite.check("concurrently", || {
        let mut command = HOSTS.command("concurrently")?;
        command.args(["seq 200000", "seq 200000; printf end"]);
        let output = run(command)?;
        let stdout = output.stdout();
        let (mut expected, mut actual) = (String::new(), String::new());
        for label in ["[0] ", "[1] "] {
            expected.extend((1..=200_000).map(|number| format!("{label}{number}\n")));
            let lines = stdout.split_inclusive('\n');
            actual.extend(lines.filter(|line| line.starts_with(label)));
        }
        expected += "[1] end\n";
        same("bytes", &expected.len(), &stdout.len())?;
        ensure!(actual == expected, "the lines are others");
        output.ended_with_code(0)
    });

    // A failed command and Ctrl-C also end what the commands have started.
    suite.check("concurrently_stops", || {
        for interrupt in [false, true] {
            let gates = Gates::new()?;
            let (background, wait_2) = (background(&gates, 1), gates.wait(2));
            let cleans_up = format!("trap 'echo bye; exit' TERM; {background} wait");
            let mut command = HOSTS.command("concurrently")?;
            command.args([cleans_up, format!("{wait_2}; exit 3")]);
            let program = start(command)?;
            gates.reported(1)?;
            match interrupt {
                true => program.signal(Signal::SIGINT)?,
                false => gates.open(2)?,
            }
            let output = program.finish()?;
            same("stdout", "[0] bye\n", &output.stdout()[..])?;
            output.ended_with_code(1)?;
        }
        Ok(())
    });

    // 40 MB are packed and unpacked, in constant memory.
    suite.check("filter", || {
        let numbers = (0_u32..).flat_map(|number| format!("{number}\n").into_bytes());
        let block: Vec<u8> = numbers.take(1_000_000).collect();
        let (input, mut feeder) = pipe()?;
        let (packed, packer) = pipe()?;
        let mut pack = HOSTS.command("filter")?;
        pack.args(["gzip", "-1c"]).stdin(input);
        let mut unpack = HOSTS.command("filter")?;
        unpack.args(["gzip", "-dc"]).stdin(packed);
        let pack = start_on(pack, packer)?;
        let (unpack, mut unpacked) = start_unread(unpack)?;

        let sent = block.clone();
        let feeding = thread::spawn(move || {
            let result = (0..40).try_for_each(|_| feeder.write_all(&sent));
            result.map(|()| feeder)
        });
        // What comes last is held back until the input ends.
        let mut received = vec![0; block.len()];
        for _ in 0..39 {
            unpacked.read_exact(&mut received)?;
            ensure!(received == block, "it has changed");
        }
        for program in [&pack, &unpack] {
            let memory = memory(program.pid())?;
            ensure!(memory < 32.0, "it takes {memory} MiB");
        }
        drop(feeding.join().expect("it does not panic")?);
        ensure!(unpacked.read_to_end()? == block, "the end has changed");
        pack.finish()?.ended_with("", 0)?;
        unpack.finish()?.ended_with("", 0)
    });

    // Also where SIGCHLD is ignored.
    suite.check("ci_step", || {
        let folder = TempDir::new()?;
        let log = folder.path().join("log");
        let step = |limit: &str, script: &str| {
            let mut command = HOSTS.command("ci_step")?;
            command.arg(&log).args([limit, "sh", "-c", script]);
            ignore_sigchld(&mut command);
            start(command)
        };
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
            step("1000", script)?.finish()?.ended_with("", code)?;
        }

        // Nothing is lost at its end.
        for _ in 0..10 {
            let output = step("1000", "echo a")?.finish()?;
            same("stdout", "a\n", &output.stdout()[..])?;
            output.ended_with_code(0)?;
        }

        // Its output comes before its end.
        let gates = Gates::new()?;
        let script = format!("echo a; echo b >&2; {}; exit 7", gates.wait(1));
        let program = step("1000", &script)?;
        program.wait_for_stdout("a\n")?;
        program.wait_for_stderr("b\n")?;
        same("log", "a\nb\n", &fs::read_to_string(&log)?[..])?;
        gates.open(1)?;
        program.finish()?.ended_with_code(7)?;

        // A process in the background has the output open.
        let program = step("1000", &format!("({}) & exit 7", gates.wait(2)))?;
        wait_until_ended(program.pid())?;
        gates.open(2)?;
        program.finish()?.ended_with("", 7)?;

        let script = "trap '' TERM INT; sleep 1000 & echo a; wait";
        let output = step("1", script)?.finish()?;
        output.ended_with("ci_step: killed after 1s\n", 124)?;
        let program = step("1000", script)?;
        program.wait_for_stdout("a\n")?;
        program.signal(Signal::SIGINT)?;
        program.finish()?.ended_with("", 130)
    });

    // A number that is too large makes the library panic.
    suite.check("one_thread", || {
        let program = start(HOSTS.command("one_thread")?)?;
        let add = |number: u64| -> Result<_> {
            let mut client = client_of(&program)?;
            Ok(client.get_at(&format!("/{number}"))?)
        };
        for sum in 1..=20 {
            same("sum", &sum.to_string(), &add(1)?.body)?;
        }
        same("status", &500, &add(u64::MAX)?.status)?;
        same("sum of the next library", "3", &add(3)?.body[..])
    });

    // A client that has got all of a short output, and one that leaves while the command is silent.
    suite.check("stream_route", || {
        let serve = |script: &str| start(HOSTS.command("stream_route")?.args(["sh", "-c", script]));
        let program = serve("echo a; echo b >&2; echo c")?;
        same("body", "a\nc\n", &client_of(&program)?.get()?.body)?;
        program.wait_for_stderr("b\n")?;

        let gates = Gates::new()?;
        let program = serve(&format!("{} wait", background(&gates, 1)))?;
        let mut client = client_of(&program)?;
        client.send(GET)?;
        let sleep = gates.reported(1)?;
        drop(client);
        wait_until_ended(sleep)?;

        // The service ends, and with it the command of a client that stays.
        let mut client = client_of(&program)?;
        client.send(GET)?;
        wait_until("the command to run", || Ok(gates.reported(1)? != sleep))?;
        program.signal(Signal::SIGTERM)?;
        program.finish()?.ended_with("", 0)
    });

    // The first piece of the body comes back before the client has sent the second.
    suite.check("http_stream", || {
        let program = start(HOSTS.command("http_stream")?)?;
        let mut client = client_of(&program)?;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
        same("status", &200, &client.answer_to("HEAD")?.status)?;
        same("first piece", b"1\r\na\r\n", &client.receive()?)?;
        client.send("1\r\nb\r\n0\r\n\r\n")?;
        same("the rest", b"1\r\nb\r\n0\r\n\r\n", &client.receive()?)
    });

    // A request in flight is answered, and a client that asks for nothing is not waited for.
    suite.check("axum_single", || {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let program = start(HOSTS.command("axum_single")?)?;
            let mut idle = client_of(&program)?;
            same("body", "hello\n", &idle.get()?.body)?;
            let mut slow = client_of(&program)?;
            slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")?;
            program.wait_for_stderr("slow request\n")?;
            program.signal(signal)?;
            same("slow body", "at last\n", &slow.answer()?.body)?;
            program.finish()?.ended_with_code(0)?;
        }
        Ok(())
    });

    // A message of one character, from the client with a mask of zeros.
    suite.check("web_socket", || {
        let program = start_axum_service()?;
        let mut client = client_of(&program)?;
        client.send(
            "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
        )?;
        same("status", &101, &client.answer_to("HEAD")?.status)?;
        client.send(b"\x81\x81\0\0\0\0a")?;
        same("echo", b"\x81\x01a", &client.receive()?)
    });

    suite.check("jobs", || {
        let output = run(HOSTS.command("jobs")?)?;
        same(
            "stdout",
            "192 results, the last Some((199, 45))\n",
            &output.stdout()[..],
        )?;
        for job in [13, 63, 113, 163] {
            for (job, text) in [(job, "unlucky"), (job + 1, "worse")] {
                let line = format!(": primes below {job}: {job} is {text}\n");
                ensure!(output.stderr().contains(&line), "no {line:?}");
            }
        }
        output.ended_with_code(0)
    });

    suite.check("blocking", || {
        let output = run(HOSTS.command("blocking")?)?;
        same("stdout", "100 sums\n", &output.stdout()[..])?;
        output.ended_with("squares below 5000000: the sum is too large\n", 0)
    });

    suite.check("data", || HOSTS.prints("data", "495000 characters\n"));

    suite.check("crashes", || {
        HOSTS.prints("crashes", "4: 2\n0: the child has crashed\n9: 3\n")
    });
}

/// The package of the host programs, with the files copied into it.
pub static HOSTS: Package = Package::new(host::lay_out);

/// Builds the programs.
pub fn build() -> Result<()> {
    HOSTS.program("data").map(drop)
}

/// A shell command that starts a process in the background, which sleeps after its report. It
/// reports itself: a signal that comes before its exec is lost where its shell has set a trap.
fn background(gates: &Gates, number: u32) -> String {
    format!("sh -c '{}; exec sleep 1000' &", gates.report(number))
}

/// A new client of the program.
fn client_of(program: &Running) -> Result<Client> {
    Ok(Client::connect(program.wait_for_address()?)?)
}

fn start_axum_service() -> Result<Running> {
    start(
        HOSTS
            .command("axum_service")?
            .args(["--greeting", "hi", "127.0.0.1:0"]),
    )
}

/// A new client of the axum service, which has got the greeting from a worker's arguments.
fn greeted_client(program: &Running) -> Result<Client> {
    let mut client = client_of(program)?;
    same("answer", "hi", &client.get()?.body)?;
    Ok(client)
}
