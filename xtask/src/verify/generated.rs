//! Cases made up from a seed, which run under the port and under Node and must come to the same.

use std::fmt::Write;
use std::iter::repeat_with;

use anyhow::{Context, Result};
use fastrand::Rng;
use libtest_mimic::Trial;
use serde_json::{Map, Value, json};

use super::case::Example;
use super::check_with;
use super::exec_count::EXEC_COUNT;
use super::fork_ipc::{inspect::inspect, node_prints};
use super::run::{code, run, same};
use super::settings::{SEED, settings};
use super::spawn_ls::SPAWN_LS;
use crate::programs::Runtime;

/// How many commands each check runs.
const COMMANDS: usize = 20;

pub fn checks() -> Vec<Trial> {
    let seed = settings().seed;
    eprintln!("{SEED}={seed} repeats the generated cases of this run");
    vec![
        check_with(Runtime::Node, "spawn-ls::generated::node", || {
            // Two writes to a pipe may come as one chunk or as two: each stream gets one.
            commands_agree(SPAWN_LS, |rng| {
                let mut script = String::new();
                for stream in [">&1", ">&2"] {
                    if rng.f32() < 0.7 {
                        script += &print(rng, stream);
                    }
                }
                script + &end(rng)
            })
        }),
        check_with(Runtime::Node, "exec-count::generated::node", || {
            commands_agree(EXEC_COUNT, |rng| {
                let mut script = String::new();
                for _ in 0..rng.usize(0..6) {
                    let stream = rng.choice([">&1", ">&2"]).expect("there are two");
                    script += &print(rng, stream);
                }
                script + &end(rng)
            })
        }),
        check_with(Runtime::Node, "fork-ipc::generated::node", messages_agree),
    ]
}

fn commands_agree(example: Example, script: fn(&mut Rng) -> String) -> Result<()> {
    let mut rng = Rng::with_seed(settings().seed);
    for script in repeat_with(|| script(&mut rng)).take(COMMANDS) {
        let [port, node] = [example.port(), example.node()].map(|mut command| {
            match example.name {
                "exec-count" => command.arg(&script),
                _ => command.args(["sh", "-c", &script]),
            };
            run(command)
        });
        let (port, node) = (port?, node?);
        same("stdout", node.stdout(), port.stdout())
            .and_then(|()| port.ended_with(&node.stderr(), code(node.status)))
            .with_context(|| format!("with {SEED}={}, after {script}", settings().seed))?;
    }
    Ok(())
}

/// A command that writes a text in one go.
fn print(rng: &mut Rng, stream: &str) -> String {
    format!(
        "printf %s '{}' {stream}; ",
        text(rng).replace('\'', r"'\''")
    )
}

/// A command that ends the script with some code, or by some signal.
fn end(rng: &mut Rng) -> String {
    match rng.u32(0..10) {
        0..3 => "exit 0".into(),
        3..8 => format!("exit {}", rng.u32(0..400)),
        _ => {
            let signal = rng.choice(["HUP", "INT", "KILL", "TERM", "USR1"]);
            format!("kill -{} $$", signal.expect("there are five"))
        }
    }
}

/// Some words of any kind, with or without a newline at the end.
fn text(rng: &mut Rng) -> String {
    const PIECES: [&str; 16] = [
        "a", "word", " ", "  ", "\n", "\n\n", "\t", "'", "\"", "`", "${x}", "%s", "\\", "Grüße",
        "世界", "👋🏽",
    ];
    let count = rng.usize(0..20);
    let pieces = repeat_with(|| rng.choice(PIECES).expect("there are some"));
    pieces.take(count).collect()
}

fn messages_agree() -> Result<()> {
    let mut rng = Rng::with_seed(settings().seed);
    let messages: Vec<Value> = repeat_with(|| message(&mut rng, 0)).take(300).collect();
    let mut expected = String::new();
    for message in &messages {
        writeln!(expected, "{}", inspect(message))?;
    }
    same("messages as printed", node_prints(&messages)?, expected)
        .with_context(|| format!("with {SEED}={}", settings().seed))
}

fn message(rng: &mut Rng, depth: u32) -> Value {
    match rng.u32(0..if depth < 5 { 10 } else { 6 }) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(rng.i64(-1_000_000..1_000_000)),
        // With a fraction that JavaScript and Rust write the same.
        3 => json!(f64::from(rng.i32(-1000..1000)) + 0.5),
        4..6 => json!(text(rng)),
        6..8 => (0..rng.usize(0..8))
            .map(|_| message(rng, depth + 1))
            .collect(),
        _ => {
            // A leading letter: JavaScript moves keys that are numbers to the front.
            let field = |rng: &mut Rng| (format!("k{}", text(rng)), message(rng, depth + 1));
            let fields: Map<_, _> = (0..rng.usize(0..5)).map(|_| field(rng)).collect();
            Value::Object(fields)
        }
    }
}
