#!/usr/bin/env python3
"""Records what stock Open vSwitch reads of packets: prints the content of key-truth.txt.

  tests/data/record_keys.py > tests/data/key-truth.txt

Makes frames (each protocol, stacks of tags, options, fragments, lying lengths; and each of them with octets changed at
random, always the same), cuts each to every length, has `ovs-ofctl parse-pcap` read them all, and says which lengths of
a frame give which flow. Needs nothing but Open vSwitch's ovs-ofctl and Python.
"""
import random
import struct
import subprocess
import tempfile

HEAD = """\
# What stock Open vSwitch reads of packets.
#
# How to read it. `frame` gives a frame's octets; each line below it gives lengths, and the flow that the frame is, cut to
# any of these lengths, as `ovs-ofctl parse-pcap` prints it. Left out: in_port; and the Ethernet addresses, where they are
# 02:00:00:00:00:01 (source) and 02:00:00:00:00:02.
#
# Recorded from Open vSwitch 3.1 (Debian 12) by record_keys.py, which also says what the frames are.
"""
ADDRESSES = bytes.fromhex('020000000002020000000001')
SAME = 'dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02'
SHORTEST = 14
rng = random.Random(20250)


def be16(*numbers):
    return struct.pack('!%dH' % len(numbers), *numbers)


def frame(*parts):
    return ADDRESSES + b''.join(parts)


def ipv4(protocol, payload, tos=0xb9, ttl=64, fragment=0, options=b'', total=None, lead=None, padding=b''):
    header_len = 20 + len(options)
    total = header_len + len(payload) if total is None else total
    lead = 0x40 | header_len // 4 if lead is None else lead
    head = struct.pack('!BBHHHBBH', lead, tos, total & 0xffff, 7, fragment, ttl, protocol, 0)
    return be16(0x0800) + head + bytes([10, 1, 2, 3, 192, 168, 4, 5]) + options + payload + padding


def ipv6(protocol, payload, first=0x6b8abcde, total=None, padding=b''):
    total = len(payload) if total is None else total
    addresses = bytes.fromhex('20010db8000000000000000000000001fe8000000000000000000000000a0b0c')
    return be16(0x86dd) + struct.pack('!IHBB', first, total & 0xffff, protocol, 61) + addresses + payload + padding


def tcp(flags=0x18, words=5, options=b'', payload=b'data'):
    return struct.pack('!HHIIHHHH', 0x1234, 80, 1, 2, words << 12 | flags, 1000, 0, 0) + options + payload


UDP = be16(0x1234, 53, 12, 0) + b'data'
SCTP = be16(0x1234, 36412) + struct.pack('!II', 1, 2) + b'chunk...'
ICMP = bytes([8, 3, 0, 0, 0, 1, 0, 2]) + b'echo'
ICMP6 = bytes([128, 5, 0, 0, 0, 1, 0, 2]) + b'echo'
IGMP = bytes([0x16, 100, 0, 0, 224, 0, 0, 9])
TARGET = bytes.fromhex('fe80000000000000aabbccddeeff0011')
SLL = bytes.fromhex('0101020000000009')
TLL = bytes.fromhex('020102000000000a')
OTHER = bytes.fromhex('0501000000000500')
NO_SLL = bytes.fromhex('0101000000000000')
LONG_SLL = bytes.fromhex('01020200000000090011223344556677')


def neighbour(kind, *options, code=0):
    return bytes([kind, code, 0, 0, 0x60, 0, 0, 0]) + TARGET + b''.join(options)


def extension(following, units, fill=0):
    return bytes([following, units]) + bytes([fill]) * (6 + 8 * units)


def authentication(following, units):
    return bytes([following, units]) + bytes(6 + 4 * units)


def fragment(following, offset):
    return bytes([following, 0]) + be16(offset) + bytes([0, 0, 0, 9])


def arp(ether_type, operation, kind=(1, 0x0800, 6, 4)):
    return be16(ether_type) + struct.pack('!HHBBH', *kind, operation) + bytes(
        [2, 0, 0, 0, 0, 3, 10, 0, 0, 3, 2, 0, 0, 0, 0, 4, 10, 0, 0, 4])


def mpls(ether_type, *labels):
    stack = [label << 12 | traffic << 9 | bottom << 8 | 64 for label, traffic, bottom in labels]
    return be16(ether_type) + struct.pack('!%dI' % len(stack), *stack)


def snap(inner, start='aaaa03000000'):
    return be16(len(inner) + 6) + bytes.fromhex(start) + inner


def link_frames():
    """Tags, 802.2, ARP, MPLS, types that nobody knows."""
    packet = ipv4(17, UDP)
    for tags in ([0x8100], [0x88a8], [0x9100], [0x8100, 0x8100], [0x88a8, 0x8100], [0x8100, 0x88a8], [0x8100] * 3):
        stack = b''.join(be16(tpid, 0x6064 + 0x1111 * at) for at, tpid in enumerate(tags))
        yield frame(stack, packet)
        yield frame(stack, arp(0x0806, 1))
        yield frame(stack, snap(packet))
    yield frame(be16(0x8100, 0), packet)
    yield frame(be16(0x8100, 0xffff, 0x8100, 0), packet)
    for start in ('aaaa03000000', 'aaaa03000001', 'aaaa13000000', 'abaa03000000', 'aaab03000000', 'e0e003000000'):
        yield frame(snap(packet, start))
    yield frame(snap(be16(0x0100) + packet))
    yield frame(be16(0x05ff), bytes.fromhex('aaaa030000000800'), packet[2:])
    yield frame(be16(0x0600), packet)
    for ether_type in (0x0806, 0x8035):
        for operation in (0, 1, 2, 255, 256, 513):
            yield frame(arp(ether_type, operation))
        yield frame(arp(ether_type, 1), bytes(18))
        for kind in ((2, 0x800, 6, 4), (1, 0x801, 6, 4), (1, 0x800, 5, 4), (1, 0x800, 6, 5)):
            yield frame(arp(ether_type, 1, kind))
    bottom, inner = (1, 3, 1), (2, 5, 0)
    for labels in ([bottom], [inner, bottom], [inner, inner, bottom], [inner] * 3 + [bottom], [inner] * 5, [bottom] * 2, []):
        for ether_type in (0x8847, 0x8848):
            yield frame(mpls(ether_type, *labels), packet[2:])
    yield frame(be16(0x8100, 0x0005), mpls(0x8847, inner, bottom), packet[2:])
    for ether_type in (0x0000, 0x6558, 0x88cc, 0x8863, 0xffff):
        yield frame(be16(ether_type), packet[2:])


def transports():
    """What IP carries, with its protocol."""
    yield 17, UDP
    yield 132, SCTP
    yield 1, ICMP
    yield 2, IGMP
    yield 58, ICMP6
    yield 47, bytes(8) + UDP
    yield 59, UDP
    yield 255, UDP
    for flags in (0, 2, 0x18, 0x1ff, 0xfff):
        yield 6, tcp(flags)
    yield 6, tcp(words=7, options=bytes(8))
    yield 6, tcp(words=15, options=bytes(40))
    for words in (0, 4, 6, 15):
        yield 6, tcp(words=words, payload=b'')


def ipv4_frames():
    for protocol, payload in transports():
        yield frame(ipv4(protocol, payload))
        yield frame(ipv4(protocol, payload, options=bytes([1] * 8)))
        yield frame(ipv4(protocol, payload, padding=bytes([0xaa] * 24)))
        yield frame(ipv4(protocol, b'', padding=payload))
        yield frame(ipv4(protocol, payload, fragment=0x2000))
        yield frame(ipv4(protocol, payload, fragment=1))
    for fragment_bits in (0x4000, 0x8000, 0x6000, 0x3fff, 0x1fff, 0xffff):
        yield frame(ipv4(17, UDP, fragment=fragment_bits))
    for lead in (0x40, 0x44, 0x46, 0x4f, 0x55, 0x05, 0xf5):
        yield frame(ipv4(17, UDP, lead=lead))
    for total in (0, 19, 20, 27, 28, 31, 33, 0xffff):
        yield frame(ipv4(17, UDP, total=total))
    yield frame(ipv4(6, tcp(), options=bytes(40), total=59))
    yield frame(ipv4(17, UDP, tos=0xff, ttl=0))
    yield frame(be16(0x8100, 0x0007), ipv4(6, tcp(), padding=bytes(6)))


def ipv6_frames():
    for protocol, payload in transports():
        yield frame(ipv6(protocol, payload))
        yield frame(ipv6(protocol, payload, padding=bytes([0xaa] * 24)))
        yield frame(ipv6(protocol, b'', padding=payload))
        yield frame(ipv6(0, extension(protocol, 0) + payload))
    for following in (0, 43, 51, 60, 135, 139, 140):
        yield frame(ipv6(following, extension(17, 0) + UDP))
        yield frame(ipv6(following, extension(17, 1) + UDP))
        yield frame(ipv6(following, extension(17, 255) + UDP))
    yield frame(ipv6(51, authentication(17, 0) + UDP))
    yield frame(ipv6(51, authentication(17, 4) + UDP))
    yield frame(ipv6(0, extension(60, 0) + extension(43, 1) + fragment(51, 1) + authentication(60, 2) + extension(6, 0) + tcp()))
    yield frame(ipv6(0, extension(0, 0) * 11 + extension(17, 0) + UDP))
    for offset in (0, 1, 2, 6, 7, 8, 9, 0xfff8, 0xffff):
        yield frame(ipv6(44, fragment(17, offset) + UDP))
        yield frame(ipv6(0, extension(44, 0) + fragment(58, offset) + ICMP6))
    yield frame(ipv6(44, fragment(44, 1) + fragment(17, 0) + UDP))
    yield frame(ipv6(44, fragment(60, 8) + extension(17, 0) + UDP))
    for first in (0x60000000, 0x6fffffff, 0x40000000, 0x00100000):
        yield frame(ipv6(17, UDP, first=first))
    for total in (0, 7, 8, 11, 13, 0xffff):
        yield frame(ipv6(17, UDP, total=total))
    jumbo = bytes([17, 0, 0xc2, 4, 0, 1, 0, 0])
    yield frame(ipv6(0, jumbo + UDP, total=0))
    yield frame(ipv6(0, jumbo + UDP))
    yield frame(be16(0x88a8, 0x0007, 0x8100, 0x0008), ipv6(17, UDP))


def neighbour_frames():
    for kind in (133, 134, 135, 136, 137):
        for options in ([], [SLL], [TLL], [SLL, TLL], [TLL, SLL]):
            yield frame(ipv6(58, neighbour(kind, *options)))
    for kind in (135, 136):
        for options in ([SLL, SLL], [TLL, TLL], [SLL, TLL, SLL], [NO_SLL, SLL], [NO_SLL, SLL, SLL], [OTHER, SLL],
                        [LONG_SLL], [LONG_SLL, SLL], [LONG_SLL, SLL, SLL], [SLL, LONG_SLL], [SLL, bytes(8), TLL],
                        [SLL, b'\2\2' + bytes(6)], [SLL, b'\2\1\2\0'], [OTHER] * 6 + [TLL], [b'\0\0', SLL]):
            yield frame(ipv6(58, neighbour(kind, *options)))
        yield frame(ipv6(58, neighbour(kind, SLL, code=1)))
        yield frame(ipv6(58, neighbour(kind, SLL), padding=TLL))
        yield frame(ipv6(60, extension(58, 0) + neighbour(kind, SLL, TLL)))
        yield frame(ipv6(44, fragment(58, 1) + neighbour(kind, SLL, TLL)))
    yield frame(be16(0x8100, 0xa00a), ipv6(58, neighbour(135, SLL)))


def changed(octets):
    """Some octets behind the addresses, at random, most of them early ones."""
    octets = bytearray(octets)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = 12 + int(rng.random() ** 2 * (len(octets) - 12))
        octets[at] = rng.choice((rng.randrange(256), octets[at] ^ 1 << rng.randrange(8), 0, 255))
    return bytes(octets)


def is_nsh(octets):
    """Whether it is a type that ovs-ofctl prints in another way."""
    return b'\x89\x4f' in octets[12:30]


def corpus():
    made = [*link_frames(), *ipv4_frames(), *ipv6_frames(), *neighbour_frames()]
    mutants = [changed(octets) for octets in made]
    return [octets for octets in dict.fromkeys(made + mutants) if not is_nsh(octets)]


def flows(frames):
    """What ovs-ofctl reads of each."""
    with tempfile.NamedTemporaryFile(suffix='.pcap') as out:
        out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for octets in frames:
            out.write(struct.pack('<IIII', 0, 0, len(octets), len(octets)) + octets)
        out.flush()
        text = subprocess.run(['ovs-ofctl', 'parse-pcap', out.name], check=True, capture_output=True, text=True).stdout
    lines = text.splitlines()
    assert len(lines) == len(frames), (len(lines), len(frames))
    return [line.replace('in_port=ANY,', '').replace(SAME + ',', '').replace(',' + SAME, '') for line in lines]


def main():
    frames = corpus()
    cuts = [octets[:length] for octets in frames for length in range(SHORTEST, len(octets) + 1)]
    read = iter(flows(cuts))
    print(HEAD)
    for octets in frames:
        print('frame', octets.hex())
        start, last = SHORTEST, None
        for length in range(SHORTEST, len(octets) + 1):
            flow = next(read)
            if last is not None and flow != last:
                print('%d-%d %s' % (start, length - 1, last))
                start = length
            last = flow
        print('%d-%d %s' % (start, len(octets), last))


if __name__ == "__main__":
    main()
