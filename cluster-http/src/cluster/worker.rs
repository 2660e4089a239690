//! The worker's side.

use std::env;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::fstat;
use nix::unistd::{dup2_stdin, write};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::round_robin::PAUSE;

/// The variable that makes a process a worker. It holds the inode of the socket on the worker's
/// stdin. A worker's child inherits the variable, but not the socket: it is not a worker.
pub const VARIABLE: &str = "CLUSTER_WORKER";

/// What a worker writes: it is ready; it has taken a connection; it had no descriptor for one.
pub const READY: u8 = b'r';
pub const TAKEN: u8 = b't';
pub const REFUSED: u8 = b'n';

/// This process as a worker: Node's `cluster.worker`.
pub struct Worker {
    /// `None` when this worker shuts down: the socket is closed, and the primary gives another
    /// worker the connections that were not taken.
    primary: Option<UnixStream>,
    terminate: Signal,
}

/// This process as a worker, or `None` in the primary: Node's `cluster.isWorker`.
///
/// Replaces stdin by `/dev/null`.
///
/// # Errors
///
/// When the system cannot do that, for instance because no descriptor is left.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn worker() -> io::Result<Option<Worker>> {
    let inode = fstat(io::stdin())?.st_ino.to_string();
    if env::var_os(VARIABLE).is_none_or(|expected| *expected != *inode) {
        return Ok(None);
    }
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(stdin);
    socket.set_nonblocking(true)?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(Some(Worker {
        primary: Some(UnixStream::from_std(socket)?),
        terminate: signal(SignalKind::terminate())?,
    }))
}

impl Worker {
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
            tokio::select! {
                biased;
                _ = self.terminate.recv() => self.primary = None,
                received = primary.async_io(Interest::READABLE, || receive(primary)) => {
                    match received {
                        Ok(Some(connection)) => {
                            self.answer(TAKEN);
                            return Some(connection);
                        }
                        Ok(None) => {
                            self.answer(REFUSED);
                            // The primary sends no more meanwhile, as to a worker that hangs.
                            sleep(PAUSE).await;
                        }
                        Err(_) => self.primary = None,
                    }
                }
            }
        }
        None
    }

    fn answer(&self, answer: u8) {
        if let Some(primary) = &self.primary {
            // It fails when the primary has exited. Then `accept` returns `None`.
            let _ = write(primary, &[answer]);
        }
    }
}

/// A connection from the primary; `None` if this process has no descriptor left for it. Fails when
/// the socket has ended.
fn receive(primary: &UnixStream) -> io::Result<Option<TcpStream>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        primary.as_raw_fd(),
        &mut data,
        Some(&mut space),
        CLOSE_ON_EXEC,
    )?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // An error says that the descriptor was left out.
    let first = message
        .cmsgs()
        .ok()
        .and_then(|mut messages| messages.next());
    let Some(ControlMessageOwned::ScmRights(descriptors)) = first else {
        return Ok(None);
    };
    // SAFETY: the system has just made this descriptor for this process.
    let connection = unsafe { std::net::TcpStream::from_raw_fd(descriptors[0]) };
    #[cfg(target_vendor = "apple")]
    nix::fcntl::fcntl(
        &connection,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    Ok(TcpStream::from_std(connection).ok())
}

#[cfg(not(target_vendor = "apple"))]
const CLOSE_ON_EXEC: MsgFlags = MsgFlags::MSG_CMSG_CLOEXEC;
/// There is no such flag. Between `recvmsg` and `fcntl`, a child could inherit the connection.
#[cfg(target_vendor = "apple")]
const CLOSE_ON_EXEC: MsgFlags = MsgFlags::empty();
