//! One real guest: QEMU without hardware acceleration, Debian's cloud kernel, busybox; see `tests/guest`.

use crate::cmd::{Error, Result, SHORT};
use crate::lab::{Lab, Need};
use crate::netns::Netns;
use crate::process::Process;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Where `tests/guest/build.sh` puts kernel and initramfs.
const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest/vmlinuz");
const INITRAMFS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest/initramfs.gz");

/// What a test with a guest needs besides its own.
pub const NEEDS: [Need; 3] = [
    Need::Tool("qemu-system-x86_64"),
    Need::File(KERNEL, "the guest that tests/guest/build.sh builds"),
    Need::Device("tun"),
];

/// How the guest is set up.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    /// The tap in its namespace that QEMU opens as the guest's wire.
    pub tap: &'a str,
    /// The guest's address with prefix length.
    pub cidr: &'a str,
    /// The guest's MAC.
    pub mac: &'a str,
    /// The guest's MTU.
    pub mtu: u32,
}

/// A running guest. It boots in a few seconds, answers ping, and runs commands.
pub struct QemuGuest {
    process: Process,
    channel: UnixStream,
    console: std::path::PathBuf,
}

impl QemuGuest {
    /// Starts QEMU in `ns` on an existing persistent tap and waits until the guest is up (at most three minutes).
    ///
    /// vhost is off: QEMU itself reads and writes the tap, with `virtio_net_hdr`.
    pub fn boot(lab: &Lab, name: &str, ns: &Netns, guest: &Guest<'_>) -> Result<Self> {
        let socket = lab.path(&format!("{name}.sock"));
        let console = lab.path(&format!("{name}.console"));
        let Guest { tap, cidr, mac, mtu } = guest;
        // A guest that has no processor for a while, on a busy machine, takes its timer for broken, and panics.
        let kernel = "console=ttyS0 quiet mitigations=off panic=-1 no_timer_check";
        let append = format!("{kernel} guest.ip={cidr} guest.mtu={mtu}");
        let netdev = format!("tap,id=wire,ifname={tap},script=no,downscript=no,vhost=off");
        let device = format!("virtio-net-pci,netdev=wire,mac={mac},romfile=");
        let first = format!("file:{}", console.display());
        let second = format!("unix:{},server=on,wait=on", socket.display());
        let mut argv = vec!["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "192"];
        argv.extend([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            KERNEL,
            "-initrd",
            INITRAMFS,
        ]);
        argv.extend(["-append", &append, "-netdev", &netdev, "-device", &device]);
        argv.extend(["-serial", &first, "-serial", &second]);
        let mut process = ns.spawn(lab, name, &argv)?;
        process.wait_until(SHORT, |_| socket.exists())?;
        // QEMU lets the guest run once someone is on its second serial line: nothing that it says is lost.
        let mut guest = QemuGuest { process, channel: UnixStream::connect(&socket)?, console };
        guest.read_until("guest-ready", Duration::from_secs(180))?;
        Ok(guest)
    }

    /// Runs a shell command line in the guest and returns its exit code and output.
    pub fn run(&mut self, line: &str, limit: Duration) -> Result<(i32, String)> {
        self.channel.write_all(format!("{line}\n").as_bytes())?;
        let (output, closing) = self.read_until("guest-done", limit)?;
        let code =
            closing.trim().parse().map_err(|_| Error::new(format!("guest: no exit code in `{closing}`")))?;
        Ok((code, output))
    }

    /// Like [`QemuGuest::run`] for half a minute, and the command must succeed.
    pub fn sh(&mut self, line: &str) -> Result<String> {
        match self.run(line, SHORT)? {
            (0, output) => Ok(output),
            (code, output) => Err(Error::new(format!("guest: `{line}`: exit {code}: {output}"))),
        }
    }

    /// The pid of QEMU.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Reads up to and with the line that starts with `mark`; returns what is before it, and the rest of that line.
    fn read_until(&mut self, mark: &str, limit: Duration) -> Result<(String, String)> {
        let end = Instant::now() + limit;
        let mut text = String::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some((before, line)) = split_at_mark(&text, mark) {
                return Ok((before, line));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.failed(&format!("no `{mark}` within {limit:?}; said: {text}")));
            }
            self.channel.set_read_timeout(Some(left.min(Duration::from_millis(200))))?;
            match self.channel.read(&mut chunk) {
                Ok(0) => return Err(self.failed(&format!("the guest is gone; said: {text}"))),
                Ok(n) => text.push_str(&String::from_utf8_lossy(&chunk[..n]).replace('\r', "")),
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// An error with what QEMU and the guest's kernel have said.
    fn failed(&self, what: &str) -> Error {
        let console = std::fs::read_to_string(&self.console).unwrap_or_default();
        Error::new(format!("{what}\nQEMU: {}\nconsole: {console}", self.process.log()))
    }
}

fn split_at_mark(text: &str, mark: &str) -> Option<(String, String)> {
    let complete = &text[..text.rfind('\n')?];
    let line = complete.lines().find_map(|line| line.strip_prefix(mark))?;
    let before = complete.split(mark).next().unwrap_or_default();
    Some((before.to_owned(), line.to_owned()))
}
