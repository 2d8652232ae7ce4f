//! The frame around one test: what it needs, the loud skip when that is missing, unique names, a scratch folder.

use crate::cmd::{Error, Result, SHORT, run, sh};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Something that a test can't do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root's privileges, and a kernel (or container) that lets root make network namespaces.
    Root,
    /// A program on the PATH.
    Tool(&'static str),
    /// A kind of network device that the running kernel can make (`vxlan`, `bridge`, `tun`, ...).
    Device(&'static str),
    /// A file or device node, with what it is.
    File(&'static str, &'static str),
}

impl Need {
    /// None when it is there, else why it is not.
    fn missing(self) -> Option<String> {
        match self {
            Need::Root if !is_root() => Some("needs root".to_owned()),
            Need::Root => {
                (!in_new_netns("true")).then(|| "this machine makes no network namespaces".to_owned())
            }
            Need::Tool(name) => (find_tool(name).is_none()).then(|| format!("needs `{name}` on the PATH")),
            Need::Device(kind) => (!kernel_has(kind)).then(|| format!("this kernel has no {kind} devices")),
            Need::File(path, what) => (!Path::new(path).exists()).then(|| format!("needs {what} ({path})")),
        }
    }

    /// A kernel is what it is; a privilege or a package that lacks in CI is a broken set-up.
    fn may_lack_in_ci(self) -> bool {
        matches!(self, Need::Device(_)) || self == Need::Root && is_root()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command line in a network namespace of its own that goes with it.
fn in_new_netns(line: &str) -> bool {
    run(&["unshare", "--net", "sh", "-c", line], SHORT).is_ok_and(|output| output.success())
}

/// Where a program lies on the PATH, with the system folders that a plain user's PATH lacks.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|file| file.is_file())
}

/// Asks the kernel for such a device.
fn kernel_has(kind: &str) -> bool {
    let options = match kind {
        "tun" => return in_new_netns("ip tuntap add probe0 mode tap"),
        "vxlan" => "id 1 dstport 4789",
        "gretap" => "local 127.0.0.1 remote 127.0.0.2",
        "veth" => "peer name probe1",
        _ => "",
    };
    in_new_netns(&format!("ip link add probe0 type {kind} {options}"))
}

/// One test's surroundings. Opened first, dropped last.
pub struct Lab {
    tag: String,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Opens a lab for `test`, or None, after a loud skip, when something that it needs is missing.
    ///
    /// A skip prints `SKIPPED: test: reason` on the real standard error, past the test runner's capture, and is added to the
    /// file that `WEFT_SKIPS` names, where the closing summary counts it. With `CI` set, only what the kernel
    /// lacks may be skipped: a missing privilege or program fails the test.
    pub fn open(test: &str, needs: &[Need]) -> Result<Option<Self>> {
        for need in needs {
            let Some(reason) = need.missing() else { continue };
            if std::env::var_os("CI").is_some() && !need.may_lack_in_ci() {
                return Err(Error::new(format!(
                    "{test}: {reason}, and CI skips nothing that a set-up can provide"
                )));
            }
            skip(test, &reason)?;
            return Ok(None);
        }
        Lab::new().map(Some)
    }

    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let tag = format!("wt-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        sweep(&tag)?;
        let dir = tempfile::Builder::new().prefix(&format!("{tag}-")).tempdir()?;
        Ok(Lab { tag, dir })
    }

    /// `wt-<pid>-<n>`: starts every system-wide name that this lab makes.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The scratch folder; it goes with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Says loudly that `test` did not run, and writes it down for the summary.
pub fn skip(test: &str, reason: &str) -> Result<()> {
    let line = format!("SKIPPED: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes())?;
    if let Some(list) = std::env::var_os("WEFT_SKIPS") {
        std::fs::OpenOptions::new().append(true).create(true).open(list)?.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Removes namespaces and folders of test runs that were killed before they could clean up: their process is gone, or its id
/// is this process's now.
fn sweep(tag: &str) -> Result<()> {
    let is_left =
        |name: &str| is_orphan(name) || name.strip_prefix(tag).is_some_and(|rest| rest.starts_with('-'));
    for entry in names_in(Path::new("/run/netns")) {
        if is_left(&entry) {
            // Another lab may be sweeping the same name: gone is what both want.
            let _ = sh(&format!("ip netns del {entry}"));
        }
    }
    let scratch = std::env::temp_dir();
    for entry in names_in(&scratch) {
        if is_left(&entry) {
            let _ = std::fs::remove_dir_all(scratch.join(&entry));
        }
    }
    Ok(())
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// True for `wt-<pid>-...` when no process has that pid.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix("wt-").and_then(|rest| rest.split('-').next());
    pid.and_then(|p| p.parse::<u32>().ok()).is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_test_runs_are_orphans() {
        assert!(!is_orphan(&format!("wt-{}-0", std::process::id())));
        assert!(is_orphan("wt-4194305-0-a"), "no pid is above the kernel's limit of 2^22");
        assert!(!is_orphan("wt-x-0"));
        assert!(!is_orphan("other"));
    }

    #[test]
    fn a_missing_tool_is_named() {
        assert_eq!(Need::Tool("no-such-tool").missing().unwrap(), "needs `no-such-tool` on the PATH");
        assert_eq!(Need::Tool("ls").missing(), None);
    }
}
