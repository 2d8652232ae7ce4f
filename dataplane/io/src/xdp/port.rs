//! Opening AF_XDP ports, and what the control thread holds of an open one.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::bpf::{self, Link, Map, Program, SocketMap};
use super::custody::Custody;
use super::device::PortDevice;
use super::offloads::Offloads;
use super::program::{self, EndpointKey};
use super::queue::{Closer, QueueParts, Suspects, XdpQueue, closer};
use super::quiet::QuietSockets;
use super::socket::{self, KernelStats, Place, RingSizes, XdpSocket};
use super::umem::Umem;
use super::{XdpError, attach_hint};
use crate::netns::Netns;
use crate::open;
use crate::packet::FRAME_SIZE;
use crate::pool::FramePool;
use crate::queue::{PortQueue, QueueFault};

/// Tunnel endpoints that an uplink has at most.
const MAX_ENDPOINTS: u32 = 4096;

/// Which packets of the device are this switch's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// All of them: a port in a bridge.
    All,
    /// Tunnel packets for these endpoints; the rest stays the host's. See [`XdpPort::add_endpoint`].
    Uplink(Vec<Endpoint>),
}

/// A local tunnel endpoint: its packets are untagged IPv4, and no fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// UDP packets to this address and port.
    Vxlan {
        /// The destination address.
        local: Ipv4Addr,
        /// The destination port; 4789 unless configured otherwise (RFC 7348, section 4.1).
        port: u16,
    },
    /// GRE packets with an Ethernet payload (protocol type 0x6558) to this address.
    Gre {
        /// The destination address.
        local: Ipv4Addr,
    },
}

impl Endpoint {
    fn key(self) -> EndpointKey {
        match self {
            Endpoint::Vxlan { local, port } => EndpointKey::udp(local, port),
            Endpoint::Gre { local } => EndpointKey::gre(local),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Vxlan { local, port } => write!(out, "vxlan {local}:{port}"),
            Endpoint::Gre { local } => write!(out, "gre {local}"),
        }
    }
}

/// Where the program is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WantedMode {
    /// In the driver if it can, else behind it.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Behind the driver.
    Generic,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before there is a socket buffer.
    Native,
    /// Behind the driver, on socket buffers: works with every device, and is slower.
    Generic,
}

impl Mode {
    fn attach_flag(self) -> u32 {
        match self {
            Mode::Native => bpf::NATIVE,
            Mode::Generic => bpf::GENERIC,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        })
    }
}

/// What port is wanted.
#[derive(Clone, Debug)]
pub struct XdpSpec<'a> {
    /// The device's name.
    pub device: &'a str,
    /// The network namespace that it lives in; the caller's if `None`.
    pub netns: Option<&'a Netns>,
    /// Which packets are taken.
    pub role: Role,
    /// Where the program is to run.
    pub mode: WantedMode,
    /// How long the rings are.
    pub rings: RingSizes,
}

impl<'a> XdpSpec<'a> {
    /// A port in a bridge, in the caller's namespace, all else by default.
    pub fn new(device: &'a str) -> Self {
        XdpSpec { device, netns: None, role: Role::All, mode: WantedMode::Auto, rings: RingSizes::default() }
    }

    fn no_program(&self) -> impl Fn(io::Error) -> XdpError {
        |source| XdpError::Program { device: self.device.to_owned(), source }
    }
}

/// An open port: a queue for each receive queue of the device, in their order, and the control thread's end.
pub type OpenPort = open::OpenPort<XdpPort>;

/// The control thread's end of an open port. Dropping it takes the program off the device, so that packets go to
/// the kernel again; the queues hold their sockets until they are dropped too.
#[derive(Debug)]
pub struct XdpPort {
    // The program goes before the offloads come back.
    _link: Link,
    offloads: Offloads,
    _promiscuous: Option<OwnedFd>,
    device: Arc<PortDevice>,
    mode: Mode,
    why: &'static str,
    uplink: Option<Uplink>,
    sockets: Vec<Weak<OwnedFd>>,
}

impl XdpPort {
    /// The device's index in its namespace.
    pub fn ifindex(&self) -> u32 {
        self.device.ifindex()
    }

    /// The device's MTU, as of the last look (see [`XdpPort::fault`]).
    pub fn mtu(&self) -> u32 {
        self.device.mtu()
    }

    /// Where the program runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it runs there, in half a sentence.
    pub fn why(&self) -> &'static str {
        self.why
    }

    /// Which offloads were switched off for the port, and what could not be made sure of; a sentence each.
    pub fn notes(&self) -> &[String] {
        self.offloads.notes()
    }

    /// What is wrong with the device, if anything. Also looks at its MTU, on behalf of the queues.
    pub fn fault(&self) -> Option<QueueFault> {
        self.device.fault()
    }

    /// What the kernel has counted for the port's sockets that are still open.
    pub fn kernel_stats(&self) -> KernelStats {
        let mut sum = KernelStats::default();
        for socket in self.sockets.iter().filter_map(Weak::upgrade) {
            sum += socket::kernel_stats(socket.as_fd()).unwrap_or_default();
        }
        sum
    }

    /// Takes packets for `endpoint` from now on. Has no effect on a port in a bridge, which takes all.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> Result<(), XdpError> {
        let Some(uplink) = &mut self.uplink else { return Ok(()) };
        uplink.add(endpoint).map_err(|source| self.endpoint_error(endpoint, source))
    }

    /// Leaves packets for `endpoint` to the host from now on; `false` if it was not there.
    pub fn remove_endpoint(&mut self, endpoint: Endpoint) -> Result<bool, XdpError> {
        let Some(uplink) = &mut self.uplink else { return Ok(false) };
        uplink.remove(endpoint).map_err(|source| self.endpoint_error(endpoint, source))
    }

    fn endpoint_error(&self, endpoint: Endpoint, source: io::Error) -> XdpError {
        XdpError::Endpoint { device: self.device.name().to_owned(), endpoint, source }
    }
}

impl fmt::Display for XdpPort {
    /// The mode and the reason for it, as in "native, copy mode: the driver can".
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, copy mode: {}", self.mode, self.why)
    }
}

/// The endpoints whose packets an uplink's program takes.
#[derive(Debug)]
struct Uplink {
    endpoints: Map<EndpointKey, u32>,
    quiet: QuietSockets,
}

impl Uplink {
    fn new() -> io::Result<Self> {
        Ok(Uplink { endpoints: Map::hash(MAX_ENDPOINTS, "weft_endpoints")?, quiet: QuietSockets::new()? })
    }

    fn add(&mut self, endpoint: Endpoint) -> io::Result<()> {
        self.quiet.add(endpoint)?;
        self.endpoints.insert(&endpoint.key(), &1)
    }

    fn remove(&mut self, endpoint: Endpoint) -> io::Result<bool> {
        let removed = self.endpoints.remove(&endpoint.key())?;
        self.quiet.remove(endpoint);
        Ok(removed)
    }
}

/// The frame pool, registered with the kernel; opens ports. One per process.
#[derive(Debug)]
pub struct XdpSystem {
    umem: Arc<Umem>,
    closer: Closer,
}

impl XdpSystem {
    /// Registers `pool`, which pins its memory. Needs CAP_NET_RAW and CAP_IPC_LOCK (or a large enough
    /// `ulimit -l`), and CAP_SYS_ADMIN for a network namespace of its own.
    pub fn new(pool: Arc<FramePool>) -> Result<Self, XdpError> {
        let umem = Umem::new(pool).map_err(XdpError::Umem)?;
        Ok(XdpSystem { umem: Arc::new(umem), closer: closer().map_err(XdpError::Thread)? })
    }

    /// Opens a port. Blocks for some 100 ms when the device's queues were in use until just now.
    pub fn open(&self, spec: XdpSpec<'_>) -> Result<OpenPort, XdpError> {
        if !spec.rings.is_legal() {
            return Err(XdpError::RingSizes { device: spec.device.to_owned(), sizes: spec.rings });
        }
        match spec.netns {
            Some(netns) => netns.run(|| self.open_in(netns, &spec))?,
            None => self.open_in(&Netns::current()?, &spec),
        }
    }

    /// Opens a port whose device is in `netns`, which is the calling thread's. What has been done is undone when
    /// a later step fails.
    fn open_in(&self, netns: &Netns, spec: &XdpSpec<'_>) -> Result<OpenPort, XdpError> {
        let device = Arc::new(PortDevice::find(netns, spec.device)?);
        let queues = device.rx_queues()?;
        let reserve = self.reserve(spec, queues)?;
        let sockets = SocketMap::sockets(queues).map_err(spec.no_program())?;
        let (program, uplink) = load(spec, &sockets)?;
        let may_be_partial = device.may_be_partial();
        // First of all: without sockets it leaves every packet to the kernel, and where another program is, nothing
        // else need be tried.
        let (link, mode, why) = attach(spec, &program, device.ifindex())?;
        let mut opened = Vec::new();
        for (queue, custody) in reserve.into_iter().enumerate() {
            let parts = self.open_queue(spec, &device, queue as u32, custody)?;
            let set = sockets.set_socket(queue as u32, parts.socket.fd());
            set.map_err(spec.no_program())?;
            opened.push(parts);
        }
        let offloads = Offloads::switch_off(netns, spec.device, mode)?;
        let promiscuous = (spec.role == Role::All).then(|| device.promiscuous()).transpose()?;
        let control = XdpPort {
            _link: link,
            offloads,
            _promiscuous: promiscuous,
            device,
            mode,
            why,
            uplink,
            sockets: opened.iter().map(|parts| parts.socket.watch()).collect(),
        };
        let suspects = match spec.role {
            _ if !may_be_partial && mode != Mode::Generic => Suspects::Nobody,
            Role::All => Suspects::Packets,
            Role::Uplink(_) => Suspects::TunnelPackets,
        };
        let queue =
            |parts| -> Box<dyn PortQueue> { Box::new(XdpQueue::new(parts, self.closer.clone(), suspects)) };
        Ok(OpenPort { queues: opened.into_iter().map(queue).collect(), control })
    }

    /// Takes the frames of all fill rings, or none.
    fn reserve(&self, spec: &XdpSpec<'_>, queues: u32) -> Result<Vec<Reserve>, XdpError> {
        let pool = self.umem.pool();
        let share = || Reserve::take(pool, spec.rings.rx);
        (0..queues).map(|_| share()).collect::<Option<Vec<_>>>().ok_or_else(|| XdpError::NoFrames {
            device: spec.device.to_owned(),
            queues,
            wanted: u64::from(queues) * u64::from(spec.rings.rx),
            free: pool.at_home(),
            all: pool.frames(),
        })
    }

    fn open_queue(
        &self,
        spec: &XdpSpec<'_>,
        device: &Arc<PortDevice>,
        queue: u32,
        reserve: Reserve,
    ) -> Result<QueueParts, XdpError> {
        let Reserve { custody, frames } = reserve;
        let open = || {
            let mut socket = XdpSocket::new(socket::open()?, spec.rings)?;
            socket.set_send_buffer(spec.rings.tx)?;
            for frame in frames {
                socket.fill.put(u64::from(frame) * FRAME_SIZE as u64);
            }
            socket.fill.publish();
            let place = Place { ifindex: device.ifindex(), queue };
            socket::bind(socket.fd(), place, libc::XDP_SHARED_UMEM, Some(self.umem.anchor()))?;
            Ok(socket)
        };
        let socket =
            open().map_err(|source| XdpError::Socket { device: spec.device.to_owned(), queue, source })?;
        Ok(QueueParts { socket, custody, umem: Arc::clone(&self.umem), device: Arc::clone(device) })
    }
}

/// One queue's share of the pool.
struct Reserve {
    custody: Custody,
    frames: Vec<u32>,
}

impl Reserve {
    fn take(pool: &Arc<FramePool>, count: u32) -> Option<Self> {
        let frames = pool.take(count as usize)?;
        let mut custody = Custody::new(Arc::clone(pool));
        for &frame in &frames {
            custody.enter(frame);
        }
        Some(Reserve { custody, frames })
    }
}

/// Loads the program for the port's role, with its endpoints if it is an uplink's.
fn load(spec: &XdpSpec<'_>, sockets: &SocketMap) -> Result<(Program, Option<Uplink>), XdpError> {
    let Role::Uplink(endpoints) = &spec.role else {
        let program = Program::load(&program::all(sockets.as_fd()), "weft_all");
        return Ok((program.map_err(spec.no_program())?, None));
    };
    let mut uplink = Uplink::new().map_err(spec.no_program())?;
    for &endpoint in endpoints {
        let device = || spec.device.to_owned();
        uplink.add(endpoint).map_err(|source| XdpError::Endpoint { device: device(), endpoint, source })?;
    }
    let insns = program::uplink(sockets.as_fd(), uplink.endpoints.as_fd());
    Ok((Program::load(&insns, "weft_uplink").map_err(spec.no_program())?, Some(uplink)))
}

/// Attaches the program in the mode that was asked for; says which it is, and why.
fn attach(
    spec: &XdpSpec<'_>,
    program: &Program,
    ifindex: u32,
) -> Result<(Link, Mode, &'static str), XdpError> {
    let attach = |mode: Mode| {
        program.attach(ifindex, mode.attach_flag()).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => XdpError::OtherProgram { device: spec.device.to_owned() },
            _ => XdpError::Attach { device: spec.device.to_owned(), mode, source },
        })
    };
    match spec.mode {
        WantedMode::Native => Ok((attach(Mode::Native)?, Mode::Native, "asked for")),
        WantedMode::Generic => Ok((attach(Mode::Generic)?, Mode::Generic, "asked for")),
        WantedMode::Auto => match attach(Mode::Native) {
            Ok(link) => Ok((link, Mode::Native, "the driver can")),
            Err(XdpError::Attach { source, .. }) => {
                let why = match attach_hint(&source) {
                    "" => "native mode was refused",
                    hint => hint.trim_start_matches(" (").trim_end_matches(')'),
                };
                Ok((attach(Mode::Generic)?, Mode::Generic, why))
            }
            Err(error) => Err(error),
        },
    }
}
