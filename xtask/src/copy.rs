//! `cargo xtask copy`: copies a file into somebody's package, with the crates it needs.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::examples::{File, files};
use crate::harness::programs::root;

pub fn main(args: impl Iterator<Item = String>) -> Result<ExitCode> {
    let args: Vec<String> = args.collect();
    match &args[..] {
        [] => {
            for file in files() {
                writeln!(stdout(), "{:10}{}", file.name, file.what)?;
            }
        }
        [name, folder] => {
            let file = files().find(|file| file.name == name);
            let file = file.with_context(|| {
                let names: Vec<_> = files().map(|file| file.name).collect();
                format!("there is no '{name}', only {}", names.join(", "))
            })?;
            let header = Header::of(&file)?;
            copy(&file, Path::new(folder))?;
            let name = file.name;
            let example = header
                .programs
                .first()
                .context("its header has no example")?;
            writeln!(
                stdout(),
                "Copied {name} to {folder}/src. Add this line to its main.rs or lib.rs:\n\n\
                 mod {name};\n\nAn example, a whole main.rs:\n\n{example}"
            )?;
        }
        _ => bail!("usage: cargo xtask copy [FILE DIR]"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies a file into the package in `folder`, and adds the crates it needs.
///
/// # Errors
///
/// When there is no package, when another file of that name is there, or when cargo fails.
pub fn copy(file: &File, folder: &Path) -> Result<()> {
    let manifest = folder.join("Cargo.toml");
    ensure!(
        manifest.is_file(),
        "{} is not there: DIR has to be a package",
        manifest.display()
    );
    let source = source_of(file);
    let source_folder = source.parent().context("its folder")?;
    let mut copies = Vec::new();
    for source in sources(file)? {
        let target = folder.join("src").join(source.strip_prefix(source_folder)?);
        let text = fs::read_to_string(source)?;
        let there = fs::read_to_string(&target).ok();
        ensure!(
            there.is_none() || there.as_ref() == Some(&text),
            "{} is there already, and differs",
            target.display()
        );
        copies.push((target, text));
    }
    for (target, text) in copies {
        fs::create_dir_all(target.parent().context("its folder")?)?;
        fs::write(target, text)?;
    }
    if let Some(add) = Header::of(file)?.add {
        let mut shell = Command::new("sh");
        // Otherwise it lists all features of each crate.
        shell.env("CARGO_TERM_QUIET", "true");
        let status = shell.args(["-c", &add]).current_dir(folder).status()?;
        ensure!(
            status.success(),
            "this failed in {}: {add}",
            folder.display()
        );
    }
    Ok(())
}

fn source_of(file: &File) -> PathBuf {
    root().join(file.path)
}

/// The file, or all files of the folder.
fn sources(file: &File) -> Result<Vec<PathBuf>> {
    let source = source_of(file);
    if source.is_file() {
        return Ok(vec![source]);
    }
    let entries = fs::read_dir(source)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What the doc comment at the head of a file to copy says.
pub struct Header {
    /// The command that adds the crates it needs, if it needs any.
    pub add: Option<String>,
    /// Programs that use it.
    pub programs: Vec<String>,
}

impl Header {
    pub fn of(file: &File) -> Result<Self> {
        let source = source_of(file);
        let first = if source.is_file() {
            source
        } else {
            source.join("mod.rs")
        };
        let text = fs::read_to_string(first)?;
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let line = |line: &str| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n";
        let comment: String = lines.map(line).collect();
        Ok(Self {
            add: blocks(&comment, "sh").pop(),
            programs: blocks(&comment, "rust,ignore"),
        })
    }
}

/// The blocks of a Markdown text that are marked with a language.
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let blocks = text.split(&start).skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks.map(str::to_owned).collect()
}
