//! The table of the examples: facts only. What each part of xtask does with an example is in that
//! part.

/// An example: a crate in the folder of its name.
#[derive(Clone, Copy)]
pub struct Example {
    pub name: &'static str,
    /// The same program for Node, in the example's folder.
    pub script: &'static str,
    /// What people copy out of it.
    pub files: &'static [File],
}

/// A file to copy, or a folder with a `mod.rs`.
#[derive(Clone, Copy)]
pub struct File {
    /// The name of its module.
    pub name: &'static str,
    /// In the folder of the workspace.
    pub path: &'static str,
    /// In a few words, what it is.
    pub what: &'static str,
}

pub const SPAWN_LS: Example = Example {
    name: "spawn-ls",
    script: "node/spawn-ls.cjs",
    files: &[File {
        name: "spawn",
        path: "spawn-ls/src/spawn.rs",
        what: "child_process.spawn(): a command's output as it comes",
    }],
};

pub const EXEC_COUNT: Example = Example {
    name: "exec-count",
    script: "node/exec-count.cjs",
    files: &[File {
        name: "exec",
        path: "exec-count/src/exec.rs",
        what: "child_process.exec() and execFile(): a command's whole output, with limits",
    }],
};

pub const FORK_IPC: Example = Example {
    name: "fork-ipc",
    script: "node/parent.cjs",
    files: &[
        File {
            name: "ipc",
            path: "fork-ipc/src/ipc.rs",
            what: "child_process.fork() and process.send(): a child and a channel",
        },
        File {
            name: "inspect",
            path: "fork-ipc/src/inspect.rs",
            what: "util.inspect(): a message as console.log prints it",
        },
    ],
};

pub const CLUSTER_HTTP: Example = Example {
    name: "cluster-http",
    script: "node/cluster-http.cjs",
    files: &[
        File {
            name: "cluster",
            path: "cluster-http/src/cluster",
            what: "cluster: worker processes that share one port",
        },
        File {
            name: "http",
            path: "cluster-http/src/http.rs",
            what: "http.createServer(): a server that shuts down gracefully",
        },
    ],
};

pub const WORKER_SUM: Example = Example {
    name: "worker-sum",
    script: "node/worker-sum.cjs",
    files: &[
        File {
            name: "worker",
            path: "worker-sum/src/worker.rs",
            what: "worker_threads: threads with messages, errors and exits",
        },
        File {
            name: "share",
            path: "worker-sum/src/share.rs",
            what: "Atomics on a SharedArrayBuffer: a range of work shared by threads",
        },
    ],
};

pub const EXAMPLES: &[Example] = &[SPAWN_LS, EXEC_COUNT, FORK_IPC, CLUSTER_HTTP, WORKER_SUM];

/// All files to copy.
pub fn files() -> impl Iterator<Item = File> {
    EXAMPLES.iter().flat_map(|example| example.files).copied()
}
