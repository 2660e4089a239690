//! How a check compares what it expects with what it has got.

use std::fmt::Debug;

use anyhow::{Result, bail};
use similar::TextDiff;

/// Compares two values. The error shows where they differ.
pub fn same<E, A>(what: &str, expected: &E, actual: &A) -> Result<()>
where
    E: PartialEq<A> + Debug + ?Sized,
    A: Debug + ?Sized,
{
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (shown(expected), shown(actual));
    let diff = TextDiff::from_lines(&expected, &actual);
    let diff = diff.unified_diff().context_radius(2).to_string();
    bail!("{what} differs: '-' is expected, '+' has come\n{diff}")
}

/// A value in several lines. Those of a text are its own lines, with what cannot be seen escaped.
fn shown(value: &(impl Debug + ?Sized)) -> String {
    let shown = format!("{value:#?}");
    let text = shown
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    text.map_or_else(
        || format!("{shown}\n"),
        |text| text.replace("\\n", "\n").replace("\\\"", "\""),
    )
}
