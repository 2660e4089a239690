//! Writing to a stdout or stderr that is shared with Node.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! nix = { version = "0.31", features = ["poll"] }
//! ```
//!
//! ```rust,ignore
//! mod stdio;
//!
//! fn main() -> std::io::Result<()> {
//!     stdio::write_all(std::io::stdout(), b"hello\n")
//! }
//! ```
//!
//! Node makes the pipes that it uses non-blocking, and thereby for every process that
//! shares them: its parent, its children. In those a `println!` fails, and panics, as soon
//! as the reader is slow.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

/// Writes all of `bytes` to `out`, unbuffered, and waits for its reader if it has to: Node's
/// `process.stdout.write()`, but that Node does not wait.
///
/// # Errors
///
/// `BrokenPipe` when nobody reads any more, and what else a write can meet with.
pub fn write_all(out: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(&out, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EAGAIN) => {
                // If it fails, which a signal can make it do, the next write tells.
                let room = PollFd::new(out.as_fd(), PollFlags::POLLOUT);
                let _ = poll(&mut [room], PollTimeout::NONE);
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
