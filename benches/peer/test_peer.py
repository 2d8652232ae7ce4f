#!/usr/bin/env python3
"""Tests of what compare.py computes; they start nothing. Run: python3 -m unittest discover benches/peer"""
import io
import os
import struct
import sys
import tempfile
import unittest
from contextlib import redirect_stderr

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import cases  # noqa: E402
import compare  # noqa: E402
import gen_pcap  # noqa: E402
import hugepages  # noqa: E402
import ovs_dpdk  # noqa: E402
import rules  # noqa: E402

PMD_STATS = '''pmd thread numa_id 0 core_id 1:
  packets received: 1000
  emc hits: 900
  avg cycles per packet: 136.17 (136170/1000)
  idle cycles: 36170 (26.56%)
  processing cycles: 100000 (73.44%)
pmd thread numa_id 0 core_id 11:
  packets received: 7
main thread:
  packets received: 5
'''


def packets(**arguments):
    """The frames that gen_pcap writes."""
    with tempfile.NamedTemporaryFile() as file:
        gen_pcap.write(file.name, **arguments)
        data, at, frames = file.read(), 24, []
    while at < len(data):
        length = struct.unpack_from('<I', data, at + 8)[0]
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


class Rules(unittest.TestCase):
    def test_there_are_a_thousand_in_so_many_shapes_and_the_rest_is_dropped(self):
        lines = rules.make(50, 0, 'out0')[0].splitlines()
        self.assertEqual((len(lines), lines[-1]), (1001, 'priority=0,actions=drop'))
        self.assertEqual(len({line.split(',')[0] for line in lines[:-1]}), 50)

    def test_flows_of_a_shape_are_different_and_the_same_in_every_run(self):
        flows = rules.make(10, 3000, 'out0')[1]
        self.assertEqual(len(set(flows)), 3000)
        self.assertEqual(flows, rules.make(10, 3000, 'elsewhere')[1])
        frames = packets(flows=3000, shapes=10)
        self.assertEqual(struct.unpack('!IIHH', frames[7][26:38]), flows[7])


class Pcaps(unittest.TestCase):
    def test_there_are_as_many_different_packets_as_flows(self):
        self.assertEqual(len(packets(flows=1)), 1024)
        self.assertEqual(len(set(packets(flows=1))), 1)
        self.assertEqual(len(set(packets(flows=3000))), 3000)
        self.assertEqual(len({frame[6:12] for frame in packets(flows=3000, vary='macs')}), 3000)

    def test_answers_come_from_where_the_question_went(self):
        there, back = packets(flows=1, talk='both')[:2]
        self.assertEqual((there[26:30], there[34:36]), (back[30:34], back[36:38]))
        self.assertEqual((there[30:34], there[36:38]), (back[26:30], back[34:36]))

    def test_tcp_is_greeted_once_and_its_checksums_are_good(self):
        self.assertEqual(len(packets(flows=5, protocol='tcp', talk='greet')), 15)
        for frame in packets(flows=5, protocol='tcp', talk='greet') + packets(flows=1, protocol='tcp', talk='both')[:2]:
            length = struct.unpack('!H', frame[16:18])[0] - 20
            segment = frame[34:34 + length]
            pseudo = frame[26:34] + struct.pack('!HH', 6, length)
            self.assertEqual(gen_pcap.checksum(pseudo + segment + bytes(length % 2)), 0)
            self.assertEqual(len(frame), 64)

    def test_destination_ports_are_among_those_that_are_asked_for(self):
        ports = {frame[36:38] for frame in packets(flows=1000, ports=(53, 80))}
        self.assertEqual(ports, {struct.pack('!H', 53), struct.pack('!H', 80)})

    def test_two_files_of_the_same_traffic_are_equal(self):
        self.assertEqual(packets(flows=100), packets(flows=100))

    def test_frames_have_the_size_and_good_ip_checksums(self):
        for vlan, at in ((0, 14), (100, 18)):
            frame = packets(flows=1, size=64, vlan=vlan)[0]
            self.assertEqual(len(frame), 64)
            self.assertEqual(gen_pcap.checksum(frame[at:at + 20]), 0)
            self.assertEqual(struct.unpack('!H', frame[at + 2:at + 4])[0], 64 - at)

    def test_tunnel_packets_hold_the_inner_frame(self):
        inner = packets(flows=10)[3]
        for kind, overhead in (('vxlan', 14 + 20 + 8 + 8), ('gre', 14 + 20 + 8)):
            outer = packets(flows=10, encap=kind)[3]
            self.assertEqual(outer[overhead:], inner)
            self.assertEqual(gen_pcap.checksum(outer[14:34]), 0)
            self.assertEqual(struct.unpack('!H', outer[16:18])[0], len(outer) - 14)


class Numbers(unittest.TestCase):
    def test_the_statistics_are_those_of_the_one_thread(self):
        stats = ovs_dpdk.read_pmd_stats(PMD_STATS, 1)
        self.assertEqual((stats['packets received'], stats['idle cycles']), (1000, 36170))
        self.assertEqual(ovs_dpdk.read_pmd_stats(PMD_STATS, 2), {})

    def test_only_the_huge_pages_that_lack_are_asked_for(self):
        self.assertEqual(hugepages.read_meminfo('HugePages_Free:   40\nHugepagesize:  2048 kB\n'), (40, 2048))
        promised = 'HugePages_Free:   40\nHugePages_Rsvd: 30\nHugepagesize:  2048 kB\n'
        self.assertEqual(hugepages.read_meminfo(promised), (10, 2048))
        self.assertEqual(hugepages.missing(40, 2048, 1280), 600)
        self.assertEqual(hugepages.missing(640, 2048, 1280), 0)
        self.assertIsNone(hugepages.missing(0, 0, 1280))

    def test_the_last_json_line_of_weft_replay_counts(self):
        text = 'loading\n{"mpps": 1}\n{"mpps": 50, "cycles_per_packet": 52, "tsc_hz": 2.6e9}\n'
        self.assertEqual(compare.read_weft(text), {'mpps': 50, 'cycles_per_packet': 52, 'tsc_hz': 2.6e9})
        with self.assertRaises(ovs_dpdk.PeerError):
            compare.read_weft('no numbers')

    def test_rates_are_per_second_of_cpu_time(self):
        halved = compare.by_cpu_time({'mpps': 10, 'cycles_per_packet': 200}, 0.5)
        self.assertEqual((halved['mpps'], halved['cycles_per_packet']), (20, 100))
        own = compare.by_cpu_time({'mpps': 10, 'cycles_per_packet': 200, 'cpu_share': 1.0}, 0.5)
        self.assertEqual(own['mpps'], 10)


    def test_the_share_is_that_of_the_measurement_alone(self):
        samples = [(0.0, 0.0), (1.0, 0.1), (2.0, 0.6), (3.0, 1.1)]
        self.assertAlmostEqual(compare.last_share(samples, 2), 0.5)
        self.assertEqual(compare.last_share([], 2), 1.0)


def one_round(ovs, weft):
    side = {'cycles_per_packet': 100, 'cpu_share': 0.9}
    return {'ovs': dict(side, mpps=ovs), 'weft': dict(side, mpps=weft)}


class Table(unittest.TestCase):
    def test_the_ratio_is_the_median_of_the_rounds_own_ratios(self):
        rounds = [one_round(10, 30), one_round(5, 20), one_round(10, 20)]
        self.assertEqual(compare.row('x', rounds), ['x', '10.00', '100', '20.00', '100', '3.0x [2.0-4.0]'])

    def test_one_side_alone_and_a_failure_have_no_ratio(self):
        alone = [{'weft': one_round(1, 2)['weft']}]
        self.assertEqual(compare.row('x', alone), ['x', '-', '-', '2.00', '100', '-'])
        self.assertEqual(compare.row('x', []), ['x', '-', '-', '-', '-', '-'])

    def test_columns_are_aligned(self):
        lines = compare.table([compare.row('a long name of a case', [one_round(10, 30)]), compare.row('x', [])]).split('\n')
        self.assertEqual(len({len(line) for line in lines}), 1)

    def test_the_least_share_passes_over_failures(self):
        self.assertEqual(compare.least_share([('a', 'an error'), ('b', [one_round(1, 2)])]), 90)


class Arguments(unittest.TestCase):
    def test_names_of_cases_are_unique(self):
        names = [case.name for case in cases.all_cases()]
        self.assertEqual(len(names), len(set(names)))

    def test_weft_makes_the_packets_of_security_groups_itself(self):
        by_name = {case.name: case.traffic('a.pcap', 'b.pcap') for case in cases.all_cases()}
        self.assertEqual(by_name['stateful, 1k established TCP'], ['--pcap', 'a.pcap', '--before', 'b.pcap'])
        self.assertEqual(by_name['security groups, 1k established TCP'], ['--connections', '1000', '--protocol', 'tcp'])
        self.assertEqual(by_name['security groups, 1M new UDP'], ['--connections', '1000000', '--protocol', 'udp'])

    def test_numbers_out_of_range_are_refused(self):
        for arguments in (['--rounds', '0'], ['--seconds', '0.1'], ['--core', '4096']):
            with self.assertRaises(SystemExit), redirect_stderr(io.StringIO()):
                compare.parse_arguments(arguments)


if __name__ == '__main__':
    unittest.main()
