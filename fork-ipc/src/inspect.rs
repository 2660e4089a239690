//! Node's `util.inspect()`, for a value that came as JSON: a message as `console.log` prints it.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add serde_json@1.0.60
//! cargo add unicode-width@0.2
//! ```
//!
//! serde_json sorts the keys. With its feature `preserve_order` it keeps their order, as Node does;
//! the feature applies to the whole program.
//!
//! ```rust,ignore
//! mod inspect;
//!
//! use std::io::Write;
//!
//! fn main() -> std::io::Result<()> {
//!     let message = serde_json::json!({ "it's": [1, null] });
//!     writeln!(std::io::stdout(), "{}", inspect::inspect(&message))
//! }
//! ```

use serde_json::{Map, Number, Value};
use unicode_width::UnicodeWidthChar;

// The options of `util.inspect()`, with the values that `console.log` gives them.
const DEPTH: usize = 2;
const BREAK_LENGTH: usize = 80;
const COMPACT: usize = 3;
const MAX_ARRAY_LENGTH: usize = 100;
const MAX_STRING_LENGTH: usize = 10_000;

/// `message` as `console.log('…', message)` prints it. A string is printed as it is.
pub fn inspect(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        value => format_value(value, 0),
    }
}

/// A value inside `depth` arrays and objects.
fn format_value(value: &Value, depth: usize) -> String {
    match value {
        Value::Null | Value::Bool(_) => value.to_string(),
        Value::Number(number) => format_number(number),
        Value::String(text) => format_string(text, depth),
        Value::Array(items) if items.is_empty() => "[]".into(),
        Value::Object(fields) if fields.is_empty() => "{}".into(),
        Value::Array(_) if depth > DEPTH => "[Array]".into(),
        Value::Object(_) if depth > DEPTH => "[Object]".into(),
        Value::Array(items) => format_array(items, depth),
        Value::Object(fields) => format_object(fields, depth),
    }
}

/// A number as JavaScript prints it, where every number is an `f64`.
fn format_number(number: &Number) -> String {
    let Some(number) = number.as_f64() else {
        return number.to_string();
    };
    // Where two shortest forms are equally close, serde_json chooses as JavaScript does; Rust's
    // own formatting does not. JavaScript needs an exponent for fewer numbers than serde_json.
    let shortest = Value::from(number).to_string();
    if !shortest.contains('e') {
        shortest.strip_suffix(".0").unwrap_or(&shortest).into()
    } else if (1e-6..1e21).contains(&number.abs()) {
        number.to_string()
    } else {
        let shortest = format!("{number:e}");
        shortest.replace('e', "e+").replace("e+-", "e-")
    }
}

/// A string in quotes. A string that is too long for one line is split after each newline.
fn format_string(text: &str, depth: usize) -> String {
    // JavaScript counts a string's length in UTF-16 code units.
    let text: Vec<u16> = text.encode_utf16().collect();
    let shown = &text[..text.len().min(MAX_STRING_LENGTH)];
    let mut printed = if shown.len() > BREAK_LENGTH - 2 * depth - 4 {
        let lines = shown.split_inclusive(|unit| *unit == u16::from(b'\n'));
        let lines: Vec<_> = lines.map(quote).collect();
        lines.join(&format!(" +\n{}", " ".repeat(2 * depth + 2)))
    } else {
        quote(shown)
    };
    if text.len() > shown.len() {
        printed += &more(text.len() - shown.len(), "character");
    }
    printed
}

/// A string in the first of `'`, `"` and `` ` `` that it does not contain.
fn quote(text: &[u16]) -> String {
    let text = escape(text);
    if !text.contains('\'') {
        format!("'{text}'")
    } else if !text.contains('"') {
        format!("\"{text}\"")
    } else if !text.contains('`') && !text.contains("${") {
        format!("`{text}`")
    } else {
        format!("'{}'", text.replace('\'', "\\'"))
    }
}

fn escape(text: &[u16]) -> String {
    let mut escaped = String::new();
    for c in char::decode_utf16(text.iter().copied()) {
        match c {
            Ok('\u{8}') => escaped += "\\b",
            Ok('\t') => escaped += "\\t",
            Ok('\n') => escaped += "\\n",
            Ok('\u{c}') => escaped += "\\f",
            Ok('\r') => escaped += "\\r",
            Ok('\\') => escaped += "\\\\",
            Ok(c) if c.is_control() => escaped += &format!("\\x{:02X}", u32::from(c)),
            Ok(c) => escaped.push(c),
            // The limit can cut a string in the middle of a surrogate pair.
            Err(half) => escaped += &format!("\\u{:x}", half.unpaired_surrogate()),
        }
    }
    escaped
}

fn format_object(fields: &Map<String, Value>, depth: usize) -> String {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| array_index(key));
    let entries: Vec<_> = fields
        .into_iter()
        .map(|(key, value)| format!("{}: {}", format_key(key), format_value(value, depth + 1)))
        .collect();
    enclose(['{', '}'], &entries, depth)
}

/// The place of a key: JavaScript puts array indexes first, in ascending order. All other keys
/// share the place behind the last possible index, and keep their order.
fn array_index(key: &str) -> u32 {
    match key.parse::<u32>() {
        Ok(index) if index.to_string() == key => index,
        _ => u32::MAX,
    }
}

fn format_key(key: &str) -> String {
    let is_identifier = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match key {
        "__proto__" => "['__proto__']".into(),
        _ if is_identifier => key.into(),
        _ => quote(&key.encode_utf16().collect::<Vec<_>>()),
    }
}

fn format_array(items: &[Value], depth: usize) -> String {
    let shown = items.iter().take(MAX_ARRAY_LENGTH);
    let mut entries: Vec<_> = shown.map(|item| format_value(item, depth + 1)).collect();
    // For the layout, Node also counts the first item that it does not print.
    let counted = &items[..items.len().min(MAX_ARRAY_LENGTH + 1)];
    let columns = count_columns(&entries, counted.len(), depth);
    if columns > 1 {
        entries = align(&entries, columns, counted.iter().all(Value::is_number));
    }
    if items.len() > MAX_ARRAY_LENGTH {
        entries.push(more(items.len() - MAX_ARRAY_LENGTH, "item"));
    }
    if columns > 1 {
        enclose_lines(['[', ']'], &entries, depth)
    } else {
        enclose(['[', ']'], &entries, depth)
    }
}

/// The number of columns that makes the array look square. It is 1 if there are at most six
/// entries, or if they are too long or too different in length.
fn count_columns(entries: &[String], counted: usize, depth: usize) -> usize {
    // A comma and a space follow each entry.
    let widths = entries.iter().map(|entry| width(entry) + 2);
    let widest = widths.clone().max().unwrap_or(0);
    let total: usize = widths.sum();
    let line = BREAK_LENGTH - 2 * depth;
    let differ = total <= 5 * widest && widest > 8;
    if entries.len() <= 6 || 3 * widest >= line || differ {
        return 1;
    }
    // A character is about 2.5 times as high as it is wide.
    let average = total as f64 / counted as f64;
    let typical = widest as f64 - 3.0 - (widest as f64 - average).sqrt();
    let columns = (2.5 * entries.len() as f64 / typical.max(1.0)).sqrt();
    (columns.round() as usize)
        .min(line / widest)
        .min(4 * COMPACT)
}

/// The entries in rows. Numbers are aligned to the right of their column, all else to the left.
fn align(entries: &[String], columns: usize, are_numbers: bool) -> Vec<String> {
    let column = |index| entries.iter().skip(index).step_by(columns);
    let widest = |index| column(index).map(|entry| width(entry)).max().unwrap_or(0);
    let column_widths: Vec<_> = (0..columns).map(widest).collect();
    let row = |entries: &[String]| {
        let cells = entries
            .iter()
            .zip(&column_widths)
            .map(|(entry, column_width)| {
                let gap = " ".repeat(column_width - width(entry));
                if are_numbers {
                    format!("{gap}{entry}, ")
                } else {
                    format!("{entry}, {gap}")
                }
            });
        let row: String = cells.collect();
        row.trim_end_matches([',', ' ']).to_owned()
    };
    entries.chunks(columns).map(row).collect()
}

/// The number of columns that `text` takes in a terminal. As in Node, each character counts, even
/// if several form one emoji.
fn width(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

fn more(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("... {count} more {what}{plural}")
}

/// The entries on one line if that is short enough, else each on its own line.
///
/// `compact: 3` allows at most three levels on one line. `DEPTH` never prints more than that.
fn enclose([open, close]: [char; 2], entries: &[String], depth: usize) -> String {
    let line = format!("{open} {} {close}", entries.join(", "));
    // Node leaves nine columns free, and does not count the key before a value.
    let end = 2 * depth + line.encode_utf16().count();
    if end <= BREAK_LENGTH - 9 && !line.contains('\n') {
        line
    } else {
        enclose_lines([open, close], entries, depth)
    }
}

fn enclose_lines([open, close]: [char; 2], lines: &[String], depth: usize) -> String {
    let indentation = " ".repeat(2 * depth);
    let lines = lines.join(&format!(",\n{indentation}  "));
    format!("{open}\n{indentation}  {lines}\n{indentation}{close}")
}

#[cfg(test)]
mod tests {
    use super::inspect;
    use serde_json::{Value, json};

    /// Messages as JSON, and as Node 20 prints them. Keys are sorted, so that serde_json's
    /// `preserve_order` makes no difference.
    #[rustfmt::skip]
    const PRINTED: &[(&str, &str)] = &[
        // Values. Node looks three levels deep.
        (r#"{"hello":"world"}"#, "{ hello: 'world' }"),
        (r#"{"a":1,"b":[1,2,3],"c":{"d":null,"e":true}}"#, "{ a: 1, b: [ 1, 2, 3 ], c: { d: null, e: true } }"),
        ("[]", "[]"),
        ("{}", "{}"),
        ("[[]]", "[ [] ]"),
        (r#"{"a":[],"b":{}}"#, "{ a: [], b: {} }"),
        ("[[[[]]]]", "[ [ [ [] ] ] ]"),
        ("[[[[1]]]]", "[ [ [ [Array] ] ] ]"),
        (r#"[[[{"a":{}}]]]"#, "[ [ [ [Object] ] ] ]"),
        ("[[[{}]]]", "[ [ [ {} ] ] ]"),
        (r#"{"a":{"b":{"c":{"d":1}}}}"#, "{ a: { b: { c: [Object] } } }"),
        ("null", "null"),
        ("false", "false"),
        ("[true,false,null]", "[ true, false, null ]"),
        // A message that is a string stays as it is, whatever its length.
        (r#""a bare string""#, "a bare string"),
        (r#""""#, ""),
        (r#""two\nlines, it's so""#, "two
lines, it's so"),
        // Quotes and escapes.
        (r#"["plain"]"#, "[ 'plain' ]"),
        (r#"["it's"]"#, r#"[ "it's" ]"#),
        (r#"["it's \"so\""]"#, r#"[ `it's "so"` ]"#),
        (r#"["it's \"so\" `too`"]"#, r#"[ 'it\'s "so" `too`' ]"#),
        (r#"["it's \"so\" ${too}"]"#, r#"[ 'it\'s "so" ${too}' ]"#),
        (r#"["\"so\""]"#, r#"[ '"so"' ]"#),
        (r#"["\b\t\n\f\r\u0000\u000b\u001b\u007f\u0085\\"]"#, r"[ '\b\t\n\f\r\x00\x0B\x1B\x7F\x85\\' ]"),
        (r#"["Grüße, 世界 👋🏽"]"#, "[ 'Grüße, 世界 👋🏽' ]"),
        // Keys: identifiers are bare, and array indexes come first.
        (r#"{"":1,"$":2,"_":3,"a b":4,"a-b":5,"a_1":6}"#, "{ '': 1, '$': 2, _: 3, 'a b': 4, 'a-b': 5, a_1: 6 }"),
        (r#"{"it's":1,"é":2}"#, r#"{ "it's": 1, 'é': 2 }"#),
        (r#"{"1a":1,"__proto__":2,"two\nlines":3}"#, r"{ '1a': 1, ['__proto__']: 2, 'two\nlines': 3 }"),
        (r#"{"+1":1,"-1":2,"01":3,"1":4,"1.5":5}"#, "{ '1': 4, '+1': 1, '-1': 2, '01': 3, '1.5': 5 }"),
        (r#"{"10":1,"9":2,"a":3}"#, "{ '9': 2, '10': 1, a: 3 }"),
        (r#"{"4294967294":1,"4294967295":2,"5":3}"#, "{ '5': 3, '4294967294': 1, '4294967295': 2 }"),
        // Numbers.
        ("0", "0"),
        ("[0,-0,-0.0,0.0,1.0,-1.5]", "[ 0, -0, -0, 0, 1, -1.5 ]"),
        ("[100000000000000000000,1e20,1e21]", "[ 100000000000000000000, 100000000000000000000, 1e+21 ]"),
        ("[-1e21,1.25e30]", "[ -1e+21, 1.25e+30 ]"),
        ("[0.001,0.00001,0.000001,1.5e-6,1e-7,1.5e-7]", "[ 0.001, 0.00001, 0.000001, 0.0000015, 1e-7, 1.5e-7 ]"),
        ("[5e-324,1.7976931348623157e308]", "[ 5e-324, 1.7976931348623157e+308 ]"),
        ("[9007199254740991,9007199254740993]", "[ 9007199254740991, 9007199254740992 ]"),
        ("[18446744073709551615,-9223372036854775808]", "[ 18446744073709552000, -9223372036854776000 ]"),
        ("[12345678901234567890,1e16,0.1]", "[ 12345678901234567000, 10000000000000000, 0.1 ]"),
        ("[85546217416413.125,1700000000000000.25]", "[ 85546217416413.12, 1700000000000000.2 ]"),
        // A line ends in column 71 at most, in UTF-16 code units, without the key before its value.
        (r#"["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]"#, "[ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' ]"),
        (r#"["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]"#, "[
  'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'
]"),
        (r#"{"a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","b":"xxxxxxxxxxxxxxxxxxxxxxxx"}"#, "{ a: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', b: 'xxxxxxxxxxxxxxxxxxxxxxxx' }"),
        (r#"{"a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","b":"xxxxxxxxxxxxxxxxxxxxxxxxx"}"#, "{
  a: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
  b: 'xxxxxxxxxxxxxxxxxxxxxxxxx'
}"),
        (r#"{"key":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]}"#, "{
  key: [ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' ]
}"),
        (r#"{"key":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]}"#, "{
  key: [
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'
  ]
}"),
        (r#"["👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋"]"#, "[ '👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋' ]"),
        (r#"["👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋"]"#, "[
  '👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋👋'
]"),
        // A string of more than 74 characters (72 and 70 on deeper levels) is split after newlines.
        (r#"["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny\n"]"#, r"[
  'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny\n'
]"),
        (r#"["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny\n"]"#, r"[
  'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n' +
    'y\n'
]"),
        (r#"{"a":{"b":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nit's\n\n"}}"#, r#"{
  a: {
    b: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nit's\n\n"
  }
}"#),
        (r#"{"a":{"b":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nit's\n\n"}}"#, r#"{
  a: {
    b: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n' +
      "it's\n" +
      '\n'
  }
}"#),
        (r#"{"a":{"b":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny"]}}"#, r"{
  a: {
    b: [
      'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny'
    ]
  }
}"),
        (r#"{"a":{"b":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ny"]}}"#, r"{
  a: {
    b: [
      'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n' +
        'y'
    ]
  }
}"),
        // Arrays of more than six entries: in columns, numbers to the right.
        ("[1,2,3,4,5,6]", "[ 1, 2, 3, 4, 5, 6 ]"),
        ("[1,2,3,4,5,6,7]", "[
  1, 2, 3, 4,
  5, 6, 7
]"),
        ("[1,-20,300,4,5,6,7.5,8]", "[
  1, -20, 300, 4,
  5,   6, 7.5, 8
]"),
        (r#"["a","bb","ccc","d","e","f","g"]"#, "[
  'a', 'bb', 'ccc',
  'd', 'e',  'f',
  'g'
]"),
        (r#"[1,"bb",3,4,5,6,7]"#, "[
  1, 'bb', 3, 4,
  5, 6,    7
]"),
        ("[[],{},[],{},[],{},null]", "[
  [],   {}, [],
  {},   [], {},
  null
]"),
        (r#"{"a":{"b":[1,2,3,4,5,6,7]}}"#, "{
  a: {
    b: [
      1, 2, 3, 4,
      5, 6, 7
    ]
  }
}"),
        ("[[1,2],[1,2],[1,2],[1,2],[1,2],[1,2],[1,2]]", "[
  [ 1, 2 ], [ 1, 2 ],
  [ 1, 2 ], [ 1, 2 ],
  [ 1, 2 ], [ 1, 2 ],
  [ 1, 2 ]
]"),
        ("[10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,0,1,2,3,4,5,6,7,8,9,10,11]", "[
  10, 11, 12, 13, 14, 15, 16, 17,
  18, 19, 20, 21, 22, 23, 24,  0,
   1,  2,  3,  4,  5,  6,  7,  8,
   9, 10, 11
]"),
        (r#"["世界","界","é","e\u0301","👋","ｱ","x"]"#, "[
  '世界', '界',
  'é',    'é',
  '👋',   'ｱ',
  'x'
]"),
        // Entries that are long or differ much are not grouped.
        (r#"["a","b","c","d","e","f","0123456789"]"#, "[ 'a', 'b', 'c', 'd', 'e', 'f', '0123456789' ]"),
        (r#"["a","b","c","d","e","f","0123456789012345678901234567890123456789"]"#, "[
  'a',
  'b',
  'c',
  'd',
  'e',
  'f',
  '0123456789012345678901234567890123456789'
]"),
    ];

    #[test]
    fn prints_as_node_does() {
        for (json, printed) in PRINTED {
            let message: Value = serde_json::from_str(json).expect("it is JSON");
            assert_eq!(inspect(&message), *printed, "{json}");
        }
    }

    #[test]
    fn prints_100_items() {
        let row = "  7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,\n".repeat(8);
        for (length, end) in [
            (100, ""),
            (101, ",\n  ... 1 more item"),
            (102, ",\n  ... 2 more items"),
        ] {
            let printed = format!("[\n{row}  7, 7, 7, 7{end}\n]");
            assert_eq!(inspect(&json!(vec![7; length])), printed);
        }
    }

    #[test]
    fn prints_10000_characters() {
        let start = "x".repeat(9_999);
        for (text, shown, end) in [
            ("x", "x", ""),
            ("xx", "x", "... 1 more character"),
            ("xxx", "x", "... 2 more characters"),
            ("👋x", r"\ud83d", "... 2 more characters"),
        ] {
            let message = json!([format!("{start}{text}")]);
            assert_eq!(inspect(&message), format!("[\n  '{start}{shown}'{end}\n]"));
            let message = json!(format!("{start}{text}"));
            assert_eq!(
                inspect(&message),
                message,
                "a message that is a string is printed whole"
            );
        }
    }
}
