//! The bare programs: what the examples do, with nothing around it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What the answer of a server looks like, and how long it is.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\
                        date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world\n";

/// `xtask peer echo` or `xtask peer http ADDRESS`; for the bench alone.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let ended = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo"] => echo(),
        ["http", address] => http(address),
        _ => Err(anyhow::anyhow!("for the bench alone")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers each line on the socket that is stdin.
fn echo() -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = std::os::unix::net::UnixStream::from(socket);
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

/// Answers each read on each connection, in one epoll loop.
fn http(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let on_read = |fd: RawFd| EpollEvent::new(EpollFlags::EPOLLIN, fd as u64);
    epoll.add(&listener, on_read(listener.as_raw_fd()))?;
    let mut connections: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut chunk = [0; 8 * 1024];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let fd = event.data() as RawFd;
            if fd == listener.as_raw_fd() {
                let (connection, _) = listener.accept()?;
                connection.set_nodelay(true)?;
                epoll.add(&connection, on_read(connection.as_raw_fd()))?;
                connections.insert(connection.as_raw_fd(), connection);
                continue;
            }
            let connection = connections.get_mut(&fd).context("an unknown connection")?;
            match connection.read(&mut chunk) {
                Ok(1..) => connection.write_all(ANSWER)?,
                // Closing it takes it out of the epoll, too.
                _ => drop(connections.remove(&fd)),
            }
        }
        if ready == 0 {
            bail!("epoll_wait returned nothing");
        }
    }
}
