//! What exec-count costs.

use std::process::Command;

use super::{Group, cost, whole_run};
use crate::examples::EXEC_COUNT;

pub const GROUPS: &[Group] = &[Group {
    rows: &[
        cost("exec-count: whole run", "ms"),
        cost("exec-count: overhead of a whole run", "ms"),
    ],
    rounds: 11,
    sample: |who| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "find . -type f | wc -l"]);
        whole_run(who, &EXEC_COUNT, &mut shell)
    },
}];
