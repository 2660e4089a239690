//! Splits a range of numbers into parts that threads take one after the other, through one atomic
//! number. Node's threads would use `Atomics` on a `SharedArrayBuffer`.
//!
//! Copy this file. It needs no crate.
//!
//! ```rust,ignore
//! mod share;
//!
//! use std::io::{self, Write};
//! use std::sync::atomic::AtomicU64;
//!
//! fn main() -> io::Result<()> {
//!     let next = AtomicU64::new(0);
//!     let count = || {
//!         let parts = std::iter::from_fn(|| share::take(&next, 10_000, 100));
//!         parts.flatten().count()
//!     };
//!     let total = std::thread::scope(|scope| {
//!         let other = scope.spawn(count);
//!         count() + other.join().unwrap()
//!     });
//!     writeln!(io::stdout(), "{total}")
//! }
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes the next part of the range that ends before `num`: at most `most` numbers. `None` when no
/// number is left. `next` holds the first number that is not taken.
///
/// `most` is at least 1. Choose it so that each thread gets several parts, and the work on a part takes
/// some microseconds: this call takes less than one.
pub fn take(next: &AtomicU64, num: u64, most: u64) -> Option<Range<u64>> {
    let end_of = |start: u64| start.saturating_add(most).min(num);
    // No other memory depends on this number, so no order with it is needed.
    let start = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |start| {
        (start < num).then(|| end_of(start))
    });
    start.ok().map(|start| start..end_of(start))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;
    use std::{iter, thread};

    use super::take;

    #[test]
    fn each_number_once() {
        let (next, all_at_once) = (AtomicU64::new(0), Barrier::new(4));
        let take_all = || {
            all_at_once.wait();
            iter::from_fn(|| take(&next, 30_007, 10)).collect::<Vec<_>>()
        };
        let mut parts = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(take_all));
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        parts.sort_unstable_by_key(|part| part.start);
        assert!(parts.iter().all(|part| part.clone().count() <= 10));
        assert!(parts.into_iter().flatten().eq(0..30_007));
    }

    #[test]
    fn greatest_number() {
        let next = AtomicU64::new(u64::MAX - 1);
        assert_eq!(take(&next, u64::MAX, 1000), Some(u64::MAX - 1..u64::MAX));
        assert_eq!(take(&next, u64::MAX, 1000), None);
    }
}
