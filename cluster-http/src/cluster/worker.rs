//! The worker's side, and what goes over the control socket.
//!
//! The primary sends connections, each with a byte, and closes the socket when the worker has to
//! shut down. The worker sends the bytes below.

use std::env;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno::EMFILE;
use nix::sys::signal::{
    SigSet,
    Signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGTTOU},
};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::fstat;
use nix::unistd::{dup2_stdin, write};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The worker has taken a connection. The first of these bytes only says that it is ready.
pub const READY: u8 = b'r';
/// It had no descriptor for the connection.
pub const REFUSED: u8 = b'n';
/// It shuts down by itself.
pub const LEAVES: u8 = b'l';

/// The variable that makes a process a worker. It holds the worker's id, a colon, and the inode of
/// the control socket, which is the worker's stdin. A worker's child inherits the variable, but not
/// the socket: it is not a worker.
pub const VARIABLE: &str = "CLUSTER_WORKER";

/// This process as a worker: Node's `cluster.worker`.
pub struct Worker {
    id: u32,
    /// `None` when this worker shuts down: the socket is closed, and another worker gets the
    /// connection that this one has not taken.
    primary: Option<UnixStream>,
    terminate: Signal,
}

/// This process as a worker, or `None` in the primary: Node's `cluster.isWorker`.
///
/// Blocks SIGTTOU in this thread, so a terminal with `stty tostop` does not stop what it writes in
/// the background, and unblocks the signals that a cluster handles. In a worker, replaces stdin by
/// `/dev/null`, and SIGINT and SIGHUP do nothing from now on: they are for the primary, but some
/// tools send them to every process.
///
/// # Errors
///
/// When the system cannot do that, for instance because no descriptor is left.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn worker() -> io::Result<Option<Worker>> {
    SigSet::from(SIGTTOU).thread_block()?;
    // The parent may have blocked these.
    SigSet::from_iter([SIGTERM, SIGINT, SIGHUP, SIGCHLD]).thread_unblock()?;
    let inode = fstat(io::stdin())?.st_ino.to_string();
    let variable = env::var(VARIABLE).unwrap_or_default();
    let Some((id, _)) = variable
        .split_once(':')
        .filter(|(_, socket)| *socket == inode)
    else {
        return Ok(None);
    };
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(stdin);
    socket.set_nonblocking(true)?;
    dup2_stdin(File::open("/dev/null")?)?;
    // The handlers stay. If a worker ignored these signals, so would what it starts.
    drop([SignalKind::interrupt(), SignalKind::hangup()].map(signal));
    Ok(Some(Worker {
        id: id.parse().map_err(io::Error::other)?,
        primary: Some(UnixStream::from_std(socket)?),
        terminate: signal(SignalKind::terminate())?,
    }))
}

impl Worker {
    /// A number from 1 to the number of workers: Node's `worker.id`. The replacement of a worker
    /// has the same one. For a short time, both run.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Tells the primary that this worker is ready for connections. The first worker's call is
    /// Node's `'listening'`.
    pub fn listen(&mut self) {
        self.answer(READY);
    }

    /// Waits for the next connection: Node's `'connection'`. `None` when this worker has to shut
    /// down: the primary shuts it down or has exited, or SIGTERM came.
    ///
    /// This method is cancel safe.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        while let Some(primary) = &self.primary {
            let received = tokio::select! {
                biased;
                _ = self.terminate.recv() => {
                    self.answer(LEAVES);
                    break;
                }
                received = primary.async_io(Interest::READABLE, || receive(primary)) => received,
            };
            match received {
                Ok(Some(connection)) => {
                    self.answer(READY);
                    return Some(connection);
                }
                Ok(None) => break,
                // No descriptor is left.
                Err(_) => self.answer(REFUSED),
            }
        }
        self.primary = None;
        None
    }

    fn answer(&self, answer: u8) {
        if let Some(primary) = &self.primary {
            // It fails when the primary has exited. Then `accept` returns `None`.
            let _ = write(primary, &[answer]);
        }
    }
}

/// Sends a connection to a worker.
pub fn send(socket: &UnixStream, connection: &net::TcpStream) -> nix::Result<usize> {
    let descriptor = [connection.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptor)];
    let byte = [IoSlice::new(b"c")];
    let socket = socket.as_raw_fd();
    sendmsg::<()>(socket, &byte, &rights, MsgFlags::empty(), None)
}

/// Receives a connection from the primary; `None` when the socket has ended. Fails if this process
/// has no descriptor left.
fn receive(primary: &UnixStream) -> io::Result<Option<TcpStream>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(RawFd);
    let primary = primary.as_raw_fd();
    let message = recvmsg::<()>(primary, &mut data, Some(&mut space), CLOSE_ON_EXEC)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    // `cmsgs` fails if the descriptor was left out.
    let first = message.cmsgs().ok().and_then(|mut all| all.next());
    let Some(ControlMessageOwned::ScmRights(descriptors)) = first else {
        return Err(EMFILE.into());
    };
    // SAFETY: the system has just made this descriptor for this process.
    let connection = unsafe { net::TcpStream::from_raw_fd(descriptors[0]) };
    // The copy is close-on-exec.
    #[cfg(target_vendor = "apple")]
    let connection = connection.try_clone()?;
    TcpStream::from_std(connection).map(Some)
}

#[cfg(not(target_vendor = "apple"))]
const CLOSE_ON_EXEC: MsgFlags = MsgFlags::MSG_CMSG_CLOEXEC;
/// There is no such flag. Until `try_clone`, a child can inherit the connection.
#[cfg(target_vendor = "apple")]
const CLOSE_ON_EXEC: MsgFlags = MsgFlags::empty();
