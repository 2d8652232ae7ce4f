//! Opening what is behind a port: which backend, why, and the control thread's handle on it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use weft_config::port::{Backend, Port, PortType};
use weft_io::af_packet::{self, AfPacketControl, AfPacketError, AfPacketSpec};
use weft_io::device::{Device, DeviceError};
use weft_io::netns::{self, Netns, NetnsError, NetnsId};
use weft_io::null::NullQueue;
use weft_io::replay::{CaptureQueue, PcapFileError, ReplayQueue};
use weft_io::tap::{self, TapControl, TapError, TapSpec};
use weft_io::xdp::{XdpError, XdpPort, XdpSpec, XdpSystem};
use weft_io::{FramePool, PortQueue, memory};
use weft_wire::{Mac, PortName};

/// A port can't be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each is another module's error")]
pub enum OpenError {
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error(transparent)]
    AfPacket(#[from] AfPacketError),
    #[error(transparent)]
    Xdp(#[from] XdpError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Pcap(#[from] PcapFileError),
    #[error("port {name}: type {kind} needs a file")]
    NoFile { name: PortName, kind: &'static str },
}

/// What has to be opened: the settings of a port that only opening it anew can change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    name: PortName,
    kind: PortType,
    backend: Backend,
    netns: Option<String>,
    file: Option<PathBuf>,
    repeat: bool,
    /// What the device is set to when it is opened, and whenever it changes.
    pub settings: Settings,
}

/// The settings of a device that change while it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Its MTU, octets.
    pub mtu: Option<u16>,
    /// Its address.
    pub mac: Option<Mac>,
    /// A tap stays when the switch goes.
    pub persistent: bool,
}

impl Wanted {
    /// What a port of the configuration asks for.
    pub fn port(port: &Port) -> Self {
        Wanted {
            name: port.name.clone(),
            kind: port.kind,
            backend: port.backend,
            netns: port.netns.as_ref().map(|netns| netns.as_str().to_owned()),
            file: port.file.clone(),
            repeat: port.repeat,
            settings: Settings {
                mtu: port.mtu.map(|mtu| mtu.get() as u16),
                mac: port.mac,
                persistent: port.persistent,
            },
        }
    }

    /// A bridge's own internal port.
    pub fn internal(name: &PortName, mac: Option<Mac>) -> Self {
        let mut wanted = Wanted::port(&Port::new(name.clone(), PortType::Internal));
        wanted.settings.mac = mac;
        wanted
    }

    /// Whether it is a tap as `other` is, in another namespace: both can be there at a time.
    pub fn is_elsewhere(&self, other: &Wanted) -> bool {
        let tap = |wanted: &Wanted| matches!(wanted.kind, PortType::Tap | PortType::Internal);
        tap(self) && tap(other) && self.netns != other.netns
    }

    /// Whether an open device of `other` serves, once its settings are changed.
    pub fn same_device(&self, other: &Wanted) -> bool {
        Wanted { settings: other.settings, ..self.clone() } == *other
    }
}

/// A device, open.
#[derive(Debug)]
pub struct Opened {
    /// To be given to workers.
    pub queues: Vec<Box<dyn PortQueue>>,
    /// The rest.
    pub handle: Handle,
}

/// What the control thread keeps of an open device.
#[derive(Debug)]
pub struct Handle {
    control: Control,
    /// `tap`, `netdev`, ...: what `auto` became.
    pub kind: &'static str,
    /// `tap`, `af_packet`, `af_xdp native`, ...
    pub backend: String,
    /// Why that one; empty when it was asked for.
    pub why: String,
    /// The named namespace that a tap was made in.
    home: Option<(String, NetnsId)>,
}

#[derive(Debug)]
enum Control {
    Tap(TapControl),
    AfPacket(AfPacketControl),
    Xdp(XdpPort, Device),
    /// The other end of an in-memory port, which nobody uses.
    Memory(#[expect(dead_code, reason = "held so that the port has another end")] memory::MemoryPeer),
    Nothing,
}

/// What is to be said of a device at this moment.
#[derive(Debug, Default)]
pub struct Facts {
    /// Its index in its namespace.
    pub ifindex: Option<u32>,
    /// Its address.
    pub mac: Option<Mac>,
    /// Its MTU, octets.
    pub mtu: Option<u32>,
    /// Its namespace, if that isn't the switch's own.
    pub netns: Option<String>,
    /// Administratively up.
    pub up: bool,
}

impl Handle {
    /// Reads the device's state; `None` for a port without a device, an error when the device is gone.
    pub fn facts(&self) -> Result<Option<Facts>, DeviceError> {
        match &self.control {
            Control::Tap(tap) => facts(&tap.device()?, foreign(&tap.netns()?)).map(Some),
            Control::AfPacket(socket) => facts(socket.device(), None).map(Some),
            Control::Xdp(_, device) => facts(device, None).map(Some),
            Control::Memory(_) | Control::Nothing => Ok(None),
        }
    }

    /// Why the device can't serve any more; `None` if it can. An answer that fails to come is no reason.
    pub fn problem(&self) -> Option<String> {
        let gone = match &self.control {
            Control::Tap(tap) => tap.check(),
            Control::AfPacket(socket) => socket.device().name().map(drop),
            Control::Xdp(_, device) => device.name().map(drop),
            Control::Memory(_) | Control::Nothing => return None,
        };
        match gone {
            Err(error @ DeviceError::Gone(_)) => Some(error.to_string()),
            Err(_) => None,
            Ok(()) => self.deserted(),
        }
    }

    /// A tap's descriptor keeps its namespace alive: when that has lost its name, and nobody is in it, the tap has to go
    /// as the namespace's other devices do.
    fn deserted(&self) -> Option<String> {
        let (Control::Tap(tap), Some((name, id))) = (&self.control, &self.home) else { return None };
        if netns::id_of_name(name) == Some(*id) {
            return None;
        }
        let netns = tap.netns().ok()?;
        let left = netns.id() == *id && !netns.is_inhabited();
        left.then(|| format!("network namespace '{name}' was deleted"))
    }

    /// Packets that the kernel lost before the switch could receive them.
    pub fn missed(&self) -> u64 {
        match &self.control {
            Control::AfPacket(socket) => socket.overruns(),
            Control::Xdp(port, _) => missed(port),
            Control::Tap(_) | Control::Memory(_) | Control::Nothing => 0,
        }
    }

    /// The port is deleted: a persistent tap is to go with its queues.
    pub fn discard(&self) {
        if let Control::Tap(tap) = &self.control
            && let Err(error) = tap.set_persistent(false)
        {
            tracing::debug!("a deleted tap stays: {error}");
        }
    }

    /// The settings that [`Handle::set`] would bring back, for an undo.
    pub fn settings(&self, wanted: &Settings) -> Result<Settings, DeviceError> {
        let facts = self.facts()?.unwrap_or_default();
        let mtu = facts.mtu.and_then(|mtu| u16::try_from(mtu).ok());
        Ok(Settings { mtu, mac: facts.mac, persistent: wanted.persistent })
    }

    /// Changes MTU and address, where they are said, and a tap's persistence.
    pub fn set(&self, settings: Settings) -> Result<(), DeviceError> {
        let tap;
        let device = match &self.control {
            Control::Tap(control) => {
                control.set_persistent(settings.persistent)?;
                tap = control.device()?;
                &tap
            }
            Control::AfPacket(socket) => socket.device(),
            Control::Xdp(_, device) => device,
            Control::Memory(_) | Control::Nothing => return Ok(()),
        };
        settings.mtu.map_or(Ok(()), |mtu| device.set_mtu(mtu))?;
        settings.mac.map_or(Ok(()), |mac| device.set_mac(mac))
    }
}

/// Packets that found an AF_XDP port's rings full or without frames.
pub fn missed(port: &XdpPort) -> u64 {
    let stats = port.kernel_stats();
    stats.rx_dropped + stats.rx_ring_full
}

fn facts(device: &Device, netns: Option<String>) -> Result<Facts, DeviceError> {
    Ok(Facts {
        ifindex: u32::try_from(device.index()).ok(),
        mac: device.mac()?,
        mtu: Some(device.mtu()?),
        netns,
        up: device.link()?.up,
    })
}

/// A namespace's name, if it isn't this process's.
fn foreign(netns: &Netns) -> Option<String> {
    let own = Netns::current().is_ok_and(|own| own.id() == netns.id());
    (!own).then(|| netns.name().unwrap_or_else(|| "(unnamed)".to_owned()))
}

/// The AF_XDP system, made when the first port needs it.
#[derive(Debug)]
pub struct LazyXdp {
    pool: Arc<FramePool>,
    system: Option<XdpSystem>,
}

impl LazyXdp {
    /// Over the process's frames.
    pub fn new(pool: Arc<FramePool>) -> Self {
        LazyXdp { pool, system: None }
    }

    /// The system.
    pub fn get(&mut self) -> Result<&XdpSystem, XdpError> {
        let made = match self.system.take() {
            Some(system) => system,
            None => XdpSystem::new(Arc::clone(&self.pool))?,
        };
        Ok(self.system.insert(made))
    }
}

/// Opens what is wanted.
pub fn open(wanted: &Wanted, xdp: &mut LazyXdp) -> Result<Opened, OpenError> {
    let opened = match wanted.kind {
        PortType::Tap | PortType::Internal => open_tap(wanted)?,
        PortType::Auto | PortType::Netdev => open_netdev(wanted, xdp)?,
        PortType::Replay => {
            let queue = ReplayQueue::open(wanted.path("replay")?, wanted.repeat)?;
            plain("replay", Box::new(queue))
        }
        PortType::Capture => plain("capture", Box::new(CaptureQueue::create(wanted.path("capture")?)?)),
        // A patch port has no device: nobody opens it.
        PortType::Null | PortType::Patch => plain("null", Box::new(NullQueue)),
        PortType::Memory => {
            let (queue, peer) = memory::pair(1024);
            let mut opened = plain("memory", Box::new(queue));
            opened.handle.control = Control::Memory(peer);
            opened
        }
    };
    if wanted.kind != PortType::Tap && wanted.kind != PortType::Internal {
        opened.handle.set(wanted.settings)?;
    }
    Ok(opened)
}

impl Wanted {
    fn path(&self, kind: &'static str) -> Result<&std::path::Path, OpenError> {
        self.file.as_deref().ok_or_else(|| OpenError::NoFile { name: self.name.clone(), kind })
    }
}

fn plain(kind: &'static str, queue: Box<dyn PortQueue>) -> Opened {
    let handle =
        Handle { control: Control::Nothing, kind, backend: kind.to_owned(), why: String::new(), home: None };
    Opened { queues: vec![queue], handle }
}

fn open_tap(wanted: &Wanted) -> Result<Opened, OpenError> {
    let spec = TapSpec {
        netns: wanted.netns.clone(),
        mac: wanted.settings.mac,
        mtu: wanted.settings.mtu,
        persistent: wanted.settings.persistent,
        ..TapSpec::new(wanted.name.clone())
    };
    let kind = if wanted.kind == PortType::Internal { "internal" } else { "tap" };
    let open = tap::open(&spec)?;
    let (control, backend, why) = (Control::Tap(open.control), "tap".to_owned(), String::new());
    let home = wanted.netns.as_ref().and_then(|name| Some((name.clone(), netns::id_of_name(name)?)));
    let handle = Handle { control, kind, backend, why, home };
    Ok(Opened { queues: open.queues, handle })
}

fn open_netdev(wanted: &Wanted, xdp: &mut LazyXdp) -> Result<Opened, OpenError> {
    let netns = Netns::open_or_current(wanted.netns.as_deref())?;
    let device = Device::open(&netns, wanted.name.as_str())?;
    let (backend, why) = match wanted.backend {
        Backend::Auto => choose(&device.driver().unwrap_or_default()),
        chosen => (chosen, Reason::Asked),
    };
    if backend == Backend::AfPacket {
        return open_af_packet(wanted, why.to_string());
    }
    let spec = XdpSpec { netns: wanted.netns.as_ref().map(|_| &netns), ..XdpSpec::new(wanted.name.as_str()) };
    match xdp.get().and_then(|xdp| xdp.open(spec)) {
        Ok(open) => {
            let backend = format!("af_xdp {}", open.control.mode());
            let why = if why == Reason::Asked { open.control.why().to_owned() } else { why.to_string() };
            let handle = Handle {
                control: Control::Xdp(open.control, device),
                kind: "netdev",
                backend,
                why,
                home: None,
            };
            Ok(Opened { queues: open.queues, handle })
        }
        Err(error) if why != Reason::Asked => open_af_packet(wanted, format!("not af_xdp: {error}")),
        Err(error) => Err(error.into()),
    }
}

fn open_af_packet(wanted: &Wanted, why: String) -> Result<Opened, OpenError> {
    let open = af_packet::open(&AfPacketSpec { name: wanted.name.clone(), netns: wanted.netns.clone() })?;
    let control = Control::AfPacket(open.control);
    let handle = Handle { control, kind: "netdev", backend: "af_packet".to_owned(), why, home: None };
    Ok(Opened { queues: open.queues, handle })
}

/// Why a backend was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Asked,
    Tap,
    Virtual,
    Nic,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Reason::Asked => "",
            Reason::Tap => "somebody else's tap: only af_packet sees its unfinished checksums",
            Reason::Virtual => "a virtual device: only af_packet sees its unfinished checksums and segments",
            Reason::Nic => "a NIC: af_xdp is faster",
        })
    }
}

/// The best backend that is correct for a device of this driver.
fn choose(driver: &str) -> (Backend, Reason) {
    match driver {
        "tun" => (Backend::AfPacket, Reason::Tap),
        "veth" | "bridge" | "macvlan" | "vxlan" | "dummy" | "" => (Backend::AfPacket, Reason::Virtual),
        _ => (Backend::AfXdp, Reason::Nic),
    }
}
