//! Node's `Worker`: a thread that gets data, posts messages, and reports how it ends.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add crossbeam-channel@0.5
//! ```
//!
//! A queue of jobs for four threads:
//!
//! ```rust,ignore
//! mod worker;
//!
//! use std::io::{self, Write};
//!
//! use crossbeam_channel::Receiver;
//! use worker::{Event, ParentPort};
//!
//! fn square(jobs: &Receiver<u64>, parent_port: &ParentPort<u64>) -> Result<(), io::Error> {
//!     for job in jobs {
//!         parent_port.post_message(job * job);
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> io::Result<()> {
//!     let (queue, jobs) = crossbeam_channel::unbounded();
//!     let events = worker::start(4, jobs, square)?;
//!     for job in 1..=100 {
//!         queue.send(job).expect("a worker still waits for jobs");
//!     }
//!     // The workers end when the queue is closed and empty.
//!     drop(queue);
//!     let results = events.iter().filter(|event| matches!(event, Event::Message(_)));
//!     writeln!(io::stdout(), "{} results", results.count())
//! }
//! ```

// A program may need only a part of this file.
#![allow(dead_code)]

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

/// What happens in a worker: the events of Node's `Worker`, under its names.
#[derive(Debug)]
pub enum Event<T> {
    /// It has posted a message: Node's `'message'`.
    Message(T),
    /// It has failed, by an error or a panic: Node's `'error'`.
    Error(Box<dyn Error + Send + Sync>),
    /// It has ended, with code 1 after an error and else 0: Node's `'exit'`.
    Exit(i32),
}

/// Where a worker posts its messages: Node's `parentPort`.
pub struct ParentPort<T>(Sender<Event<T>>);

impl<T> ParentPort<T> {
    /// Posts a message; never waits. Node's `parentPort.postMessage()`.
    pub fn post_message(&self, message: T) {
        self.send(Event::Message(message));
    }

    fn send(&self, event: Event<T>) {
        // It fails when the receiver has been dropped.
        let _ = self.0.send(event);
    }
}

/// Starts `count` threads that each call `run` with the same `worker_data`: Node's
/// `new Worker(filename, { workerData })`, `count` times.
///
/// `run` is a function, or a closure with types: `|data: &D, parent_port: &ParentPort<T>| …`.
///
/// Returns their events, in the order in which they happen. The channel ends when all workers
/// have ended. `worker_data` is shared where Node would copy it.
///
/// A panic prints its message on stderr, as any panic does, and then becomes [`Event::Error`]. With
/// `panic = "abort"` in the profile, it ends the whole process instead.
///
/// # Errors
///
/// When the system starts no more threads. Those already started run on.
pub fn start<D, T, E>(
    count: usize,
    worker_data: D,
    run: impl Fn(&D, &ParentPort<T>) -> Result<(), E> + Send + Sync + 'static,
) -> io::Result<Receiver<Event<T>>>
where
    D: Send + Sync + 'static,
    T: Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let (sender, events) = unbounded();
    let shared = Arc::new((worker_data, run));
    for _ in 0..count {
        let parent_port = ParentPort(sender.clone());
        let shared = shared.clone();
        let thread = move || {
            let (worker_data, run) = &*shared;
            let ended = catch_unwind(AssertUnwindSafe(|| run(worker_data, &parent_port)));
            let error = match ended {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.into()),
                Err(panic) => Some(text_of(&*panic).into()),
            };
            let code = i32::from(error.is_some());
            if let Some(error) = error {
                parent_port.send(Event::Error(error));
            }
            parent_port.send(Event::Exit(code));
        };
        thread::Builder::new().spawn(thread).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot start a worker thread: {error}"),
            )
        })?;
    }
    Ok(events)
}

/// The message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::panic::panic_any;
    use std::time::Duration;

    use super::*;

    /// The next event, as text. No event takes this long.
    fn next<T: Debug>(events: &Receiver<Event<T>>) -> String {
        let event = events.recv_timeout(Duration::from_secs(20));
        event.map_or_else(|error| format!("{error:?}"), |event| format!("{event:?}"))
    }

    #[test]
    fn events_as_they_happen() {
        let (queue, jobs) = unbounded();
        let run = |jobs: &Receiver<i32>, parent_port: &ParentPort<i32>| {
            for job in jobs {
                match job {
                    0 => return Err("no work"),
                    job => parent_port.post_message(job),
                }
            }
            Ok(())
        };
        let events = start(2, jobs, run).unwrap();
        queue.send(1).unwrap();
        assert_eq!(next(&events), "Message(1)");
        queue.send(0).unwrap();
        assert_eq!(next(&events), r#"Error("no work")"#);
        assert_eq!(next(&events), "Exit(1)");
        // The other worker runs on.
        queue.send(2).unwrap();
        assert_eq!(next(&events), "Message(2)");
        drop(queue);
        assert_eq!(next(&events), "Exit(0)");
        assert_eq!(next(&events), "Disconnected");
    }

    #[test]
    fn panics_are_errors() {
        fn run(number: &i32, _: &ParentPort<()>) -> Result<(), String> {
            match number {
                0 => panic!("at once"),
                1 => panic!("at {number}"),
                _ => panic_any(2),
            }
        }
        let texts = ["at once", "at 1", "a panic without a message"];
        for (number, text) in (0..).zip(texts) {
            let events = start(1, number, run).unwrap();
            assert_eq!(next(&events), format!("Error({text:?})"));
            assert_eq!(next(&events), "Exit(1)");
            assert_eq!(next(&events), "Disconnected");
        }
    }

    #[test]
    fn nobody_receives_events() {
        let (sender, ended) = unbounded();
        let run = move |start: &Receiver<()>, parent_port: &ParentPort<()>| {
            let _ = start.recv();
            parent_port.post_message(());
            sender.send(Event::Message("posted"))
        };
        let (begin, start_work) = unbounded();
        drop(start(1, start_work, run).unwrap());
        begin.send(()).unwrap();
        assert_eq!(next(&ended), r#"Message("posted")"#);
    }
}
