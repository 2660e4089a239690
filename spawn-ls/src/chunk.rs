//! Reading a pipe in the chunks in which Node's 'data' events bring it.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! nix = { version = "0.31", features = ["poll"] }
//! ```
//!
//! ```rust,ignore
//! mod chunk;
//!
//! fn main() -> std::io::Result<()> {
//!     let mut echo = std::process::Command::new("echo");
//!     let mut echo = echo.arg("a chunk").stdout(std::process::Stdio::piped()).spawn()?;
//!     let mut pipe = echo.stdout.take().unwrap();
//!     let mut buffer = [0; chunk::MAX];
//!     loop {
//!         match chunk::read(&mut pipe, &mut buffer)? {
//!             0 => break,
//!             bytes => println!("a chunk of {bytes} bytes"),
//!         }
//!     }
//!     echo.wait()?;
//!     Ok(())
//! }
//! ```
//!
//! Programs write a line in pieces: `ls` writes its name, what it could not do and why each for
//! itself. Node takes a while to come to the pipe, and finds them together; a thread that waits
//! for the first would get that alone.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

/// As much as Node takes from a pipe in one read, in bytes.
pub const MAX: usize = 64 * 1024;

/// Less than this may be a piece, in bytes. It is what a pipe takes in one piece at least.
const PIECE: usize = 4096;

/// How long to wait for the other pieces. A pipe that ends meanwhile is not waited for.
const WAIT: Duration = Duration::from_millis(5);

/// Reads what is there into `buffer`, which should have room for [`MAX`]; 0 is the end. If that
/// is less than 4 KiB, waits up to 5 ms for what comes right after it.
///
/// # Errors
///
/// What a read of the pipe can meet with.
pub fn read(pipe: &mut (impl Read + AsFd), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = pipe.read(buffer)?;
    let deadline = Instant::now() + WAIT;
    while (1..PIECE).contains(&filled) && more_comes(pipe, deadline) {
        match pipe.read(&mut buffer[filled..]) {
            Ok(more @ 1..) => filled += more,
            // The next call meets it again.
            Ok(0) | Err(_) => break,
        }
    }
    Ok(filled)
}

/// Whether there is more to read, or the end, before the deadline.
fn more_comes(pipe: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = u8::try_from(left.as_millis()).unwrap_or(u8::MAX);
    let mut input = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    // An error means that a signal came, and that there is no more for now.
    poll(&mut input, milliseconds).is_ok_and(|ready| ready > 0)
}
