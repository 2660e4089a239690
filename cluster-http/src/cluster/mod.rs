//! Node's `cluster`: a primary process accepts the connections of one port and distributes them to
//! worker processes.
//!
//! Copy this folder. It needs:
//!
//! ```sh
//! cargo add nix@0.32 --features fs,net,signal,socket,uio
//! cargo add tokio@1 --features io-util,macros,net,process,rt-multi-thread,signal,sync,time
//! ```
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
//! restart, or a graceful shutdown if the terminal has been closed. In a worker, SIGTERM shuts that
//! worker down gracefully. A signal that was ignored before is handled, too. With `nohup`, every
//! SIGHUP is a rolling restart.
//!
//! **Descriptors.** Each connection needs one in its worker. The process's limit is not
//! raised.
//!
//! **How it works.** Each worker has a control socket to the primary on its stdin. The primary
//! sends a connection with one byte, and the worker answers with one byte when it has taken it. If
//! a worker dies, the connections that it has not taken go to another worker. A worker that hangs
//! gets at most two. When the primary exits or is killed, the socket closes and the worker shuts
//! down.
//!
//! **Unsafe code.** Two calls: one takes ownership of a descriptor that the socket has received, the
//! other asks whether SIGHUP is ignored.

// A program may need only a part of this.
#![allow(dead_code)]

mod primary;
mod round_robin;
mod worker;

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::{fmt, io};

use primary::{EventReceiver, StartSender};
#[allow(unused_imports)]
pub use worker::{Worker, worker};

/// What happens in a cluster. `Display` writes one line.
#[derive(Debug)]
pub enum Event {
    /// The first worker is ready: Node's `'listening'`. Clients connect to this `host:port`.
    Listening(String),
    /// A worker has exited or was killed: Node's `'exit'`. Not for a worker that was replaced by a
    /// rolling restart, and not in a shutdown.
    Exit {
        pid: u32,
        /// Node's `worker.id`.
        id: u32,
        status: ExitStatus,
        /// It has shut down because of SIGTERM. Its replacement was started when that began.
        is_replaced: bool,
    },
    /// A rolling restart has replaced this worker.
    Replaced { pid: u32 },
    /// A worker could not be started, or a rolling restart has stopped. The text is one line.
    Warning(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Listening(address) => write!(f, "listening on http://{address}/"),
            Self::Exit { pid, status, .. } => write!(f, "worker {pid} exited ({status})"),
            Self::Replaced { pid } => write!(f, "worker {pid} replaced"),
            Self::Warning(text) => f.write_str(text),
        }
    }
}

/// A cluster, in its primary. When this is dropped, the workers shut down gracefully; when the
/// runtime is dropped, they are killed.
pub struct Cluster {
    starts: StartSender,
    events: EventReceiver,
    /// The workers have the ids from 1 to this.
    ids: u32,
    /// One for each worker that has exited: what `fork` starts for it, which is nothing if it has
    /// been replaced.
    exited: VecDeque<Option<u32>>,
}

impl Cluster {
    /// Listens on `address`: `host:port`, or a port alone for every address of this machine.
    /// Port 0 is any free one. Node's `server.listen()`. Blocks while it resolves a host name.
    ///
    /// # Errors
    ///
    /// When `address` is not understood, is taken, or may not be used, or when this process has
    /// a cluster already.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn listen(address: &str) -> io::Result<Self> {
        let (starts, events) = primary::listen(address).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Self {
            starts,
            events,
            ids: 0,
            exited: VecDeque::new(),
        })
    }

    /// Starts a worker: Node's `cluster.fork()`. It replaces the worker that exited first, and has
    /// its id. After many exits it waits: one worker starts each 50 ms.
    ///
    /// If that worker has been replaced already, this does nothing: see [`Event::Exit`].
    pub fn fork(&mut self) {
        let id = self.exited.pop_front().unwrap_or_else(|| {
            self.ids += 1;
            Some(self.ids)
        });
        if let Some(id) = id {
            // It fails when the cluster is shutting down.
            let _ = self.starts.send(id);
        }
    }

    /// Waits for the next event. `None` when the cluster has been shut down, or as many workers
    /// have exited as were forked.
    ///
    /// The cluster serves connections whether this is called or not. This method is cancel safe.
    ///
    /// # Errors
    ///
    /// When a worker fails to start before any is ready, or after a second signal, which kills the
    /// workers. Do not call this again after an error.
    pub async fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.exited.len() == self.ids as usize {
            return Ok(None);
        }
        let event = self.events.recv().await.transpose()?;
        if let Some(Event::Exit {
            id, is_replaced, ..
        }) = event
        {
            self.exited.push_back((!is_replaced).then_some(id));
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::time::Duration;

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_cluster_in_a_process() {
        let _cluster = Cluster::listen("127.0.0.1:0").expect("the first");
        let second = Cluster::listen("127.0.0.1:0").err().expect("no second");
        let says = "cannot listen on 127.0.0.1:0: this process has a cluster already";
        assert_eq!(second.to_string(), says);
    }

    #[tokio::test]
    async fn forks_and_exits() {
        let ((starts, mut started), (sender, events)) = (unbounded_channel(), unbounded_channel());
        let mut cluster = Cluster {
            starts,
            events,
            ids: 0,
            exited: VecDeque::new(),
        };
        let exit = |id, is_replaced| {
            let (pid, status) = (id, ExitStatus::default());
            let exit = Event::Exit {
                id,
                pid,
                status,
                is_replaced,
            };
            sender.send(Ok(exit)).unwrap();
        };
        for _ in 0..3 {
            cluster.fork();
        }
        exit(2, false);
        exit(3, true);
        for _ in 0..2 {
            cluster.next_event().await.unwrap().expect("an exit");
        }
        // The first is for worker 2, the second for worker 3, and the last for a new one.
        for _ in 0..3 {
            cluster.fork();
        }
        let starts: Vec<_> = iter::from_fn(|| started.try_recv().ok()).collect();
        assert_eq!(starts, [1, 2, 3, 2, 4]);
        for id in 1..=4 {
            exit(id, false);
        }
        for is_some in [true, true, true, true, false] {
            let event = timeout(Duration::from_secs(20), cluster.next_event());
            let event = event.await.expect("it does not wait").expect("no error");
            assert_eq!(event.is_some(), is_some);
        }
    }
}
