//! The primary's side: it starts the workers, and supervises them until they have exited.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, MutexGuard, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::round_robin::{ControlSocket, RoundRobin, bind};
use super::worker::{READY, VARIABLE};
use super::{Event, RESTART_PAUSE};

/// A worker that is not ready within this time is killed.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A worker whose graceful shutdown takes longer is killed.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(15);

/// A second signal within this time is ignored: the command `timeout` sends its signal twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

type Replacements = mpsc::UnboundedSender<Worker>;
type Events = mpsc::UnboundedSender<io::Result<Event>>;

/// What the tasks of the primary share.
struct Primary {
    program: PathBuf,
    events: Events,
    connections: RoundRobin,
    /// Whether the cluster shuts down.
    shutdown: watch::Sender<bool>,
    /// Changes when a rolling restart begins.
    restarts: watch::Sender<()>,
    /// Takes a replacement that is ready. Locked while a worker is replaced: one at a time.
    replacements: Mutex<Replacements>,
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
    let listening = Event::Listening(reachable(listener.local_addr()?));
    let signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let shutdown = watch::Sender::new(false);
    let (ready, replacements) = mpsc::unbounded_channel();
    let primary = Primary {
        // A path, so that the next workers run a new program that is moved there.
        program: env::current_exe()?,
        events,
        connections: RoundRobin::new(listener, shutdown.subscribe()),
        shutdown,
        restarts: watch::Sender::new(()),
        replacements: Mutex::new(ready),
    };
    tokio::spawn(Arc::new(primary).supervise(signals, Some(listening), forks, replacements));
    Ok(())
}

impl Primary {
    /// Starts workers until the cluster has to shut down, and waits until all have exited.
    /// Announces `listening` when the first is ready.
    async fn supervise(
        self: Arc<Self>,
        [mut terminate, mut interrupt, mut hangup]: [Signal; 3],
        mut listening: Option<Event>,
        mut forks: mpsc::UnboundedReceiver<Duration>,
        mut replacements: mpsc::UnboundedReceiver<Worker>,
    ) {
        // When one of these is dropped, its workers are killed.
        let (mut starting, mut running) = (JoinSet::new(), JoinSet::new());
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.restarts.send_replace(()),
                fork = forks.recv() => match fork {
                    Some(pause) => drop(starting.spawn(self.clone().start(pause))),
                    // The `Cluster` has been dropped.
                    None => break,
                },
                Some(Ok(started)) = starting.join_next() => match started {
                    Ok(worker) => {
                        if let Some(event) = listening.take() {
                            self.announce(event);
                        }
                        running.spawn(self.clone().supervise_worker(worker));
                    }
                    Err(error) if listening.is_none() => {
                        self.announce(Event::Warning(error.to_string()));
                        starting.spawn(self.clone().start(RESTART_PAUSE));
                    }
                    Err(error) => drop(self.events.send(Err(error))),
                },
                Some(worker) = replacements.recv() => {
                    running.spawn(self.clone().supervise_worker(worker));
                }
                Some(_) = running.join_next() => {}
            }
        }
        drop(starting);
        // The worker that it replaces may have shut down already.
        replacements.close();
        while let Some(worker) = replacements.recv().await {
            running.spawn(self.clone().supervise_worker(worker));
        }
        self.shut_down_all(running, [terminate, interrupt]).await;
    }

    /// Shuts all workers down gracefully, and waits until they have exited.
    async fn shut_down_all(
        &self,
        mut running: JoinSet<()>,
        [mut terminate, mut interrupt]: [Signal; 2],
    ) {
        self.shutdown.send_replace(true);
        let all_exited = async { while running.join_next().await.is_some() {} };
        let second_signal = async {
            let first_signal = Instant::now();
            while first_signal.elapsed() < SAME_SIGNAL {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        };
        // On return, `running` is dropped with the workers that are left.
        tokio::select! {
            _ = timeout(SHUTDOWN_WITHIN, all_exited) => return,
            () = second_signal => {}
        }
        running.shutdown().await;
        let error = io::Error::other("ended at once by a second signal");
        let _ = self.events.send(Err(error));
    }

    /// Supervises a worker that is ready, until it has exited.
    async fn supervise_worker(self: Arc<Self>, mut worker: Worker) {
        let pid = worker.pid;
        let turn = tokio::select! {
            () = self.connections.serve(&mut worker.control) => None,
            turn = self.replace(pid, &mut worker.restarts) => Some(turn),
        };
        let status = self.shut_down(worker).await;
        self.announce(match turn {
            Some(_) => Event::Replaced { pid },
            None => Event::Exit { pid, status },
        });
    }

    /// Waits for the turn of the worker `old` in a rolling restart, and starts its replacement. The
    /// next worker's turn comes when the result is dropped.
    async fn replace(
        self: &Arc<Self>,
        old: u32,
        restarts: &mut watch::Receiver<()>,
    ) -> MutexGuard<'_, Replacements> {
        loop {
            let _ = restarts.changed().await;
            let turn = self.replacements.lock().await;
            let started = self.clone().start(Duration::ZERO).await;
            match started.map(|worker| turn.send(worker).is_ok()) {
                Ok(true) => return turn,
                // The cluster shuts down: no worker is replaced any more.
                Ok(false) => {}
                Err(error) => self.announce(Event::Warning(format!("{error}; worker {old} stays"))),
            }
        }
    }

    /// Shuts a worker down gracefully, and waits until it has exited.
    async fn shut_down(&self, mut worker: Worker) -> ExitStatus {
        let kill_at = Instant::now() + SHUTDOWN_WITHIN;
        self.connections.close(&mut worker.control, kill_at).await;
        if timeout_at(kill_at, worker.child.wait()).await.is_err() {
            let _ = worker.child.start_kill();
        }
        worker.child.wait().await.unwrap_or_default()
    }

    /// Starts a worker after a pause, and waits until it is ready.
    async fn start(self: Arc<Self>, pause: Duration) -> io::Result<Worker> {
        // A sleep of no length takes a millisecond.
        if !pause.is_zero() {
            sleep(pause).await;
        }
        // A restart that begins while the worker starts is for this worker, too.
        let restarts = self.restarts.subscribe();
        let (mut child, mut socket) = self.spawn().map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let pid = child.id().expect("it has not been waited for");
        let ready = timeout(READY_WITHIN, socket.read_u8()).await;
        if let Ok(Ok(READY)) = ready {
            return Ok(Worker {
                pid,
                child,
                control: ControlSocket::new(socket),
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

    /// Starts the process of a worker, with its control socket.
    fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let inode = fstat(&theirs)?.st_ino;
        let child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(VARIABLE, inode.to_string())
            .stdin(OwnedFd::from(theirs))
            // A terminal's Ctrl-C is for the primary: it does not reach this group.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }

    fn announce(&self, event: Event) {
        if !*self.shutdown.borrow() {
            // It fails when the `Cluster` has been dropped.
            let _ = self.events.send(Ok(event));
        }
    }
}

/// The address as one would type it to connect.
fn reachable(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}
