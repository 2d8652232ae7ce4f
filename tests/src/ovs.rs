//! Stock Open vSwitch as a peer: a private `ovsdb-server` and `ovs-vswitchd` with the userspace datapath.
//!
//! Nothing is shared with a system-wide OVS: database, sockets, pid files and logs are in the lab's scratch folder.

use crate::cmd::{Error, Result, SHORT, ok};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::unixctl::Control;
use std::path::{Path, PathBuf};

/// The schema as the Debian package installs it.
pub const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A running pair of daemons; both end when it is dropped.
pub struct StockOvs {
    // Dropped in this order: the switch before its database.
    switch: Process,
    _database: Process,
    dir: PathBuf,
}

impl StockOvs {
    /// Starts it with dummy devices: frames are handed in with [`StockOvs::receive`] and written to pcap files. Needs no root.
    pub fn dummy(lab: &Lab, name: &str) -> Result<Self> {
        Self::start(lab, name, &[], &["--enable-dummy"])
    }

    /// Starts it in a namespace, for bridges made by [`StockOvs::add_bridge`] over that namespace's devices.
    pub fn in_netns(lab: &Lab, name: &str, ns: &Netns) -> Result<Self> {
        Self::start(lab, name, &ns.prefix(), &[])
    }

    /// Starts both daemons; `prefix` goes before each command (to enter a namespace).
    fn start(lab: &Lab, name: &str, prefix: &[&str], flags: &[&str]) -> Result<Self> {
        let dir = lab.path(name);
        std::fs::create_dir(&dir)?;
        let database = start_database(&dir, prefix)?;
        let socket = format!("unix:{}", dir.join("db.sock").display());
        let control = format!("--unixctl={}", dir.join("switch.ctl").display());
        let argv = [prefix, &["ovs-vswitchd", &socket, "--disable-system", &control], flags].concat();
        let mut switch = Process::start("ovs-vswitchd", &argv, &dir.join("switch.log"), &folders(&dir))?;
        switch.wait_until(SHORT, |_| dir.join("switch.ctl").exists())?;
        Ok(StockOvs { switch, _database: database, dir })
    }

    /// `ovs-vsctl WORDS...`, waiting until the switch has done it.
    pub fn vsctl(&self, words: &[&str]) -> Result<String> {
        let db = format!("--db=unix:{}", self.dir.join("db.sock").display());
        ok(&[&["ovs-vsctl", &db, "--timeout=25"], words].concat(), SHORT)
    }

    /// `ovs-appctl WORDS...` at the switch.
    pub fn appctl(&self, words: &[&str]) -> Result<String> {
        let target = self.dir.join("switch.ctl").display().to_string();
        ok(&[&["ovs-appctl", "-t", &target], words].concat(), SHORT)
    }

    /// The switch's control socket, for many commands.
    pub fn control(&self) -> Result<Control> {
        Control::open(&self.dir.join("switch.ctl"))
    }

    /// Adds a bridge with the userspace datapath.
    pub fn add_bridge(&self, bridge: &str) -> Result<()> {
        self.vsctl(&["add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"]).map(drop)
    }

    /// Adds a device to a bridge. `settings` are columns of the Port table (`tag=10`).
    pub fn add_port(&self, bridge: &str, device: &str, settings: &str) -> Result<()> {
        let settings: Vec<&str> = settings.split_whitespace().collect();
        self.vsctl(&[&["add-port", bridge, device], &settings[..]].concat()).map(drop)
    }

    /// Makes the bridge `bridge` for the underlay: `device` is its port, and `cidr` the address of its internal port.
    /// The userspace datapath's tunnels leave by such a bridge only.
    pub fn add_underlay(&self, ns: &Netns, bridge: &str, device: &str, cidr: &str) -> Result<()> {
        self.add_bridge(bridge)?;
        self.add_port(bridge, device, "")?;
        ns.configure(bridge, cidr, 0)
    }

    /// Adds a tunnel port. `kind` is `vxlan` or `gre`, `options` columns of the Interface table (`options:key=10 ...`).
    pub fn add_tunnel(&self, bridge: &str, name: &str, kind: &str, options: &str) -> Result<()> {
        let kind = format!("type={kind}");
        let options: Vec<&str> = options.split_whitespace().collect();
        let add = ["add-port", bridge, name, "--", "set", "interface", name, &kind];
        self.vsctl(&[&add[..], &options].concat()).map(drop)
    }

    /// Hands a frame to a dummy device.
    pub fn receive(&self, device: &str, frame: &[u8]) -> Result<()> {
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        let answer = self.appctl(&["netdev-dummy/receive", device, &hex])?;
        if answer.trim().is_empty() {
            Ok(())
        } else {
            Err(Error::new(format!("receive {device} {hex}: {answer}")))
        }
    }

    /// Where this OVS keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Warnings and errors in the switch's log.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.switch.log();
        let bad = |line: &&str| ["|WARN|", "|ERR|", "|EMER|"].iter().any(|level| line.contains(level));
        log.lines().filter(bad).map(str::to_owned).collect()
    }
}

/// Datapath actions, as `ofproto/trace` says them, by commas; those within `clone()` as well, between `clone(` and `)`.
pub fn action_words(actions: &str) -> Vec<String> {
    let (mut words, mut depth) = (vec![String::new()], 0);
    for letter in actions.chars() {
        let Some(word) = words.last_mut() else { break };
        match letter {
            '(' if word == "clone" => {
                word.push('(');
                words.push(String::new());
            }
            ')' if depth == 0 => words.push(")".to_owned()),
            ',' if depth == 0 => words.push(String::new()),
            letter => {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                word.push(letter);
            }
        }
    }
    words
}

fn folders(dir: &Path) -> [(&'static str, &Path); 4] {
    [("OVS_RUNDIR", dir), ("OVS_LOGDIR", dir), ("OVS_DBDIR", dir), ("OVS_SYSCONFDIR", dir)]
}

/// Creates an empty database and serves it on `db.sock`.
fn start_database(dir: &Path, prefix: &[&str]) -> Result<Process> {
    let file = dir.join("conf.db").display().to_string();
    ok(&["ovsdb-tool", "create", &file, SCHEMA], SHORT)?;
    let socket = dir.join("db.sock");
    let remote = format!("--remote=punix:{}", socket.display());
    let control = format!("--unixctl={}", dir.join("db.ctl").display());
    let argv = [prefix, &["ovsdb-server", &file, &remote, &control]].concat();
    let mut server = Process::start("ovsdb-server", &argv, &dir.join("db.log"), &folders(dir))?;
    server.wait_until(SHORT, |_| socket.exists())?;
    let db = format!("--db=unix:{}", socket.display());
    ok(&["ovs-vsctl", &db, "--no-wait", "init"], SHORT)?;
    Ok(server)
}
