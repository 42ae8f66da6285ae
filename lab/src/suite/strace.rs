//! strace: which system calls of a program change something, and what becomes of it when one of them fails or is its last.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    error::{Error, Result},
    files,
    process::output,
};

/// All by which a program can change a file, and the folders around it. A machine that lacks one does without.
const CHANGES: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "creat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
    "splice",
    "truncate",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mknod",
    "mknodat",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "mount",
];

/// The program.
pub(super) struct Strace {
    /// Its path.
    pub(super) program: PathBuf,
    /// Libraries that it needs and the machine lacks.
    pub(super) libraries: Option<PathBuf>,
}

/// A run of a program.
pub(super) struct Trace {
    /// The calls by which it could have changed something.
    pub(super) calls: Vec<Call>,
}

/// A system call as strace prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Such as `openat`.
    pub(super) name: String,
    arguments: String,
    result: String,
}

/// A call, by its place among those of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nth {
    name: String,
    nth: usize,
}

impl Nth {
    /// The option of strace that makes it fail (`error=EIO`) or the last (`signal=SIGKILL`).
    pub(super) fn inject(&self, fault: &str) -> String {
        format!("{}:{fault}:when={}", self.name, self.nth)
    }
}

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.nth)
    }
}

impl Strace {
    /// Runs a command line, and says how it ended; `inject` is an option of strace such as `pwrite64:error=EIO:when=2`.
    pub(super) fn run(
        &self,
        folder: &Path,
        inject: Option<&str>,
        line: &[String],
    ) -> Result<(Output, Trace)> {
        let folder = folder.join("strace");
        files::make_folder(&folder)?;
        let mut command = Command::new(&self.program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(options(&folder)).args(inject.map(|inject| format!("--inject={inject}")));
        let output = output(command.args(line))?;
        Ok((output, Trace::take(&folder)?))
    }
}

/// What makes strace write the calls that change something into a folder.
pub(super) fn options(folder: &Path) -> Vec<String> {
    // One file for each thread, so that no call is printed in two parts; `?` for calls that a machine lacks.
    let calls = format!("trace=?{}", CHANGES.join(",?"));
    let traces = folder.join("trace").display().to_string();
    ["-ff", "-qq", "-y", "-e", &calls, "-o", &traces].map(str::to_owned).to_vec()
}

impl Trace {
    /// What a run has left in a folder, which goes.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let mut calls = Vec::new();
        for file in files::list(folder)? {
            calls.extend(files::read(&folder.join(file))?.lines().filter_map(Call::parse));
        }
        fs::remove_dir_all(folder).map_err(Error::file("remove", folder))?;
        Ok(Self { calls })
    }

    /// Every call that changes something.
    pub(super) fn changes(&self) -> Vec<Nth> {
        let nth =
            |at: usize| self.calls[..=at].iter().filter(|call| call.name == self.calls[at].name).count();
        let changes = self.calls.iter().enumerate().filter(|(_, call)| call.changes());
        changes.map(|(at, call)| Nth { name: call.name.clone(), nth: nth(at) }).collect()
    }

    /// The files that are changed, or opened to be.
    pub(super) fn touched(&self) -> Vec<PathBuf> {
        self.calls.iter().filter(|call| call.changes()).flat_map(Call::files).collect()
    }

    /// How often something was written to a file.
    pub(super) fn writes_to(&self, file: &Path) -> usize {
        self.written().iter().filter(|written| *written == file).count()
    }

    /// The file of each write, in order.
    pub(super) fn written(&self) -> Vec<PathBuf> {
        let writes = self.calls.iter().filter(|call| call.name.contains("write") && call.succeeded());
        writes.filter_map(Call::descriptor).collect()
    }
}

impl Call {
    /// A line such as `fsync(5</state/journal.new>) = 0`. What is no call, as the note of a signal, is none.
    fn parse(line: &str) -> Option<Self> {
        let (call, result) = line.rsplit_once(" = ")?;
        let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
        Some(Self { name: name.into(), arguments: arguments.into(), result: result.into() })
    }

    /// A call that the program did not survive has no result.
    fn succeeded(&self) -> bool {
        !self.result.starts_with(['-', '?'])
    }

    /// Whether it could have changed something: all but opening a file to read it.
    pub(super) fn changes(&self) -> bool {
        let writable = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
        !self.name.starts_with("open") || writable.iter().any(|flag| self.arguments.contains(flag))
    }

    /// The file that it is about, where it is named by a descriptor. A pipe is none, nor is a socket or what wakes a
    /// thread: what is said goes there.
    fn descriptor(&self) -> Option<PathBuf> {
        let (_, rest) = self.arguments.split_once('<')?;
        let (file, _) = rest.split_once('>')?;
        file.starts_with('/').then(|| PathBuf::from(file))
    }

    /// The files that it is about: those it names, or the one of its descriptor.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let by_name = self.arguments.split('"').skip(1).step_by(2).map(PathBuf::from);
        if self.name.contains("write") || self.name.contains("sync") || self.name.starts_with('f') {
            self.descriptor().into_iter().collect()
        } else {
            by_name.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";

    fn trace(lines: &[&str]) -> Trace {
        Trace { calls: lines.iter().filter_map(|line| Call::parse(line)).collect() }
    }

    fn run() -> Trace {
        trace(&[
            r#"openat(AT_FDCWD</>, "/proc/meminfo", O_RDONLY|O_CLOEXEC) = 3</proc/meminfo>"#,
            r#"openat(AT_FDCWD</>, "/proc/sys/net/ipv4/tcp_fin_timeout", O_WRONLY) = 3</proc/sys/net/ipv4/tcp_fin_timeout>"#,
            r#"pwrite64(3</proc/sys/net/ipv4/tcp_fin_timeout>, "30\n", 3, 0) = 3"#,
            r#"rename("/state/journal.new", "/state/journal") = 0"#,
            r#"pwrite64(3</proc/sys/net/ipv4/tcp_fin_timeout>, "60\n", 3, 0) = -1 EIO (Input/output error) (INJECTED)"#,
            r#"pwrite64(3</proc/sys/net/ipv4/tcp_fin_timeout>, "60\n", 3, 0) = ?"#,
            "+++ killed by SIGKILL +++",
        ])
    }

    #[test]
    fn a_change_is_named_by_its_place_among_the_calls_of_its_name() {
        let changes: Vec<_> = run().changes().iter().map(Nth::to_string).collect();
        assert_eq!(changes, ["openat 2", "pwrite64 1", "rename 1", "pwrite64 2", "pwrite64 3"]);
        assert_eq!(run().changes()[0].inject("signal=SIGKILL"), "openat:signal=SIGKILL:when=2");
    }

    #[test]
    fn only_a_write_that_the_kernel_took_is_counted() {
        assert_eq!(run().writes_to(Path::new(KEY)), 1);
    }

    #[test]
    fn a_pipe_a_socket_and_what_wakes_a_thread_are_no_files() {
        let said = trace(&[
            r#"write(1<pipe:[7]>, "{\"a\":\"<\"}", 9) = 9"#,
            r#"writev(9<socket:[8]>, [{iov_base="GET", iov_len=3}], 1) = 3"#,
            r#"write(4<anon_inode:[eventfd]>, "\1\0\0\0\0\0\0\0", 8) = 8"#,
        ]);
        assert_eq!((said.calls.len(), said.touched(), said.written()), (3, vec![], vec![]));
    }

    #[test]
    fn a_call_is_about_the_files_that_it_names_or_has_open() {
        let files: Vec<_> = run().calls.iter().skip(1).take(3).flat_map(Call::files).collect();
        assert_eq!(files, [KEY, KEY, "/state/journal.new", "/state/journal"].map(PathBuf::from));
    }
}
