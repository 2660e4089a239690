//! The side of a worker.

use std::env;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, Shutdown, recvmsg, shutdown};
use nix::unistd::{dup2_stdin, write};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The variable that makes a process a worker. It holds the inode of the socket on the worker's stdin.
/// A child of a worker can inherit only the variable, so it is not a worker.
pub const VARIABLE: &str = "CLUSTER_WORKER";

/// What a worker writes: it is ready; it has taken a connection; it had no descriptor for one.
pub const READY: u8 = b'r';
pub const TAKEN: u8 = b't';
pub const REFUSED: u8 = b'n';

/// A worker, in its process: Node's `cluster.worker`.
pub struct Worker {
    primary: UnixStream,
    terminate: Signal,
    shuts_down: bool,
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
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let inode = stdin.metadata()?.ino().to_string();
    if env::var_os(VARIABLE).is_none_or(|expected| *expected != *inode) {
        return Ok(None);
    }
    let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(stdin));
    socket.set_nonblocking(true)?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(Some(Worker {
        primary: UnixStream::from_std(socket)?,
        terminate: signal(SignalKind::terminate())?,
        shuts_down: false,
    }))
}

impl Worker {
    /// Tells the primary that this worker is ready for connections. The first worker's call is Node's
    /// `'listening'`.
    pub fn listen(&mut self) {
        self.answer(READY);
    }

    /// Waits for the next connection: Node's `'connection'`. `None` when this worker has to shut
    /// down: the primary shuts it down or has exited, or SIGTERM came.
    ///
    /// This method is cancel safe.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        while !self.shuts_down {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => self.shuts_down = true,
                received = self.primary.async_io(Interest::READABLE, || receive(&self.primary)) => {
                    match received {
                        Ok(Some(connection)) => {
                            self.answer(TAKEN);
                            return Some(connection);
                        }
                        Ok(None) => self.answer(REFUSED),
                        Err(_) => self.shuts_down = true,
                    }
                }
            }
        }
        // The primary then gives another worker the connections that were not taken.
        let _ = shutdown(self.primary.as_raw_fd(), Shutdown::Both);
        None
    }

    fn answer(&self, answer: u8) {
        // It fails when the primary has exited. Then `accept` returns `None`.
        let _ = write(&self.primary, &[answer]);
    }
}

/// A connection from the primary; `None` if this process has no descriptor left for it. Fails when the
/// socket has ended.
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
