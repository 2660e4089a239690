//! Node's `cluster`: a primary process accepts the connections of one port and distributes them to
//! worker processes.
//!
//! Copy this folder. It needs:
//!
//! ```sh
//! cargo add nix tokio --features nix/fs,nix/socket,nix/uio,tokio/io-util,tokio/macros,tokio/net,tokio/process,tokio/rt-multi-thread,tokio/signal,tokio/sync,tokio/time
//! ```
//!
//! The program is started once, as the primary, and starts itself again for each worker, with the
//! same arguments. [`worker()`] returns `None` in the primary. Each worker also runs the part of `main`
//! before that call:
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
//!             // A service does not end because stderr cannot be written to.
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
//! cluster down gracefully; then [`Cluster::next_event`] returns `None`. SIGHUP starts a rolling restart.
//! In a worker, SIGTERM shuts that worker down gracefully.
//!
//! **How it works.** Each worker has a control socket to the primary on its stdin. The primary sends
//! a connection with one byte, and the worker answers with one byte when it has taken it. If a worker
//! dies, the connections that it has not taken go to another worker. A worker that hangs gets no more
//! connections. When the primary exits or is killed, the socket closes and the worker shuts down.
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
    /// A worker has exited or was killed: Node's `'exit'`.
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

/// A cluster, in its primary. When this is dropped, the workers shut down gracefully; when the runtime
/// is dropped, they are killed.
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
    /// Port 0 is any free one. Node's `server.listen()`.
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
    /// have exited and were not replaced.
    ///
    /// The cluster serves connections whether this is called or not.
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
