//! A range of numbers, shared out to threads through one atomic that they share, as Node's
//! threads would through `Atomics` on a `SharedArrayBuffer`.
//!
//! A file to copy. It needs no crate.
//!
//! ```rust,ignore
//! mod share;
//!
//! use std::sync::atomic::AtomicU64;
//!
//! fn main() {
//!     let next = AtomicU64::new(0);
//!     let count = || {
//!         let shares = std::iter::from_fn(|| share::take(&next, 10_000, 100));
//!         shares.flatten().count()
//!     };
//!     let total = std::thread::scope(|scope| {
//!         let other = scope.spawn(count);
//!         count() + other.join().unwrap()
//!     });
//!     println!("{total}");
//! }
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next numbers below `num` that nobody has taken yet, at most `most` of them, or `None`
/// when there are no more. `next` starts at the first.
///
/// `most`, from 1 on, has to be small enough for several shares a thread, and large enough for a share to
/// take some microseconds at least: taking one costs a fraction of one.
pub fn take(next: &AtomicU64, num: u64, most: u64) -> Option<Range<u64>> {
    let end_of = |start: u64| start.saturating_add(most).min(num);
    let take = |start| (start < num).then(|| end_of(start));
    // No other memory depends on this one, so no order with it is needed.
    let start = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    start.ok().map(|start| start..end_of(start))
}
