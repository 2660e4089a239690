//! Node's `cluster`: a primary that keeps a number of worker processes, all on one port.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! nix = { version = "0.31", features = ["fs", "net", "resource", "signal"] }
//! tokio = { version = "1", features = ["io-util", "macros", "net", "process", "rt", "signal", "sync", "time"] }
//! ```
//!
//! The program is started once, as the primary, and starts itself again for each worker.
//! [`worker()`] tells which of the two it is:
//!
//! ```rust,ignore
//! mod cluster;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> std::io::Result<()> {
//!     // SAFETY: this is the first line of `main`.
//!     let Some((listener, mut primary)) = (unsafe { cluster::worker()? }) else {
//!         let address = ([127, 0, 0, 1], 0).into();
//!         let cluster = cluster::Cluster::listen(&[address], 2)?;
//!         let print = |event| {
//!             println!("{event:?}");
//!             Ok(())
//!         };
//!         return cluster.run(print).await;
//!     };
//!     primary.ready().await;
//!     let serve = async {
//!         while let Ok((connection, _)) = listener.accept().await {
//!             let _ = connection.try_write(b"hello\n");
//!         }
//!     };
//!     tokio::select! {
//!         () = serve => {}
//!         () = primary.stop() => {}
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Each worker has a listener of its own on the shared port (`SO_REUSEPORT`: the kernel
//! deals the connections out), which the primary keeps open too: what is queued for a
//! worker that dies is accepted by its successor. On its stdin a worker has a socket to the
//! primary. The worker writes one byte there when it serves, and leaves when it ends.

// Whoever copies this file may not use all of it.
#![allow(dead_code)]

use std::env;
use std::fs;
use std::future::pending;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SIGHUP, SIGINT, SigHandler, signal as set_handler};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};

/// How many connections may wait to be accepted by one worker.
pub const BACKLOG: u32 = 1024;

/// How long a worker may take to start before it is told to leave.
pub const START_WITHIN: Duration = Duration::from_secs(10);

/// How long a worker may take to leave before it is killed.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(15);

/// How long the primary waits at its end for `on_event`.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// A worker that dies within this time of serving died as it started: it is not replaced
/// at once.
pub const LIVED: Duration = Duration::from_millis(100);

/// The pause before such a worker is replaced. It doubles each time, up to [`MAX_PAUSE`].
pub const MIN_PAUSE: Duration = Duration::from_millis(20);

/// See [`MIN_PAUSE`].
pub const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How long after the first signal to end another is taken for the same.
pub const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// The first argument of a worker; the second is the number of its listener's descriptor.
const WORKER: &str = "cluster-worker";

/// What happens in a cluster.
#[derive(Debug)]
pub enum Event {
    /// The first worker serves: Node's 'listening'.
    Listening(SocketAddr),
    /// A worker has ended: Node's 'exit'.
    Exit {
        /// Its process id.
        pid: u32,
        /// Its code, or the signal that ended it.
        status: ExitStatus,
    },
    /// Something an operator should know, in one line.
    Trouble(String),
}

/// A primary's side: the listeners, and what to start the workers from.
pub struct Cluster {
    program: PathBuf,
    address: SocketAddr,
    listeners: Vec<std::net::TcpListener>,
}

impl Cluster {
    /// Opens a listener for each of `workers` on the first of `addresses` that this machine
    /// has, with port 0 standing for any free one. Raises the soft limit of descriptors to
    /// the hard one, as Node does.
    ///
    /// # Errors
    ///
    /// When the port is taken, by another copy of this program too, or may not be used, when
    /// descriptors run out, or when this program's path cannot be found out.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn listen(addresses: &[SocketAddr], workers: usize) -> io::Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // Where that is not allowed, the soft limit does.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);

        let mut first = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in addresses {
            first = first_listener(*address);
            if !matches!(&first, Err(error) if is_not_here(error)) {
                break;
            }
        }
        let first = first?;
        let address = first.local_addr()?;
        let mut listeners = vec![first.into_std()?];
        for _ in 1..workers {
            let socket = socket_for(address)?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            listeners.push(socket.listen(BACKLOG)?.into_std()?);
        }
        Ok(Self {
            // Taken once: when the file is replaced, the running program's link no longer
            // names it, but this path does, and the next worker is the new program.
            program: env::current_exe()?,
            address,
            listeners,
        })
    }

    /// The address it listens on, with the port that 0 stood for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the workers and replaces those that die, until SIGTERM or SIGINT; then they
    /// drain and this returns. On SIGHUP it replaces them one by one. Calls `on_event`, Node's
    /// `cluster.on()`, when something happens, on a thread of its own: nobody waits for it. An
    /// error of it ends the cluster, as a signal would.
    ///
    /// # Errors
    ///
    /// When the first worker does not come up, `on_event` fails, or a second signal asks to
    /// end at once. When the runtime is dropped, what is left of the workers is killed.
    pub async fn run(
        self,
        mut on_event: impl FnMut(Event) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let (events, mut happened) = mpsc::unbounded_channel();
        let (fail, mut failed) = oneshot::channel();
        thread::spawn(move || {
            while let Some(event) = happened.blocking_recv() {
                if let Err(error) = on_event(event) {
                    return fail.send(error);
                }
            }
            Ok(())
        });

        let roll = watch::Sender::new(());
        let turn = Arc::new(Mutex::new(()));
        let (alive, mut all_ended) = mpsc::channel(1);
        let mut slots = self.listeners.into_iter().map(|listener| Slot {
            program: self.program.clone(),
            listener,
            events: events.clone(),
            roll: roll.subscribe(),
            turn: turn.clone(),
            alive: alive.clone(),
        });

        let mut supervisors = JoinSet::new();
        if let Some(slot) = slots.next() {
            let worker = tokio::select! {
                started = slot.start() => started?,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            };
            let _ = events.send(Event::Listening(self.address));
            supervisors.spawn(slot.supervise(Some(worker)));
        }
        for slot in slots {
            supervisors.spawn(slot.supervise(None));
        }
        drop((alive, events));

        let ended = loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => roll.send_replace(()),
                Some(ended) = supervisors.join_next() => break ended?,
                Ok(error) = &mut failed => break Err(error),
            }
        };
        // With the slots go the primary's listeners and its hold on the workers.
        supervisors.shutdown().await;
        tokio::select! {
            _ = all_ended.recv() => {}
            asked = asked_again() => {
                return asked.and(Err(io::Error::other("ended at once by a second signal")));
            }
        }
        if ended.is_ok() {
            // The last events are told, unless whoever is told takes too long.
            let _ = timeout(TELL_WITHIN, failed).await;
        }
        ended
    }
}

/// Waits for a second SIGTERM or SIGINT. What comes right after the first belongs to that:
/// `timeout` signals the process, and then its group.
async fn asked_again() -> io::Result<()> {
    sleep(SAME_SIGNAL).await;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// A plain listener, which only succeeds on a port that nobody has; once it has, the port is
/// opened to the listeners of the other workers.
fn first_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    setsockopt(&listener, sockopt::ReusePort, &true)?;
    Ok(listener)
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // `[::]` is every address, IPv4's too, whatever the system's default.
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            socket
        }
    };
    // A port that was just left can be taken at once, without waiting for old connections.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Whether an address failed because the machine does not have it, or its kind.
fn is_not_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

/// The place of one worker, and of its successors.
struct Slot {
    program: PathBuf,
    listener: std::net::TcpListener,
    events: UnboundedSender<Event>,
    roll: watch::Receiver<()>,
    /// Whoever rolls holds this, so that it is one slot at a time.
    turn: Arc<Mutex<()>>,
    /// Nothing is sent here: whoever waits for a worker holds it, and so it closes when all
    /// workers have ended.
    alive: mpsc::Sender<()>,
}

/// A worker, which leaves when this is dropped.
struct Worker {
    pid: u32,
    serves_since: Instant,
    ended: JoinHandle<io::Result<ExitStatus>>,
    hold: oneshot::Sender<()>,
}

impl Slot {
    /// Keeps one worker serving.
    async fn supervise(self, mut worker: Option<Worker>) -> io::Result<()> {
        let mut roll = self.roll.clone();
        let mut pause = Duration::ZERO;
        loop {
            let Some(current) = &mut worker else {
                if !pause.is_zero() {
                    // A new binary, which SIGHUP may stand for, is not made to wait.
                    let _ = timeout(pause, roll.changed()).await;
                }
                match self.start().await {
                    Ok(started) => worker = Some(started),
                    Err(error) => {
                        pause = longer(pause);
                        self.trouble(format!("{error}; trying again in {pause:?}"));
                    }
                }
                continue;
            };

            tokio::select! {
                ended = &mut current.ended => {
                    let (pid, status) = (current.pid, ended??);
                    // A signal to the whole group may be why, and then the primary has it too.
                    yield_now().await;
                    self.tell(Event::Exit { pid, status });
                    if current.serves_since.elapsed() >= LIVED {
                        pause = Duration::ZERO;
                    } else {
                        pause = longer(pause);
                        self.trouble(format!("worker {pid} died as it started; trying again in {pause:?}"));
                    }
                    worker = None;
                }
                (turn, started) = self.successor(&mut roll) => match started {
                    Ok(started) => {
                        let old = mem::replace(current, started);
                        tokio::spawn(see_off(old, turn, self.events.clone()));
                    }
                    Err(error) => {
                        self.trouble(format!("{error}; worker {} stays", current.pid));
                    }
                },
            }
        }
    }

    /// Waits for SIGHUP, and then for this slot's turn, and starts a worker. If the one that
    /// serves dies in the meantime, this is dropped: its successor is new anyway.
    async fn successor(
        &self,
        roll: &mut watch::Receiver<()>,
    ) -> (OwnedMutexGuard<()>, io::Result<Worker>) {
        if roll.changed().await.is_err() {
            pending::<()>().await;
        }
        let turn = self.turn.clone().lock_owned().await;
        (turn, self.start().await)
    }

    /// Starts a worker and waits until it serves.
    async fn start(&self) -> io::Result<Worker> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command
            .arg(WORKER)
            .arg(self.listener.as_raw_fd().to_string())
            .stdin(OwnedFd::from(theirs))
            .kill_on_drop(true);
        let listener = self.listener.as_raw_fd();
        let prepare = move || {
            // SAFETY: this runs before `spawn` returns, and the slot keeps it open until then.
            let listener = unsafe { BorrowedFd::borrow_raw(listener) };
            fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
            // Signals to the whole group are the primary's, while the worker starts, too.
            for signal in [SIGINT, SIGHUP] {
                // SAFETY: to ignore a signal is no code of ours to run.
                unsafe { set_handler(signal, SigHandler::SigIgn)? };
            }
            Ok(())
        };
        // SAFETY: between fork and exec, `prepare` makes system calls, and no more.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        // The command holds the worker's end of the socket.
        drop(command);

        ours.set_nonblocking(true)?;
        let (mut from_worker, to_worker) = UnixStream::from_std(ours)?.into_split();
        let pid = child.id().expect("nobody has waited for it");
        let (hold, let_go) = oneshot::channel();
        let ended = tokio::spawn(reap(child, to_worker, let_go, self.alive.clone()));

        let mut byte = [0];
        match timeout(START_WITHIN, from_worker.read(&mut byte)).await {
            Ok(Ok(1)) => Ok(Worker {
                pid,
                serves_since: Instant::now(),
                ended,
                hold,
            }),
            Ok(_) => {
                // It may only have closed its socket: let go, it has to end.
                drop(hold);
                let status = ended.await??;
                let what = format!("worker {pid} ended before it served ({status})");
                Err(io::Error::other(what))
            }
            Err(_) => {
                let what = format!("worker {pid} did not serve within {START_WITHIN:?}");
                Err(io::Error::other(what))
            }
        }
    }

    fn trouble(&self, what: String) {
        self.tell(Event::Trouble(what));
    }

    fn tell(&self, event: Event) {
        // It fails when `on_event` has failed, which ends the cluster.
        let _ = self.events.send(event);
    }
}

/// Waits until the worker has ended. Once it is let go, it has to.
async fn reap(
    mut child: Child,
    to_worker: OwnedWriteHalf,
    let_go: oneshot::Receiver<()>,
    _alive: mpsc::Sender<()>,
) -> io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        _ = let_go => {}
    }
    // The end of this socket asks the worker to leave, as the primary's death would.
    drop(to_worker);
    match timeout(LEAVE_WITHIN, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// Lets a worker go that has a successor. It is the next slot's turn when it has left.
async fn see_off(old: Worker, turn: OwnedMutexGuard<()>, events: UnboundedSender<Event>) {
    drop(old.hold);
    if let Ok(Ok(status)) = old.ended.await {
        let _ = events.send(Event::Exit {
            pid: old.pid,
            status,
        });
    }
    drop(turn);
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(MIN_PAUSE, MAX_PAUSE)
}

/// Whether this process is a worker (Node's `cluster.isWorker`), and if so its listener and
/// its primary. From here on the worker leaves SIGINT and SIGHUP to the primary: ^C reaches
/// every process of the terminal.
///
/// # Errors
///
/// When the arguments say that this is a worker, but no primary has started it.
///
/// # Safety
///
/// Call it once, in a tokio runtime but as the first thing there: nothing else may own the
/// descriptor yet that the arguments name.
pub unsafe fn worker() -> io::Result<Option<(TcpListener, Primary)>> {
    let mut args = env::args_os().skip(1);
    if args.next().is_none_or(|role| role != WORKER) {
        return Ok(None);
    }
    let fd: Option<RawFd> = args.next().and_then(|fd| fd.to_str()?.parse().ok());
    let fd = fd.filter(|fd| {
        let file = fs::metadata(format!("/dev/fd/{fd}"));
        file.is_ok_and(|file| file.file_type().is_socket())
    });
    let not_started = || io::Error::other("not started by a primary");
    let fd = fd.ok_or_else(not_started)?;
    // SAFETY: it is open, and only borrowed here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let listens = getsockopt(&borrowed, sockopt::AcceptConn)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    if !listens || socket.peer_addr().is_err() {
        return Err(not_started());
    }

    // SAFETY: a primary has passed it down, as it listens, and nobody else owns it.
    let listener = unsafe { std::net::TcpListener::from_raw_fd(fd) };
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    socket.set_nonblocking(true)?;
    let primary = Primary {
        socket: UnixStream::from_std(socket)?,
        terminate: signal(SignalKind::terminate())?,
    };
    // A signal that has had a handler never does its default again.
    let _ = signal(SignalKind::interrupt())?;
    let _ = signal(SignalKind::hangup())?;
    Ok(Some((TcpListener::from_std(listener)?, primary)))
}

/// A worker's primary.
pub struct Primary {
    socket: UnixStream,
    terminate: Signal,
}

impl Primary {
    /// Tells the primary that this worker serves.
    pub async fn ready(&mut self) {
        // If that fails the primary has gone, and `stop` tells.
        let _ = self.socket.write_all(&[1]).await;
    }

    /// Waits until this worker has to leave: the primary says so or has gone, or SIGTERM came.
    pub async fn stop(mut self) {
        tokio::select! {
            _ = self.socket.read_u8() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
