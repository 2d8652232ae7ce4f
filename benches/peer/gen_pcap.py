#!/usr/bin/env python3
"""Writes pcap files of UDP or TCP packets for the switch benches.

  gen_pcap.py --out FILE --flows N [--size 64] [--vary tuple|macs] [--vlan V] [--encap vxlan|gre] [--shapes N]
              [--protocol udp|tcp] [--ports 53,80] [--talk one|both|greet]

Flow i is a function of i and the seed alone, so every switch is fed the same traffic; the packets go round the flows in
turn. `size` counts the octets of the (inner) frame, tag included, FCS not. There are at least 1024 packets in a file, but
for `greet`, which is the three first packets of each TCP connection, once.
"""
import argparse
import random
import struct
import sys

import rules

SOURCE_MAC, DESTINATION_MAC = '02:00:00:00:00:01', '02:00:00:00:00:02'
# The underlay, as the encapsulation benches of both switches have it: they are 172.31.1.1.
OUTER_DESTINATION_MAC, OUTER_SOURCE_MAC = '02:00:00:00:01:01', '02:00:00:00:01:02'
OUTER_SOURCE, OUTER_DESTINATION = '172.31.1.2', '172.31.1.1'
KEY = 100
VXLAN_PORT = 4789
DESTINATION_MACS = 1024
LEAST_PACKETS = 1024
# First sequence numbers of the two ends of a TCP connection.
CLIENT, SERVER = 0x1000, 0x9000
SYN, ACK, PSH = 0x02, 0x10, 0x08


def mac(text):
    return bytes.fromhex(text.replace(':', ''))


def ipv4(text):
    return bytes(int(part) for part in text.split('.'))


def checksum(data):
    """The internet checksum (RFC 1071) of an even number of octets."""
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    total = (total >> 16) + (total & 0xffff)
    return ~total & 0xffff


def ipv4_header(source, destination, protocol, payload_len):
    """An IPv4 header without options: TTL 64, don't fragment."""
    head = struct.pack('!BBHHHBB', 0x45, 0, 20 + payload_len, 0, 0x4000, 64, protocol)
    addresses = source + destination
    return head + struct.pack('!H', checksum(head + b'\0\0' + addresses)) + addresses


def tuples(flows, seed, ports=()):
    """Different (source, destination, source port, destination port), as numbers; the last is one of `ports` if there are any."""
    if flows == 1:
        return [(0x0a000001, 0x0a800001, 1234, 80)]
    rng, found = random.Random(seed), {}
    while len(found) < flows:
        source, destination = (net | rng.randrange(1, 1 << 22) for net in (0x0a000000, 0x0a800000))
        port = rng.randrange(1024, 65536)
        found[(source, destination, port, rng.choice(ports) if ports else rng.randrange(1, 65536))] = None
    return list(found)


def turned(flow):
    """The flow of the answers."""
    source, destination, source_port, destination_port = flow
    return (destination, source, destination_port, source_port)


def udp(flow, size):
    """A UDP packet of `size` octets, without checksum."""
    return struct.pack('!HHHH', *flow[2:], size, 0) + bytes(size - 8)


def tcp(flow, size, flags, numbers):
    """A TCP segment without options that fills `size` octets if it has data at all; `numbers` are SEQ and ACK."""
    data = bytes(size - 20 if flags & PSH else 0)
    segment = struct.pack('!HHIIBBHHH', *flow[2:], *numbers, 0x50, flags, 65535, 0, 0) + data
    pseudo = struct.pack('!IIHH', *flow[:2], 6, len(segment))
    return segment[:16] + struct.pack('!H', checksum(pseudo + segment + bytes(len(segment) % 2))) + segment[18:]


def inner_frame(index, flow, size, vary, vlan, segment=None):
    """The Ethernet frame of flow number `index`: UDP, or TCP with `segment`, its flags and numbers."""
    source_mac, destination_mac = mac(SOURCE_MAC), mac(DESTINATION_MAC)
    if vary == 'macs':
        source_mac = b'\x02\x10' + struct.pack('!I', index)
        destination_mac = b'\x02\x20' + struct.pack('!I', index % DESTINATION_MACS)
    ethernet = destination_mac + source_mac
    if vlan:
        ethernet += struct.pack('!HH', 0x8100, vlan)
    ethernet += b'\x08\x00'
    addresses = struct.pack('!I', flow[0]), struct.pack('!I', flow[1])
    room = size - len(ethernet) - 20
    payload = tcp(flow, room, *segment) if segment else udp(flow, room)
    frame = ethernet + ipv4_header(*addresses, 6 if segment else 17, len(payload)) + payload
    return frame + bytes(size - len(frame))


def encapsulate(kind, flow, frame):
    """The frame inside a VXLAN or GRE packet; VXLAN's source port depends on the flow (RFC 7348, section 5)."""
    if kind == 'vxlan':
        payload = struct.pack('!II', 0x08000000, KEY << 8) + frame
        port = 0xc000 | (flow[0] ^ flow[1] ^ flow[2] ^ (flow[3] << 3)) & 0x3fff
        payload = struct.pack('!HHHH', port, VXLAN_PORT, 8 + len(payload), 0) + payload
    else:
        payload = struct.pack('!HHI', 0x2000, 0x6558, KEY) + frame
    ip = ipv4_header(ipv4(OUTER_SOURCE), ipv4(OUTER_DESTINATION), 17 if kind == 'vxlan' else 47, len(payload))
    return mac(OUTER_DESTINATION_MAC) + mac(OUTER_SOURCE_MAC) + b'\x08\x00' + ip + payload


def talk_of(flow, protocol, talk):
    """The packets of a flow, one after the other: (flow, segment) of each."""
    there, back = (CLIENT + 1, SERVER + 1), (SERVER + 1, CLIENT + 1)
    if talk == 'greet':
        return [(flow, (SYN, (CLIENT, 0))), (turned(flow), (SYN | ACK, (SERVER, CLIENT + 1))), (flow, (ACK, there))]
    data = [(PSH | ACK, there), (PSH | ACK, back)] if protocol == 'tcp' else [None, None]
    return [(flow, data[0]), (turned(flow), data[1])][:2 if talk == 'both' else 1]


def write(path, flows=1, size=64, vary='tuple', vlan=0, encap=None, seed=7, shapes=0, protocol='udp', ports=(), talk='one'):
    """Writes a pcap file (microseconds, Ethernet). With `shapes`, each flow meets one of the rules of rules.make()."""
    each = rules.make(shapes, flows, '')[1] if shapes else tuples(flows, seed, ports)
    with open(path, 'wb', buffering=1 << 20) as out:
        out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for number in range(flows if talk == 'greet' else max(flows, LEAST_PACKETS)):
            index = number % flows
            for flow, segment in talk_of(each[index], protocol, talk):
                frame = inner_frame(index, flow, size, vary, vlan, segment)
                if encap:
                    frame = encapsulate(encap, flow, frame)
                out.write(struct.pack('<IIII', 0, 0, len(frame), len(frame)) + frame)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True)
    parser.add_argument('--flows', type=int, default=1)
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--vary', default='tuple', choices=['tuple', 'macs'], help='what tells flows apart')
    parser.add_argument('--vlan', type=int, default=0)
    parser.add_argument('--encap', choices=['vxlan', 'gre'])
    parser.add_argument('--shapes', type=int, default=0, help='flows for the rules of case S4, in so many shapes')
    parser.add_argument('--seed', type=int, default=7)
    parser.add_argument('--protocol', default='udp', choices=['udp', 'tcp'])
    parser.add_argument('--ports', default=[], type=lambda text: [int(port) for port in text.split(',')],
                        help='what destination ports are chosen from')
    parser.add_argument('--talk', default='one', choices=['one', 'both', 'greet'], help='who talks: the client, both in turn, '
                        'or both, once, to begin a TCP connection')
    options = vars(parser.parse_args())
    if not 1 <= options['flows'] <= 4_000_000:
        sys.exit('gen_pcap.py: %d flows are out of range: 1 to 4000000' % options['flows'])
    if not 64 <= options['size'] <= 9000:
        sys.exit('gen_pcap.py: size %d is out of range: 64 to 9000' % options['size'])
    write(options.pop('out'), **options)


if __name__ == '__main__':
    main()
