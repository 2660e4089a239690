//! A range of numbers that several threads go through together, by one atomic integer. Node's
//! threads would use `Atomics` on a `SharedArrayBuffer`.
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
//!     let count = || share::numbers(&next, 1_000_000).count();
//!     let total = std::thread::scope(|scope| {
//!         let other = scope.spawn(count);
//!         count() + other.join().unwrap()
//!     });
//!     writeln!(io::stdout(), "{total}")
//! }
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers from `next` to `end - 1`, each for one thread only. `next` is the first number that
/// no thread has taken yet.
///
/// A thread takes 1/64 of the remaining numbers at a time, but at least one. The first parts are
/// large, so taking them costs little. The last ones are small, so all threads finish at about the
/// same time.
pub fn numbers(next: &AtomicU64, end: u64) -> Numbers<'_> {
    let part = 0..0;
    Numbers { next, end, part }
}

/// The iterator of [`numbers`].
pub struct Numbers<'a> {
    next: &'a AtomicU64,
    end: u64,
    part: Range<u64>,
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.part.is_empty() {
            let end_of = |start: u64| start + ((self.end - start) / 64).max(1);
            // No other memory depends on this number, so `Relaxed` is enough.
            let taken = self
                .next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |start| {
                    (start < self.end).then(|| end_of(start))
                });
            let start = taken.ok()?;
            self.part = start..end_of(start);
        }
        self.part.next()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn each_number_once() {
        let (next, all_at_once) = (AtomicU64::new(3), Barrier::new(4));
        let take_all = || {
            all_at_once.wait();
            numbers(&next, 100_000).collect::<Vec<_>>()
        };
        let mut taken = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(take_all));
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        taken.sort_unstable();
        let (count, last) = (taken.len(), taken.last().copied());
        assert_eq!((count, last), (99_997, Some(99_999)));
        assert!(taken.into_iter().eq(3..100_000));
    }

    #[test]
    fn a_part_at_a_time() {
        let next = AtomicU64::new(0);
        let (mut one, mut other) = (numbers(&next, 640), numbers(&next, 640));
        assert_eq!(one.next(), Some(0));
        assert_eq!(other.next(), Some(10));
        // A 64th of the 621 numbers that are left, rounded down.
        assert_eq!(
            Vec::from_iter(one.take(18)),
            Vec::from_iter((1..10).chain(19..28))
        );
        assert_eq!(Vec::from_iter(numbers(&next, 640)), Vec::from_iter(28..640));
        assert_eq!(Vec::from_iter(other), Vec::from_iter(11..19));
    }

    #[test]
    fn last_numbers() {
        let next = AtomicU64::new(u64::MAX - 2);
        assert_eq!(
            Vec::from_iter(numbers(&next, u64::MAX)),
            [u64::MAX - 2, u64::MAX - 1]
        );
        assert_eq!(next.into_inner(), u64::MAX);
    }
}
