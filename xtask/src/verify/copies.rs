//! The checks of what people copy. `cargo xtask copy` puts each file into a new package, which is
//! built with the program from the file's header. Each example's folder is also built alone.

use std::env;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{LazyLock, OnceLock};

use anyhow::anyhow;

use super::exec_count::{where_a_shell_can_be_hidden, without_a_shell};
use super::prelude::*;
use crate::bench::alternatives;
use crate::copy::{Header, copy, requirements};
use crate::harness::packages::{BUILDING, cargo_in, mirror, package};
use crate::harness::programs::{Programs, executables};

/// The address in the header of `http.rs`.
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);

/// Starts first, because it takes long: it makes the packages.
pub fn lint(suite: &Suite) {
    suite.check("edition_2021", || PASTED_2021.succeeds(LINT));
}

pub fn checks(suite: &Suite) {
    suite.check("file_that_differs", || {
        let package = TempDir::new()?;
        fs::write(package.path().join("Cargo.toml"), [])?;
        // It needs no crate.
        let file = WORKER_SUM.files[1];
        copy(&[file], package.path())?;
        // The same file may be there.
        copy(&[file], package.path())?;
        let there = package.path().join("src/share.rs");
        fs::write(&there, "// mine\n")?;
        let error = "src/share.rs is there already, and differs";
        is_refused(file, package.path(), error)?;
        same("the file", "// mine\n", &fs::read_to_string(there)?)
    });

    suite.check("no_package", || {
        let folder = TempDir::new()?;
        let error = "Cargo.toml is not there: DIR has to be a package";
        is_refused(SPAWN_LS.files[0], folder.path(), error)?;
        same("what is there", &0, &fs::read_dir(folder.path())?.count())
    });

    // A package that has two of the crates already.
    suite.check("crates_in_the_package", || {
        let package = TempDir::new()?;
        let manifest = package.path().join("Cargo.toml");
        let text = "[package]\nname = \"a\"\n[dependencies]\nnix = \"0.31\"\nserde_json = \"1\"\n";
        fs::write(&manifest, text)?;
        fs::create_dir(package.path().join("src"))?;
        fs::write(package.path().join("src/lib.rs"), "")?;
        let mut command = Command::new(env::current_exe()?);
        let output = run(command.args(["copy", "ipc"]).arg(package.path()))?;
        let checked = requirements(&root().join(FORK_IPC.name))?;
        let nix = &checked["nix"];
        output.ended_with(
            &format!("It was checked with nix {nix}. The package has 0.31.\n"),
            0,
        )?;
        let requirements = requirements(package.path())?;
        same("nix", "0.31", &requirements["nix"][..])?;
        same(
            "serde_json",
            &checked["serde_json"],
            &requirements["serde_json"],
        )
    });

    // The headers and the host programs name the versions of the examples' manifests.
    suite.check("versions", || {
        let hosts = requirements(&root().join("xtask/hosts"))?;
        for example in EXAMPLES {
            let checked = requirements(&root().join(example.name))?;
            for file in example.files {
                for needed in Header::of(*file)?.crates {
                    let version = checked.get(&needed.name);
                    same(file.name(), &version, &Some(&needed.version))?;
                    same("xtask/hosts", &version, &hosts.get(&needed.name))?;
                }
            }
        }
        Ok(())
    });

    // Also versions that are not compatible with those that were checked.
    suite.on_request().check("newest_versions", || {
        let folder = pasted("pasted-newest", "2024", &files().collect::<Vec<_>>())?;
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        let (package, crates) = text.split_once("[dependencies]").context("no crates")?;
        let crates = crates.replace("= \"", "= \">=");
        fs::write(manifest, format!("{package}[dependencies]{crates}"))?;
        succeeds(cargo_in(&folder)?.args(["update", "--quiet"]))?;
        succeeds(cargo_in(&folder)?.args(["check", "--quiet", "--all-targets"]))
    });

    // What only the bench builds. processkit needs Rust 1.88.
    suite.on_request().check("alternatives", || {
        let folder = alternatives::lay_out()?;
        succeeds(cargo_in(&folder)?.args(["fmt", "--check"]))?;
        succeeds(cargo_in(&folder)?.args(LINT.split(' ')))
    });

    suite.check("cluster", || {
        let program = start(PASTED_2021.command("cluster_0")?)?;
        let address = program.wait_for_address()?;
        for _ in 0..3 {
            let mut answer = String::new();
            let mut client = TcpStream::connect(address)?;
            client.set_read_timeout(Some(LIMIT))?;
            client.read_to_string(&mut answer)?;
            same("answer", "hello\n", &answer)?;
        }
        program.signal(Signal::SIGTERM)?;
        program.finish()?.ended_with_code(0)
    });

    let is_free = TcpStream::connect(HTTP).is_err();
    suite
        .only_if(is_free, "another program has port 3000")
        .check("http", || {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let program = start(PASTED_2021.command("http_0")?)?;
                let mut client = wait_for("it to listen", || Ok(Client::connect(HTTP).ok()))?;
                same("body", "hello\n", &client.get()?.body)?;
                program.signal(signal)?;
                ensure!(client.is_closed(), "the connection stays open");
                program.finish()?.ended_with("", 0)?;
            }
            Ok(())
        });

    suite.with(Runtime::Node).check("ipc::forks_node", || {
        let folder = TempDir::new()?;
        fs::copy(peer("echo.mjs"), folder.path().join("child.js"))?;
        fs::write(folder.path().join("package.json"), r#"{"type":"module"}"#)?;
        run(PASTED_2021.command("ipc_0")?.current_dir(folder.path()))?
            .printed("the child answers {\"hello\":\"world\"}\nthe child ended: exit status: 0\n")
    });

    suite
        .with(Runtime::Node)
        .check("ipc::is_forked_by_node", || {
            let script = "
            const child = require('child_process')
                .fork('argument', { execPath: process.argv[1], execArgv: [] });
            child.on('message', (message) => { console.log(message); child.disconnect(); });
            child.send('hi');
        ";
            let mut node = Command::new("node");
            node.args(["--eval", script])
                .arg(PASTED_2021.program("ipc_1")?)
                .stdin(Stdio::null());
            run(node)?.printed("{ heard: 'hi' }\n")
        });

    // The programs in the headers of the other files.
    for (file, stdout) in [
        ("spawn", "… bytes, exit status: 0\n"),
        ("exec", "…\t/usr/bin\n"),
        ("inspect", "{ \"it's\": [ 1, null ] }\n"),
        ("worker", "the sum of the squares: 338350\n"),
        ("share", "1000000\n"),
    ] {
        suite.check(file, move || {
            PASTED_2021.prints(&format!("{file}_0"), stdout)
        });
    }

    suite.check("exec::failure", || {
        let mut program = PASTED_2021.command("exec_0")?;
        let output = run(program.env("PATH", "/nosuch"))?;
        output.ended_with("Error: spawn du ENOENT\n", 1)
    });

    // `exec_file` does not need a shell.
    where_a_shell_can_be_hidden(suite).check("exec::no_shell", || {
        let folder = TempDir::new()?;
        fs::copy("/usr/bin/du", folder.path().join("du"))?;
        let mut program = without_a_shell(&PASTED_2021.command("exec_0")?);
        let path = env::var("PATH")?;
        let output = run(program.env("PATH", format!("{path}:{}", folder.path().display())))?;
        ensure!(
            output.stdout().ends_with("\t/usr/bin\n"),
            "{}",
            output.stdout()
        );
        output.ended_with("", 0)
    });

    // The edition of the examples. The crates of one file must not come from another file's header.
    for file in files() {
        suite.check(format!("edition_2024::{}", file.name()), move || {
            let folder = pasted(&format!("pasted-{}", file.name()), "2024", &[file])?;
            succeeds(cargo_in(&folder)?.args(LINT.split(' ')))
        });
    }

    // An example's folder builds where nothing of the workspace is.
    for example in EXAMPLES {
        suite.check(format!("alone::{}", example.name), || alone(example));
    }
}

/// A package that people paste the files into. It is made once, in a folder that stays for the next
/// run, and its programs are built once.
pub struct Package {
    folder: LazyLock<Result<PathBuf>>,
    programs: OnceLock<Result<Programs>>,
}

/// In the edition that is not the examples'.
static PASTED_2021: Package =
    Package::new(|| pasted("pasted-2021", "2021", &files().collect::<Vec<_>>()));

/// `println!` panics where stdout is closed or non-blocking.
const LINT: &str = "clippy --quiet --all-targets -- --deny warnings --deny clippy::print_stdout";

impl Package {
    pub const fn new(make: fn() -> Result<PathBuf>) -> Self {
        let folder = LazyLock::new(make);
        let programs = OnceLock::new();
        Self { folder, programs }
    }

    fn folder(&self) -> Result<&Path> {
        let folder = self.folder.as_ref();
        Ok(folder.map_err(|error| anyhow!("{error:#}"))?)
    }

    pub fn program(&self, name: &str) -> Result<&Path> {
        let build = || {
            let mut cargo = cargo_in(self.folder()?)?;
            let _building = BUILDING.lock();
            executables(cargo.arg("build"))
        };
        let programs = self.programs.get_or_init(build);
        let programs = programs.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        Ok(programs.get(name).context("no such program")?)
    }

    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.program(name)?);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Checks that a program ends with code 0 and prints this; `…` stands for any text.
    pub fn prints(&self, name: &str, expected: &str) -> Result<()> {
        let output = run(self.command(name)?)?;
        let stdout = output.stdout();
        match expected.split_once('…') {
            Some((start, end)) => ensure!(
                stdout.starts_with(start) && stdout.ends_with(end),
                "{stdout:?}"
            ),
            None => same("stdout", expected, &stdout[..])?,
        }
        output.ended_with_code(0)
    }

    /// Checks that a cargo command succeeds.
    pub fn succeeds(&self, cargo: &str) -> Result<()> {
        succeeds(cargo_in(self.folder()?)?.args(cargo.split(' ')))
    }
}

fn succeeds(cargo: &mut Command) -> Result<()> {
    let building = BUILDING.lock();
    let output = cargo.output()?;
    drop(building);
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

/// A new package with these files as modules of its library, and with the programs of their
/// headers.
fn pasted(name: &str, edition: &str, files: &[File]) -> Result<PathBuf> {
    let mut manifest = format!(
        "[workspace]\n[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n\
         edition = \"{edition}\"\nrust-version = \"1.85\"\nautobins = false\n"
    );
    let mut library = String::new();
    package(name, "Cargo.lock", |folder| {
        let source = folder.join("src");
        fs::create_dir(&source)?;
        for file in files {
            library += &format!("pub mod {};\n", file.name());
            for (number, program) in Header::of(*file)?.programs.iter().enumerate() {
                let name = format!("{}_{number}", file.name());
                manifest += &format!("[[bin]]\nname = \"{name}\"\npath = \"src/{name}.rs\"\n");
                fs::write(source.join(format!("{name}.rs")), program)?;
            }
        }
        fs::write(source.join("lib.rs"), library)?;
        fs::write(folder.join("Cargo.toml"), manifest)?;
        copy(files, folder)
    })
}

fn is_refused(file: File, folder: &Path, end: &str) -> Result<()> {
    let error = copy(&[file], folder).err().context("it was copied")?;
    ensure!(error.to_string().ends_with(end), "{error}");
    Ok(())
}

/// An example's folder builds where nothing of the workspace is.
fn alone(example: &Example) -> Result<()> {
    let folder = package(example.name, "Cargo.lock", |folder| {
        mirror(&root().join(example.name), folder)?;
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        Ok(fs::write(manifest, text + "\n[workspace]\n")?)
    })?;
    succeeds(cargo_in(&folder)?.args(["check", "--quiet"]))
}
