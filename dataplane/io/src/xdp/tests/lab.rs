//! Network namespaces and veth pairs for the tests, and a switch that is one loop between two queues.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_wire::DropCounts;

use crate::netns::Netns;
use crate::packet::{Offload, Packet};
use crate::pool::FramePool;
use crate::queue::{Burst, PortQueue, Sent};
pub(crate) use crate::testing::eventually;
use crate::xdp::{OpenPort, WantedMode, XdpError, XdpPort, XdpSpec, XdpSystem};

/// Whether this test can run; says so loudly when it can't.
pub fn privileged(test: &str) -> bool {
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        crate::testing::skip(test, "needs root for network namespaces and XDP");
    }
    root
}

/// Runs a command line; panics with its output when it fails.
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a command line; says whether it succeeded.
pub fn succeeds(line: &str) -> bool {
    Command::new("sh")
        .args(["-c", line])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// A process that ends with the test.
pub struct Background(Child);

impl Background {
    pub fn start(line: &str) -> Self {
        let command = format!("exec {line}");
        Background(Command::new("sh").args(["-c", &command]).stdout(Stdio::null()).spawn().expect("sh"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A switch namespace, and hosts a, b, ... each joined to it by a veth pair: `eth0` in the host's namespace, with
/// address 10.0.0.1, 10.0.0.2, ..., and `pa`, `pb`, ... in the switch's.
pub struct Lab {
    /// One test at a time: they compare counters, and share the machine's cores with the switch.
    _turn: MutexGuard<'static, ()>,
    name: String,
    hosts: Vec<char>,
}

impl Lab {
    pub fn new(hosts: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("xk{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { _turn: turn, name, hosts: hosts.chars().collect() };
        lab.remove();
        run(&format!("ip netns add {}", lab.switch()));
        run(&format!("ip -n {} link set lo up", lab.switch()));
        for (index, &host) in lab.hosts.iter().enumerate() {
            run(&format!("ip netns add {}", lab.host(host)));
            lab.plug(host);
            let in_host = format!("ip -n {}", lab.host(host));
            run(&format!("{in_host} address add 10.0.0.{}/24 dev eth0", index + 1));
        }
        lab
    }

    /// Removes the namespaces: this lab's, or those that a killed run has left whose process had this id.
    fn remove(&self) {
        for &host in &self.hosts {
            succeeds(&format!("ip netns del {}", self.host(host)));
        }
        succeeds(&format!("ip netns del {}", self.switch()));
    }

    /// The switch's namespace.
    pub fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    /// A host's namespace.
    pub fn host(&self, host: char) -> String {
        format!("{}{host}", self.name)
    }

    /// The switch's namespace, opened.
    pub fn switch_netns(&self) -> Netns {
        Netns::open(&self.switch()).expect("the namespace was made")
    }

    /// Makes a host's veth pair.
    pub fn plug(&self, host: char) {
        let (switch, inside) = (self.switch(), self.host(host));
        run(&format!("ip -n {switch} link add p{host} type veth peer name eth0 netns {inside}"));
        for (netns, device) in [(&switch, format!("p{host}")), (&inside, "eth0".to_owned())] {
            run(&format!("ip netns exec {netns} sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1"));
            run(&format!("ip -n {netns} link set {device} up"));
        }
        // A kernel asks again for a neighbour five seconds after its first use: just when packets are counted.
        let kernel = "net.ipv4.neigh.eth0";
        let times = format!("{kernel}.base_reachable_time_ms=3600000 {kernel}.delay_first_probe_time=3600");
        run(&format!("ip netns exec {inside} sysctl -qw {times}"));
        run(&format!("ip -n {inside} link set lo up"));
    }

    /// Runs a command in a host.
    pub fn exec(&self, host: char, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.host(host)))
    }

    /// Starts a command in a host.
    pub fn start(&self, host: char, line: &str) -> Background {
        Background::start(&format!("ip netns exec {} {line}", self.host(host)))
    }

    /// Runs a command in the switch's namespace.
    pub fn at_switch(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.switch()))
    }

    /// Opens the port of a host that has one queue.
    pub fn open_one(
        &self,
        system: &XdpSystem,
        host: char,
        mode: WantedMode,
    ) -> (Box<dyn PortQueue>, XdpPort) {
        let mut port = self.open(system, host, mode);
        assert_eq!(port.queues.len(), 1);
        (port.queues.remove(0), port.control)
    }

    /// Runs iperf3 from one host to another's address; the received rate in bits per second and lost packets.
    pub fn iperf(&self, from: char, to: &str, options: &str) -> (f64, u64) {
        let json = self.exec(from, &format!("iperf3 -J -c {to} --connect-timeout 10000 {options}"));
        let end = &json[json.rfind("\"sum\"").or(json.find("\"sum_received\"")).expect("a result")..];
        let end = json.find("\"sum_received\"").map_or(end, |at| &json[at..]);
        let number = |key: &str| -> Option<f64> {
            let rest = end[end.find(&format!("\"{key}\""))?..].split_once(':')?.1;
            rest.split([',', '\n', '}']).next()?.trim().parse().ok()
        };
        (number("bits_per_second").expect("a rate"), number("lost_packets").unwrap_or(0.0) as u64)
    }

    /// What a host's device has counted: packets sent, packets received.
    pub fn counted(&self, host: char) -> (u64, u64) {
        let count = |name| {
            let text = self.exec(host, &format!("cat /sys/class/net/eth0/statistics/{name}_packets"));
            text.trim().parse::<u64>().expect("a number")
        };
        (count("tx"), count("rx"))
    }

    /// Waits until nothing has come or gone at any host for a while: connections end when the programs that had them are gone.
    pub fn wait_quiet(&self) {
        let count = || self.hosts.iter().map(|&host| self.counted(host)).collect::<Vec<_>>();
        eventually("quiet", || {
            let before = count();
            std::thread::sleep(Duration::from_millis(200));
            count() == before
        });
    }

    /// Asserts that whatever left `from` since `before` came to the switch, unless the kernel says that its ring was
    /// full, and whatever the switch sent came to `to`.
    pub fn assert_accounted(&self, from: Side<'_>, to: Side<'_>, moved: &Moved) {
        let kernel = from.port.kernel_stats();
        let missed = kernel.rx_dropped + kernel.rx_ring_full;
        let left = self.counted(from.host).0 - from.before.0;
        assert_eq!(left, moved.received + missed, "sent, and received by the switch; {kernel:?}");
        let arrived = self.counted(to.host).1 - to.before.1;
        assert_eq!(arrived, moved.sent.packets, "received, and sent by the switch");
        assert_eq!(moved.received, moved.sent.packets, "{:?}", moved.drops);
        assert_eq!(moved.drops, DropCounts::default());
        assert_eq!(self.checksum_errors(to.host), 0);
    }

    /// How many TCP and UDP packets a host has received whose checksum was wrong.
    pub fn checksum_errors(&self, host: char) -> u64 {
        let table = self.exec(host, "cat /proc/net/snmp");
        let of = |protocol: &str| {
            let rows: Vec<&str> = table.lines().filter(|line| line.starts_with(protocol)).collect();
            let column = rows[0].split(' ').position(|name| name == "InCsumErrors").expect("the counter");
            rows[1].split(' ').nth(column).expect("its value").parse::<u64>().expect("a number")
        };
        of("Tcp:") + of("Udp:")
    }

    /// A host and its port, and what it has counted so far.
    pub fn side<'a>(&self, host: char, port: &'a XdpPort) -> Side<'a> {
        Side { host, port, before: self.counted(host) }
    }

    /// Starts an iperf3 server in a host.
    pub fn serve(&self, host: char) -> Background {
        let server = self.start(host, "iperf3 -s");
        eventually("iperf3 listens", || self.exec(host, "ss -ltn").contains(":5201"));
        server
    }

    /// Opens the port of a host. If it was open before, the kernel may have that port's program or socket for a moment.
    pub fn open(&self, system: &XdpSystem, host: char, mode: WantedMode) -> OpenPort {
        let netns = self.switch_netns();
        let device = format!("p{host}");
        let open = || system.open(XdpSpec { netns: Some(&netns), mode, ..XdpSpec::new(&device) });
        let mut opened = open();
        eventually("a device that is free", || {
            let busy = match &opened {
                Err(XdpError::OtherProgram { .. }) => true,
                Err(XdpError::Socket { source, .. }) => source.raw_os_error() == Some(libc::EBUSY),
                _ => false,
            };
            if busy {
                opened = open();
            }
            !busy
        });
        opened.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// See [`Lab::side`].
#[derive(Clone, Copy)]
pub struct Side<'a> {
    host: char,
    port: &'a XdpPort,
    before: (u64, u64),
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What a test switch has moved, from its left to its right port and back.
#[derive(Default, Debug, Clone, Copy)]
pub struct Moved {
    pub received: u64,
    /// Of those, with an unfinished checksum.
    pub partial: u64,
    pub sent: Sent,
    pub drops: DropCounts,
}

/// What was moved in each direction, and the two queues.
pub type Stopped = ([Moved; 2], [Box<dyn PortQueue>; 2]);

/// A thread that moves bursts between two queues.
pub struct Patch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Stopped>,
}

impl Patch {
    pub fn start(pool: &Arc<FramePool>, mut left: Box<dyn PortQueue>, mut right: Box<dyn PortQueue>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut frames) = (Arc::clone(&stop), pool.cache());
        let thread = std::thread::spawn(move || {
            let mut moved = [Moved::default(); 2];
            loop {
                let mut idle = forward(&mut frames, &mut *left, &mut *right, &mut moved[0]);
                idle &= forward(&mut frames, &mut *right, &mut *left, &mut moved[1]);
                let woken = !idle || !left.arm() || !right.arm() || sleep(&*left, &*right);
                // What is under way when the test ends is still moved.
                if stopped.load(Ordering::Relaxed) && !woken {
                    break;
                }
            }
            (moved, [left, right])
        });
        Patch { stop, thread }
    }

    /// What has been moved; the queues go.
    pub fn stop(self) -> [Moved; 2] {
        self.pause().0
    }

    /// What has been moved, and the queues.
    pub fn pause(self) -> Stopped {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the switch thread lives")
    }
}

/// Moves one burst; says whether there was none.
pub fn forward(
    frames: &mut crate::FrameCache,
    from: &mut dyn PortQueue,
    to: &mut dyn PortQueue,
    moved: &mut Moved,
) -> bool {
    let mut burst = Burst::new();
    from.rx_burst(frames, &mut burst, &mut moved.drops);
    let idle = burst.is_empty();
    moved.received += burst.len() as u64;
    let partial = |packet: &&Packet| packet.offload.flags & Offload::NEEDS_CHECKSUM != 0;
    moved.partial += burst.iter().filter(partial).count() as u64;
    let sent = to.tx_burst(frames, &mut burst, &mut moved.drops);
    moved.sent.packets += sent.packets;
    moved.sent.bytes += sent.bytes;
    idle
}

/// Waits for either queue, at most 30 ms; whether there is something.
fn sleep(left: &dyn PortQueue, right: &dyn PortQueue) -> bool {
    use std::os::fd::AsRawFd;
    let mut waits: Vec<libc::pollfd> = [left, right]
        .iter()
        .filter_map(|queue| queue.wait_fd())
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the array is borrowed for the call, and its length is given.
    unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, 30) > 0 }
}
