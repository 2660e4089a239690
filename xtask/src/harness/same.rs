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
    let (expected, actual) = (format!("{expected:#?}"), format!("{actual:#?}"));
    // `Debug` writes a string in one line. This splits it into its own lines.
    let (expected, actual) = (
        expected.replace("\\n", "\\n\n"),
        actual.replace("\\n", "\\n\n"),
    );
    let diff = TextDiff::from_lines(&expected, &actual);
    bail!(
        "{what} differs\n{}",
        diff.unified_diff()
            .context_radius(2)
            .header("expected", "actual")
    )
}
