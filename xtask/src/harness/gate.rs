//! How a check and a shell script wait for each other, through files.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::wait::wait_for;

/// Numbered gates. Each is a file in one temporary folder.
pub struct Gates(TempDir);

impl Gates {
    pub fn new() -> Result<Self> {
        Ok(Self(TempDir::new()?))
    }

    /// A shell command that succeeds when a gate is open.
    pub fn is_open(&self, number: u32) -> String {
        format!("[ -e {} ]", self.file(number).display())
    }

    /// A shell command that waits until a gate is open.
    pub fn wait(&self, number: u32) -> String {
        format!("until {}; do sleep 0.01; done", self.is_open(number))
    }

    pub fn open(&self, number: u32) -> Result<()> {
        Ok(fs::write(self.file(number), [])?)
    }

    /// A shell command that opens a gate and leaves the process id of its shell there.
    pub fn report(&self, number: u32) -> String {
        let file = self.file(number);
        format!("echo $$ > {0}.new; mv {0}.new {0}", file.display())
    }

    /// Waits for a report, and returns the process id.
    pub fn reported(&self, number: u32) -> Result<u32> {
        wait_for("a script to report", || {
            let pid = fs::read_to_string(self.file(number)).ok();
            Ok(pid.map(|pid| pid.trim().parse()).transpose()?)
        })
    }

    fn file(&self, number: u32) -> PathBuf {
        self.0.path().join(number.to_string())
    }
}
