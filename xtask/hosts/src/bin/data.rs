//! A computation over data in memory, on all CPUs.

use std::io::{self, Write};

use rayon::prelude::*;

fn main() -> io::Result<()> {
    let texts: Vec<String> = (0..10_000).map(|n| "x".repeat(n % 100)).collect();
    let total: usize = texts.par_iter().map(|text| text.len()).sum();
    writeln!(io::stdout(), "{total} characters")
}
