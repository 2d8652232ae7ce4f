#!/usr/bin/env python3
"""Records what stock Open vSwitch's actions make of packets: prints the content of edit-truth.txt.

  tests/data/record_edits.py > tests/data/edit-truth.txt

Runs a private Open vSwitch (userspace datapath, dummy devices; no root needed). For each case below the bridge has three
flows: packets that match go to one port with the case's actions, all others to another port, and marks, which stand
between the packets, to both. The packets are those of record_keys.py, and some whose checksums are right.
"""
import os
import re
import struct
import subprocess
import tempfile
import time

import record_keys as keys

HEAD = """\
# What stock Open vSwitch's actions make of packets.
#
# How to read it. `frame` gives a packet its number and its octets. `case` is a match and actions of ovs-ofctl's; the lines
# below it are the packets that match, and what leaves: `=` the packet as it came; `AT:OCTETS ...` the packet with other
# octets from AT on; `FROM-TO:OCTETS` the packet with other octets in the place of those from FROM to TO (exclusive); `drop`.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, other_config:vlan-limit=2, by record_edits.py.
"""
SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'
MARK = 0x88b5
# Of the dummy devices.
MTU = 1514
AT_ONCE = 20

CASES = """\
any set_field:02:00:00:00:00:99->eth_dst
any set_field:00:00:aa:bb:00:00/00:00:ff:ff:00:00->eth_src,set_field:02:00:00:00:00:98->eth_dst
ip set_field:172.16.5.6->ip_src
ip set_field:255.255.255.255->ip_dst
ip set_field:172.16.5.6->ip_src,set_field:10.1.2.3->ip_dst
ip set_field:0.0.7.0/0.0.255.0->ip_dst
ip set_field:10->ip_dscp
ip set_field:3->nw_ecn
ip mod_nw_ttl:9
ip set_field:0->ip_dscp,mod_nw_ttl:255,set_field:172.16.5.6->ip_src
ip dec_ttl
ipv6 set_field:2001:db8::99->ipv6_src
ipv6 set_field:2001:db8::98->ipv6_dst
ipv6 set_field:2001:db8::99->ipv6_src,set_field:fe80::1->ipv6_dst
ipv6 set_field:::7:0:0:0/::ffff:0:0:0->ipv6_dst
ipv6 set_field:0x12345->ipv6_label
ipv6 set_field:10->ip_dscp,mod_nw_ttl:9,set_field:1->ipv6_label
ipv6 set_field:1->nw_ecn
ipv6 dec_ttl
tcp set_field:80->tcp_src
tcp set_field:0xabcd->tcp_src,set_field:0xef01->tcp_dst
tcp set_field:0xab00/0xff00->tcp_dst
tcp6 set_field:0xabcd->tcp_src,set_field:0xef01->tcp_dst
tcp set_field:172.16.5.6->ip_src,set_field:0xabcd->tcp_src,mod_nw_ttl:1
udp set_field:0xabcd->udp_src,set_field:0xef01->udp_dst
udp set_field:172.16.5.6->ip_dst,set_field:53->udp_dst
udp6 set_field:0xabcd->udp_src,set_field:2001:db8::99->ipv6_src
sctp set_field:0xabcd->sctp_src
sctp set_field:0xabcd->sctp_src,set_field:172.16.5.6->ip_src,set_field:1->sctp_dst
sctp6 set_field:0xef01->sctp_dst
icmp set_field:3->icmp_type,set_field:1->icmp_code
icmp set_field:0->icmp_type,set_field:172.16.5.6->ip_src
icmp6 set_field:129->icmpv6_type
icmp6 set_field:129->icmpv6_type,set_field:0->icmpv6_code,set_field:2001:db8::99->ipv6_src
icmp6,icmp_type=135,icmp_code=0 set_field:fe80::77->nd_target
icmp6,icmp_type=135,icmp_code=0 set_field:02:00:00:00:00:77->nd_sll
icmp6,icmp_type=135,icmp_code=0 set_field:fe80::77->nd_target,set_field:02:00:00:00:00:77->nd_sll,set_field:fe80::78->ipv6_src
icmp6,icmp_type=136,icmp_code=0 set_field:fe80::77->nd_target,set_field:02:00:00:00:00:77->nd_tll
icmp6,icmp_type=136,icmp_code=0 set_field:00:00:00:55:00:00/00:00:00:ff:00:00->nd_tll
arp set_field:10.9.8.7->arp_spa
arp set_field:10.9.8.7->arp_spa,set_field:10.9.8.6->arp_tpa,set_field:02:00:00:00:00:77->arp_sha,set_field:02:00:00:00:00:78->arp_tha
arp set_field:2->arp_op
rarp set_field:10.9.8.7->arp_spa,set_field:02:00:00:00:00:77->arp_tha
arp set_field:0.0.8.0/0.0.255.0->arp_tpa
vlan_tci=0x1000/0x1000 pop_vlan
vlan_tci=0 push_vlan:0x8100,set_field:4196->vlan_vid
vlan_tci=0 push_vlan:0x88a8,set_field:4196->vlan_vid,set_field:5->vlan_pcp
vlan_tci=0 push_vlan:0x8100,set_field:4196->vlan_vid,push_vlan:0x88a8,set_field:4197->vlan_vid
vlan_tci=0x1000/0x1000 set_field:4196->vlan_vid
vlan_tci=0x1000/0x1000 set_field:5->vlan_pcp
ip push_mpls:0x8847,set_field:1000->mpls_label,set_field:5->mpls_tc,set_mpls_ttl(7)
ipv6 push_mpls:0x8848,set_field:1000->mpls_label,set_field:5->mpls_tc,set_mpls_ttl(7)
ip push_mpls:0x8847,set_field:1000->mpls_label,set_field:5->mpls_tc,set_mpls_ttl(7),push_mpls:0x8847,set_field:1001->mpls_label
mpls push_mpls:0x8847,set_field:1000->mpls_label,set_field:5->mpls_tc,set_mpls_ttl(7)
mpls,mpls_bos=1 pop_mpls:0x0800
mpls,mpls_bos=0 pop_mpls:0x8847
mplsm,mpls_bos=1 pop_mpls:0x86dd
mpls set_field:0x54321->mpls_label
mpls set_field:5->mpls_tc,set_mpls_ttl(9)
mpls dec_mpls_ttl
any truncate:40
tcp set_field:02:00:00:00:00:99->eth_dst,set_field:02:00:00:00:00:98->eth_src,dec_ttl,set_field:172.16.5.6->ip_dst,set_field:8080->tcp_dst
"""


def summed(packet):
    """The frame with right checksums of IPv4 and of what it carries; options and extension headers are not for it."""
    packet = bytearray(packet)
    six = packet[12:14] == b'\x86\xdd'
    network, transport = 14, 54 if six else 34
    protocol = packet[20] if six else packet[23]
    if not six:
        packet[24:26] = b'\0\0'
        packet[24:26] = checksum(packet[network:transport])
    addresses = packet[22:54] if six else packet[26:34]
    segment = packet[transport:]
    at = {6: 16, 17: 6, 1: 2, 58: 2, 132: 8}[protocol]
    if protocol == 132:
        segment[8:12] = b'\0' * 4
        segment[8:12] = struct.pack('<I', crc32c(segment))
    else:
        pseudo = addresses + struct.pack('!II', len(segment), protocol) if protocol != 1 else b''
        segment[at:at + 2] = b'\0\0'
        segment[at:at + 2] = checksum(pseudo + segment)
    packet[transport:] = segment
    return bytes(packet)


def checksum(octets):
    octets = bytes(octets) + b'\0' * (len(octets) % 2)
    total = sum(struct.unpack('!%dH' % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack('!H', ~total & 0xffff)


def crc32c(octets):
    state = 0xffffffff
    for octet in octets:
        state ^= octet
        for _ in range(8):
            state = state >> 1 ^ (0x82f63b78 if state & 1 else 0)
    return ~state & 0xffffffff


def right_frames():
    """Packets whose checksums are right."""
    payloads = [(6, keys.tcp()), (17, keys.UDP), (132, keys.SCTP), (17, keys.be16(1, 2, 9, 0) + b'x')]
    for protocol, payload in payloads:
        yield summed(keys.frame(keys.ipv4(protocol, payload)))
        yield summed(keys.frame(keys.ipv6(protocol, payload)))
    yield summed(keys.frame(keys.ipv4(1, keys.ICMP)))
    yield summed(keys.frame(keys.ipv6(58, keys.ICMP6)))
    yield summed(keys.frame(keys.ipv6(58, keys.neighbour(135, keys.SLL))))
    yield summed(keys.frame(keys.ipv6(58, keys.neighbour(136, keys.TLL))))
    # UDP checksums of which an edit can make 0.
    for protocol in (6, 17):
        for at in (0xffff, 0x1234, 0x0001):
            yield keys.frame(keys.ipv4(protocol, struct.pack('!HHIIHHHH', 1, 2, 3, at, 0x5000, 9, at, 0)[:20]))
    for ttl in (0, 1, 2):
        yield keys.frame(keys.ipv4(17, keys.UDP, ttl=ttl))
    yield keys.frame(keys.mpls(0x8847, (5, 1, 1))[:-1] + b'\1')
    yield keys.frame(keys.be16(0x8100, 0xf064), keys.ipv4(17, keys.UDP))


class Switch:
    """A private Open vSwitch."""

    def __init__(self, folder):
        self.folder = folder
        self.env = dict(os.environ, OVS_RUNDIR=folder, OVS_LOGDIR=folder, OVS_DBDIR=folder, OVS_SYSCONFDIR=folder)
        database, self.socket = folder + '/conf.db', 'unix:' + folder + '/db.sock'
        self.run('ovsdb-tool', 'create', database, SCHEMA)
        self.processes = [self.start('ovsdb-server', database, '--remote=punix:' + folder + '/db.sock', '--unixctl=' + folder + '/db.ctl')]
        self.wait(folder + '/db.sock')
        self.vsctl('--no-wait', 'init', '--', 'set', 'Open_vSwitch', '.', 'other_config:vlan-limit=2')
        self.processes.append(self.start('ovs-vswitchd', self.socket, '--enable-dummy', '--disable-system', '--unixctl=' + folder + '/switch.ctl'))
        self.wait(folder + '/switch.ctl')
        self.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=dummy', 'fail-mode=secure')
        for number in (1, 2, 3):
            self.vsctl('add-port', 'br0', 'p%d' % number, '--', 'set', 'interface', 'p%d' % number, 'type=dummy',
                       'ofport_request=%d' % number, 'options:tx_pcap=' + self.pcap(number))

    def pcap(self, port):
        return '%s/p%d.pcap' % (self.folder, port)

    def run(self, *words):
        return subprocess.run(words, check=True, capture_output=True, text=True, env=self.env).stdout

    def start(self, *words):
        log = open(self.folder + '/log', 'ab')
        return subprocess.Popen(words, env=self.env, stdout=log, stderr=log)

    def wait(self, path):
        for _ in range(200):
            if os.path.exists(path):
                return
            time.sleep(0.05)
        raise SystemExit('%s does not come' % path)

    def vsctl(self, *words):
        return self.run('ovs-vsctl', '--timeout=8', '--db=' + self.socket, *words)

    def ofctl(self, *words):
        return self.run('ovs-ofctl', '-O', 'OpenFlow10,OpenFlow13,OpenFlow15', words[0], 'unix:%s/br0.mgmt' % self.folder, *words[1:])

    def receive(self, frames):
        answer = self.run('ovs-appctl', '-t', self.folder + '/switch.ctl', 'netdev-dummy/receive', 'p1', *(octets.hex() for octets in frames))
        assert not answer.strip(), answer

    def sent(self, port, start):
        """What a port has sent since the octet `start` of its file, and where that ends."""
        with open(self.pcap(port), 'rb') as file:
            data = file.read()
        at, frames = max(start, 24), []
        while at + 16 <= len(data):
            length = struct.unpack_from('<I', data, at + 8)[0]
            if at + 16 + length > len(data):
                break
            frames.append(data[at + 16:at + 16 + length])
            at += 16 + length
        return frames, at

    def end(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def mark(number):
    return keys.frame(keys.be16(MARK), struct.pack('!I', number), bytes(42))


def outcomes(switch, frames, starts):
    """For each frame what left by port 2 and by port 3."""
    found = []
    for first in range(0, len(frames), AT_ONCE):
        part = frames[first:first + AT_ONCE]
        marked = [octets for at, octets in enumerate(part) for octets in (octets, mark(first + at))]
        switch.receive(marked)
        last = mark(first + len(part) - 1)
        for _ in range(400):
            sent = [switch.sent(port, starts[port]) for port in (2, 3)]
            if all(frames_sent and frames_sent[-1] == last for frames_sent, _ in sent):
                break
            time.sleep(0.01)
        else:
            raise SystemExit('a mark is lost')
        by_port = []
        for port, (frames_sent, end) in zip((2, 3), sent):
            starts[port] = end
            groups, group = [], []
            for octets in frames_sent:
                if octets[12:14] == struct.pack('!H', MARK):
                    groups.append(group)
                    group = []
                else:
                    group.append(octets)
            by_port.append(groups)
        found += list(zip(*by_port))
    assert len(found) == len(frames)
    return found


def difference(before, after):
    if before == after:
        return '='
    if len(before) != len(after):
        shorter = min(len(before), len(after))
        start = next((at for at in range(shorter) if before[at] != after[at]), shorter)
        tail = next((at for at in range(shorter - start) if before[-1 - at] != after[-1 - at]), shorter - start)
        return '%d-%d:%s' % (start, len(before) - tail, after[start:len(after) - tail].hex())
    runs = []
    for at, (old, new) in enumerate(zip(before, after)):
        if old != new:
            if runs and runs[-1][0] + len(runs[-1][1]) == at:
                runs[-1][1].append(new)
            else:
                runs.append((at, bytearray([new])))
    return ' '.join('%d:%s' % (at, octets.hex()) for at, octets in runs)


def main():
    made = [*keys.link_frames(), *keys.ipv4_frames(), *keys.ipv6_frames(), *keys.neighbour_frames(), *right_frames()]
    frames = [octets for octets in dict.fromkeys(made) if len(octets) <= MTU]
    print(HEAD)
    for number, octets in enumerate(frames):
        print('frame', number, octets.hex())
    with tempfile.TemporaryDirectory() as folder:
        switch = Switch(folder)
        try:
            starts = {2: 0, 3: 0}
            for case in CASES.splitlines():
                record(switch, case, frames, starts)
        finally:
            switch.end()


def record(switch, case, frames, starts):
    match, actions = case.split(' ')
    output = 'output(port=2,max_len=40)' if actions == 'truncate:40' else actions + ',output:2'
    flows = ['priority=9,dl_type=0x%x,actions=2,3' % MARK, 'priority=0,actions=3',
             'priority=5,%sactions=%s' % ('' if match == 'any' else match + ',', output)]
    switch.ofctl('del-flows')
    for flow in flows:
        switch.ofctl('add-flow', flow)
    print('case', match, actions)
    for number, (octets, (matched, others)) in enumerate(zip(frames, outcomes(switch, frames, starts))):
        if others:
            assert others == [octets] and not matched, (case, octets.hex())
        elif matched:
            assert len(matched) == 1
            print(number, difference(octets, matched[0]))
        else:
            print(number, 'drop')


if __name__ == '__main__':
    main()
