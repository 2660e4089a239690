//! What most checks use, so that a file of checks starts with one line.

pub use std::fs;
pub use std::io;
pub use std::os::unix::process::CommandExt;
pub use std::path::{Path, PathBuf};
pub use std::process::{Command, Stdio};
pub use std::thread;
pub use std::time::{Duration, Instant};

pub use anyhow::{Context, Result, ensure};
pub use nix::sys::signal::Signal;
pub use tempfile::TempDir;

pub use super::settings::settings;
pub use super::suite::Suite;
pub use crate::examples::*;
pub use crate::harness::gate::Gates;
pub use crate::harness::http::{Answer, Client, GET, Load};
pub use crate::harness::pipes::Pipe;
pub use crate::harness::processes::*;
pub use crate::harness::programs::{Runtime, peer, root};
pub use crate::harness::run::*;
pub use crate::harness::{LIMIT, same, takes_less_than, wait_for, wait_until};
