//! The primary's side: it starts the workers, and supervises them until they have exited.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::stat::fstat;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::round_robin::{ControlSocket, RoundRobin, accept, bind};
use super::worker::{READY, VARIABLE};
use super::{Event, RESTART_PAUSE};

/// How long a worker may take until it is ready. Then it is killed.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long a worker's graceful shutdown may take. Then it is killed.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(15);

/// A second signal within this time is ignored: the command `timeout` sends its signal twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

type Events = mpsc::UnboundedSender<io::Result<Event>>;

/// What the tasks of the primary share.
struct Primary {
    program: PathBuf,
    address: SocketAddr,
    events: Events,
    connections: RoundRobin,
    /// When the cluster shuts down: the time at which the workers that are left are killed.
    shutdown: watch::Sender<Option<Instant>>,
    /// Changes when a rolling restart begins.
    restarts: watch::Sender<()>,
    /// Held while a worker is replaced: one at a time.
    restarting: Arc<Mutex<()>>,
    /// Takes a worker that is ready.
    ready: mpsc::UnboundedSender<Worker>,
    /// Set when a worker has been ready.
    listening: OnceLock<()>,
}

/// A worker that is ready. It is killed when this is dropped.
struct Worker {
    pid: u32,
    child: Child,
    control: ControlSocket,
    /// Changes when a rolling restart begins.
    restarts: watch::Receiver<()>,
}

/// Listens on `address`. Each item of `forks` starts a worker after that pause.
pub fn listen_on(
    address: &str,
    forks: mpsc::UnboundedReceiver<Duration>,
    events: Events,
) -> io::Result<()> {
    let listener = bind(address)?;
    let (connections, queue) = RoundRobin::new();
    let (ready, workers) = mpsc::unbounded_channel();
    let primary = Primary {
        // A path, so that the next workers run a new program that is moved there.
        program: env::current_exe()?,
        address: listener.local_addr()?,
        events,
        connections,
        shutdown: watch::Sender::new(None),
        restarts: watch::Sender::new(()),
        restarting: Arc::default(),
        ready,
        listening: OnceLock::new(),
    };
    let signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let accepting = tokio::spawn(accept(listener, queue, primary.shutdown.subscribe()));
    tokio::spawn(async move {
        Arc::new(primary).supervise(signals, forks, workers).await;
        // `accept` still runs if no worker took its connections.
        accepting.abort();
    });
    Ok(())
}

impl Primary {
    /// Starts workers until the cluster has to shut down, and waits until all have exited.
    async fn supervise(
        self: Arc<Self>,
        [mut terminate, mut interrupt, mut hangup]: [Signal; 3],
        mut forks: mpsc::UnboundedReceiver<Duration>,
        mut workers: mpsc::UnboundedReceiver<Worker>,
    ) {
        let (mut starting, mut running) = (JoinSet::new(), JoinSet::new());
        let mut first_signal = None;
        while first_signal.is_none() || !running.is_empty() {
            let shuts_down = tokio::select! {
                biased;
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = hangup.recv() => {
                    self.restarts.send_replace(());
                    false
                }
                fork = forks.recv(), if first_signal.is_none() => {
                    if let Some(pause) = fork {
                        starting.spawn(self.clone().fork(pause));
                    }
                    // The `Cluster` has been dropped.
                    fork.is_none()
                }
                Some(worker) = workers.recv() => {
                    running.spawn(self.clone().supervise_worker(worker));
                    false
                }
                Some(_) = running.join_next() => false,
                Some(_) = starting.join_next() => false,
            };
            if shuts_down {
                starting.abort_all();
                let first_signal = *first_signal.get_or_insert_with(Instant::now);
                self.shutdown
                    .send_replace(Some(first_signal + SHUTDOWN_WITHIN));
                if first_signal.elapsed() > SAME_SIGNAL {
                    // The workers are killed.
                    running.shutdown().await;
                    let error = io::Error::other("ended at once by a second signal");
                    let _ = self.events.send(Err(error));
                }
            }
        }
    }

    /// Starts a worker after a pause, and again until one is ready.
    async fn fork(self: Arc<Self>, mut pause: Duration) {
        loop {
            // A sleep of no length takes a millisecond.
            if !pause.is_zero() {
                sleep(pause).await;
            }
            match self.start().await {
                Ok(worker) => {
                    if self.listening.set(()).is_ok() {
                        self.announce(Event::Listening(reachable(self.address)));
                    }
                    let _ = self.ready.send(worker);
                    return;
                }
                Err(error) if self.listening.get().is_none() => {
                    let _ = self.events.send(Err(error));
                    return;
                }
                Err(error) => self.announce(Event::Warning(error.to_string())),
            }
            pause = RESTART_PAUSE;
        }
    }

    /// Supervises a worker that is ready, until it has exited.
    async fn supervise_worker(self: Arc<Self>, mut worker: Worker) {
        let pid = worker.pid;
        let restarting = tokio::select! {
            () = self.connections.serve(&mut worker.control) => None,
            restarting = self.replace(pid, &mut worker.restarts) => Some(restarting),
            // A worker that hangs does not hold up the shutdown.
            () = self.shutdown_is_overdue() => None,
        };
        let status = self.shut_down(worker).await;
        match restarting {
            _ if self.shutdown.borrow().is_some() => {}
            Some(_) => self.announce(Event::Replaced { pid }),
            None => self.announce(Event::Exit { pid, status }),
        }
    }

    /// Waits for the turn of the worker `old` in a rolling restart, and starts its replacement. The
    /// next worker's turn comes when the result is dropped.
    async fn replace(&self, old: u32, restarts: &mut watch::Receiver<()>) -> OwnedMutexGuard<()> {
        loop {
            let _ = restarts.changed().await;
            let restarting = self.restarting.clone().lock_owned().await;
            match self.start().await {
                Ok(worker) => {
                    let _ = self.ready.send(worker);
                    return restarting;
                }
                Err(error) => self.announce(Event::Warning(format!("{error}; worker {old} stays"))),
            }
        }
    }

    /// Shuts a worker down gracefully, and waits until it has exited.
    async fn shut_down(&self, mut worker: Worker) -> ExitStatus {
        let kill_at = *self.shutdown.borrow();
        let kill_at = kill_at.unwrap_or_else(|| Instant::now() + SHUTDOWN_WITHIN);
        self.connections.close(&mut worker.control, kill_at).await;
        if timeout_at(kill_at, worker.child.wait()).await.is_err() {
            let _ = worker.child.start_kill();
        }
        worker.child.wait().await.unwrap_or_default()
    }

    /// Starts a worker, and waits until it is ready.
    async fn start(&self) -> io::Result<Worker> {
        // A restart that begins while the worker starts is for this worker, too.
        let restarts = self.restarts.subscribe();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let inode = fstat(&theirs)?.st_ino;
        let mut child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(VARIABLE, inode.to_string())
            .stdin(OwnedFd::from(theirs))
            // A terminal's Ctrl-C is for the primary: it does not reach this group.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = self.program.display();
                io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
            })?;
        ours.set_nonblocking(true)?;
        let mut socket = UnixStream::from_std(ours)?;
        let pid = child.id().expect("it has not been waited for");
        let ready = timeout(READY_WITHIN, socket.read_u8()).await;
        if let Ok(Ok(READY)) = ready {
            let control = ControlSocket::new(socket);
            return Ok(Worker {
                pid,
                child,
                control,
                restarts,
            });
        }
        let _ = child.start_kill();
        let status = child.wait().await?;
        Err(io::Error::other(match ready {
            Err(_) => format!("worker {pid} was not ready within {READY_WITHIN:?}"),
            Ok(_) => format!("worker {pid} exited before it was ready ({status})"),
        }))
    }

    async fn shutdown_is_overdue(&self) {
        let mut shutdown = self.shutdown.subscribe();
        let kill_at = shutdown.wait_for(Option::is_some).await;
        let kill_at = kill_at.ok().and_then(|kill_at| *kill_at);
        sleep_until(kill_at.expect("it waited for that")).await;
    }

    fn announce(&self, event: Event) {
        // It fails when the `Cluster` has been dropped.
        let _ = self.events.send(Ok(event));
    }
}

/// The address as one would type it to connect.
fn reachable(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}
