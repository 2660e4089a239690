//! Packages that are made for the copied files. They stay in cargo's target folder, so that the
//! next run builds only what has changed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::Result;
use tempfile::TempDir;

use super::programs::{cargo, root};

/// Locked while cargo builds one of these packages: cargo builds one at a time in a target folder.
/// A check waits for this without a limit.
pub static BUILDING: Mutex<()> = Mutex::new(());

/// Makes a package, and returns its folder. `fill` puts its files into an empty folder. The
/// versions of its crates are those in `lock`, a file of the project.
///
/// # Errors
///
/// When `fill` fails, or the file system.
pub fn package(name: &str, lock: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let made = TempDir::new()?;
    fill(made.path())?;
    fs::copy(root().join(lock), made.path().join("Cargo.lock"))?;
    let folder = target()?.join("packages").join(name);
    mirror(made.path(), &folder)?;
    Ok(folder)
}

/// Cargo's target folder for these packages, beside this program.
fn target() -> Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("copies"))
}

/// A cargo command in one of these packages.
pub fn cargo_in(folder: &Path) -> Result<Command> {
    let mut cargo = cargo();
    cargo.current_dir(folder).env("CARGO_TARGET_DIR", target()?);
    // Without debug information, these programs build faster.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    Ok(cargo)
}

/// Makes a folder the same as another. Files that are equal already stay untouched: cargo builds
/// again what is newer than its program.
pub fn mirror(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(into)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            let remove = if entry.path().is_dir() {
                fs::remove_dir_all
            } else {
                fs::remove_file
            };
            remove(entry.path())?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), into.join(entry.file_name()));
        if source.is_dir() {
            mirror(&source, &target)?;
        } else if fs::read(&target).ok() != Some(fs::read(&source)?) {
            fs::copy(source, target)?;
        }
    }
    Ok(())
}
