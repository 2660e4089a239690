//! A pipe for a program's stdout that a check reads when it wants to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use os_pipe::{PipeReader, PipeWriter, pipe};

use super::{LIMIT, wait_until};

pub struct Pipe {
    reader: BufReader<Reader>,
    /// To see how full it is, and who reads it.
    writer: PipeWriter,
}

/// The end that is read. While `Pipe` holds a writer it never ends, so reading has a limit.
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

    /// An end for a program to write to.
    pub fn writer(&self) -> Result<PipeWriter> {
        Ok(self.writer.try_clone()?)
    }

    /// Makes writing fail where it would wait, as it does where a pipe is shared with Node.
    pub fn set_nonblocking(&self) -> Result<()> {
        fcntl(&self.writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Leaves no room in it. Returns how many bytes it holds.
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

    /// Leaves room for this many bytes in it.
    pub fn fill_but(&mut self, room: usize) -> Result<()> {
        let capacity = self.fill()?;
        self.read_exact(&mut vec![0; capacity])?;
        Ok(self.writer.write_all(&vec![0; capacity - room])?)
    }

    /// Waits until there is no room in it.
    pub fn wait_until_full(&self) -> Result<()> {
        wait_until("the pipe to be full", || {
            let mut room = [PollFd::new(self.writer.as_fd(), PollFlags::POLLOUT)];
            Ok((poll(&mut room, PollTimeout::ZERO)? == 0).then_some(()))
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

    /// Closes the end that is read. A program that another check is just starting has a copy of
    /// that until it is started, so this waits until nobody has one.
    pub fn close(self) -> Result<()> {
        let Self { reader, writer } = self;
        drop(reader);
        wait_until("the pipe to have no reader", || {
            let mut end = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut end, PollTimeout::ZERO)?;
            let broken = PollFlags::POLLERR | PollFlags::POLLHUP;
            let events = end[0].revents();
            Ok(events.filter(|events| events.intersects(broken)).map(drop))
        })
    }
}
