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

/// A file to copy, or a folder with a `mod.rs`: its path in the folder of the workspace.
#[derive(Clone, Copy)]
pub struct File(pub &'static str);

impl File {
    /// The name of its module.
    pub fn name(self) -> &'static str {
        let name = self.0.rsplit('/').next().unwrap_or(self.0);
        name.trim_end_matches(".rs")
    }
}

pub const SPAWN_LS: Example = Example {
    name: "spawn-ls",
    script: "node/spawn-ls.cjs",
    files: &[File("spawn-ls/src/spawn.rs")],
};

pub const EXEC_COUNT: Example = Example {
    name: "exec-count",
    script: "node/exec-count.cjs",
    files: &[File("exec-count/src/exec.rs")],
};

pub const FORK_IPC: Example = Example {
    name: "fork-ipc",
    script: "node/parent.cjs",
    files: &[File("fork-ipc/src/ipc.rs"), File("fork-ipc/src/inspect.rs")],
};

pub const CLUSTER_HTTP: Example = Example {
    name: "cluster-http",
    script: "node/cluster-http.cjs",
    files: &[
        File("cluster-http/src/cluster"),
        File("cluster-http/src/http.rs"),
    ],
};

pub const WORKER_SUM: Example = Example {
    name: "worker-sum",
    script: "node/worker-sum.cjs",
    files: &[
        File("worker-sum/src/worker.rs"),
        File("worker-sum/src/share.rs"),
    ],
};

pub const EXAMPLES: &[Example] = &[SPAWN_LS, EXEC_COUNT, FORK_IPC, CLUSTER_HTTP, WORKER_SUM];

/// All files to copy.
pub fn files() -> impl Iterator<Item = File> {
    EXAMPLES.iter().flat_map(|example| example.files).copied()
}
