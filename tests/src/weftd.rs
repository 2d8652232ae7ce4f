//! The switch under test: a real `weftd` process in a namespace, and `weftctl` to drive it.

use crate::accounts::Accounts;
use crate::cmd::{self, Error, Output, Result, SHORT};
use crate::lab::{Lab, Need, find_tool};
use crate::netns::Netns;
use crate::process::Process;
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long it may take to come up, and to end when it is asked to.
const LIMIT: Duration = SHORT;

/// What every scenario needs.
pub const NEEDS: [Need; 3] = [Need::Root, Need::Device("veth"), Need::Device("tun")];

/// A running weftd with its own socket, state folder and configuration file, in the namespace that stands for its compute
/// node. When the test is over it must still run, account for every packet ([`Weftd::settle`]) and end cleanly on SIGTERM:
/// dropping it panics otherwise.
pub struct Weftd {
    process: Option<Process>,
    accounts: std::cell::Cell<Option<i64>>,
    argv: Vec<String>,
    log: PathBuf,
    name: String,
}

impl Weftd {
    /// Writes `toml` and starts weftd on it in `ns`. Its files are `<name>*` in the lab's folder.
    pub fn start(lab: &Lab, name: &str, ns: &Netns, toml: &str) -> Result<Self> {
        let config = lab.path(&format!("{name}.toml"));
        std::fs::write(&config, toml)?;
        let state = lab.path(&format!("{name}.state"));
        std::fs::create_dir_all(&state)?;
        let socket = lab.path(&format!("{name}.sock"));
        let binary = binary("weftd")?;
        let mut argv: Vec<String> = ns.prefix().iter().map(|word| (*word).to_owned()).collect();
        argv.push(binary.display().to_string());
        for (flag, path) in [("--config", &config), ("--state-dir", &state), ("--socket", &socket)] {
            argv.extend([flag.to_owned(), path.display().to_string()]);
        }
        let log = lab.path(&format!("{name}.log"));
        let accounts = std::cell::Cell::new(Some(0));
        let mut weftd = Weftd { process: None, accounts, argv, log, name: name.to_owned() };
        weftd.start_again()?;
        Ok(weftd)
    }

    /// Starts it again after [`Weftd::kill`] or [`Weftd::stop`], on the same files, and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        let argv: Vec<&str> = self.argv.iter().map(String::as_str).collect();
        let mut process = Process::start(&self.name, &argv, &self.log, &[])?;
        let ctl = binary("weftctl")?.display().to_string();
        let socket = self.socket().to_owned();
        process.wait_until(LIMIT, |_| {
            cmd::run(&[&ctl, "--socket", &socket, "show"], SHORT).is_ok_and(|output| output.success())
        })?;
        self.process = Some(process);
        self.accounts.set(self.accounts.get().map(|_| 0));
        Ok(())
    }

    /// The path of its control socket.
    pub fn socket(&self) -> &str {
        self.argv.last().map_or("", String::as_str)
    }

    /// The path of its configuration file.
    pub fn config(&self) -> &Path {
        let at = self.argv.iter().position(|word| word == "--config");
        Path::new(at.and_then(|at| self.argv.get(at + 1)).map_or("", String::as_str))
    }

    /// `weftctl WORDS...`, however it ends.
    pub fn try_ctl(&self, words: &[&str]) -> Result<Output> {
        let ctl = binary("weftctl")?.display().to_string();
        cmd::run(&[&[&ctl[..], "--socket", self.socket()], words].concat(), SHORT)
    }

    /// `weftctl WORDS...`, which must succeed; returns what it printed.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let output = self.try_ctl(words)?;
        if output.success() {
            return Ok(output.stdout);
        }
        Err(Error::new(format!("weftctl {}: exit {}: {}", words.join(" "), output.code, output.stderr)))
    }

    /// [`Weftd::ctl`] on a line without quoting.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.ctl(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// `weftctl WORDS...`, which must be refused with one line on standard error; returns that line.
    pub fn refused(&self, line: &str) -> Result<String> {
        let output = self.try_ctl(&line.split_whitespace().collect::<Vec<_>>())?;
        if output.success() || output.stderr.trim().lines().count() != 1 {
            return Err(Error::new(format!("weftctl {line}: not refused with one line: {output:?}")));
        }
        Ok(output.stderr.trim().to_owned())
    }

    /// What `weftctl --json WORDS...` prints as the result: `show` gives the switch, `port list` the list of ports.
    pub fn json(&self, line: &str) -> Result<Value> {
        let mut value: Value = serde_json::from_str(&self.sh(&format!("--json {line}"))?)?;
        // {"id":1,"result":{"ports":{"ports":[...]}}}
        value = value["result"].take();
        for _ in 0..2 {
            value = match value {
                Value::Object(object) if object.len() == 1 => {
                    object.into_iter().next().map_or(Value::Null, |(_, value)| value)
                }
                other => other,
            };
        }
        Ok(value)
    }

    /// The one port, internal port or tunnel of this name.
    pub fn port(&self, name: &str) -> Result<Value> {
        Ok(self.json(&format!("port show {name}"))?[0].take())
    }

    /// The one tunnel of this name.
    pub fn tunnel(&self, name: &str) -> Result<Value> {
        Ok(self.json(&format!("tunnel show {name}"))?[0].take())
    }

    /// One of a port's counters: `rx_packets`, `tx_packets`, `copies`, ...
    pub fn counter(&self, port: &str, counter: &str) -> Result<u64> {
        Ok(self.port(port)?["counters"][counter].as_u64().unwrap_or(0))
    }

    /// How many packets a port (or tunnel) has dropped for `reason`.
    pub fn drops(&self, port: &str, reason: &str) -> Result<u64> {
        Ok(self.port(port)?["counters"]["drops"][reason].as_u64().unwrap_or(0))
    }

    /// The FDB of all bridges, each entry as `PORT VLAN MAC`, sorted.
    pub fn fdb(&self) -> Result<Vec<String>> {
        let entries = self.json("fdb show")?;
        let text = |entry: &Value, key: &str| entry[key].to_string().replace('"', "");
        let line = |entry| format!("{} {} {}", text(entry, "port"), text(entry, "vlan"), text(entry, "mac"));
        let mut lines: Vec<String> = entries.as_array().into_iter().flatten().map(line).collect();
        lines.sort();
        Ok(lines)
    }

    /// The counters now.
    pub fn accounts(&self) -> Result<Accounts> {
        Accounts::of(&self.json("show")?)
    }

    /// Waits until every packet is accounted for: those that came in and the copies that floods made are as many as those
    /// that left, were dropped, or wait for a neighbour. Panics with all counters when that does not come about in ten
    /// seconds without traffic.
    pub fn settle(&self) -> Result<()> {
        let Some(known) = self.accounts.get() else { return Ok(()) };
        let end = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let accounts = self.accounts()?;
            if accounts.surplus() == known {
                return Ok(());
            }
            assert!(
                std::time::Instant::now() < end,
                "{}: {} packets unaccounted for:\n{accounts}",
                self.name,
                accounts.surplus() - known
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A `weftctl` line that removes ports, tunnels or uplinks, whose counters go with them: settles before, and takes what
    /// is left of the sums as known from then on.
    pub fn remove(&self, line: &str) -> Result<()> {
        self.settle()?;
        self.sh(line)?;
        self.accounts.set(self.accounts.get().and(Some(self.accounts()?.surplus())));
        Ok(())
    }

    /// From now on its counters need not add up: ports are removed under traffic.
    pub fn no_accounts(&self) {
        self.accounts.set(None);
    }

    /// Everything that it has logged since it was started last.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The pid; an error when it was ended.
    pub fn pid(&self) -> Result<u32> {
        self.process
            .as_ref()
            .map(Process::pid)
            .ok_or_else(|| Error::new(format!("{} does not run", self.name)))
    }

    /// SIGHUP: it reads its configuration file again.
    pub fn reload(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.signal(Signal::HUP),
            None => Err(Error::new(format!("{} does not run", self.name))),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut process =
            self.process.take().ok_or_else(|| Error::new(format!("{} does not run", self.name)))?;
        process.signal(Signal::KILL)?;
        process.wait(LIMIT).map(drop)
    }

    /// SIGTERM; it must end with exit code 0. Returns its log.
    pub fn stop(&mut self) -> Result<String> {
        let mut process =
            self.process.take().ok_or_else(|| Error::new(format!("{} does not run", self.name)))?;
        let status = process.terminate(LIMIT)?;
        let log = process.log();
        if status.success() {
            Ok(log)
        } else {
            Err(Error::new(format!("{} ended with {status}:\n{log}", self.name)))
        }
    }
}

impl Drop for Weftd {
    fn drop(&mut self) {
        if self.process.is_none() {
            return;
        }
        let settled = if std::thread::panicking() { Ok(()) } else { self.settle() };
        let ended = self.stop();
        match settled.and(ended) {
            Err(error) if std::thread::panicking() => eprintln!("{error}"),
            Err(error) => panic!("{error}"),
            Ok(_) => {}
        }
    }
}

/// The program as this workspace built it: beside the test's own folder, or in `WEFT_BIN_DIR`, or on the PATH.
pub fn binary(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.parent().and_then(Path::parent).map(|dir| dir.join(name));
    let given = std::env::var_os("WEFT_BIN_DIR").map(|dir| Path::new(&dir).join(name));
    let built = [given, beside].into_iter().flatten().find(|file| file.is_file());
    built
        .or_else(|| find_tool(name))
        .ok_or_else(|| Error::new(format!("{name} is not built: cargo build --workspace --bins")))
}
