//! The two XDP programs, as instructions of the BPF machine (Documentation/bpf/standardization/instruction-set.rst in
//! the kernel's source): no compiler is needed to build weft or to run it.
//!
//! * [`all`]: every packet goes to the socket of its receive queue. For a port in a bridge.
//! * [`uplink`]: only tunnel packets for one of the configured endpoints do; all others go on to the kernel, so that the
//!   host keeps its address and its SSH.
//!
//! In both, a packet for which there is no socket goes on to the kernel.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    /// Destination and source, in the order of C's bit fields.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Insn>() == 8);

/// A register of the machine: 0 is the result, 1 to 5 are arguments, 6 to 9 survive calls, 10 is the frame pointer.
type Register = u8;
const FRAME: Register = 10;

const XDP_PASS: i32 = 2;
const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;

// Fields of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_BRIDGED: u16 = 0x6558;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_GRE: u8 = 47;

/// A local tunnel endpoint, as the uplink program's map has it: packets that match it are this switch's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct EndpointKey {
    /// Destination address, in network order.
    address: [u8; 4],
    /// Destination port of UDP, in network order; zero for GRE.
    port: [u8; 2],
    protocol: u8,
    zero: u8,
}

impl EndpointKey {
    /// UDP packets to `address` and `port`.
    pub fn udp(address: Ipv4Addr, port: u16) -> Self {
        EndpointKey { address: address.octets(), port: port.to_be_bytes(), protocol: PROTOCOL_UDP, zero: 0 }
    }

    /// GRE packets with an Ethernet payload to `address`.
    pub fn gre(address: Ipv4Addr) -> Self {
        EndpointKey { address: address.octets(), port: [0; 2], protocol: PROTOCOL_GRE, zero: 0 }
    }
}

/// Places to jump to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Lookup,
    Pass,
}

/// Instructions under way, and the jumps whose distance is not known yet.
#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, (to, from): (Register, Register), offset: i16, immediate: i32) {
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        self.insns.push(Insn { code, registers, offset, immediate });
    }

    /// `to = *(u8 *)(from + offset)`
    fn load8(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x71, (to, from), offset, 0);
    }

    /// `to = *(u16 *)(from + offset)`
    fn load16(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x69, (to, from), offset, 0);
    }

    /// `to = *(u32 *)(from + offset)`
    fn load32(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x61, (to, from), offset, 0);
    }

    /// `*(u16 *)(to + offset) = from`
    fn store16(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x6b, (to, from), offset, 0);
    }

    /// `*(u32 *)(to + offset) = from`
    fn store32(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x63, (to, from), offset, 0);
    }

    /// `to = from`
    fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, (to, from), 0, 0);
    }

    /// `to = value`
    fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, (to, 0), 0, value);
    }

    /// `to += value`
    fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, (to, 0), 0, value);
    }

    /// `to += from`
    fn add_register(&mut self, to: Register, from: Register) {
        self.push(0x0f, (to, from), 0, 0);
    }

    /// `to &= value`
    fn and(&mut self, to: Register, value: i32) {
        self.push(0x57, (to, 0), 0, value);
    }

    /// `to <<= bits`
    fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(0x67, (to, 0), 0, bits);
    }

    /// `to >>= bits`
    fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(0x77, (to, 0), 0, bits);
    }

    /// `to = map`
    fn set_map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(0x18, (to, 1), 0, map.as_raw_fd());
        self.push(0, (0, 0), 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, (0, 0), 0, helper);
    }

    fn exit(&mut self) {
        self.push(0x95, (0, 0), 0, 0);
    }

    /// Jumps if `register == value`.
    fn if_equal(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0x15, (register, 0), value, label);
    }

    /// Jumps if `register != value`.
    fn if_not(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0x55, (register, 0), value, label);
    }

    /// Jumps if `register < value`, both unsigned.
    fn if_less(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0xa5, (register, 0), value, label);
    }

    /// Jumps if `left > right`, both unsigned.
    fn if_greater(&mut self, left: Register, right: Register, label: Label) {
        self.jump(0x2d, (left, right), 0, label);
    }

    fn jump(&mut self, code: u8, compared: (Register, Register), value: i32, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.push(code, compared, 0, value);
    }

    /// Says that `label` is here.
    fn place(&mut self, label: Label) {
        let here = self.insns.len();
        for &(at, wanted) in &self.jumps {
            if wanted == label
                && let Some(insn) = self.insns.get_mut(at)
            {
                insn.offset = (here - at - 1) as i16;
            }
        }
    }

    /// Hands the packet to the socket of its receive queue, or to the kernel; `context` holds `struct xdp_md`.
    fn redirect(&mut self, context: Register, sockets: BorrowedFd<'_>) {
        self.load32(2, context, RX_QUEUE);
        self.set_map(1, sockets);
        self.set(3, XDP_PASS);
        self.call(HELPER_REDIRECT_MAP);
        self.exit();
    }
}

/// A number as a load from a packet in network order gives it.
const fn network16(value: u16) -> i32 {
    u16::from_ne_bytes(value.to_be_bytes()) as i32
}

/// The program for a port in a bridge.
pub(super) fn all(sockets: BorrowedFd<'_>) -> Vec<Insn> {
    let mut asm = Assembler::default();
    asm.redirect(1, sockets);
    asm.insns
}

/// The program for the NIC that carries tunnels and stays the host's: redirects what is untagged, IPv4, no fragment
/// (only its first fragment has ports, so the kernel gets them all), and for one of `endpoints`.
pub(super) fn uplink(sockets: BorrowedFd<'_>, endpoints: BorrowedFd<'_>) -> Vec<Insn> {
    const CONTEXT: Register = 6;
    const PROTOCOL: Register = 7;
    const DESTINATION: Register = 8;
    let mut asm = Assembler::default();
    asm.copy(CONTEXT, 1);
    asm.load32(2, 1, DATA);
    asm.load32(3, 1, DATA_END);
    // Ethernet and the fixed part of IPv4: 34 octets.
    asm.copy(4, 2);
    asm.add(4, 34);
    asm.if_greater(4, 3, Label::Pass);
    asm.load16(5, 2, 12);
    asm.if_not(5, network16(ETHERTYPE_IPV4), Label::Pass);
    asm.load8(5, 2, 14);
    asm.copy(0, 5);
    asm.shift_right(0, 4);
    asm.if_not(0, 4, Label::Pass);
    asm.and(5, 15);
    asm.if_less(5, 5, Label::Pass);
    asm.shift_left(5, 2);
    // RFC 791, section 3.1: "more fragments" or a fragment offset make it a fragment.
    asm.load16(0, 2, 20);
    asm.and(0, network16(0x3fff));
    asm.if_not(0, 0, Label::Pass);
    asm.load8(PROTOCOL, 2, 23);
    asm.load32(DESTINATION, 2, 30);
    // The payload's first 4 octets: UDP's ports, or GRE's flags and protocol type.
    asm.add(2, 14);
    asm.add_register(2, 5);
    asm.copy(4, 2);
    asm.add(4, 4);
    asm.if_greater(4, 3, Label::Pass);
    asm.load16(1, 2, 2);
    asm.if_equal(PROTOCOL, PROTOCOL_UDP.into(), Label::Lookup);
    asm.if_not(PROTOCOL, PROTOCOL_GRE.into(), Label::Pass);
    asm.if_not(1, network16(ETHERTYPE_BRIDGED), Label::Pass);
    asm.set(1, 0);
    asm.place(Label::Lookup);
    // An EndpointKey on the stack.
    asm.store32(FRAME, -8, DESTINATION);
    asm.store16(FRAME, -4, 1);
    if cfg!(target_endian = "big") {
        asm.shift_left(PROTOCOL, 8);
    }
    asm.store16(FRAME, -2, PROTOCOL);
    asm.copy(2, FRAME);
    asm.add(2, -8);
    asm.set_map(1, endpoints);
    asm.call(HELPER_MAP_LOOKUP);
    asm.if_equal(0, 0, Label::Pass);
    asm.redirect(CONTEXT, sockets);
    asm.place(Label::Pass);
    asm.set(0, XDP_PASS);
    asm.exit();
    asm.insns
}

/// A program for tests that has every packet sent with VLAN tag `vid`, which it leaves to the device to write.
#[cfg(test)]
pub(super) fn push_tag(vid: u16) -> Vec<Insn> {
    const HELPER_VLAN_PUSH: i32 = 18;
    const GO_ON: i32 = -1;
    let mut asm = Assembler::default();
    asm.set(2, network16(0x8100));
    asm.set(3, vid.into());
    asm.call(HELPER_VLAN_PUSH);
    asm.set(0, GO_ON);
    asm.exit();
    asm.insns
}
