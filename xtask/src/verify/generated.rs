//! Cases that are generated from a seed, for the Rust programs and for Node's.

use std::iter::repeat_with;
use std::ops::Range;
use std::str;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::fork_ipc::file_of;
use super::inspect::inspect;
use super::prelude::*;
use super::settings::SEED;

/// Words and other characters of every kind: wide ones, combining ones, and those that are escaped.
#[rustfmt::skip]
const PIECES: [&str; 28] = [
    "a", "word", " ", " ", " ", "\n", "\t", "'", "\"", "`",
    "${x}", "%s", "\\", "\u{8}", "\u{1b}[1m", "\u{7f}", "\u{85}", "\u{a0}", "Grüße", "e\u{301}",
    "\u{200b}", "世界", "ｱ", "한", "👋", "❤\u{fe0f}", "ไทย", "שלום",
];

/// How many scripts each check runs.
const SCRIPTS: usize = 6;

const MESSAGES: usize = 2_000;

pub fn checks(suite: &Suite) {
    eprintln!(
        "{SEED}={} repeats the generated cases of this run",
        settings().seed
    );
    suite
        .example(SPAWN_LS)
        .group("generated")
        .both("pieces", pieces);
    suite
        .example(EXEC_COUNT)
        .group("generated")
        .both("output", output);
    suite
        .example(FORK_IPC)
        .group("generated")
        .with(Runtime::Node)
        .check("messages", messages);
}

/// A shell script that writes some pieces, and ends in some way.
struct Script {
    pieces: Vec<Piece>,
    end: String,
    /// The code with which it ends, if not by a signal.
    code: Option<u32>,
    /// The files of the pieces that `printf` cannot write.
    folder: TempDir,
}

/// What a script writes at once.
struct Piece {
    stream: &'static str,
    bytes: Vec<u8>,
    /// The command that writes it.
    command: String,
}

impl Script {
    fn new(rng: &mut Rng) -> Result<Self> {
        let mut script = Self {
            pieces: Vec::new(),
            end: String::new(),
            code: None,
            folder: TempDir::new()?,
        };
        for _ in 0..rng.usize(0..4) {
            let stream = pick(rng, &["stdout", "stderr"]);
            let bytes = bytes(rng);
            if rng.u32(0..4) == 0 && bytes.len() > 1 {
                // The two halves of a character can be in two pieces.
                let (start, rest) = bytes.split_at(rng.usize(1..bytes.len()));
                script.push(stream, start)?;
                script.push(stream, rest)?;
            } else if !bytes.is_empty() {
                script.push(stream, &bytes)?;
            }
        }
        if rng.u32(0..5) == 0 {
            let signal = pick(rng, &["HUP", "INT", "KILL", "TERM", "USR1"]);
            script.end = format!("kill -{signal} $$");
        } else {
            let code = pick(rng, &[0, 0, 1, 2, 255, 256, 300]);
            script.end = format!("exit {code}");
            script.code = Some(code % 256);
        }
        Ok(script)
    }

    fn push(&mut self, stream: &'static str, bytes: &[u8]) -> Result<()> {
        let writes = match str::from_utf8(bytes) {
            Ok(text) if text.len() < 1000 && !text.contains('\0') => {
                format!("printf %s '{}'", text.replace('\'', r"'\''"))
            }
            _ => {
                let file = self.folder.path().join(self.pieces.len().to_string());
                fs::write(&file, bytes)?;
                format!("cat {}", file.display())
            }
        };
        let number = if stream == "stdout" { 1 } else { 2 };
        self.pieces.push(Piece {
            stream,
            bytes: bytes.to_vec(),
            command: format!("{writes} >&{number}; "),
        });
        Ok(())
    }
}

/// Runs a program with scripts.
fn with_scripts(
    command: &Command,
    run_with: impl Fn(Command, &Script) -> Result<()>,
) -> Result<()> {
    let seed = settings().seed;
    let mut rng = Rng::with_seed(seed);
    for number in 0..SCRIPTS {
        let script = Script::new(&mut rng)?;
        let mut program = Command::new(command.get_program());
        program.args(command.get_args()).stdin(Stdio::piped());
        run_with(program, &script).with_context(|| {
            let commands = script.pieces.iter().map(|piece| &*piece.command);
            format!(
                "with {SEED}={seed}, script {number}: {:.2000}{}",
                commands.collect::<String>(),
                script.end
            )
        })?;
    }
    Ok(())
}

/// The script goes on when a piece has arrived.
fn pieces(command: Command) -> Result<()> {
    with_scripts(&command, |mut command, script| {
        let gates = Gates::new()?;
        let mut text = String::new();
        for (number, piece) in (1..).zip(&script.pieces) {
            text += &format!("{}{}; ", piece.command, gates.wait(number));
        }
        let program = start(command.args(["sh", "-c", &(text + &script.end)]))?;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        for (number, piece) in (1..).zip(&script.pieces) {
            let (expected, actual): (_, &dyn Fn() -> String) = match piece.stream {
                "stdout" => (&mut stdout, &|| program.stdout()),
                _ => (&mut stderr, &|| program.stderr()),
            };
            let data = String::from_utf8_lossy(&piece.bytes);
            *expected += &format!("{}: {data}\n", piece.stream);
            wait_until("a piece", || {
                Ok(joined(&actual()).len() >= joined(expected).len())
            })?;
            gates.open(number)?;
        }
        let code = script.code.map_or("null".into(), |code| code.to_string());
        stdout += &format!("child process exited with code {code}\n");
        let output = program.finish()?;
        same("stdout", &joined(&stdout), &joined(&output.stdout()))?;
        same("stderr", &joined(&stderr), &joined(&output.stderr()))?;
        output.ended_with_code(0)
    })
}

/// The output without the borders between chunks: a long piece comes as one chunk or as several.
fn joined(output: &str) -> String {
    output.replace("\nstdout: ", "").replace("\nstderr: ", "")
}

fn output(command: Command) -> Result<()> {
    with_scripts(&command, |mut command, script| {
        let written = |stream: &str| {
            let pieces = script.pieces.iter().filter(|piece| piece.stream == stream);
            let bytes: Vec<u8> = pieces.flat_map(|piece| piece.bytes.clone()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let commands = script.pieces.iter().map(|piece| &*piece.command);
        let text = commands.collect::<String>() + &script.end;
        let (stdout, stderr) = match script.code {
            Some(0) => (
                format!("Number of files: {}\n", written("stdout")),
                String::new(),
            ),
            _ => {
                let stderr = written("stderr");
                let error = format!("exec error: Error: Command failed: {text}\n{stderr}\n");
                (String::new(), error)
            }
        };
        let output = run(command.arg(text))?;
        same("stdout", &stdout, &output.stdout())?;
        output.ended_with(&stderr, 0)
    })
}

/// What fork-ipc and Node print of the same messages.
fn messages() -> Result<()> {
    let seed = settings().seed;
    let mut rng = Rng::with_seed(seed);
    let messages: Value = repeat_with(|| value(&mut rng, 0)).take(MESSAGES).collect();
    let file = file_of(&messages)?;
    let mut command = Runtime::Node.script(&peer("inspect.mjs"));
    let output = run(command.arg(file.path()).stdin(Stdio::null()))?;
    output.ended_with("", 0)?;
    let stdout = output.stdout();
    let expected: Vec<_> = stdout.split_terminator("\n\x1e\n").collect();
    let messages = messages.as_array().context("it is no array")?;
    same("printed messages", &messages.len(), &expected.len())?;
    for (message, expected) in messages.iter().zip(expected) {
        let actual = format!("Message from child: {}", inspect(message));
        same("a printed message", expected, &actual)
            .with_context(|| format!("with {SEED}={seed}, of {message}"))?;
    }
    Ok(())
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}

/// A random number of items.
fn some<T, C: FromIterator<T>>(
    rng: &mut Rng,
    length: Range<usize>,
    make: impl Fn(&mut Rng) -> T,
) -> C {
    let length = rng.usize(length);
    repeat_with(|| make(rng)).take(length).collect()
}

/// Some bytes, not always UTF-8. What is longer than 32 KiB, and so may come in several chunks, is
/// ASCII.
fn bytes(rng: &mut Rng) -> Vec<u8> {
    match rng.u32(0..6) {
        0 | 1 => text(rng).into_bytes(),
        2 => some(rng, 1..100, |rng| rng.u8(..)),
        3 => some(rng, 65_535..65_538, |rng| rng.u8(b'a'..=b'z')),
        _ => {
            let size = pick(rng, &[4_096, 8_192]);
            let mut bytes = format!("a{}", text(rng)).repeat(size).into_bytes();
            bytes.truncate(rng.usize(size - 1..size + 2));
            bytes
        }
    }
}

/// Some words and other characters.
fn text(rng: &mut Rng) -> String {
    let mut text = String::new();
    let pieces = pick(rng, &[1, 3, 6, 20]);
    for _ in 0..rng.usize(0..=pieces) {
        if rng.bool() {
            text += &"x".repeat(rng.usize(1..24));
        } else {
            text += pick(rng, &PIECES);
        }
    }
    if rng.u32(0..3) == 0 {
        text.push('\n');
    }
    text
}

/// A value that is `depth` levels deep in a message.
fn value(rng: &mut Rng, depth: u32) -> Value {
    match rng.u32(0..if depth < 5 { 12 } else { 6 }) {
        0 => pick(rng, &[None, Some(false), Some(true)]).into(),
        1 | 2 => number(rng),
        3..6 => json!(string(rng)),
        6 | 7 => {
            // Of one kind, as most arrays are.
            let item: fn(&mut Rng) -> Value = match rng.u32(0..6) {
                0 => number,
                1 => |rng| json!(rng.i32(-999..999)),
                2 => |rng| json!("x".repeat(rng.usize(0..9))),
                3 => |rng| json!(pick(rng, &PIECES).repeat(rng.usize(0..3))),
                4 => |rng| json!(string(rng)),
                _ => |rng| json!([rng.u8(..)]),
            };
            let most = pick(rng, &[3, 10, 30, 120]);
            some(rng, 0..most, item)
        }
        8 => some(rng, 0..9, |rng| value(rng, depth + 1)),
        _ => {
            let fields: Map<_, _> = some(rng, 0..7, |rng| (key(rng), value(rng, depth + 1)));
            fields.into()
        }
    }
}

fn key(rng: &mut Rng) -> String {
    match rng.u32(0..8) {
        0 => rng.u8(..).to_string(),
        1 => number(rng).to_string(),
        2 => text(rng),
        _ => some(rng, 1..12, Rng::lowercase),
    }
}

/// A text that is sometimes long.
fn string(rng: &mut Rng) -> String {
    match rng.u32(0..50) {
        0 => text(rng).repeat(rng.usize(0..200)),
        _ => text(rng),
    }
}

fn number(rng: &mut Rng) -> Value {
    let digits = f64::from(rng.i32(-9_999..9_999));
    match rng.u32(0..6) {
        0 | 1 => json!(rng.i32(-1_000..1_000)),
        2 => json!(rng.i64(..)),
        3 => json!(rng.u64(..)),
        // What JSON has no number for is null.
        4 => json!(f64::from_bits(rng.u64(..))),
        _ => json!(digits * 10_f64.powi(rng.i32(-12..25))),
    }
}
