#!/usr/bin/env python3
"""Writes pcap files of UDP packets for the switch benches.

  gen_pcap.py --out FILE --flows N [--size 64] [--vary tuple|macs] [--vlan V] [--encap vxlan|gre] [--shapes N]

Flow i is a function of i and the seed alone, so every switch is fed the same traffic; the packets go round the flows in
turn. `size` counts the octets of the (inner) frame, tag included, FCS not. There are at least 1024 packets in a file.
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


def tuples(flows, seed):
    """Different (source, destination, source port, destination port), as numbers."""
    if flows == 1:
        return [(0x0a000001, 0x0a800001, 1234, 80)]
    rng, found = random.Random(seed), {}
    while len(found) < flows:
        source, destination = (net | rng.randrange(1, 1 << 22) for net in (0x0a000000, 0x0a800000))
        found[(source, destination, rng.randrange(1024, 65536), rng.randrange(1, 65536))] = None
    return list(found)


def inner_frame(index, flow, size, vary, vlan):
    """The Ethernet frame of flow number `index`, UDP without checksum."""
    source_mac, destination_mac = mac(SOURCE_MAC), mac(DESTINATION_MAC)
    if vary == 'macs':
        source_mac = b'\x02\x10' + struct.pack('!I', index)
        destination_mac = b'\x02\x20' + struct.pack('!I', index % DESTINATION_MACS)
    ethernet = destination_mac + source_mac
    if vlan:
        ethernet += struct.pack('!HH', 0x8100, vlan)
    ethernet += b'\x08\x00'
    source, destination, source_port, destination_port = flow
    udp_len = size - len(ethernet) - 20
    addresses = struct.pack('!I', source), struct.pack('!I', destination)
    udp = struct.pack('!HHHH', source_port, destination_port, udp_len, 0) + bytes(udp_len - 8)
    return ethernet + ipv4_header(*addresses, 17, udp_len) + udp


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


def write(path, flows=1, size=64, vary='tuple', vlan=0, encap=None, seed=7, shapes=0):
    """Writes a pcap file (microseconds, Ethernet). With `shapes`, each flow meets one of the rules of rules.make()."""
    each = rules.make(shapes, flows, '')[1] if shapes else tuples(flows, seed)
    with open(path, 'wb', buffering=1 << 20) as out:
        out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for number in range(max(flows, LEAST_PACKETS)):
            index = number % flows
            frame = inner_frame(index, each[index], size, vary, vlan)
            if encap:
                frame = encapsulate(encap, each[index], frame)
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
    options = vars(parser.parse_args())
    if not 1 <= options['flows'] <= 4_000_000:
        sys.exit('gen_pcap.py: %d flows are out of range: 1 to 4000000' % options['flows'])
    if not 64 <= options['size'] <= 9000:
        sys.exit('gen_pcap.py: size %d is out of range: 64 to 9000' % options['size'])
    write(options.pop('out'), **options)


if __name__ == '__main__':
    main()
