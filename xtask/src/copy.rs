//! `cargo xtask copy`: copies a file into somebody's package, with the crates it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::examples::{File, files};
use crate::harness::programs::{cargo, root};

pub fn main(args: impl Iterator<Item = String>) -> Result<ExitCode> {
    let args: Vec<String> = args.collect();
    match &args[..] {
        [] => {
            for file in files() {
                writeln!(stdout(), "{:10}{}", file.name(), Header::of(file)?.what)?;
            }
        }
        [name, folder] => {
            let file = files().find(|file| file.name() == name);
            let file = file.with_context(|| {
                format!("there is no '{name}' to copy; `cargo xtask copy` lists the files")
            })?;
            let header = Header::of(file)?;
            copy(&[file], Path::new(folder))?;
            let example = header.programs.first();
            let example = example.context("its header has no program")?;
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

/// Copies files into the package in `folder`, and adds the crates they need.
///
/// # Errors
///
/// When there is no package, when another file of that name is there, or when cargo fails.
pub fn copy(files: &[File], folder: &Path) -> Result<()> {
    let manifest = folder.join("Cargo.toml");
    ensure!(
        manifest.is_file(),
        "{} is not there: DIR has to be a package",
        manifest.display()
    );
    let (mut copies, mut crates) = (Vec::new(), Vec::new());
    for file in files {
        let source = root().join(file.0);
        let source_folder = source.parent().context("its folder")?;
        for source in sources(&source)? {
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
        crates.extend(Header::of(*file)?.crates);
    }
    for (target, text) in copies {
        fs::create_dir_all(target.parent().context("its folder")?)?;
        fs::write(target, text)?;
    }
    match crates.is_empty() {
        true => Ok(()),
        false => add(&crates, folder),
    }
}

/// Adds crates to the package in `folder`. A crate that the package has already keeps its version.
fn add(crates: &[Crate], folder: &Path) -> Result<()> {
    let requirements = requirements(folder)?;
    let (mut specs, mut features) = (BTreeSet::new(), Vec::new());
    for needed in crates {
        let Crate { name, version, .. } = needed;
        let begins = |part: &str, whole: &str| format!("{whole}.").starts_with(&format!("{part}."));
        let spec = match requirements.get(name) {
            // cargo knows only the features of the oldest version that fits, so 1.0.60 replaces 1.
            Some(there) if there == version || !begins(there, version) => {
                if !begins(version, there) {
                    eprintln!("It was checked with {name} {version}. The package has {there}.");
                }
                name.clone()
            }
            _ => format!("{name}@{version}"),
        };
        let of_crate = needed.features.iter();
        features.extend(of_crate.map(|feature| format!("{spec}/{feature}")));
        specs.insert(spec);
    }
    let mut cargo = cargo();
    cargo.arg("add").args(specs).arg("--features");
    // Otherwise it lists all features of each crate.
    cargo
        .arg(features.join(","))
        .env("CARGO_TERM_QUIET", "true");
    let status = cargo.current_dir(folder).status()?;
    ensure!(status.success(), "this failed: {cargo:?}");
    Ok(())
}

/// The crates that a package needs, with their versions, such as `1.0.60` or `>=1, <3`.
pub fn requirements(folder: &Path) -> Result<BTreeMap<String, String>> {
    let manifest = folder.join("Cargo.toml").canonicalize()?;
    let mut cargo = cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let output = cargo.current_dir(folder).output()?;
    let error = || String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}", error());
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages
        .filter(|package| package["manifest_path"].as_str().map(Path::new) == Some(&manifest))
        .flat_map(|package| package["dependencies"].as_array())
        .flatten();
    let requirement = |dependency: &Value| {
        let name = dependency["rename"]
            .as_str()
            .or(dependency["name"].as_str())?;
        let version = dependency["req"].as_str()?.trim_start_matches('^');
        Some((name.to_owned(), version.to_owned()))
    };
    Ok(package.filter_map(requirement).collect())
}

/// The file, or all files of the folder.
fn sources(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What the doc comment at the head of a file to copy says.
pub struct Header {
    /// Its first sentence.
    what: String,
    /// The crates it needs.
    pub crates: Vec<Crate>,
    /// Programs that use it.
    pub programs: Vec<String>,
}

/// A crate that a file needs: a line `cargo add NAME@VERSION [--features NAME,…]` of its header.
pub struct Crate {
    pub name: String,
    /// The file was checked with this version.
    pub version: String,
    features: Vec<String>,
}

impl Header {
    pub fn of(file: File) -> Result<Self> {
        let path = root().join(file.0);
        let comment = doc_comment(&match path.is_file() {
            true => path,
            false => path.join("mod.rs"),
        })?;
        let commands = blocks(&comment, "sh").concat();
        Ok(Self {
            what: first_sentence(&comment),
            crates: commands.lines().map(Crate::of).collect::<Result<_>>()?,
            programs: blocks(&comment, "rust,ignore"),
        })
    }
}

impl Crate {
    fn of(command: &str) -> Result<Self> {
        let spec = command.strip_prefix("cargo add ").context("no cargo add")?;
        let (spec, features) = spec.split_once(" --features ").unwrap_or((spec, ""));
        let (name, version) = spec.split_once('@').context("no version")?;
        let features = features.split(',').filter(|name| !name.is_empty());
        Ok(Self {
            name: name.into(),
            version: version.into(),
            features: features.map(str::to_owned).collect(),
        })
    }
}

/// The doc comment at the head of a file.
pub fn doc_comment(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let line = |line: &str| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n";
    Ok(lines.map(line).collect())
}

/// The first sentence of a comment, in one line.
pub fn first_sentence(comment: &str) -> String {
    let comment = comment.replace('\n', " ");
    let sentence = comment.split(". ").next().unwrap_or("");
    sentence.trim_end_matches(['.', ' ']).to_owned()
}

/// The blocks of a Markdown text that are marked with a language.
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let blocks = text.split(&start).skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks.map(str::to_owned).collect()
}
