//! A daemon that belongs to a test: started in the foreground, logged to a file, ended by its own pid.

use crate::cmd::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running child whose output goes to a log file. Dropping it sends SIGTERM, and SIGKILL two seconds later.
///
/// `setpriv --pdeathsig` also ends it when the thread that started it dies, so a test run that is killed leaves no daemon
/// behind. Hence: start it on the thread that outlives it.
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `argv` with standard output and error in `log`.
    pub fn start(name: &str, argv: &[&str], log: &Path, env: &[(&str, &Path)]) -> Result<Self> {
        let file = File::create(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(argv)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|e| Error::new(format!("{}: {e}", argv.join(" "))))?;
        Ok(Process { child, log: log.to_owned(), name: name.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Waits until `ready`; fails at once, with the log, when the process ends before.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        while !ready(self) {
            if let Some(status) = self.child.try_wait()? {
                return Err(Error::new(format!("{} ended early ({status}):\n{}", self.name, self.log())));
            }
            if Instant::now() >= end {
                return Err(Error::new(format!("{} not ready after {limit:?}:\n{}", self.name, self.log())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends a signal. A process that is already gone is an error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new("a pid that is not one"))?;
        kill_process(pid, signal).map_err(|e| Error::new(format!("{}: {signal:?}: {e}", self.name)))
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(Error::new(format!("{} still runs after {limit:?}", self.name)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, then the exit status; an error when it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() && self.terminate(Duration::from_secs(2)).is_err() {
            // Already gone is as good as killed.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
