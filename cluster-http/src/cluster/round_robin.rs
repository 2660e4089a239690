//! How connections reach the workers: the primary accepts each and sends it to the next free
//! worker.

use std::collections::VecDeque;
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use nix::errno::Errno::{self, EADDRNOTAVAIL, EAFNOSUPPORT};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::select;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::sleep;

use super::worker::{LEAVES, READY, REFUSED, send};

/// How long a process without a free descriptor takes no connection.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections may be on their way to a worker. With two, it need not wait for the primary
/// between them.
const IN_FLIGHT: usize = 2;

/// Listens on the first of the addresses that this machine has.
pub fn bind(address: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = match address.strip_prefix(':').unwrap_or(address).parse() {
        // All IPv6 and IPv4 addresses. Without IPv6, all IPv4 addresses.
        Ok(port) => vec![([0u16; 8], port).into(), ([0u8; 4], port).into()],
        Err(_) => {
            let hint = "write host:port, such as 127.0.0.1:3000, or a port alone";
            let error = |error: io::Error| io::Error::new(error.kind(), format!("{error}: {hint}"));
            address.to_socket_addrs().map_err(error)?.collect()
        }
    };
    let is_missing = |error: &io::Error| {
        let number = error.raw_os_error().map(Errno::from_raw);
        matches!(number, Some(EADDRNOTAVAIL | EAFNOSUPPORT))
    };
    let mut results = addresses.into_iter().map(bind_to);
    let first = results.find(|result| !result.as_ref().is_err_and(is_missing));
    first.unwrap_or(Err(EADDRNOTAVAIL.into()))
}

/// Listens without `SO_REUSEPORT`, so no other program can listen on the port.
fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Old connections in TIME_WAIT do not block the port.
    socket.set_reuseaddr(true)?;
    // Every IPv6 address means every IPv4 address, too, where the system allows it.
    let _ = setsockopt(&socket, Ipv6V6Only, &false);
    socket.bind(address)?;
    // As many connections may wait as the system allows.
    socket.listen(u32::MAX)
}

/// The listener, for which the workers queue.
pub struct RoundRobin {
    /// The worker that has waited longest for this lock gets the next connection.
    queue: Mutex<Queue>,
    /// For connections that a worker has not taken.
    sender: mpsc::UnboundedSender<net::TcpStream>,
}

struct Queue {
    given_back: mpsc::UnboundedReceiver<net::TcpStream>,
    /// `None` in a shutdown.
    listener: Option<TcpListener>,
    shutdown: watch::Receiver<bool>,
}

impl RoundRobin {
    /// Accepts connections until `shutdown` becomes true, and then those that wait already.
    pub fn new(listener: TcpListener, shutdown: watch::Receiver<bool>) -> Self {
        let (sender, given_back) = mpsc::unbounded_channel();
        let queue = Mutex::new(Queue {
            given_back,
            listener: Some(listener),
            shutdown,
        });
        Self { queue, sender }
    }

    /// Sends connections to a worker, until it has closed its socket or has taken the last
    /// connection of a shutdown. Returns whether it shuts down because of SIGTERM.
    pub async fn serve(&self, worker: &mut UnixStream) -> bool {
        let mut sent = VecDeque::new();
        loop {
            let answer = select! {
                biased;
                answer = worker.read_u8() => answer,
                next = self.next(), if sent.len() < IN_FLIGHT => match next {
                    Some(connection) if send(worker, &connection).is_ok() => {
                        sent.push_back(connection);
                        continue;
                    }
                    Some(connection) => {
                        self.give_back([connection]);
                        sleep(PAUSE).await;
                        continue;
                    }
                    None if sent.is_empty() => return false,
                    None => worker.read_u8().await,
                },
            };
            match answer {
                Ok(READY) => drop(sent.pop_front()),
                Ok(REFUSED) => {
                    self.give_back(sent.pop_front());
                    sleep(PAUSE).await;
                }
                answer => {
                    self.give_back(sent);
                    return matches!(answer, Ok(LEAVES));
                }
            }
        }
    }

    /// Another worker gets these connections.
    fn give_back(&self, connections: impl IntoIterator<Item = net::TcpStream>) {
        for connection in connections {
            let _ = self.sender.send(connection);
        }
    }

    /// Waits for the turn of a worker, and then for a connection. `None` when the cluster shuts
    /// down and no connection waits.
    async fn next(&self) -> Option<net::TcpStream> {
        let queue = &mut *self.queue.lock().await;
        while let Some(listener) = &queue.listener {
            let accepted = select! {
                biased;
                Some(connection) = queue.given_back.recv() => return Some(connection),
                _ = queue.shutdown.wait_for(|shuts_down| *shuts_down) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(connection, _)| connection.into_std()) {
                Ok(connection) => return Some(connection),
                // For instance, no descriptor is left.
                Err(_) => sleep(PAUSE).await,
            }
        }
        // The connections that wait now are the last ones. Others are refused.
        if let Some(Ok(listener)) = queue.listener.take().map(TcpListener::into_std) {
            while let Ok((connection, _)) = listener.accept() {
                let _ = connection.set_nonblocking(true);
                let _ = self.sender.send(connection);
            }
        }
        queue.given_back.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::*;

    /// It comes in a shutdown, when there is no other worker.
    #[tokio::test]
    async fn last_connection_for_a_late_worker() {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = watch::Sender::new(false);
        let round_robin = RoundRobin::new(listener, shutdown.subscribe());
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let serve = round_robin.serve(&mut ours);
        let worker = async {
            // `Worker::listen` a second time.
            theirs.write_all(&[READY]).await.unwrap();
            let _first = net::TcpStream::connect(address).unwrap();
            theirs.read_u8().await.unwrap();
            let _last = net::TcpStream::connect(address).unwrap();
            shutdown.send_replace(true);
            theirs.write_all(&[READY]).await.unwrap();
            theirs.read_u8().await.unwrap();
            theirs.write_all(&[READY]).await.unwrap();
        };
        let both = timeout(Duration::from_secs(20), async {
            tokio::join!(serve, worker)
        });
        both.await.expect("the last connection");
    }
}
