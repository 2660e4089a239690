//! Node's `Worker`: a thread that gets data, posts messages, and reports how it ends.
//!
//! Copy this file. It needs:
//!
//! ```sh
//! cargo add crossbeam-channel@0.5
//! ```
//!
//! A queue of jobs for four threads. A job that fails or panics is reported, and does not end its
//! thread:
//!
//! ```rust,ignore
//! mod worker;
//!
//! use std::io::{self, Write};
//!
//! use crossbeam_channel::Receiver;
//! use worker::{BoxError, Event, ParentPort};
//!
//! fn square(job: u64) -> Result<u64, String> {
//!     job.checked_mul(job).ok_or("it is too large".into())
//! }
//!
//! type Done = (u64, Result<u64, BoxError>);
//!
//! fn work(jobs: &Receiver<u64>, parent_port: &ParentPort<Done>) -> Result<(), BoxError> {
//!     for job in jobs {
//!         parent_port.post_message((job, worker::attempt(|| square(job))));
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> io::Result<()> {
//!     let (queue, jobs) = crossbeam_channel::unbounded();
//!     let events = worker::start(4, jobs, work)?;
//!     for job in (1..=100).chain([u64::MAX]) {
//!         queue.send(job).expect("no worker ends before");
//!     }
//!     // The workers end when the queue is closed and empty.
//!     drop(queue);
//!     let mut sum = 0;
//!     for (_worker, event) in events {
//!         match event {
//!             Event::Message((_, Ok(square))) => sum += square,
//!             Event::Message((job, Err(error))) => writeln!(io::stderr(), "job {job}: {error}")?,
//!             Event::Error(_) | Event::Exit(_) => {}
//!         }
//!     }
//!     writeln!(io::stdout(), "the sum of the squares: {sum}")
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

/// Any error that may go from one thread to another.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What happens in a worker: the events of Node's `Worker`, under its names.
#[derive(Debug)]
pub enum Event<T> {
    /// It has posted a message: Node's `'message'`.
    Message(T),
    /// It has failed, by an error or a panic: Node's `'error'`.
    Error(BoxError),
    /// It has ended, with code 1 after an error and else 0: Node's `'exit'`.
    Exit(i32),
}

/// Where a worker posts its messages: Node's `parentPort`.
pub struct ParentPort<T> {
    worker: usize,
    events: Sender<(usize, Event<T>)>,
}

impl<T> ParentPort<T> {
    /// Posts a message; never waits. Node's `parentPort.postMessage()`.
    pub fn post_message(&self, message: T) {
        self.send(Event::Message(message));
    }

    fn send(&self, event: Event<T>) {
        // It fails when the receiver has been dropped.
        let _ = self.events.send((self.worker, event));
    }
}

/// Starts `count` threads that each call `run` with the same `worker_data`: Node's
/// `new Worker(filename, { workerData })`, `count` times.
///
/// `run` is a function, or a closure with types: `|data: &D, parent_port: &ParentPort<T>| …`.
///
/// Returns their events in the order in which they happen, each with the number of its worker, from
/// 1 to `count`: Node's `worker.threadId`. The channel ends when all workers have ended.
/// `worker_data` is shared where Node would copy it.
///
/// Receiving an event blocks the thread. Events that nobody receives are kept without a limit. In an
/// async program, put a `tokio::sync::oneshot::Sender` into each job instead: the worker sends the
/// result to the task that waits for it. If the queue of jobs is bounded, `try_send` fails at once
/// when it is full.
///
/// An error or a panic ends its worker: use [`attempt`] for each job of a queue. A panic prints its
/// message on stderr, as any panic does, and then becomes [`Event::Error`]. With `panic = "abort"`
/// in the profile, it ends the whole process instead.
///
/// # Errors
///
/// When the system starts no more threads. Those already started run on.
pub fn start<D, T, E>(
    count: usize,
    worker_data: D,
    run: impl Fn(&D, &ParentPort<T>) -> Result<(), E> + Send + Sync + 'static,
) -> io::Result<Receiver<(usize, Event<T>)>>
where
    D: Send + Sync + 'static,
    T: Send + 'static,
    E: Into<BoxError>,
{
    let (sender, receiver) = unbounded();
    let shared = Arc::new((worker_data, run));
    for worker in 1..=count {
        let events = sender.clone();
        let parent_port = ParentPort { worker, events };
        let shared = shared.clone();
        let thread = move || {
            let (worker_data, run) = &*shared;
            let ended = attempt(|| run(worker_data, &parent_port));
            let code = i32::from(ended.is_err());
            if let Err(error) = ended {
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
    Ok(receiver)
}

/// Does one job of a queue: its error or its panic is returned, and the worker goes on.
///
/// What a job that panics has half changed stays so.
///
/// # Errors
///
/// Those of `job`. A panic becomes an error with its message, which is also printed on stderr.
pub fn attempt<R, E: Into<BoxError>>(job: impl FnOnce() -> Result<R, E>) -> Result<R, BoxError> {
    match catch_unwind(AssertUnwindSafe(job)) {
        Ok(done) => done.map_err(Into::into),
        Err(panic) => Err(text_of(&*panic).into()),
    }
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
    use std::sync::Barrier;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    /// The next event, as text. No event takes this long.
    fn next<T: Debug>(events: &Receiver<(usize, Event<T>)>) -> String {
        match events.recv_timeout(Duration::from_secs(20)) {
            Ok((_, event)) => format!("{event:?}"),
            Err(error) => format!("{error:?}"),
        }
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
    fn events_name_their_worker() {
        let run = |all: &Barrier, parent_port: &ParentPort<ThreadId>| {
            all.wait();
            parent_port.post_message(thread::current().id());
            Err(format!("{:?}", thread::current().id()))
        };
        let mut threads = [None; 3];
        for (worker, event) in start(3, Barrier::new(3), run).unwrap() {
            let thread = &mut threads[worker - 1];
            match event {
                Event::Message(id) => assert!(thread.replace(id).is_none()),
                Event::Error(id) => assert_eq!(id.to_string(), format!("{:?}", thread.unwrap())),
                Event::Exit(code) => assert_eq!((code, thread.is_some()), (1, true)),
            }
        }
        assert!(threads.iter().all(Option::is_some));
    }

    #[test]
    fn more_bad_jobs_than_workers() {
        let (queue, jobs) = unbounded();
        let run = |jobs: &Receiver<u32>, parent_port: &ParentPort<_>| {
            for job in jobs {
                let result = attempt(|| match job {
                    0..5 => Err(format!("{job} is too small")),
                    5..10 => panic!("{job} is worse"),
                    _ => Ok(job),
                });
                parent_port.post_message(result);
            }
            Ok::<_, BoxError>(())
        };
        let events = start(2, jobs, run).unwrap();
        (0..12).for_each(|job| queue.send(job).unwrap());
        let mut results: Vec<_> = (0..12).map(|_| next(&events)).collect();
        results.sort_unstable();
        assert_eq!(results[0], r#"Message(Err("0 is too small"))"#);
        assert_eq!(results[9], r#"Message(Err("9 is worse"))"#);
        assert_eq!(results[10..], ["Message(Ok(10))", "Message(Ok(11))"]);
        drop(queue);
        assert_eq!(next(&events), "Exit(0)");
        assert_eq!(next(&events), "Exit(0)");
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
            sender.send((1, Event::Message("posted")))
        };
        let (begin, start_work) = unbounded();
        drop(start(1, start_work, run).unwrap());
        begin.send(()).unwrap();
        assert_eq!(next(&ended), r#"Message("posted")"#);
    }
}
