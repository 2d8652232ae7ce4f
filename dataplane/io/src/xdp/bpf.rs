//! The few commands of bpf(2) that the AF_XDP ports need: maps, programs, links, and test runs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::program::Insn;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;

const MAP_TYPE_HASH: u32 = 1;
const MAP_TYPE_XSKMAP: u32 = 17;
/// What a program is for: its type, and how it is attached.
#[derive(Clone, Copy)]
struct Purpose {
    program: u32,
    attach: u32,
}

const XDP: Purpose = Purpose { program: 6, attach: 37 };
/// Sees what a device sends (`BPF_PROG_TYPE_SCHED_CLS`, `BPF_TCX_EGRESS`).
#[cfg(test)]
const TC_EGRESS: Purpose = Purpose { program: 3, attach: 47 };
/// The program may be attached where packets have several buffers (`BPF_F_XDP_HAS_FRAGS`).
const HAS_FRAGS: u32 = 1 << 5;

/// Attach in the driver (`XDP_FLAGS_DRV_MODE`).
pub(super) const NATIVE: u32 = 1 << 2;
/// Attach behind the driver (`XDP_FLAGS_SKB_MODE`).
pub(super) const GENERIC: u32 = 1 << 1;

/// `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// `BPF_MAP_*_ELEM`.
#[repr(C)]
struct MapElem {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

/// `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `BPF_PROG_TEST_RUN`.
#[cfg(test)]
#[repr(C)]
struct TestRun {
    prog: u32,
    verdict: u32,
    data_in_size: u32,
    data_out_size: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` is the structure that `command` takes, zero where it has padding, and every address in it is that of
/// memory of the size that goes with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: by the caller's contract; the size is the structure's own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: bpf(2) has just returned this descriptor, so it is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address<T>(place: &T) -> u64 {
    std::ptr::from_ref(place).addr() as u64
}

const fn object_name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let mut index = 0;
    while index < text.len() && index < 15 {
        name[index] = text.as_bytes()[index];
        index += 1;
    }
    name
}

/// A map of `K` to `V`.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    fd: OwnedFd,
    _of: std::marker::PhantomData<fn(K) -> V>,
}

/// The sockets of one device by receive queue: value is the socket's descriptor.
pub(super) type SocketMap = Map<u32, u32>;

impl SocketMap {
    /// A map for `queues` sockets.
    pub fn sockets(queues: u32) -> io::Result<Self> {
        Self::create(MAP_TYPE_XSKMAP, queues, "weft_sockets")
    }

    /// Puts a socket in.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.insert(&queue, &raw(socket))
    }
}

impl<K: bytemuck::NoUninit, V: bytemuck::NoUninit> Map<K, V> {
    /// A hash map for at most `max_entries`.
    pub fn hash(max_entries: u32, name: &str) -> io::Result<Self> {
        Self::create(MAP_TYPE_HASH, max_entries, name)
    }

    fn create(map_type: u32, max_entries: u32, name: &str) -> io::Result<Self> {
        let mut attr = MapCreate {
            map_type,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries,
            name: object_name(name),
            ..MapCreate::default()
        };
        // SAFETY: the structure of this command, without addresses.
        let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
        Ok(Map { fd: owned(fd), _of: std::marker::PhantomData })
    }

    /// Puts an entry in, or replaces it.
    pub fn insert(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.elem(key, address(value));
        // SAFETY: the structure of this command; key and value are borrowed and of the sizes the map was made with.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Takes an entry out; `false` when it is not there.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.elem(key, 0);
        // SAFETY: the structure of this command; the key is borrowed and of the size the map was made with.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn elem(&self, key: &K, value: u64) -> MapElem {
        MapElem { map: raw(self.fd.as_fd()), padding: 0, key: address(key), value, flags: 0 }
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A program that the verifier has taken.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
    attach_type: u32,
}

impl Program {
    /// Loads an XDP program.
    pub fn load(insns: &[Insn], name: &str) -> io::Result<Self> {
        Self::load_as(XDP, insns, name, HAS_FRAGS).or_else(|error| match error.raw_os_error() {
            // Before Linux 5.18 there is no such flag, and no packet with several buffers either.
            Some(libc::EINVAL) => Self::load_as(XDP, insns, name, 0),
            _ => Err(error),
        })
    }

    /// Loads a program that sees what a device sends.
    #[cfg(test)]
    pub fn load_egress(insns: &[Insn]) -> io::Result<Self> {
        Self::load_as(TC_EGRESS, insns, "test", 0)
    }

    fn load_as(purpose: Purpose, insns: &[Insn], name: &str, flags: u32) -> io::Result<Self> {
        let license = c"Apache-2.0";
        let mut log = vec![0u8; if cfg!(test) { 64 << 10 } else { 0 }];
        let mut attr = ProgLoad {
            prog_type: purpose.program,
            insn_count: insns.len() as u32,
            insns: insns.as_ptr().addr() as u64,
            license: license.as_ptr().addr() as u64,
            log_level: u32::from(cfg!(test)),
            log_size: log.len() as u32,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr().addr() as u64 },
            kernel_version: 0,
            flags,
            name: object_name(name),
            ifindex: 0,
            attach_type: purpose.attach,
        };
        // SAFETY: the structure of this command; instructions, licence and log outlive the call, and their lengths are
        // the ones given.
        let fd = unsafe { bpf(PROG_LOAD, &mut attr) }.inspect_err(|error| {
            if cfg!(test) {
                eprintln!("{error}: {}", String::from_utf8_lossy(&log).trim_end_matches('\0'));
            }
        })?;
        Ok(Program { fd: owned(fd), attach_type: purpose.attach })
    }

    /// Attaches the program to a device of the calling thread's namespace, until the link is dropped, or the process
    /// ends in whatever way.
    pub fn attach(&self, ifindex: u32, flags: u32) -> io::Result<Link> {
        let prog = raw(self.fd.as_fd());
        let mut attr = LinkCreate { prog, ifindex, attach_type: self.attach_type, flags };
        // SAFETY: the structure of this command, without addresses.
        let fd = unsafe { bpf(LINK_CREATE, &mut attr) }?;
        Ok(Link { _fd: owned(fd) })
    }

    /// What the program says to `packet` (on receive queue 0).
    #[cfg(test)]
    pub fn test_run(&self, packet: &[u8]) -> io::Result<u32> {
        let mut attr = TestRun {
            prog: raw(self.fd.as_fd()),
            verdict: 0,
            data_in_size: packet.len() as u32,
            data_out_size: 0,
            data_in: packet.as_ptr().addr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: the structure of this command; the packet is borrowed and of the length given.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
        Ok(attr.verdict)
    }
}

/// A program's attachment to a device: dropping it, or the end of the process, takes the program off.
#[derive(Debug)]
pub(super) struct Link {
    _fd: OwnedFd,
}
