//! Commands with a time limit: every external program that a test calls goes through here.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What went wrong in the harness, as one text for the person who reads the failed test.
pub struct Error(String);

/// The harness's result; the default is a test's own.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Any other error converts into its text, so that tests may use `?` freely.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Error(error.to_string())
    }
}

/// The whole outcome of a command that ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; 124 when the time limit ended it, 128 + n for signal n.
    pub code: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// True when the command ended with exit code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Runs `argv` for at most `limit` (whole seconds, at least one) and returns how it ended, whatever the exit code.
///
/// coreutils' `timeout` puts the command in a process group of its own, so its children end with it.
pub fn run(argv: &[&str], limit: Duration) -> Result<Output> {
    let seconds = limit.as_secs().max(1).to_string();
    let output = Command::new("timeout")
        .args(["--kill-after=2", &seconds])
        .args(argv)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::new(format!("{}: {e}", argv.join(" "))))?;
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Ok(Output {
        code,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Like [`run`], but an exit code other than 0 is an error that quotes the command and what it said.
pub fn ok(argv: &[&str], limit: Duration) -> Result<String> {
    let output = run(argv, limit)?;
    if output.success() {
        return Ok(output.stdout);
    }
    let why = if output.code == 124 {
        format!("took longer than {limit:?}")
    } else {
        format!("exit {}", output.code)
    };
    let said = format!("{}{}", output.stdout, output.stderr);
    Err(Error::new(format!("`{}`: {why}: {}", argv.join(" "), said.trim())))
}

/// Half a minute: the limit for configuration commands (`ip`, `ethtool`, `ovs-vsctl`), which take milliseconds where nothing
/// else runs. A limit is there to end what hangs; how fast a machine is, it does not say.
pub const SHORT: Duration = Duration::from_secs(30);

/// [`ok`] on a command line without quoting: the words are split at blanks.
pub fn sh(line: &str) -> Result<String> {
    ok(&line.split_whitespace().collect::<Vec<_>>(), SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_quoted_with_what_it_said() {
        let error = sh("ls /no/such/folder").unwrap_err().to_string();
        assert!(error.contains("`ls /no/such/folder`: exit 2"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_ended_and_named() {
        let error = ok(&["sleep", "60"], Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("`sleep 60`: took longer than 1s"), "{error}");
    }
}
