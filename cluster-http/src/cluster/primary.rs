//! The primary: it starts the workers, replaces them, and shuts them down.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::{self, PathBuf};
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGTTOU};
use nix::sys::stat::fstat;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::round_robin::{RoundRobin, bind};
use super::worker::{READY, VARIABLE};
use super::{Cluster, Event};

/// A worker that is not ready within this time is killed.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait after a worker that was never ready.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);

/// In each interval of this length, one worker that has exited is replaced. Intervals without an
/// exit are saved up, at most one for each worker.
const RESTART_EACH: Duration = Duration::from_millis(50);

/// How long a new worker has to live before a rolling restart goes on.
const TRIAL: Duration = Duration::from_secs(1);

/// A worker whose graceful shutdown takes longer is killed.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(15);

/// A second signal within this time is ignored: the command `timeout` sends its signal twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// What the tasks of the primary share.
struct Primary {
    program: PathBuf,
    /// Each starts the worker with this id.
    forks: mpsc::WeakUnboundedSender<u32>,
    events: mpsc::UnboundedSender<io::Result<Event>>,
    /// Announced when the first worker is ready.
    listening: Mutex<Option<Event>>,
    connections: RoundRobin,
    /// Read-locked while a worker starts.
    starts: RwLock<()>,
    /// The workers that serve, by process id: their ids, and what asks them to shut down. Whoever
    /// removes a worker from here starts its replacement.
    serving: Mutex<BTreeMap<u32, (u32, watch::Sender<()>)>>,
    /// Whether the cluster shuts down.
    shutdown: watch::Sender<bool>,
    /// One for each worker. A worker is killed when its task is dropped.
    tasks: Mutex<JoinSet<()>>,
}

/// A worker that is ready. It is killed when this is dropped.
struct Worker {
    id: u32,
    pid: u32,
    child: Child,
    control: UnixStream,
    /// To send asks the worker to shut down. The receiver is dropped when it has exited.
    life: (watch::Sender<()>, watch::Receiver<()>),
}

/// [`Cluster::listen`].
pub fn listen_on(address: &str) -> io::Result<Cluster> {
    static CLUSTER: OnceLock<()> = OnceLock::new();
    let listener = bind(address)?;
    let local = listener.local_addr()?;
    // The address as one would type it to connect.
    let listening = Event::Listening(match local.ip().is_unspecified() {
        true => format!("localhost:{}", local.port()),
        false => local.to_string(),
    });
    // The parent may have blocked these signals.
    SigSet::from_iter([SIGTERM, SIGINT, SIGHUP, SIGCHLD]).thread_unblock()?;
    // A terminal with `stty tostop` would stop this process when it writes in the background.
    SigSet::from(SIGTTOU).thread_block()?;
    // If the parent ignores it, no child could be waited for. The handler stays.
    drop(signal(SignalKind::child())?);
    let ends_with_terminal = has_terminal() && !ignores_hangup();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    if CLUSTER.set(()).is_err() {
        return Err(io::Error::other("this process has a cluster already"));
    }
    let (forks, to_fork) = mpsc::unbounded_channel();
    let (announce, events) = mpsc::unbounded_channel();
    let shutdown = watch::Sender::new(false);
    let primary = Arc::new(Primary {
        program: program(),
        forks: forks.downgrade(),
        events: announce,
        listening: Mutex::new(Some(listening)),
        connections: RoundRobin::new(listener, shutdown.subscribe()),
        starts: RwLock::default(),
        serving: Mutex::default(),
        shutdown,
        tasks: Mutex::default(),
    });
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = primary.restart_at_hangup(hangup, ends_with_terminal) => {}
            () = primary.start_workers(to_fork) => {}
        }
        primary.shut_down(terminate, interrupt).await;
    });
    Ok(Cluster::new(forks, events))
}

impl Primary {
    /// Starts a worker for each id, until the `Cluster` is dropped.
    async fn start_workers(self: &Arc<Self>, mut to_fork: mpsc::UnboundedReceiver<u32>) {
        let (mut workers, mut start_at) = (0, Instant::now());
        while let Some(id) = to_fork.recv().await {
            if id > workers {
                workers = id;
            } else {
                start_at = next_restart(start_at, Instant::now(), workers);
                // A sleep of no length takes a millisecond.
                if start_at > Instant::now() {
                    sleep_until(start_at).await;
                }
            }
            let mut tasks = self.tasks.lock().await;
            // The set keeps what has ended.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(self.clone().run_worker(id));
        }
    }

    /// Starts a worker, and supervises it until it has exited.
    async fn run_worker(self: Arc<Self>, id: u32) {
        let mut shutdown = self.shutdown.subscribe();
        let worker = tokio::select! {
            biased;
            worker = self.start_until_ready(id) => worker,
            _ = shutdown.wait_for(|shuts_down| *shuts_down) => return,
        };
        self.supervise(worker).await;
    }

    async fn start_until_ready(&self, id: u32) -> Worker {
        loop {
            match (self.start(id).await, self.listening.lock().await.take()) {
                (Ok(worker), listening) => {
                    if let Some(event) = listening {
                        self.announce(Ok(event));
                    }
                    return worker;
                }
                (Err(error), Some(_)) => self.announce(Err(io::Error::other(error))),
                (Err(error), None) => self.announce(Ok(Event::Warning(error))),
            }
            sleep(FAILURE_PAUSE).await;
        }
    }

    /// Starts a worker, and waits until it is ready.
    async fn start(&self, id: u32) -> Result<Worker, String> {
        let _starts = self.starts.read().await;
        let mut worker = self.spawn(id).map_err(|error| {
            let program = self.program.display();
            format!("cannot start {program}: {error}")
        })?;
        let pid = worker.pid;
        let ready = timeout(READY_WITHIN, worker.control.read_u8()).await;
        if matches!(ready, Ok(Ok(READY))) {
            let serving = (id, worker.life.0.clone());
            self.serving.lock().await.insert(pid, serving);
            return Ok(worker);
        }
        let _ = worker.child.kill().await;
        let status = worker.child.wait().await.unwrap_or_default();
        Err(match ready {
            Err(_) => format!("worker {pid} was not ready within {READY_WITHIN:?}"),
            Ok(_) => format!("worker {pid} exited before it was ready ({status})"),
        })
    }

    /// Starts the process of a worker, with its control socket.
    fn spawn(&self, id: u32) -> io::Result<Worker> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let inode = fstat(&theirs)?.st_ino;
        let child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(VARIABLE, format!("{id}:{inode}"))
            .stdin(OwnedFd::from(theirs))
            // A terminal's Ctrl-C is for the primary: it does not reach this group.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Worker {
            id,
            pid: child.id().expect("it has not been waited for"),
            child,
            control: UnixStream::from_std(ours)?,
            life: watch::channel(()),
        })
    }

    /// Sends connections to a worker until it dies or shuts down, and waits until it has exited.
    async fn supervise(self: Arc<Self>, mut worker: Worker) {
        let leaves = tokio::select! {
            leaves = self.connections.serve(&mut worker.control) => leaves,
            _ = worker.life.1.changed() => false,
        };
        let (id, pid) = (worker.id, worker.pid);
        let is_replaced = self.serving.lock().await.remove(&pid).is_none();
        let voluntary = leaves && !is_replaced;
        if let (true, Some(forks)) = (voluntary, self.forks.upgrade()) {
            let _ = forks.send(id);
        }
        // This asks it to shut down. It still takes a connection that is on its way.
        drop(worker.control);
        if timeout(SHUTDOWN_WITHIN, worker.child.wait()).await.is_err() {
            let _ = worker.child.start_kill();
        }
        let status = worker.child.wait().await.unwrap_or_default();
        self.announce(Ok(match is_replaced {
            true => Event::Replaced { pid },
            false => Event::Exit {
                pid,
                id,
                status,
                voluntary,
            },
        }));
    }

    /// Starts a rolling restart at each SIGHUP. Ends when the terminal has been closed.
    async fn restart_at_hangup(self: &Arc<Self>, mut hangup: Signal, ends_with_terminal: bool) {
        loop {
            hangup.recv().await;
            if ends_with_terminal && !has_terminal() {
                return;
            }
            if let Err(error) = self.rolling_restart().await {
                let text = format!("the rolling restart has stopped: {error}");
                self.announce(Ok(Event::Warning(text)));
            }
        }
    }

    /// Replaces all workers, one after the other.
    async fn rolling_restart(self: &Arc<Self>) -> Result<(), String> {
        // Workers that start now may run the old program.
        drop(self.starts.write().await);
        let workers = self.serving.lock().await.clone();
        for (old, (id, replace)) in workers {
            let new = tokio::select! {
                biased;
                // It has exited. Its replacement runs the new program.
                () = replace.closed() => continue,
                new = self.start(id) => new?,
            };
            let (pid, life) = (new.pid, new.life.0.clone());
            if self.serving.lock().await.remove(&old).is_none() {
                // It shuts down by itself, and has another replacement.
                continue;
            }
            self.tasks.lock().await.spawn(self.clone().supervise(new));
            replace.send_replace(());
            let trial = async { tokio::join!(sleep(TRIAL), replace.closed()) };
            tokio::select! {
                () = life.closed() => return Err(format!("worker {pid} has died")),
                _ = trial => {}
            }
        }
        Ok(())
    }

    /// Shuts the cluster down, in phases.
    async fn shut_down(&self, mut terminate: Signal, mut interrupt: Signal) {
        // The workers get the last connections. Then their control sockets are closed.
        self.shutdown.send_replace(true);
        // They answer their requests, and exit.
        let mut tasks = mem::take(&mut *self.tasks.lock().await);
        let all_exited = async { while tasks.join_next().await.is_some() {} };
        let second_signal = async {
            let first_signal = Instant::now();
            while first_signal.elapsed() < SAME_SIGNAL {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        };
        tokio::select! {
            _ = timeout(SHUTDOWN_WITHIN, all_exited) => return,
            () = second_signal => {}
        }
        // Those that are left are killed.
        tasks.shutdown().await;
        let error = io::Error::other("ended at once by a second signal");
        let _ = self.events.send(Err(error));
    }

    fn announce(&self, event: io::Result<Event>) {
        if !*self.shutdown.borrow() {
            // It fails when the `Cluster` has been dropped.
            let _ = self.events.send(event);
        }
    }
}

/// When the next worker is restarted, if the last one was at `last`.
fn next_restart(last: Instant, now: Instant, workers: u32) -> Instant {
    last.max(now - RESTART_EACH * workers) + RESTART_EACH
}

/// The path from which workers are started. It is the one by which this process was started: a
/// symlink in it may lead to a new version by then.
fn program() -> PathBuf {
    let started_as = env::args_os().next().unwrap_or_default();
    let started_as = path::absolute(started_as).unwrap_or_default();
    match env::current_exe() {
        // It was found in the `PATH`, or its parent has given it another name.
        Ok(exe) if started_as.canonicalize().ok().as_ref() != Some(&exe) => exe,
        _ => started_as,
    }
}

/// Whether this process has a controlling terminal.
fn has_terminal() -> bool {
    let error = File::open("/dev/tty").err();
    error.and_then(|error| error.raw_os_error()) != Some(Errno::ENXIO as i32)
}

/// Whether SIGHUP is ignored, as by `nohup`.
fn ignores_hangup() -> bool {
    // SAFETY: the call changes nothing, and all bytes of a `sigaction` may be zero.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(libc::SIGHUP, ptr::null(), &mut action);
        action.sa_sigaction == libc::SIG_IGN
    }
}
