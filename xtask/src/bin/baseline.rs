//! The baselines of the bench: programs that do only what the examples must do.
//!
//! They take the command lines of the examples: `baseline fork-ipc [COMMAND [ARG]...]`,
//! `baseline fork-ipc child`, `baseline cluster-http ADDR`, `baseline worker-sum NUM WORKERS`.

use std::collections::HashMap;
use std::env;
use std::hint::black_box;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use anyhow::{Result, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fork-ipc"] => {
            let mut child = Command::new(env::current_exe()?);
            child.args(["fork-ipc", "child"]);
            parent(child)
        }
        ["fork-ipc", "child"] => child(),
        ["fork-ipc", command, ref args @ ..] => {
            let mut child = Command::new(command);
            child.args(args);
            parent(child)
        }
        ["cluster-http", address, ..] => http(address),
        ["worker-sum", num, workers] => sum(num.parse()?, workers.parse()?),
        ["worker-sum"] => sum(10, 1),
        _ => bail!("only the bench starts this"),
    }
}

/// Sends a line to a child, whose stdin is the socket, and prints its answer.
fn parent(mut command: Command) -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut child = command.stdin(OwnedFd::from(theirs)).spawn()?;
    drop(command);
    ours.write_all(b"{\"hello\":\"world\"}\n")?;
    let mut reader = BufReader::new(ours);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    print!("Message from child: {line}");
    drop(reader);
    child.wait()?;
    Ok(())
}

/// Answers each line on the socket that is its stdin.
fn child() -> Result<()> {
    let mut socket = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let mut chunk = [0; 64 * 1024];
    loop {
        let read = socket.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        let lines = chunk[..read].iter().filter(|byte| **byte == b'\n').count();
        socket.write_all(&b"{\"foo\":\"bar\"}\n".repeat(lines))?;
    }
}

/// Answers each read on each connection, in one event loop.
fn http(address: &str) -> Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\
                            date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world\n";

    let mut listener = TcpListener::bind(address.parse()?)?;
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(256);
    let mut connections: HashMap<Token, TcpStream> = HashMap::new();
    let mut tokens = (0..).map(Token);
    // Longer than a request, so one read gets all of it.
    let mut chunk = [0; 8 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut connection, _)) = listener.accept() {
                    let token = tokens.next().expect("the numbers do not end");
                    poll.registry()
                        .register(&mut connection, token, Interest::READABLE)?;
                    connections.insert(token, connection);
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let is_open = match connection.read(&mut chunk) {
                    Ok(read) => read > 0 && connection.write_all(ANSWER).is_ok(),
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                if !is_open {
                    connections.remove(&event.token());
                }
            }
        }
    }
}

/// Adds up the numbers in threads. Each has an equal part of them.
fn sum(num: u64, workers: u64) -> Result<()> {
    println!("This is the main thread");
    let (sender, results) = mpsc::channel();
    for worker in 0..workers {
        let part = num * worker / workers..num * (worker + 1) / workers;
        let sender = sender.clone();
        thread::spawn(move || {
            println!("This is a worker thread");
            sender.send(part.fold(0, |sum, i| sum + u128::from(black_box(i))))
        });
    }
    drop(sender);
    for result in results {
        println!("Result from worker: {result}");
    }
    Ok(())
}
