//! The checks of the host program `redis_jobs`, with a Redis server of their own.

use std::collections::BTreeMap;
use std::io::{Seek, Write};

use super::hosts::HOSTS;
use super::prelude::*;
use crate::harness::http::free_port;

const RESULTS: &str = "primes:results";
const FAILURES: &str = "primes:failures";

pub fn checks(suite: &Suite) {
    let suite = suite.where_succeeds(
        Command::new("redis-server").arg("--version"),
        "redis-server is not on the path",
    );

    // One of three processes is killed half way.
    suite.check("killed", || {
        let redis = Redis::start()?;
        let jobs = 20_001..=20_120;
        let add = |below| format!("XADD primes * below {below}\n");
        let ids = redis.call(&jobs.clone().map(add).collect::<String>())?;
        let is_prime = |n: &u32| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0);
        let mut primes = (2..20_000).filter(is_prime).count();
        let mut expected = BTreeMap::new();
        for (id, below) in ids.lines().zip(jobs) {
            primes += usize::from(is_prime(&(below - 1)));
            expected.insert(id.to_owned(), primes.to_string());
        }
        let results = |count: usize| {
            wait_until(&format!("{count} results"), || {
                Ok(redis.values(RESULTS)?.len() >= count)
            })
        };
        let first = redis.process("3")?;
        results(1)?;
        let others = [redis.process("3")?, redis.process("3")?];
        results(20)?;
        first.signal(Signal::SIGKILL)?;
        first.finish()?.ended_by(Signal::SIGKILL)?;
        results(120)?;
        same("results", &expected, &redis.values(RESULTS)?)?;
        redis.has_no_jobs()?;
        let taken_over = others
            .iter()
            .any(|other| other.stderr().contains(": try 2\n"));
        ensure!(taken_over, "the killed process had no job");
        Ok(())
    });

    // Jobs that are no numbers, and a job that ends its process each time.
    suite.check("bad_jobs", || {
        let redis = Redis::start()?;
        let process = redis.process("1")?;
        let mut expected = BTreeMap::new();
        for job in ["below x", "above 1"] {
            let id = redis.add(job)?;
            expected.insert(id, "'below' is no number".to_owned());
        }
        let good = redis.add("below 10")?;
        wait_until("a result after the bad jobs", || {
            Ok(redis.values(RESULTS)?.contains_key(&good))
        })?;
        drop(process);

        // It takes longer than the check.
        let fatal = redis.add("below 4000000000")?;
        for tries in 1..=3 {
            let process = redis.process("1")?;
            wait_until("the job to begin", || {
                let pending = redis.call("XPENDING primes workers - + 1")?;
                let delivered = pending.lines().last().and_then(|line| line.parse().ok());
                Ok(delivered >= Some(tries))
            })?;
            drop(process);
        }
        expected.insert(fatal, "3 tries had no result".to_owned());
        let _process = redis.process("1")?;
        wait_until("the failure", || Ok(redis.values(FAILURES)?.len() >= 3))?;
        same("failures", &expected, &redis.values(FAILURES)?)?;
        redis.has_no_jobs()
    });
}

struct Redis {
    port: String,
    _server: Running,
}

impl Redis {
    /// Starts a server on a free port.
    fn start() -> Result<Self> {
        let port = free_port()?.to_string();
        let mut server = Command::new("redis-server");
        server.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
        let server = start(server)?;
        server.wait_for_stdout("Ready to accept connections")?;
        Ok(Self {
            port,
            _server: server,
        })
    }

    /// Calls commands, one a line, and returns their replies.
    fn call(&self, commands: &str) -> Result<String> {
        let mut file = tempfile::tempfile()?;
        file.write_all(commands.as_bytes())?;
        file.rewind()?;
        let mut client = Command::new("redis-cli");
        client.args(["-p", &self.port]).stdin(file);
        let output = run(client)?;
        output.ended_with("", 0)?;
        Ok(output.stdout().trim_end().to_owned())
    }

    /// Adds a job, and returns its id.
    fn add(&self, job: &str) -> Result<String> {
        self.call(&format!("XADD primes * {job}"))
    }

    /// Starts a process that does jobs.
    fn process(&self, seconds: &str) -> Result<Running> {
        start(
            HOSTS
                .command("redis_jobs")?
                .args([&format!("redis://127.0.0.1:{}", self.port), seconds]),
        )
    }

    /// The values of a hash, by the ids of the jobs.
    fn values(&self, hash: &str) -> Result<BTreeMap<String, String>> {
        let reply = self.call(&format!("HGETALL {hash}"))?;
        let mut lines = reply.lines().map(str::to_owned);
        let pairs = std::iter::from_fn(|| Some((lines.next()?, lines.next()?)));
        Ok(pairs.collect())
    }

    fn has_no_jobs(&self) -> Result<()> {
        same("XLEN", "0", &self.call("XLEN primes")?[..])?;
        let pending = self.call("XPENDING primes workers")?;
        same("pending jobs", &Some("0"), &pending.lines().next())
    }
}
