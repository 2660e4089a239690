//! The checks of cluster-http, by subject.

mod http;
mod limits;
mod listening;
mod output;
mod restarts;
mod rolling;
mod round_robin;
mod shutdown;
mod terminal;

// The files of this folder use these with `use super::*`.
use super::prelude::*;
use crate::harness::server::Server;

pub fn checks(suite: &Suite) {
    http::checks(&suite.group("http"));
    listening::checks(&suite.group("listening"));
    round_robin::checks(&suite.group("round_robin"));
    restarts::checks(&suite.group("restarts"));
    shutdown::checks(&suite.group("shutdown"));
    rolling::checks(&suite.group("rolling"));
    output::checks(&suite.group("output"));
    limits::checks(&suite.group("limits"));
    terminal::checks(&suite.group("terminal"));
}

/// A second signal that comes sooner is ignored.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

fn hello() -> Answer {
    Answer {
        status: 200,
        closes: false,
        body: "hello world\n".into(),
    }
}

/// The answer after which the connection is closed.
fn last_hello() -> Answer {
    Answer {
        closes: true,
        ..hello()
    }
}

/// Opens a connection, and checks its first answer.
fn served_client(server: &Server) -> Result<Client> {
    let mut client = server.connect()?;
    same("answer", &hello(), &client.get()?)?;
    Ok(client)
}

fn served_clients(server: &Server, count: usize) -> Result<Vec<Client>> {
    (0..count).map(|_| served_client(server)).collect()
}

/// Asks until an answer says that it is the last, and closes the connection.
fn gets_last_answer(mut client: Client) -> Result<()> {
    client.send(GET)?;
    last_answer(client)
}

/// The same, after a request. Its worker may not know yet that the cluster shuts down.
fn last_answer(mut client: Client) -> Result<()> {
    let last = wait_for("the last answer", || {
        let answer = client.answer()?;
        if answer.closes {
            return Ok(Some(answer));
        }
        client.send(GET)?;
        Ok(None)
    })?;
    same("last answer", &last_hello(), &last)
}

/// The program in a folder of its own, where it can be replaced.
struct Deployed {
    folder: TempDir,
}

impl Deployed {
    fn new() -> Result<Self> {
        // A hard link needs the same file system.
        let beside = CLUSTER_HTTP.program().parent().context("its folder")?;
        let folder = TempDir::new_in(beside)?;
        let deployed = Self { folder };
        deployed.replace_by_itself()?;
        Ok(deployed)
    }

    /// Starts the program there.
    fn serve(workers: usize) -> Result<(Self, Server)> {
        let deployed = Self::new()?;
        let server = Server::start(Command::new(deployed.path()), workers)?;
        Ok((deployed, server))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn replace_by_itself(&self) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::hard_link(CLUSTER_HTTP.program(), &new)?;
        Ok(fs::rename(new, self.path())?)
    }

    /// Replaces the program by a shell script that runs some commands and then the program.
    fn replace_by_itself_after(&self, commands: &str) -> Result<()> {
        let program = CLUSTER_HTTP.program().display();
        self.replace_by(&format!("{commands} exec {program} \"$@\""))
    }

    /// Replaces the program by a shell script. Another process writes it: a child of another check
    /// could hold this process's descriptor between fork and exec, and a file open for writing
    /// cannot be run.
    fn replace_by(&self, script: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "echo \"$1\" > new; chmod +x new; mv new program",
            "sh",
        ]);
        shell
            .arg(format!("#!/bin/sh\n{script}"))
            .current_dir(self.folder.path());
        run(shell)?.ended_with("", 0)
    }
}
