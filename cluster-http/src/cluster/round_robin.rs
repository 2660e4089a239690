//! How connections reach the workers: the primary accepts each and sends it to the next free
//! worker.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{self, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::time::Duration;

use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::worker::REFUSED;

/// How many waiting connections are still accepted when the cluster shuts down.
const LAST_CONNECTIONS: usize = 4096;

/// How many connections may wait for one worker to take them.
const IN_FLIGHT: usize = 64;

/// A worker that takes longer for a connection gets no other until it has taken it.
const TAKES_WITHIN: Duration = Duration::from_millis(10);

/// How long to wait when no descriptor is left for a connection.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Listens without `SO_REUSEPORT`, so no other program can listen on the port.
pub fn bind(address: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = match address.strip_prefix(':').unwrap_or(address).parse() {
        // All IPv6 and IPv4 addresses. Without IPv6, all IPv4 addresses.
        Ok(port) => vec![
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ],
        Err(_) => {
            let hint = "write host:port, such as 127.0.0.1:3000, or a port alone";
            let resolved = address.to_socket_addrs();
            let error = |error: io::Error| io::Error::new(error.kind(), format!("{error}: {hint}"));
            resolved.map_err(error)?.collect()
        }
    };
    let listener = net::TcpListener::bind(&addresses[..])?;
    // The standard library lets only 128 connections wait.
    listen(&listener, Backlog::MAXCONN)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts connections. When the cluster shuts down, it accepts those that already wait, and drops
/// `queue`, which ends it.
async fn accept(
    listener: TcpListener,
    queue: mpsc::Sender<net::TcpStream>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|shuts_down| *shuts_down) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(connection, _)| connection.into_std()) {
            Ok(connection) => drop(queue.send(connection).await),
            Err(_) => sleep(PAUSE).await,
        }
    }
    let Ok(listener) = listener.into_std() else {
        return;
    };
    for _ in 0..LAST_CONNECTIONS {
        match listener.accept() {
            Ok((connection, _)) if connection.set_nonblocking(true).is_ok() => {
                let _ = queue.send(connection).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => sleep(PAUSE).await,
        }
    }
}

/// The queue from which the workers are served in turn.
pub struct RoundRobin {
    /// The worker that has waited longest for this lock gets the next connection.
    queue: Mutex<mpsc::Receiver<net::TcpStream>>,
    /// For connections that a worker has not taken.
    sender: mpsc::WeakSender<net::TcpStream>,
}

/// The primary's end of the socket to a worker.
pub struct ControlSocket {
    socket: UnixStream,
    /// The connections that were sent and not yet taken, with the time of sending.
    in_flight: VecDeque<(Instant, net::TcpStream)>,
}

impl RoundRobin {
    /// Accepts connections until `shutdown` becomes true.
    pub fn new(listener: TcpListener, shutdown: watch::Receiver<bool>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let round_robin = Self {
            queue: Mutex::new(receiver),
            sender: sender.downgrade(),
        };
        tokio::spawn(accept(listener, sender, shutdown));
        round_robin
    }

    /// Sends connections to a worker until the queue or the worker's socket ends.
    pub async fn serve(&self, worker: &mut ControlSocket) {
        while let Some(connection) = self.next_connection(worker).await {
            // The worker may hang by now. At the end of a shutdown, no other worker gets it.
            if !worker.takes_connections() && self.sender.strong_count() > 0 {
                self.give_back(connection);
            } else if let Err(connection) = worker.send(connection) {
                self.give_back(connection);
                sleep(PAUSE).await;
            }
        }
    }

    /// Waits until a worker may be sent a connection, then for its turn and for the connection.
    /// `None` when the queue or the worker's socket has ended.
    async fn next_connection(&self, worker: &mut ControlSocket) -> Option<net::TcpStream> {
        while !worker.takes_connections() {
            self.read_answers(worker).await?;
        }
        // The worker keeps its turn while it answers.
        let mut next = pin!(async { self.queue.lock().await.recv().await });
        loop {
            tokio::select! {
                biased;
                is_open = self.read_answers(worker) => is_open?,
                connection = &mut next => return connection,
            }
        }
    }

    /// Waits for answers of a worker. `None` when it has closed its socket.
    async fn read_answers(&self, worker: &mut ControlSocket) -> Option<()> {
        let mut answers = [0; IN_FLIGHT];
        let count = worker.socket.read(&mut answers).await.unwrap_or(0);
        for answer in &answers[..count] {
            let (_, connection) = worker.in_flight.pop_front()?;
            if *answer == REFUSED {
                self.give_back(connection);
            }
        }
        (count > 0).then_some(())
    }

    /// Puts a connection back into the queue, for another worker.
    fn give_back(&self, connection: net::TcpStream) {
        if let Some(sender) = self.sender.upgrade() {
            tokio::spawn(async move { sender.send(connection).await });
        }
    }

    /// Asks a worker to shut down, and waits until it has closed its end of the socket, but not
    /// longer than until `deadline`. Another worker gets the connections that it has not taken.
    pub async fn close(&self, worker: &mut ControlSocket, deadline: Instant) {
        let _ = worker.socket.shutdown().await;
        while let Ok(Some(())) = timeout_at(deadline, self.read_answers(worker)).await {}
        for (_, connection) in worker.in_flight.drain(..) {
            self.give_back(connection);
        }
    }
}

impl ControlSocket {
    pub fn new(socket: UnixStream) -> Self {
        let in_flight = VecDeque::new();
        Self { socket, in_flight }
    }

    /// Whether the worker may be sent a connection: it does not have too many, and does not hang.
    fn takes_connections(&self) -> bool {
        let hangs = |(sent, _): &(Instant, _)| sent.elapsed() > TAKES_WITHIN;
        self.in_flight.len() < IN_FLIGHT && !self.in_flight.front().is_some_and(hangs)
    }

    /// Sends a connection, or returns it if that is not possible now.
    fn send(&mut self, connection: net::TcpStream) -> Result<(), net::TcpStream> {
        let descriptor = [connection.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptor)];
        let byte = [IoSlice::new(b"c")];
        let socket = self.socket.as_raw_fd();
        if sendmsg::<()>(socket, &byte, &rights, MsgFlags::empty(), None).is_err() {
            return Err(connection);
        }
        self.in_flight.push_back((Instant::now(), connection));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// It comes in a shutdown, when it is the worker's turn and there is no other worker.
    #[tokio::test]
    async fn last_connection_for_a_late_worker() {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = watch::Sender::new(false);
        let round_robin = RoundRobin::new(listener, shutdown.subscribe());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut primary = ControlSocket::new(ours);
        let serve = round_robin.serve(&mut primary);
        let worker = async {
            let _first = net::TcpStream::connect(address).unwrap();
            theirs.read_u8().await.unwrap();
            sleep(2 * TAKES_WITHIN).await;
            let _last = net::TcpStream::connect(address).unwrap();
            shutdown.send_replace(true);
            theirs.read_u8().await.unwrap();
            theirs.write_all(b"tt").await.unwrap();
        };
        let both = timeout(Duration::from_secs(20), async {
            tokio::join!(serve, worker)
        });
        both.await.expect("the last connection");
    }
}
