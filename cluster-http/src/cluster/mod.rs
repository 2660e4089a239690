//! Node's `cluster`: a primary process accepts the connections of one port and distributes them to
//! worker processes.
//!
//! Copy this folder. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features fs,socket,uio
//! cargo add tokio@1 --features io-util,macros,net,process,rt-multi-thread,signal,sync,time
//! ```
//!
//! nix 0.31 or later.
//!
//! The program is started once, as the primary, and starts itself again for each worker, with the
//! same arguments. [`worker()`] returns `None` in the primary. The part of `main` before that call
//! runs in each worker, too.
//!
//! ```rust,ignore
//! mod cluster;
//!
//! use std::io::{self, Write};
//!
//! use tokio::io::AsyncWriteExt;
//!
//! #[tokio::main]
//! async fn main() -> io::Result<()> {
//!     let Some(mut worker) = cluster::worker()? else {
//!         let mut cluster = cluster::Cluster::listen("127.0.0.1:0")?;
//!         (0..2).for_each(|_| cluster.fork());
//!         while let Some(event) = cluster.next_event().await? {
//!             // The service goes on if stderr cannot be written to.
//!             let _ = writeln!(io::stderr(), "{event:?}");
//!             if let cluster::Event::Exit { .. } = event {
//!                 cluster.fork();
//!             }
//!         }
//!         return Ok(());
//!     };
//!     worker.listen();
//!     while let Some(mut connection) = worker.accept().await {
//!         let _ = connection.write_all(b"hello\n").await;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! **Signals.** In the primary, [`Cluster::listen`] installs handlers. SIGTERM and SIGINT shut the
//! cluster down gracefully; then [`Cluster::next_event`] returns `None`. SIGHUP starts a rolling
//! restart. In a worker, SIGTERM shuts that worker down gracefully. A signal that was ignored
//! before, for instance SIGHUP by `nohup`, is handled, too.
//!
//! **Descriptors.** Each connection needs one in its worker. The process's limit is not
//! raised.
//!
//! **How it works.** Each worker has a control socket to the primary on its stdin. The primary
//! sends a connection with one byte, and the worker answers with one byte when it has taken it. If
//! a worker dies, the connections that it has not taken go to another worker. A worker that hangs
//! gets no more connections. When the primary exits or is killed, the socket closes and the worker
//! shuts down.
//!
//! **Unsafe code.** One call, which takes ownership of a descriptor that the socket has received.

// A program may need only a part of this.
#![allow(dead_code)]

mod primary;
mod round_robin;
mod worker;

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[allow(unused_imports)]
pub use worker::{Worker, worker};

/// If the deaths within [`RESTART_PAUSE`] exceed this plus the number of workers, the next worker
/// starts after that pause.
const DEATHS: usize = 5;
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// What happens in a cluster. `Display` writes one line.
#[derive(Debug)]
pub enum Event {
    /// The first worker is ready: Node's `'listening'`. Clients connect to this `host:port`.
    Listening(String),
    /// The worker with this process id has exited or was killed: Node's `'exit'`.
    Exit { pid: u32, status: ExitStatus },
    /// A rolling restart has replaced this worker.
    Replaced { pid: u32 },
    /// A worker could not be started. The text is one line.
    Warning(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Listening(address) => write!(f, "listening on http://{address}/"),
            Self::Exit { pid, status } => write!(f, "worker {pid} exited ({status})"),
            Self::Replaced { pid } => write!(f, "worker {pid} replaced"),
            Self::Warning(text) => f.write_str(text),
        }
    }
}

/// A cluster, in its primary. When this is dropped, the workers shut down gracefully; when the
/// runtime is dropped, they are killed.
pub struct Cluster {
    /// Each item starts a worker after a pause.
    forks: UnboundedSender<Duration>,
    events: UnboundedReceiver<io::Result<Event>>,
    workers: usize,
    /// Times of recent worker deaths.
    deaths: Vec<Instant>,
}

impl Cluster {
    /// Listens on `address`: `host:port`, or a port alone for every address of this machine.
    /// Port 0 is any free one. Node's `server.listen()`. Blocks while it resolves a host name.
    ///
    /// # Errors
    ///
    /// When `address` is not understood, is taken, or may not be used.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn listen(address: &str) -> io::Result<Self> {
        let (forks, to_fork) = unbounded_channel();
        let (announce, events) = unbounded_channel();
        primary::listen_on(address, to_fork, announce).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Self {
            forks,
            events,
            workers: 0,
            deaths: Vec::new(),
        })
    }

    /// Starts a worker: Node's `cluster.fork()`. If many workers have died recently, it starts two
    /// seconds later.
    pub fn fork(&mut self) {
        self.workers += 1;
        self.deaths.retain(|death| death.elapsed() < RESTART_PAUSE);
        let are_many = self.deaths.len() > DEATHS + self.workers;
        let pause = if are_many {
            RESTART_PAUSE
        } else {
            Duration::ZERO
        };
        // It fails when the cluster is shutting down.
        let _ = self.forks.send(pause);
    }

    /// Waits for the next event. `None` when the cluster has been shut down, or all its workers
    /// have exited and were not replaced, or none was started.
    ///
    /// The cluster serves connections whether this is called or not. This method is cancel safe.
    ///
    /// # Errors
    ///
    /// When a worker fails to start before any is ready, or after a second signal, which kills the
    /// workers. Do not call this again after an error.
    pub async fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.workers == 0 {
            return Ok(None);
        }
        let event = self.events.recv().await.transpose()?;
        if let Some(Event::Exit { .. }) = event {
            self.workers -= 1;
            self.deaths.push(Instant::now());
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster without processes: the pauses of its forks, and the sender of its events.
    fn cluster() -> (
        Cluster,
        UnboundedReceiver<Duration>,
        UnboundedSender<io::Result<Event>>,
    ) {
        let (forks, pauses) = unbounded_channel();
        let (sender, events) = unbounded_channel();
        let cluster = Cluster {
            forks,
            events,
            workers: 0,
            deaths: Vec::new(),
        };
        (cluster, pauses, sender)
    }

    async fn next(cluster: &mut Cluster) -> Option<Event> {
        let event = tokio::time::timeout(Duration::from_secs(20), cluster.next_event());
        event.await.expect("it does not wait").expect("no error")
    }

    fn exit() -> io::Result<Event> {
        let status = ExitStatus::default();
        Ok(Event::Exit { pid: 1, status })
    }

    #[tokio::test]
    async fn pause_after_many_deaths() {
        let (mut cluster, mut pauses, sender) = cluster();
        let mut pause = |cluster: &mut Cluster| {
            cluster.fork();
            pauses.try_recv().expect("a fork")
        };
        assert_eq!(pause(&mut cluster), Duration::ZERO);
        assert_eq!(pause(&mut cluster), Duration::ZERO);
        for death in 1..10 {
            sender.send(exit()).expect("the cluster is there");
            assert!(next(&mut cluster).await.is_some());
            let are_many = death > DEATHS + 2;
            let expected = if are_many {
                RESTART_PAUSE
            } else {
                Duration::ZERO
            };
            assert_eq!(pause(&mut cluster), expected, "after {death} deaths");
        }
    }

    #[tokio::test]
    async fn none_when_all_workers_have_exited() {
        let (mut cluster, _pauses, sender) = cluster();
        cluster.fork();
        cluster.fork();
        for _ in 0..2 {
            sender.send(exit()).expect("the cluster is there");
            assert!(next(&mut cluster).await.is_some());
        }
        assert!(next(&mut cluster).await.is_none());
    }
}
