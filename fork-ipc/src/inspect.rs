//! Node's `util.inspect()`, for what a channel carries: a message as `console.log` prints it.
//!
//! On one line and whole, with keys in the order and numbers in the digits in which they came
//! (an exponent as `e+5`). Node would break a long or wide value over several lines, and cut it
//! after 100 items and 10,000 characters of a string; this is what it prints with the options
//! `{ breakLength: Infinity, compact: true, maxArrayLength: null, maxStringLength: null }`.
//!
//! A file to copy. It needs in `Cargo.toml`:
//!
//! ```toml
//! serde_json = { version = "1", features = ["arbitrary_precision", "preserve_order"] }
//! ```
//!
//! ```rust,ignore
//! mod inspect;
//!
//! fn main() {
//!     let message = serde_json::json!({ "it's": [1, null] });
//!     println!("{}", inspect::inspect(&message));
//! }
//! ```

use serde_json::Value;

/// How deep Node looks into a value; what lies deeper is `[Object]` or `[Array]`.
const DEPTH: usize = 2;

/// `message` as `console.log('…', message)` prints it: a string bare, all else inspected.
pub fn inspect(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        value => inspect_nested(value, 0),
    }
}

fn inspect_nested(value: &Value, depth: usize) -> String {
    match value {
        Value::Array(items) if items.is_empty() => "[]".into(),
        Value::Object(fields) if fields.is_empty() => "{}".into(),
        Value::Array(_) if depth > DEPTH => "[Array]".into(),
        Value::Object(_) if depth > DEPTH => "[Object]".into(),
        Value::Array(items) => {
            let items = items.iter().map(|item| inspect_nested(item, depth + 1));
            format!("[ {} ]", items.collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", name(key), inspect_nested(value, depth + 1)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => quote(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A key: bare where JavaScript lets a name stand bare.
fn name(key: &str) -> String {
    let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match key {
        "__proto__" => "['__proto__']".into(),
        _ if is_name => key.into(),
        _ => quote(key),
    }
}

/// A string, in the first of `'`, `"` and `` ` `` that it does not hold.
fn quote(text: &str) -> String {
    let quote = match text {
        _ if !text.contains('\'') => '\'',
        _ if !text.contains('"') => '"',
        _ if !text.contains('`') && !text.contains("${") => '`',
        _ => '\'',
    };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\u{8}' => quoted.push_str("\\b"),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\u{c}' => quoted.push_str("\\f"),
            '\r' => quoted.push_str("\\r"),
            '\\' => quoted.push_str("\\\\"),
            '\'' if quote == '\'' => quoted.push_str("\\'"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}
