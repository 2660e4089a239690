//! A suite collects the checks. Each is registered by one call, which has its name and its body.

use std::borrow;
use std::cell::RefCell;
use std::fmt::Display;
use std::panic::Location;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use super::settings::settings;
use crate::examples::Example;
use crate::harness::programs::Runtime;
use crate::harness::run::{Sweep, run};

/// The end of the name of a check that runs Node's program only.
const NODE: &str = "::node";

/// How many checks of that kind have passed.
static OF_NODE: AtomicUsize = AtomicUsize::new(0);

/// Where checks are registered. All suites of a run share their checks: each has only its own start
/// of the names, and its own condition.
#[derive(Clone, Default)]
pub struct Suite {
    checks: Rc<RefCell<Vec<Trial>>>,
    /// The names' start, such as `spawn-ls::`.
    start: String,
    example: Option<Example>,
    /// Why the checks are ignored.
    ignored: Option<String>,
    /// Whether they run only with `--ignored` or `--include-ignored`.
    on_request: bool,
}

impl Suite {
    /// The suite of an example. It gives the example's command to `rust` and `both`.
    pub fn example(&self, example: Example) -> Self {
        let group = self.group(example.name);
        Self {
            example: Some(example),
            ..group
        }
    }

    /// The suite whose checks have a name that starts with the name of a group.
    pub fn group(&self, name: &str) -> Self {
        let start = format!("{}{name}::", self.start);
        Self {
            start,
            ..self.clone()
        }
    }

    /// The suite whose checks are ignored, for the reason given, unless a condition holds.
    pub fn only_if(&self, condition: bool, reason: &str) -> Self {
        let missing = (!condition).then(|| reason.to_owned());
        Self {
            ignored: self.ignored.clone().or(missing),
            ..self.clone()
        }
    }

    /// For checks that need what a command needs, which has to succeed.
    pub fn where_succeeds(&self, command: impl borrow::BorrowMut<Command>, reason: &str) -> Self {
        self.only_if(run(command).is_ok_and(|ended| ended.code() == 0), reason)
    }

    /// For checks that need a runtime.
    pub fn with(&self, runtime: Runtime) -> Self {
        let reason = format!("{} is not on the path", runtime.name());
        self.only_if(runtime.is_there(), &reason)
    }

    /// For checks that look into `/proc`.
    pub fn on_linux(&self) -> Self {
        self.only_if(cfg!(target_os = "linux"), "it needs Linux's /proc")
    }

    /// For checks that run only with `--ignored` or `--include-ignored`.
    pub fn on_request(&self) -> Self {
        Self {
            on_request: true,
            ..self.clone()
        }
    }

    /// A check.
    #[track_caller]
    pub fn check(&self, name: impl Display, check: impl FnOnce() -> Result<()> + Send + 'static) {
        self.check_at(caller(), name, check);
    }

    /// A check that starts the Rust program in its own way.
    #[track_caller]
    pub fn rust(
        &self,
        name: impl Display,
        check: impl FnOnce(Command) -> Result<()> + Send + 'static,
    ) {
        let command = self.of().rust_command();
        self.check(name, || check(command));
    }

    /// Two checks: one starts the Rust program, and the other the same program for Node.
    #[track_caller]
    pub fn both(
        &self,
        name: impl Display,
        check: impl FnOnce(Command) -> Result<()> + Clone + Send + 'static,
    ) {
        self.rust(&name, check.clone());
        let command = self.of().node_command();
        self.node_at(caller(), name, || check(command));
    }

    /// A check that stands at `place`.
    pub fn check_at(
        &self,
        place: impl Display,
        name: impl Display,
        check: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.add(place, name, || check().map(|()| Completion::Completed));
    }

    /// A check that runs Node's program only: that it does what the Rust program has to do.
    pub fn node_at(
        &self,
        place: impl Display,
        name: impl Display,
        check: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        let suite = self.with(Runtime::Node);
        suite.check_at(place, format!("{name}{NODE}"), || {
            check()?;
            OF_NODE.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    }

    /// A check that can say that it is ignored.
    pub fn add(
        &self,
        place: impl Display,
        name: impl Display,
        check: impl FnOnce() -> Result<Completion> + Send + 'static,
    ) {
        let name = format!("{}{name}", self.start);
        let place = place.to_string();
        let ignored = self.ignored.clone();
        let check = Trial::ignorable_test(name.clone(), move || match ignored {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => check().map_err(|error| failed(&error, &name, &place)),
        });
        let check = check.with_ignored_flag(self.on_request);
        self.checks.borrow_mut().push(check);
    }

    /// The example of this suite.
    pub fn of(&self) -> &Example {
        self.example
            .as_ref()
            .expect("this is the suite of an example")
    }

    /// All checks that have been registered.
    pub fn checks(self) -> Vec<Trial> {
        self.checks.take()
    }
}

/// Where a check is registered.
#[track_caller]
fn caller() -> String {
    let caller = Location::caller();
    format!("the check at {}:{}", caller.file(), caller.line())
}

/// How many checks that run Node's program only have passed.
pub fn passed_with_node_only() -> usize {
    OF_NODE.load(Ordering::Relaxed)
}

/// What is printed of a check that has failed.
fn failed(error: &anyhow::Error, name: &str, place: &str) -> Failed {
    let parts = error
        .chain()
        .map(|part| part.to_string().trim_end().to_owned());
    let mut lines: Vec<_> = parts.collect();
    // The lines of the check that led to the error, the innermost first.
    for line in error.backtrace().to_string().lines() {
        let file = line.split_once("xtask/src/verify/").map(|(_, file)| file);
        let machinery = ["suite.rs", "cases.rs", "units.rs"];
        if let Some(file) = file.filter(|file| !machinery.iter().any(|name| file.starts_with(name)))
        {
            lines.push(format!("  at xtask/src/verify/{file}"));
        }
    }
    lines.push(format!("  in {place}"));
    lines.push(format!(
        "To run it again: cargo xtask verify --exact {name}"
    ));
    let text = lines.join("\n");
    if settings().fail_fast {
        eprintln!("{text}");
        Sweep::end();
    }
    text.into()
}
