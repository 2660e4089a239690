//! An HTTP client that can send invalid requests, and a load test that counts every
//! failure.

use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::iter::repeat_with;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// One connection.
pub struct Client(BufReader<TcpStream>);

#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Whether it has the header `Connection: close`.
    pub closes: bool,
    pub body: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_with_patience(address, PATIENCE)
    }

    /// A client that waits no longer than `patience` for anything.
    pub fn connect_with_patience(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// A second client on the same connection, so that another thread can send.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(BufReader::new(self.0.get_ref().try_clone()?)))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// Reads the next `N` bytes.
    pub fn receive<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Closes the sending direction of the connection. Answers can still be read.
    pub fn half_close(&self) -> io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }

    pub fn get(&mut self) -> io::Result<Answer> {
        self.get_at("/")
    }

    pub fn get_at(&mut self, path: &str) -> io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))?;
        self.answer()
    }

    pub fn answer(&mut self) -> io::Result<Answer> {
        self.answer_to("GET")
    }

    /// Reads the answer to a request with this method. An answer to HEAD has no body: what follows
    /// is left unread.
    pub fn answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let read = self.read_answer(method);
        read.map_err(|error| io::Error::new(error.kind(), format!("no whole answer: {error}")))
    }

    fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            closes: false,
            body: String::new(),
        };
        let (mut length, mut chunked) = (0, false);
        loop {
            let header = self.line()?.to_ascii_lowercase();
            match header.split_once(": ") {
                None => break,
                Some(("connection", value)) => answer.closes = value == "close",
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(_) => {}
            }
        }
        if method == "HEAD" {
            return Ok(answer);
        }
        while chunked {
            let size = usize::from_str_radix(&self.line()?, 16);
            let size = size.map_err(|_| io::ErrorKind::InvalidData)?;
            answer.body += &self.text(size)?;
            self.line()?;
            chunked = size > 0;
        }
        answer.body += &self.text(length)?;
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn text(&mut self, length: usize) -> io::Result<String> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Waits until the server sends data or closes the connection, and returns whether it has
    /// closed it.
    pub fn is_closed(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// Clients that send requests without a pause. Half of them open a new connection for each request.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// The results of the clients of a load.
#[derive(Debug, Default)]
pub struct Tally {
    pub served: usize,
    pub failures: Vec<io::Error>,
    pub slowest: Duration,
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (failed, slowest) = (self.failures.len(), self.slowest);
        write!(
            f,
            "{} served, {failed} failed, the slowest took {slowest:?}",
            self.served
        )
    }
}

impl Load {
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let stop = stop.clone();
            thread::spawn(move || ask(address, number % 2 == 0, &stop))
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client does not panic");
            total.served += tally.served;
            total.failures.extend(tally.failures);
            total.slowest = total.slowest.max(tally.slowest);
        }
        total
    }
}

fn ask(address: SocketAddr, fresh: bool, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = kept
            .take()
            .map_or_else(|| Client::connect(address), Ok)
            .and_then(|mut client| {
                let answer = client.get()?;
                if !fresh && !answer.closes {
                    kept = Some(client);
                }
                Ok(answer)
            });
        match answer {
            Ok(Answer { status: 200, .. }) => tally.served += 1,
            Ok(answer) => tally.failures.push(io::Error::other(format!("{answer:?}"))),
            Err(error) => tally.failures.push(error),
        }
        tally.slowest = tally.slowest.max(start.elapsed());
    }
    tally
}

/// A free port, for programs that cannot print which port they use. It is below the range from
/// which the system takes the ports of outgoing connections.
pub fn free_port() -> Result<u16> {
    // This does not listen on the port to test it. A program that another check starts at this
    // moment could inherit the listener between fork and exec, and the port would stay taken.
    let is_free = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_err();
    let ports = repeat_with(|| fastrand::u16(10_000..32_000));
    ports.take(100).find(is_free).context("no free port")
}
