//! For the tests of kernel-device ports: namespaces that go when the test does, and commands in them.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_wire::DropCounts;

use crate::offload::finish_checksum;
use crate::packet::Packet;
use crate::pool::FrameCache;
use crate::queue::{Burst, PortQueue};
use crate::test_packets::{expected, field};
use crate::transport::Transport;

/// Whether the test may make namespaces and devices; says loudly that it skips if not.
pub(crate) fn root(test: &str) -> bool {
    // SAFETY: geteuid() has no arguments and can't fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(test, "needs root for network namespaces and devices");
    }
    root
}

/// Says on the real standard error, past the test runner's capture, that a test did not run, and writes it down where the
/// closing summary counts it: in the file that `WEFT_SKIPS` names.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("WEFT_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skipped tests");
    }
}

/// Network namespaces of one test. Their names are unique on the machine; all go at the end, with what is in them.
pub(crate) struct Sandbox {
    prefix: String,
    rooms: Vec<String>,
}

impl Sandbox {
    pub(crate) fn new(rooms: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("kn{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let sandbox = Sandbox { prefix, rooms: rooms.iter().map(|&room| room.to_owned()).collect() };
        for room in &sandbox.rooms {
            // A killed run whose process had this id may have left it.
            let _ = Command::new("ip").args(["netns", "del", &sandbox.name(room)]).output();
            run(&format!("ip netns add {}", sandbox.name(room)));
            sandbox.run(room, "ip link set lo up");
        }
        sandbox
    }

    /// The namespace's name for `ip netns`.
    pub(crate) fn name(&self, room: &str) -> String {
        format!("{}{room}", self.prefix)
    }

    /// Runs a command in a namespace; its words are separated by spaces, `{room}` stands for a namespace's name.
    pub(crate) fn run(&self, room: &str, command: &str) -> String {
        let output = self.try_run(room, command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn try_run(&self, room: &str, command: &str) -> Output {
        self.command(room, command).output().expect("ip is installed")
    }

    pub(crate) fn command(&self, room: &str, command: &str) -> Command {
        let mut whole = Command::new("ip");
        whole.args(["netns", "exec", &self.name(room)]);
        for word in command.split_whitespace() {
            let word = self
                .rooms
                .iter()
                .fold(word.to_owned(), |word, room| word.replace(&format!("{{{room}}}"), &self.name(room)));
            whole.arg(word);
        }
        whole
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for room in &self.rooms {
            let _ = Command::new("ip").args(["netns", "del", &self.name(room)]).output();
        }
    }
}

/// Runs a command; its words are separated by spaces.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect("the command is installed");
    assert!(output.status.success(), "{command}: {output:?}");
}

/// Moves packets both ways between two queues, as a switch without a policy would.
pub(crate) struct Patch<'a> {
    pub(crate) frames: &'a mut FrameCache,
    pub(crate) drops: DropCounts,
    pub(crate) moved: u64,
    /// Of those, packets whose checksum was unfinished.
    pub(crate) partial: u64,
    /// Octets of the longest packet.
    pub(crate) longest: usize,
}

impl<'a> Patch<'a> {
    pub(crate) fn new(frames: &'a mut FrameCache) -> Self {
        Patch { frames, drops: DropCounts::default(), moved: 0, partial: 0, longest: 0 }
    }

    pub(crate) fn step(&mut self, from: &mut dyn PortQueue, to: &mut dyn PortQueue) {
        let mut burst = Burst::new();
        from.rx_burst(self.frames, &mut burst, &mut self.drops);
        for packet in &burst {
            self.check(packet);
        }
        self.partial += burst.iter().filter(|packet| packet.checksum_start().is_some()).count() as u64;
        self.moved += to.tx_burst(self.frames, &mut burst, &mut self.drops).packets;
    }

    /// Each of the first packets with an unfinished checksum has a right one when it is finished.
    fn check(&mut self, packet: &Packet) {
        self.longest = self.longest.max(packet.total_len());
        if self.partial > 500 || packet.checksum_start().is_none() {
            return;
        }
        let mut copy = self.frames.copy(packet).unwrap();
        finish_checksum(&mut copy);
        let octets: Vec<u8> = copy.segments().flatten().copied().collect();
        self.frames.free(copy);
        if Transport::locate(&octets).is_some() {
            // 0 and 0xffff are the same number.
            assert_eq!(field(&octets).1 % 0xffff, expected(&octets) % 0xffff, "{octets:02x?}");
        }
    }

    /// Until `child` ends, for a minute at most; whether it ended well, and what it said.
    pub(crate) fn run_until(
        &mut self,
        mut child: Child,
        a: &mut dyn PortQueue,
        b: &mut dyn PortQueue,
    ) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                child.kill().unwrap();
            }
            self.step(a, b);
            self.step(b, a);
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?} {:?}", self.drops);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Waits until `condition` holds, at most half a minute. A process that another test starts holds copies of all descriptors until
/// it executes its program: what depends on the last one being closed may take its time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts an iperf3 server for one client in a namespace, and waits until it listens.
pub(crate) fn serve(sandbox: &Sandbox, room: &str) -> Child {
    let server = start(sandbox, room, "iperf3 -s -1");
    eventually("iperf3 listens", || !sandbox.run(room, "ss -Hltn sport = :5201").is_empty());
    server
}

pub(crate) fn start(sandbox: &Sandbox, room: &str, command: &str) -> Child {
    sandbox.command(room, command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn only(queues: Vec<Box<dyn PortQueue>>) -> Box<dyn PortQueue> {
    let [queue] = <[_; 1]>::try_from(queues).unwrap();
    queue
}
