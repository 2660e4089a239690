//! The primary: it starts the workers, replaces them, and shuts them down.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{self, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{env, io, mem, ptr};

use nix::libc;
use nix::sys::stat::fstat;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio::{join, select};

use super::Event;
use super::round_robin::{RoundRobin, bind};
use super::worker::{READY, VARIABLE};

/// A worker that is not ready within this time is killed.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait after a worker that was never ready.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);

/// The time between two restarts, when no saved one is left.
const RESTART_EACH: Duration = Duration::from_millis(50);

/// How long a new worker has to live before a rolling restart goes on.
const TRIAL: Duration = Duration::from_secs(1);

/// A worker whose graceful shutdown takes longer is killed.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(15);

/// A second signal within this time is ignored: the command `timeout` sends its signal twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// For the ids of the workers that have to start.
pub type StartSender = mpsc::UnboundedSender<u32>;
pub type EventReceiver = mpsc::UnboundedReceiver<io::Result<Event>>;

/// What the tasks of the primary share.
struct Primary {
    program: PathBuf,
    address: String,
    connections: RoundRobin,
    starts: StartSender,
    events: mpsc::UnboundedSender<io::Result<Event>>,
    /// Set when the first worker is ready.
    listening: OnceLock<()>,
    /// Read-locked while a worker starts.
    starting: RwLock<()>,
    /// The workers that were ready and have not exited: their ids and process ids, the newest last.
    /// Where two have the same id, the older one has to shut down.
    workers: watch::Sender<Vec<(u32, u32)>>,
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
}

/// [`super::Cluster::listen`].
pub fn listen(address: &str) -> io::Result<(StartSender, EventReceiver)> {
    static CLUSTER: OnceLock<()> = OnceLock::new();
    let listener = bind(address)?;
    let local = listener.local_addr()?;
    // If the parent ignores it, no child could be waited for. The handler stays.
    drop(signal(SignalKind::child())?);
    let ends_with_terminal = has_terminal() && !ignores_hangup();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let second = |()| io::Error::other("this process has a cluster already");
    CLUSTER.set(()).map_err(second)?;
    let (starts, next_starts) = mpsc::unbounded_channel();
    let (events, next_events) = mpsc::unbounded_channel();
    let shutdown = watch::Sender::new(false);
    let primary = Arc::new(Primary {
        program: program(),
        // As one would type it to connect.
        address: match local.ip().is_unspecified() {
            true => format!("localhost:{}", local.port()),
            false => local.to_string(),
        },
        connections: RoundRobin::new(listener, shutdown.subscribe()),
        starts: starts.clone(),
        events,
        listening: OnceLock::new(),
        starting: RwLock::default(),
        workers: watch::Sender::default(),
        shutdown,
        tasks: Mutex::default(),
    });
    tokio::spawn(async move {
        select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // The `Cluster` has been dropped.
            () = primary.events.closed() => {}
            () = primary.restart_at_hangup(hangup, ends_with_terminal) => {}
            () = primary.start_workers(next_starts) => unreachable!("it has a sender itself"),
        }
        primary.shut_down(terminate, interrupt).await;
    });
    Ok((starts, next_events))
}

impl Primary {
    /// Starts the workers: a new one at once, and one replacement each 50 ms. Restarts that are not
    /// used are saved up (a token bucket): a new worker brings one, and there is never more than one
    /// for each worker.
    async fn start_workers(self: &Arc<Self>, mut starts: mpsc::UnboundedReceiver<u32>) {
        let (mut workers, mut paid_until) = (0, Instant::now());
        while let Some(id) = starts.recv().await {
            if id > workers {
                workers = id;
                paid_until -= RESTART_EACH;
            } else {
                paid_until = paid_until.max(Instant::now() - RESTART_EACH * workers) + RESTART_EACH;
            }
            // A sleep of no length takes a millisecond.
            if paid_until > Instant::now() {
                sleep_until(paid_until).await;
            }
            self.add_task(self.clone().run_worker(id));
        }
    }

    fn add_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self
            .tasks
            .lock()
            .expect("nothing panics that has locked it");
        // The set keeps what has ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Starts a worker, again until it is ready, and supervises it until it has exited.
    async fn run_worker(self: Arc<Self>, id: u32) {
        let mut shutdown = self.shutdown.subscribe();
        let start = async {
            loop {
                match self.start(id).await {
                    Ok(worker) => return worker,
                    Err(error) if self.listening.get().is_none() => self.announce(Err(error)),
                    Err(error) => self.announce(Ok(Event::Warning(error.to_string()))),
                }
                sleep(FAILURE_PAUSE).await;
            }
        };
        let worker = select! {
            biased;
            // If both are ready, the worker gets a graceful shutdown.
            worker = start => worker,
            _ = shutdown.wait_for(|shuts_down| *shuts_down) => return,
        };
        self.supervise(worker).await;
    }

    /// Starts a worker, and waits until it is ready.
    async fn start(&self, id: u32) -> io::Result<Worker> {
        let _starting = self.starting.read().await;
        let mut worker = self.spawn(id).map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let pid = worker.pid;
        let ready = async {
            match worker.control.read_u8().await {
                Ok(READY) => Ok(()),
                _ => Err(worker.child.wait().await.unwrap_or_default()),
            }
        };
        let error = match timeout(READY_WITHIN, ready).await {
            Ok(Ok(())) => {
                if self.listening.set(()).is_ok() {
                    self.announce(Ok(Event::Listening(self.address.clone())));
                }
                self.workers.send_modify(|workers| workers.push((id, pid)));
                return Ok(worker);
            }
            Ok(Err(status)) => format!("worker {pid} exited before it was ready ({status})"),
            Err(_) => {
                let _ = worker.child.kill().await;
                format!("worker {pid} was not ready within {READY_WITHIN:?}")
            }
        };
        Err(io::Error::other(error))
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
        })
    }

    /// Sends connections to a worker until it dies or shuts down, and waits until it has exited.
    async fn supervise(self: Arc<Self>, mut worker: Worker) {
        let (id, pid) = (worker.id, worker.pid);
        let (leaves, is_replaced) = select! {
            leaves = self.connections.serve(&mut worker.control) => (leaves, false),
            () = self.until_replaced(id, pid) => (false, true),
        };
        if leaves {
            let _ = self.starts.send(id);
        }
        // This asks it to shut down. It still takes a connection that is on its way.
        drop(worker.control);
        if timeout(SHUTDOWN_WITHIN, worker.child.wait()).await.is_err() {
            let _ = worker.child.start_kill();
        }
        let status = worker.child.wait().await.unwrap_or_default();
        self.workers
            .send_modify(|workers| workers.retain(|worker| worker.1 != pid));
        self.announce(Ok(match is_replaced {
            true => Event::Replaced { pid },
            false => Event::Exit {
                id,
                pid,
                status,
                is_replaced: leaves,
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
    async fn rolling_restart(self: &Arc<Self>) -> io::Result<()> {
        // Wait for the workers that start now: they may run the old program.
        drop(self.starting.write().await);
        // The newest one of each id.
        let workers: BTreeMap<_, _> = self.workers.borrow().iter().copied().collect();
        for (id, old) in workers {
            let worker = select! {
                biased;
                // Its replacement runs the new program.
                () = self.until_exited(old) => continue,
                worker = self.start(id) => worker?,
            };
            let new = worker.pid;
            self.add_task(self.clone().supervise(worker));
            let trial = async { join!(sleep(TRIAL), self.until_exited(old)) };
            select! {
                () = self.until_exited(new) => {
                    return Err(io::Error::other(format!("worker {new} has died")));
                }
                _ = trial => {}
            }
        }
        Ok(())
    }

    /// Waits until a newer worker has this worker's id.
    async fn until_replaced(&self, id: u32, pid: u32) {
        let mut workers = self.workers.subscribe();
        let newest = |all: &Vec<(u32, u32)>| all.iter().rfind(|worker| worker.0 == id).copied();
        let _ = workers.wait_for(|all| newest(all) != Some((id, pid))).await;
    }

    /// Waits until this worker has exited.
    async fn until_exited(&self, pid: u32) {
        let mut workers = self.workers.subscribe();
        let exited = |all: &Vec<(u32, u32)>| all.iter().all(|worker| worker.1 != pid);
        let _ = workers.wait_for(exited).await;
    }

    /// Shuts the cluster down, in phases.
    async fn shut_down(&self, mut terminate: Signal, mut interrupt: Signal) {
        // The workers get the last connections. Then their control sockets are closed.
        self.shutdown.send_replace(true);
        // They answer their requests, and exit. Those that are left are killed, because their tasks
        // are dropped.
        let mut tasks = mem::take(&mut *self.tasks.lock().expect("as above"));
        let all_exited = async { while tasks.join_next().await.is_some() {} };
        let second_signal = async {
            let first_signal = Instant::now();
            while first_signal.elapsed() < SAME_SIGNAL {
                select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        };
        select! {
            _ = timeout(SHUTDOWN_WITHIN, all_exited) => {}
            () = second_signal => {
                tasks.shutdown().await;
                let error = io::Error::other("ended at once by a second signal");
                let _ = self.events.send(Err(error));
            }
        }
    }

    fn announce(&self, event: io::Result<Event>) {
        if !*self.shutdown.borrow() {
            // It fails when the `Cluster` has been dropped.
            let _ = self.events.send(event);
        }
    }
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

/// Whether this process has a controlling terminal, or that is unknown.
fn has_terminal() -> bool {
    let error = File::open("/dev/tty").err();
    error.and_then(|error| error.raw_os_error()) != Some(libc::ENXIO)
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
