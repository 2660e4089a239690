//! A terminal, and what happens when it is closed.

use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::unistd::setsid;

use super::*;

pub fn checks(suite: &Suite) {
    suite.on_linux().rust("closed", |command| {
        let (server, terminal) = below_a_terminal(command)?;
        let client = served_client(&server)?;
        drop(terminal);
        gets_last_answer(client)?;
        server.program.finish()?.ended_with_code(0)
    });

    // A SIGHUP sent by hand starts a rolling restart.
    suite.on_linux().rust("open", |command| {
        let (server, _terminal) = below_a_terminal(command)?;
        let old = server.workers();
        server.program.signal(Signal::SIGHUP)?;
        server.wait_for_replacements(&old)?;
        server.shut_down()
    });

    suite.on_linux().rust("closed_below_nohup", |command| {
        let (server, terminal) = below_a_terminal(below_a_shell("trap '' HUP", &command))?;
        let old = server.workers();
        drop(terminal);
        server.wait_for_replacements(&old)?;
        served_client(&server)?;
        server.shut_down()
    });

    // The workers are in the background. A terminal may stop such processes when they write to it.
    suite.on_linux().rust("tostop", |mut command| {
        let terminal = Terminal::new()?;
        let stty = Command::new("stty")
            .arg("tostop")
            .stdin(terminal.open()?)
            .status()?;
        ensure!(stty.success(), "{stty}");
        command.args(["127.0.0.1:0", "1"]);
        control(&mut command, &terminal)?;
        let server = Server::listening(start_on(command, terminal.open()?)?)?;
        served_client(&server)?;
        server.shut_down()
    });
}

/// Starts the program with a terminal of its own.
fn below_a_terminal(mut command: Command) -> Result<(Server, Terminal)> {
    let terminal = Terminal::new()?;
    control(&mut command, &terminal)?;
    Ok((Server::start(command, 1)?, terminal))
}

/// Makes this the controlling terminal of the program, which leads a session.
fn control(command: &mut Command, terminal: &Terminal) -> Result<()> {
    command.stdin(terminal.open()?);
    // SAFETY: between fork and exec, the closure makes two system calls, and no more.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    Ok(())
}

/// It is closed when this is dropped.
struct Terminal(PtyMaster);

impl Terminal {
    fn new() -> Result<Self> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        Ok(Self(master))
    }

    /// The side of its programs.
    fn open(&self) -> Result<fs::File> {
        let mut options = fs::File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        Ok(options.open(ptsname_r(&self.0)?)?)
    }
}
