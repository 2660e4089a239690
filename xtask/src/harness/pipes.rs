//! A pipe for a program's stdout, which the check itself reads, fills and closes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use os_pipe::{PipeReader, PipeWriter, pipe};

use super::wait::{LIMIT, wait_until};

pub struct Pipe {
    reader: BufReader<Reader>,
    /// Kept to find out whether the pipe is full, and whether it has a reader.
    writer: PipeWriter,
}

/// The read end. `Pipe` has a writer, too, so reading could block: it has a time limit.
struct Reader(PipeReader);

impl Read for Reader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let limit = PollTimeout::try_from(LIMIT).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.0.read(bytes),
        }
    }
}

impl Pipe {
    pub fn new() -> Result<Self> {
        let (reader, writer) = pipe()?;
        let reader = BufReader::new(Reader(reader));
        Ok(Self { reader, writer })
    }

    /// A write end, for a program.
    pub fn writer(&self) -> Result<PipeWriter> {
        Ok(self.writer.try_clone()?)
    }

    /// Makes the pipe non-blocking, as Node does with the pipes that it shares with other programs.
    pub fn set_nonblocking(&self) -> Result<()> {
        fcntl(&self.writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Fills the pipe. Returns its capacity in bytes.
    pub fn fill(&mut self) -> Result<usize> {
        self.set_nonblocking()?;
        let mut capacity = 0;
        let full = loop {
            match self.writer.write(&[0; 1024]) {
                Ok(written) => capacity += written,
                Err(error) => break error,
            }
        };
        ensure!(full.kind() == io::ErrorKind::WouldBlock, full);
        fcntl(&self.writer, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(capacity)
    }

    /// Fills the pipe except for `room` bytes.
    pub fn fill_but(&mut self, room: usize) -> Result<()> {
        let capacity = self.fill()?;
        self.read_exact(&mut vec![0; capacity])?;
        Ok(self.writer.write_all(&vec![0; capacity - room])?)
    }

    /// Waits until the pipe is full.
    pub fn wait_until_full(&self) -> Result<()> {
        wait_until("the pipe to be full", || {
            let mut room = [PollFd::new(self.writer.as_fd(), PollFlags::POLLOUT)];
            Ok(poll(&mut room, PollTimeout::ZERO)? == 0)
        })
    }

    pub fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(line)
    }

    pub fn read_exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        Ok(self.reader.read_exact(bytes)?)
    }

    /// Reads until every program that writes to it has ended.
    pub fn read_to_end(self) -> Result<Vec<u8>> {
        let Self { mut reader, writer } = self;
        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// Closes the read end. A program that another check starts at this moment has a copy of it
    /// between fork and exec. So this waits until the pipe has no reader.
    pub fn close(self) -> Result<()> {
        let Self { reader, writer } = self;
        drop(reader);
        wait_until("the pipe to have no reader", || {
            let mut end = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut end, PollTimeout::ZERO)?;
            let broken = PollFlags::POLLERR | PollFlags::POLLHUP;
            let events = end[0].revents();
            Ok(events.is_some_and(|events| events.intersects(broken)))
        })
    }
}
