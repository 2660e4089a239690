//! The checks of cluster-http.

#[path = "../../../cluster-http/src/cluster.rs"]
mod cluster;

use std::fs;
use std::io::{self, BufRead, BufReader, Write, pipe};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::case::{Example, looks};
use super::check;
use super::client::{Answer, Client, GET, Load, Tally};
use super::run::{
    Go, Running, close, run, same, signal_to, sleeps, start, start_on, start_unread, wait_until,
    wait_until_gone,
};
use super::server::{Deployed, Server, get_until_last, hello, last_hello};
use super::settings::settings;
use crate::procfs::{children, memory};
use crate::programs;

const CLUSTER_HTTP: Example = Example {
    name: "cluster-http",
    script: "node/cluster-http.mjs",
};

pub fn checks() -> Vec<Trial> {
    let refused = |name: &str, args: &[&str], says: &str| {
        CLUSTER_HTTP
            .case(name, args)
            .stderr(format!("cluster-http: {says}\n"))
            .status(1)
            .port_only()
    };
    let cases = [
        refused(
            "an_address_without_a_port",
            &["localhost"],
            "ADDR is 'localhost', which is not a host:port to listen on, such as 127.0.0.1:3000: invalid socket address",
        ),
        refused(
            "no_workers",
            &["127.0.0.1:0", "0"],
            "WORKERS is '0', which is not a whole number from 1 to 1024",
        ),
        refused(
            "workers_that_are_no_number",
            &["127.0.0.1:0", "two"],
            "WORKERS is 'two', which is not a whole number from 1 to 1024",
        ),
        refused(
            "three_arguments",
            &["127.0.0.1:0", "1", "2"],
            "more than two arguments: cluster-http [ADDR [WORKERS]]",
        ),
        refused(
            "an_address_of_another_machine",
            &["192.0.2.1:0"],
            "cannot listen on 192.0.2.1:0: Cannot assign requested address (os error 99)",
        ),
    ];
    let mut checks: Vec<Trial> = cases.into_iter().flat_map(|case| case.checks()).collect();
    checks.push(CLUSTER_HTTP.help(
        "Usage: cluster-http [ADDR [WORKERS]]",
        "every address, port 8000; one worker for each CPU",
    ));
    checks.extend(CLUSTER_HTTP.checks_of_both(looks![
        the_documents_program,
        every_method_and_path,
        bad_requests,
        kept_alive,
        a_client_that_has_said_all,
        workers_leave_a_killed_primary,
    ]));
    // What Node's program does not, or not as well.
    checks.extend(CLUSTER_HTTP.checks(looks![
        a_worker_for_each_cpu,
        every_address,
        a_given_address_alone,
        a_host_name,
        a_taken_port,
        a_port_taken_by_another_copy,
        stdout_closed_early,
        stdout_full,
        the_limit_of_descriptors_is_raised,
        spread_over_two,
        spread_over_four,
        killed_workers_under_load,
        a_terminated_worker_drains,
        a_worker_that_dies_as_it_starts,
        a_worker_that_dies_as_it_serves,
        no_worker_ever_comes_up,
        a_signal_while_the_first_one_starts,
        no_program_to_start_workers_from,
        sigterm_drains,
        sigint_drains,
        sigint_to_the_whole_group,
        sigterm_to_the_whole_group,
        an_idle_connection_is_closed,
        a_second_signal_ends_it_at_once,
        a_long_request_is_answered,
        the_port_is_free_again_at_once,
        sighup_to_the_whole_group,
        a_roll_is_one_by_one,
        drain_of_a_killed_primary,
        rolls_under_load,
        a_roll_to_a_new_binary,
        a_roll_to_a_broken_binary,
        deaths_leave_nothing_behind,
        half_requests,
        bodies_that_nobody_reads,
        what_is_queued_for_a_killed_worker,
        a_roll_to_one_that_never_serves,
        a_roll_to_one_that_hangs,
        a_death_while_the_successor_hangs,
        a_signal_to_the_group_while_one_starts,
        nothing_leaks_below_a_worker,
        a_worker_without_a_primary,
        the_default_port,
        out_of_descriptors,
    ]));
    checks.push(check(
        "cluster-http::cluster::an_address_that_is_not_here",
        an_address_that_is_not_here,
    ));
    checks
}

fn the_documents_program(command: Command) -> Result<()> {
    let server = Server::start_either(command, 2)?;
    let master = format!("Master {} is running\n", server.program.pid());
    ensure!(
        server.program.stdout().starts_with(&master),
        "{:?}",
        server.program.stdout()
    );
    same("answer", hello(), server.connect()?.get()?)?;

    let old = server.workers();
    signal_to(old[0], Signal::SIGKILL)?;
    server
        .program
        .wait_for_stdout(&format!("worker {} died\n", old[0]))?;
    let new = server.wait_for_workers(2)?;
    ensure!(
        !new.contains(&old[0]) && new.contains(&old[1]),
        "{old:?} then {new:?}"
    );
    same("answer", hello(), server.connect()?.get()?)?;
    server.stop()
}

fn every_method_and_path(command: Command) -> Result<()> {
    let server = Server::start_either(command, 1)?;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/any/path?with=a#query"),
        ("HEAD", "/"),
        ("DELETE", "/x"),
        ("OPTIONS", "*"),
        ("PATCH", "/%20"),
    ] {
        let mut client = server.connect()?;
        client.send(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
        let answer = client.answer_to(method)?;
        let body = if method == "HEAD" {
            ""
        } else {
            "hello world\n"
        };
        same(
            &format!("answer to {method} {path}"),
            Answer {
                body: body.into(),
                ..hello()
            },
            answer,
        )?;
    }
    for method in ["POST", "PUT"] {
        let mut client = server.connect()?;
        client.send(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
        ))?;
        same(&format!("answer to {method}"), hello(), client.answer()?)?;
        same("the next answer", hello(), client.get()?)?;
    }
    let mut client = server.connect()?;
    client.send("GET / HTTP/1.0\r\n\r\n")?;
    same("status for HTTP/1.0", 200, client.answer()?.status)?;
    server.stop()
}

fn bad_requests(command: Command) -> Result<()> {
    let server = Server::start_either(command, 1)?;
    let long = "x".repeat(20_000);
    for (what, request, status) in [
        ("garbage", "garbage\r\n\r\n".to_owned(), 400),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
            431,
        ),
    ] {
        let mut client = server.connect()?;
        client.send(&request)?;
        let answer = client.answer().with_context(|| what.to_owned())?;
        same(what, (status, true), (answer.status, answer.closes))?;
        ensure!(client.is_closed(), "the connection stays after {what}");
    }
    // What is just not too long is answered.
    let long = "x".repeat(15_000);
    let mut client = server.connect()?;
    client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"))?;
    same("answer", hello(), client.answer()?)?;
    server.stop()
}

fn kept_alive(command: Command) -> Result<()> {
    let server = Server::start_either(command, 2)?;
    let mut client = server.connect()?;
    for _ in 0..100 {
        same("answer", hello(), client.get()?)?;
    }
    server.stop()
}

fn a_client_that_has_said_all(command: Command) -> Result<()> {
    let server = Server::start_either(command, 1)?;
    let mut client = server.connect()?;
    client.send(&GET.repeat(3))?;
    client.end()?;
    for _ in 0..3 {
        same("body", "hello world\n", &client.answer()?.body)?;
    }
    server.stop()
}

fn workers_leave_a_killed_primary(command: Command) -> Result<()> {
    let server = Server::start_either(command, 2)?;
    server.program.signal(Signal::SIGKILL)?;
    // `finish` sees that no worker stays.
    same(
        "status",
        -9,
        super::run::code(server.program.finish()?.status),
    )
}

fn a_worker_for_each_cpu(mut command: Command) -> Result<()> {
    command.arg("127.0.0.1:0");
    let program = start(command)?;
    let cpus = thread::available_parallelism()?.get();
    wait_until("a worker for each CPU", || {
        let started = program
            .stdout()
            .lines()
            .filter(|line| line.ends_with(" started"))
            .count();
        Ok((started == cpus).then_some(()))
    })?;
    program.signal(Signal::SIGTERM)?;
    let output = program.finish()?;
    same("lines", 1 + cpus, output.stdout().lines().count())
}

/// The default's address, with any port: another program may have 8000.
fn every_address(command: Command) -> Result<()> {
    let server = Server::start_on(command, "[::]:0", 2)?;
    let url = format!("listening on http://localhost:{}/\n", server.address.port());
    ensure!(
        server.program.stderr().contains(&url),
        "{:?}",
        server.program.stderr()
    );
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let mut client = Client::connect((ip, server.address.port()).into())?;
        same(&format!("answer at {ip}"), hello(), client.get()?)?;
    }
    server.end()
}

fn a_given_address_alone(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let elsewhere = (Ipv6Addr::LOCALHOST, server.address.port());
    ensure!(
        TcpStream::connect(elsewhere).is_err(),
        "it answers at {elsewhere:?}"
    );
    server.end()
}

fn a_host_name(command: Command) -> Result<()> {
    let server = Server::start_on(command, "localhost:0", 1)?;
    ensure!(server.address.ip().is_loopback(), "{}", server.address);
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

fn a_taken_port(mut command: Command) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    command.arg(address.to_string());
    let output = run(command)?;
    same("stdout", "", &output.stdout())?;
    output.ended_with(
        &format!(
            "cluster-http: cannot listen on {address}: Address already in use (os error 98)\n"
        ),
        1,
    )
}

fn a_port_taken_by_another_copy(command: Command) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.port(), 2)?;
    let mut second = command;
    second.arg(server.address.to_string());
    let says = format!(
        "cluster-http: cannot listen on {}: Address already in use (os error 98)\n",
        server.address
    );
    run(second)?.ended_with(&says, 1)?;
    server.end()
}

/// A new worker finds nobody to read its line, and the primary nobody to read its next.
fn stdout_closed_early(mut command: Command) -> Result<()> {
    command.args(["127.0.0.1:0", "2"]);
    let (program, stdout) = start_unread(command)?;
    let mut stdout = BufReader::new(stdout);
    for _ in 0..3 {
        stdout.read_line(&mut String::new())?;
    }
    close(stdout.into_inner())?;
    program.signal(Signal::SIGHUP)?;
    let output = program.finish()?;
    ensure!(
        !output.stderr().contains("roken pipe"),
        "{:?}",
        output.stderr()
    );
    output.ended_with_status(0)
}

/// There is room for the first line, and nobody reads.
fn stdout_full(mut command: Command) -> Result<()> {
    command.args(["127.0.0.1:0", "1"]);
    let (stdout, mut theirs) = pipe()?;
    fcntl(&theirs, FcntlArg::F_SETPIPE_SZ(4096))?;
    theirs.write_all(&[0; 4096 - 40])?;
    let server = Server::of(start_on(command, theirs)?)?;
    for _ in 0..3 {
        same("answer", hello(), server.connect()?.get()?)?;
        signal_to(children(server.program.pid())?[0], Signal::SIGKILL)?;
    }
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()?;
    drop(stdout);
    Ok(())
}

fn the_limit_of_descriptors_is_raised(command: Command) -> Result<()> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -S -n 64; exec \"$0\" \"$@\""])
        .arg(command.get_program());
    let server = Server::start(shell, 1)?;
    for pid in [server.program.pid(), server.workers()[0]] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let mut words = line.context("the limit")?.split_whitespace().skip(3);
        let (soft, hard) = (words.next(), words.next());
        same("soft and hard limit", hard, soft)?;
    }
    server.end()
}

fn spread_over_two(command: Command) -> Result<()> {
    spread(command, 2)
}

fn spread_over_four(command: Command) -> Result<()> {
    spread(command, 4)
}

fn spread(command: Command, workers: usize) -> Result<()> {
    const CONNECTIONS: usize = 400;
    let server = Server::start(command, workers)?;
    let most_allowed = CONNECTIONS * 13 / 10 / workers;
    let workers = server.workers();
    let held = || {
        workers
            .iter()
            .map(|pid| sockets(*pid))
            .collect::<Result<Vec<_>>>()
    };
    let none = held()?;
    let mut rounds = Vec::new();
    // The kernel deals by a hash. That a fair one deals four workers such a hand happens once
    // in a thousand times, but not three times in a row.
    while rounds.len() < 3 {
        let mut total = vec![0; workers.len()];
        // A few at a time: on a busy machine the first of them all may be idle for too long,
        // and be closed, when the last is opened.
        for _ in 0..CONNECTIONS / 40 {
            let mut clients = Vec::new();
            for _ in 0..40 {
                let mut client = server.connect()?;
                same("answer", hello(), client.get()?)?;
                clients.push(client);
            }
            let with_clients = held()?;
            for ((total, with), none) in total.iter_mut().zip(with_clients).zip(&none) {
                *total += with - none;
            }
            drop(clients);
            wait_until("the connections to close", || {
                Ok((held()? == none).then_some(()))
            })?;
        }
        same("connections held", CONNECTIONS, total.iter().sum())?;
        if total.iter().all(|count| *count <= most_allowed) {
            return server.end();
        }
        rounds.push(total);
    }
    bail!("of {CONNECTIONS} connections the workers hold {rounds:?}")
}

/// How many sockets a process holds.
fn sockets(pid: u32) -> Result<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let links = links.filter_map(|link| fs::read_link(link.path()).ok());
    Ok(links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count())
}

fn killed_workers_under_load(command: Command) -> Result<()> {
    const CLIENTS: usize = 8;
    let server = Server::start(command, 2)?;
    let load = Load::start(server.address, CLIENTS);
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < settings().storm {
        // It has lived by then.
        thread::sleep(2 * cluster::LIVED);
        let workers = server.workers();
        signal_to(workers[kills % workers.len()], Signal::SIGKILL)?;
        server
            .program
            .wait_for_stdout(&format!("worker {} died\n", workers[kills % workers.len()]))?;
        server.wait_for_workers(2)?;
        kills += 1;
    }
    let Tally {
        served,
        failures,
        slowest,
    } = load.stop();
    eprintln!(
        "{kills} kills: {served} served, {} lost, the slowest {slowest:?}",
        failures.len()
    );
    // What a killed worker holds is at most a request of each client, and they see it end.
    ensure!(
        failures.len() <= kills * CLIENTS,
        "{kills} kills: {failures:?}"
    );
    for failure in &failures {
        let kind = failure.kind();
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        ensure!(
            matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof),
            "{failure}"
        );
    }
    // No pause before a successor, and no client that hangs.
    ensure!(
        slowest < Duration::from_secs(3),
        "the slowest took {slowest:?}"
    );
    ensure!(served > kills, "only {served} served");
    server.end()
}

/// `kill` without a number, as an operator types it.
fn a_terminated_worker_drains(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut client = server.connect()?;
    same("answer", hello(), client.get()?)?;
    let old = server.workers();
    signal_to(old[0], Signal::SIGTERM)?;
    same("answer", last_hello(), get_until_last(&mut client)?)?;
    server
        .program
        .wait_for_stdout(&format!("worker {} died\n", old[0]))?;
    server.wait_for_successors(&old)?;
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

fn a_worker_that_dies_as_it_starts(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 2)?;
    deployed.replace_by("exit 7")?;
    let old = server.workers();
    thread::sleep(2 * cluster::LIVED);
    let began = Instant::now();
    signal_to(old[0], Signal::SIGKILL)?;
    let says = " ended before it served (exit status: 7); trying again in ";
    let pauses = wait_until("four pauses", || {
        let stderr = server.program.stderr();
        let pauses = stderr.lines().filter_map(|line| line.split_once(says));
        let pauses: Vec<String> = pauses.map(|(_, pause)| pause.to_owned()).take(4).collect();
        Ok((pauses.len() == 4).then_some(pauses))
    })?;
    same(
        "pauses",
        ["20ms", "40ms", "80ms", "160ms"].map(String::from).into(),
        pauses,
    )?;
    same("workers", &old[1..], &server.workers())?;
    let paused = began.elapsed();
    ensure!(
        paused >= Duration::from_millis(20 + 40 + 80),
        "it paused for {paused:?} in all"
    );
    deployed.replace_by_itself()?;
    let new = server.wait_for_workers(2)?;
    // Once the new one has lived, its death is the first again.
    thread::sleep(2 * cluster::LIVED);
    deployed.replace_by("exit 7")?;
    let told = server.program.stderr().len();
    let successor = new
        .iter()
        .find(|pid| **pid != old[1])
        .context("the successor")?;
    signal_to(*successor, Signal::SIGKILL)?;
    wait_until("a short pause again", || {
        let stderr = server.program.stderr();
        Ok(stderr[told..]
            .contains("trying again in 20ms\n")
            .then_some(()))
    })?;
    server.end()
}

/// It says that it serves, and then dies.
fn a_worker_that_dies_as_it_serves(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 2)?;
    deployed.replace_by("printf '\\001' >&0; exit 7")?;
    signal_to(server.workers()[0], Signal::SIGKILL)?;
    for pause in ["20ms", "40ms"] {
        let says = format!(" died as it started; trying again in {pause}\n");
        wait_until(&format!("a pause of {pause}"), || {
            Ok(server.program.stderr().contains(&says).then_some(()))
        })?;
    }
    deployed.replace_by_itself()?;
    wait_until("one to serve again", || {
        let stdout = server.program.stdout();
        let started = stdout.lines().filter(|line| line.ends_with(" started"));
        Ok((started.count() == 3).then_some(()))
    })?;
    server.end()
}

/// On Linux a program whose file is gone is known as that file, `(deleted)`. A script of
/// that name is what the primary then starts its workers from.
fn without_its_file(script: Option<&str>) -> Result<(Running, Deployed)> {
    let deployed = Deployed::new()?;
    if let Some(script) = script {
        deployed.replace_by(script)?;
        fs::rename(
            deployed.path(),
            deployed.folder.path().join("program (deleted)"),
        )?;
        deployed.replace_by_itself()?;
    }
    let mut shell = Command::new("sh");
    let script = "exec 3<\"$0\"; rm \"$0\"; exec /proc/self/fd/3 127.0.0.1:0 2";
    shell.arg("-c").arg(script).arg(deployed.path());
    Ok((start(shell)?, deployed))
}

fn a_signal_while_the_first_one_starts(_: Command) -> Result<()> {
    let up = Go::new()?;
    let (program, _deployed) = without_its_file(Some(&format!("{}; exec cat", up.tell(1))))?;
    up.hear(1)?;
    program.signal(Signal::SIGTERM)?;
    program.finish()?.ended_with("", 0)
}

fn no_worker_ever_comes_up(_: Command) -> Result<()> {
    let says = " ended before it served (exit status: 7)\n";
    gives_up(Some("exit 7"), "worker ", says)
}

fn no_program_to_start_workers_from(_: Command) -> Result<()> {
    let says = "/program (deleted): No such file or directory (os error 2)\n";
    gives_up(None, "cannot start ", says)
}

/// In one line, which starts and ends so.
fn gives_up(script: Option<&str>, start: &str, end: &str) -> Result<()> {
    let (program, _deployed) = without_its_file(script)?;
    let output = program.finish()?;
    let stderr = output.stderr();
    ensure!(
        stderr.starts_with(&format!("cluster-http: {start}")) && stderr.ends_with(end),
        "{stderr:?}"
    );
    same("lines", 1, stderr.lines().count())?;
    output.ended_with_status(1)
}

fn sigterm_drains(command: Command) -> Result<()> {
    drains(command, Signal::SIGTERM)
}

fn sigint_drains(command: Command) -> Result<()> {
    drains(command, Signal::SIGINT)
}

fn drains(command: Command, signal: Signal) -> Result<()> {
    let server = Server::start(command, 2)?;
    let mut kept_alive = server.connect()?;
    same("answer", hello(), kept_alive.get()?)?;
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HTTP/1.1\r\nHo")?;
    let mut just_opened = server.connect()?;

    server.program.signal(signal)?;
    server.wait_for_refusal()?;
    same(
        "answer to the one just opened",
        last_hello(),
        just_opened.get()?,
    )?;
    in_flight.send("st: a\r\n\r\n")?;
    same(
        "answer to the one in flight",
        last_hello(),
        in_flight.answer()?,
    )?;
    same(
        "answer to the one kept alive",
        last_hello(),
        kept_alive.get()?,
    )?;
    let output = server.program.finish()?;
    ensure!(!output.stdout().contains("died"), "{:?}", output.stdout());
    output.ended_with_status(0)
}

/// As ^C does.
fn sigint_to_the_whole_group(command: Command) -> Result<()> {
    drains_as_a_group(command, Signal::SIGINT)
}

/// As a service manager stops a unit. `timeout` does the same twice.
fn sigterm_to_the_whole_group(command: Command) -> Result<()> {
    drains_as_a_group(command, Signal::SIGTERM)
}

fn drains_as_a_group(mut command: Command, signal: Signal) -> Result<()> {
    command.process_group(0);
    let server = Server::start(command, 2)?;
    let mut client = server.connect()?;
    same("answer", hello(), client.get()?)?;
    server.program.signal(signal)?;
    killpg(Pid::from_raw(server.program.pid().cast_signed()), signal)?;
    server.wait_for_refusal()?;
    same("answer", last_hello(), client.get()?)?;
    server.program.finish()?.ended_with_status(0)
}

fn an_idle_connection_is_closed(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut idle = server.connect()?;
    same("answer", hello(), idle.get()?)?;
    let began = Instant::now();
    server.program.signal(Signal::SIGTERM)?;
    ensure!(idle.is_closed(), "the idle connection stays");
    // Its next request may be on the way; but not longer than two seconds.
    let taken = began.elapsed();
    ensure!(
        taken > Duration::from_secs(1) && taken < Duration::from_millis(4500),
        "it is closed after {taken:?}"
    );
    server.program.finish()?.ended_with_status(0)
}

fn a_second_signal_ends_it_at_once(_: Command) -> Result<()> {
    ends_at_once_by(Signal::SIGINT)?;
    ends_at_once_by(Signal::SIGTERM)
}

fn ends_at_once_by(second: Signal) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.port(), 1)?;
    let worker = server.workers()[0];
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HT")?;
    server.program.signal(Signal::SIGTERM)?;
    server.wait_for_refusal()?;
    thread::sleep(2 * cluster::SAME_SIGNAL);
    let began = Instant::now();
    server.program.signal(second)?;
    let output = server.program.finish()?;
    wait_until_gone(worker)?;
    // The worker alone would wait for the rest of the request, for five seconds.
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );
    let says = "cluster-http: ended at once by a second signal\n";
    ensure!(output.stderr().ends_with(says), "{:?}", output.stderr());
    output.ended_with_status(1)
}

/// It is in flight for longer than a connection may be idle.
fn a_long_request_is_answered(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut in_flight = server.connect()?;
    in_flight.send("GET / HTTP/1.1\r\nHo")?;
    server.program.signal(Signal::SIGTERM)?;
    thread::sleep(Duration::from_millis(3700));
    in_flight.send("st: a\r\n\r\n")?;
    same("answer", last_hello(), in_flight.answer()?)?;
    server.program.finish()?.ended_with_status(0)
}

/// Though the connections that the server has closed are remembered for a minute.
fn the_port_is_free_again_at_once(command: Command) -> Result<()> {
    let server = Server::start(CLUSTER_HTTP.port(), 1)?;
    let mut idle = server.connect()?;
    same("answer", hello(), idle.get()?)?;
    let address = server.address;
    server.program.signal(Signal::SIGTERM)?;
    ensure!(idle.is_closed(), "the idle connection stays");
    server.program.finish()?.ended_with_status(0)?;
    Server::start_on(command, &address.to_string(), 1)?.end()
}

/// As when the terminal is closed.
fn sighup_to_the_whole_group(mut command: Command) -> Result<()> {
    command.process_group(0);
    let server = Server::start(command, 1)?;
    let mut client = server.connect()?;
    same("answer", hello(), client.get()?)?;
    let old = server.workers();
    killpg(
        Pid::from_raw(server.program.pid().cast_signed()),
        Signal::SIGHUP,
    )?;
    same("answer", last_hello(), get_until_last(&mut client)?)?;
    server.wait_for_successors(&old)?;
    server.end()
}

fn a_roll_is_one_by_one(command: Command) -> Result<()> {
    let server = Server::start(command, 2)?;
    let old = server.workers();
    // With forty idle connections each of them has some, and takes its time to leave.
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = server.connect()?;
        same("answer", hello(), client.get()?)?;
        clients.push(client);
    }
    server.program.signal(Signal::SIGHUP)?;
    let primary = server.program.pid();
    wait_until("the workers to be replaced", || {
        let count = children(primary)?.len();
        ensure!(count <= 3, "{count} workers at a time");
        let workers = server.workers();
        Ok((workers.len() == 2 && !workers.iter().any(|pid| old.contains(pid))).then_some(()))
    })?;
    drop(clients);
    server.end()
}

fn drain_of_a_killed_primary(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut client = server.connect()?;
    same("answer", hello(), client.get()?)?;
    server.program.signal(Signal::SIGKILL)?;
    same("answer", last_hello(), get_until_last(&mut client)?)?;
    server.program.finish()?.ended_with_status(-9)
}

fn rolls_under_load(command: Command) -> Result<()> {
    let server = Server::start(command, 2)?;
    let load = Load::start(server.address, 8);
    let start = Instant::now();
    let mut rolls = 0;
    while start.elapsed() < settings().storm {
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_successors(&old)?;
        rolls += 1;
    }
    let Tally {
        served,
        failures,
        slowest,
    } = load.stop();
    eprintln!(
        "{rolls} rolls: {served} served, {} failed, the slowest {slowest:?}",
        failures.len()
    );
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(served > rolls, "only {served} served");
    server.end()
}

fn a_roll_to_a_new_binary(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 2)?;
    let real = programs::example("cluster-http").display();
    deployed.replace_by(&format!("echo new >&2; exec {real} \"$@\""))?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    server.wait_for_successors(&old)?;
    let new = server
        .program
        .stderr()
        .lines()
        .filter(|line| *line == "new")
        .count();
    same("new workers", 2, new)?;
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

fn a_roll_to_a_broken_binary(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 2)?;
    deployed.replace_by("exit 7")?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    wait_until("both to stay", || {
        let stderr = server.program.stderr();
        let stays = |pid: &u32| stderr.contains(&format!("(exit status: 7); worker {pid} stays\n"));
        Ok(old.iter().all(stays).then_some(()))
    })?;
    same("workers", &old, &server.workers())?;
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

fn deaths_leave_nothing_behind(command: Command) -> Result<()> {
    const WORKERS: usize = 8;
    let server = Server::start(command, WORKERS)?;
    let kill_all = || -> Result<()> {
        thread::sleep(cluster::LIVED);
        let old = server.workers();
        for pid in &old {
            signal_to(*pid, Signal::SIGKILL)?;
        }
        server.wait_for_successors(&old)?;
        Ok(())
    };
    let primary = server.program.pid();
    let descriptors = || Ok::<_, io::Error>(fs::read_dir(format!("/proc/{primary}/fd"))?.count());
    kill_all()?;
    let (before, resident) = (descriptors()?, memory(primary, "VmRSS")?);
    let start = Instant::now();
    let mut deaths = 0;
    while start.elapsed() < settings().storm {
        kill_all()?;
        deaths += WORKERS;
    }
    eprintln!("{deaths} deaths");
    wait_until("the primary to have as many descriptors as before", || {
        Ok((descriptors()? == before).then_some(()))
    })?;
    let grown = memory(primary, "VmRSS")? - resident;
    ensure!(grown < 1.0, "{deaths} deaths took {grown} MiB");
    same("children, zombies too", WORKERS, children(primary)?.len())?;
    server.end()
}

fn half_requests(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut halves = Vec::new();
    for _ in 0..300 {
        let mut client = server.connect()?;
        client.send("GET / HTTP/1.1\r\nHost: ")?;
        halves.push(client);
    }
    for _ in 0..10 {
        same("a good one's answer", hello(), server.connect()?.get()?)?;
    }
    let began = Instant::now();
    for mut half in halves {
        let answer = half.answer();
        ensure!(answer.is_err(), "half a request got {answer:?}");
        ensure!(half.is_closed(), "the connection stays");
    }
    let taken = began.elapsed();
    ensure!(
        taken < Duration::from_secs(15),
        "they are closed after {taken:?}, not after five seconds"
    );
    server.end()
}

fn bodies_that_nobody_reads(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let mut client = server.connect()?;
    for length in [4, 100_000, 3_000_000] {
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ))?;
        same("answer", hello(), client.answer()?)?;
        client.send(&"x".repeat(length))?;
        same("the next answer", hello(), client.get()?)?;
    }
    server.end()
}

/// The worker is stopped, so that all of it is queued when it is killed.
fn what_is_queued_for_a_killed_worker(command: Command) -> Result<()> {
    let server = Server::start(command, 1)?;
    let worker = server.workers()[0];
    signal_to(worker, Signal::SIGSTOP)?;
    let mut clients = (0..50)
        .map(|_| server.connect())
        .collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.send(GET)?;
    }
    signal_to(worker, Signal::SIGKILL)?;
    for client in &mut clients {
        same("answer", hello(), client.answer()?)?;
    }
    drop(clients);
    server.end()
}

/// It closes its socket, but does not end.
fn a_roll_to_one_that_never_serves(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 1)?;
    deployed.replace_by("exec </dev/null; exec sleep 1000")?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    wait_until("the old one to stay", || {
        Ok(server.program.stderr().contains("stays\n").then_some(()))
    })?;
    same("workers", &old, &server.workers())?;
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

/// It does nothing, and ends only when its socket does.
fn a_roll_to_one_that_hangs(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 1)?;
    deployed.replace_by("exec cat")?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    let says = format!(" did not serve within 10s; worker {} stays\n", old[0]);
    wait_until("the old one to stay", || {
        Ok(server.program.stderr().ends_with(&says).then_some(()))
    })?;
    same("answer", hello(), server.connect()?.get()?)?;
    server.end()
}

fn a_death_while_the_successor_hangs(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let server = Server::start(Command::new(deployed.path()), 1)?;
    let up = Go::new()?;
    deployed.replace_by(&format!("{}; exec cat", up.tell(1)))?;
    let old = server.workers();
    server.program.signal(Signal::SIGHUP)?;
    up.hear(1)?;
    deployed.replace_by_itself()?;
    signal_to(old[0], Signal::SIGKILL)?;
    server.wait_for_successors(&old)?;
    same("answer", hello(), server.connect()?.get()?)?;
    ensure!(
        !server.program.stderr().contains("did not serve"),
        "it was waited for: {}",
        server.program.stderr()
    );
    server.end()
}

/// It is the primary's, as ^C and the end of a terminal are.
fn a_signal_to_the_group_while_one_starts(_: Command) -> Result<()> {
    let deployed = Deployed::new()?;
    let mut command = Command::new(deployed.path());
    command.process_group(0);
    let server = Server::start(command, 1)?;
    let go = Go::new()?;
    let real = programs::example("cluster-http").display();
    let script = format!("{}; {}; exec {real} \"$@\"", go.tell(1), go.wait(2));
    deployed.replace_by(&script)?;
    let old = server.workers();
    signal_to(old[0], Signal::SIGKILL)?;
    let starting = go.hear(1)?;
    let group = Pid::from_raw(server.program.pid().cast_signed());
    killpg(group, Signal::SIGHUP)?;
    go.say(2)?;
    server
        .program
        .wait_for_stdout(&format!("Worker {starting} started\n"))?;
    server.end()
}

/// What a worker would start gets none of its descriptors.
fn nothing_leaks_below_a_worker(command: Command) -> Result<()> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let server = Server::start(command, 1)?;
    let worker = server.workers()[0];
    for file in fs::read_dir(format!("/proc/{worker}/fdinfo"))? {
        let file = file?;
        let number: u32 = file.file_name().to_string_lossy().parse()?;
        let info = fs::read_to_string(file.path())?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.context("its flags")?.trim(), 8)?;
        let link = fs::read_link(format!("/proc/{worker}/fd/{number}"))?;
        let is_socket = link.to_string_lossy().starts_with("socket:");
        ensure!(
            number < 3 || !is_socket || flags & CLOSE_ON_EXEC != 0,
            "socket {number} stays open"
        );
    }
    server.end()
}

fn a_worker_without_a_primary(command: Command) -> Result<()> {
    for number in 3..20 {
        let mut command = Command::new(command.get_program());
        command
            .args(["cluster-worker", &number.to_string()])
            .stdin(Stdio::null());
        run(command)?.ended_with("cluster-http: not started by a primary\n", 1)?;
    }
    Ok(())
}

/// Where another program has port 8000, it is that which is said.
fn the_default_port(command: Command) -> Result<()> {
    let program = start(command)?;
    wait_until("the default port to be named", || {
        let stderr = program.stderr();
        let serves = stderr.contains("listening on http://localhost:8000/\n");
        let taken = stderr.contains("cannot listen on [::]:8000: Address already in use");
        Ok((serves || taken).then_some(()))
    })?;
    if program.is_running()? {
        program.signal(Signal::SIGTERM)?;
    }
    program.finish()?;
    Ok(())
}

fn out_of_descriptors(command: Command) -> Result<()> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
        .arg(command.get_program());
    let server = Server::start(shell, 1)?;
    let worker = server.workers()[0];
    let clients: Vec<Client> = (0..60).map(|_| server.connect()).collect::<Result<_>>()?;
    wait_until("the worker to have all it can", || {
        let descriptors = fs::read_dir(format!("/proc/{worker}/fd"))?.count();
        Ok((descriptors >= 40).then_some(()))
    })?;
    sleeps(worker)?;
    same("workers", vec![worker], server.workers())?;
    drop(clients);
    same("answer", hello(), server.connect()?.get()?)?;
    same("workers", vec![worker], server.workers())?;
    server.end()
}

/// An IPv6 address that this machine does not have stands for a machine without any.
#[tokio::main(flavor = "current_thread")]
async fn an_address_that_is_not_here() -> Result<()> {
    let elsewhere = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0));
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    ensure!(cluster::Cluster::listen(&[elsewhere], 2).is_err());
    let cluster = cluster::Cluster::listen(&[elsewhere, here], 2)?;
    let ip = cluster.address().ip();
    same("address", here.ip(), ip)?;

    let taken = TcpListener::bind(here)?;
    let also_here = SocketAddr::from(([127, 0, 0, 2], 0));
    let refused = cluster::Cluster::listen(&[taken.local_addr()?, also_here], 2);
    ensure!(
        refused.is_err(),
        "a taken port is no reason to take another address"
    );
    Ok(())
}
