"""What is compared: for each case the traffic, and what both switches do with it.

Both have one input, which replays the file for ever, and swallow what leaves. weft-replay sets the same up for itself:

  l2            one bridge, NORMAL, no VLANs; all destinations are known at the output
  push / pop    access port 100 to trunk 100, and back
  flood2        from access port 100 to two trunks, destination unknown
  *-encap       a tunnel to 172.31.1.2 with key 100; the underlay's next hop is known
  *-decap       the same tunnel, from the underlay to a port
  rules         one table of 1,000 rules in 10 or 50 mask shapes, all to the output (rules.make); OVS also with its signature
                match cache, which it is shipped without
"""
from dataclasses import dataclass, field
import os

import rules
from gen_pcap import DESTINATION_MAC, DESTINATION_MACS, OUTER_DESTINATION_MAC, OUTER_SOURCE_MAC, KEY

TRUNK, ACCESS = ['trunks=100'], ['tag=100']


@dataclass(frozen=True)
class Case:
    """One line of the table."""
    name: str
    weft: str                                      # weft-replay's --case
    group: str                                     # which OVS it needs: plain, vxlan, gre or rules
    pcap: dict = field(hash=False)                 # gen_pcap.write's arguments
    slow: bool = False                             # OVS takes long to set its flows up
    smc: bool = False                              # OVS with its signature match cache

    def rules(self, pcap):
        """Its rules' file, beside the pcap; None if it has none."""
        shapes = self.pcap.get('shapes')
        if not shapes:
            return None
        path = pcap + '.flows'
        if not os.path.exists(path):
            with open(path, 'w') as out:
                out.write(rules.make(shapes, 0, 'out0')[0])
        return path


def label(flows):
    return '%dk' % (flows // 1000) if flows >= 1000 else str(flows)


def all_cases():
    """In the order of the table."""
    cases = [Case('L2, %s five-tuples' % label(n), 'l2', 'plain', {'flows': n}) for n in (1, 10_000, 100_000)]
    cases += [Case('L2, %s MACs' % label(n), 'l2', 'plain', {'flows': n, 'vary': 'macs'}, n > 10_000)
              for n in (1000, 10_000, 100_000)]
    cases += [Case('VLAN push, %s flows' % label(n), 'push', 'plain', {'flows': n}) for n in (1, 100_000)]
    cases += [Case('VLAN pop, %s flows' % label(n), 'pop', 'plain', {'flows': n, 'vlan': 100}) for n in (1, 100_000)]
    cases += [Case('flood to 2 tagged ports', 'flood2', 'plain', {'flows': 1000})]
    for kind, counts in (('vxlan', (1, 10_000, 100_000)), ('gre', (10_000,))):
        upper = kind.upper()
        cases += [Case('%s encap, %s flows' % (upper, label(n)), kind + '-encap', kind, {'flows': n}) for n in counts]
        cases += [Case('%s decap, %s flows' % (upper, label(n)), kind + '-decap', kind, {'flows': n, 'encap': kind})
                  for n in counts]
    for shapes in (10, 50):
        for smc in (False, True):
            name = '1,000 rules in %d shapes, 100k flows%s' % (shapes, ', OVS with SMC' if smc else '')
            cases.append(Case(name, 'l2', 'rules', {'flows': 100_000, 'shapes': shapes}, True, smc))
    return cases


def prepare(ovs, group):
    """The bridges and outputs of a group; what differs by case is feed()'s."""
    if group == 'rules':
        ovs.bridge('br0')
        ovs.null_port('br0', 'out0')
        return
    if group == 'plain':
        ovs.bridge('br0', 'other-config:mac-table-size=1000000')
        ovs.null_port('br0', 'out0')
        ovs.null_port('br0', 'trunk0', TRUNK)
        ovs.null_port('br0', 'trunk1', TRUNK)
        ovs.null_port('br0', 'access0', ACCESS)
        # Floods go to the two trunks alone; the bridge's own tap device would take a system call for each packet.
        for port in ('br0', 'out0', 'access0'):
            ovs.ofctl('mod-port', 'br0', port, 'no-flood')
        return
    ovs.bridge('br-int')
    ovs.bridge('br-phy', 'other-config:hwaddr="%s"' % OUTER_DESTINATION_MAC)
    ovs.ip('addr', 'add', '172.31.1.1/24', 'dev', 'br-phy')
    ovs.ip('link', 'set', 'br-phy', 'up')
    ovs.appctl('ovs/route/add', '172.31.1.0/24', 'br-phy', check=False)
    ovs.null_port('br-phy', 'wire0')
    ovs.null_port('br-int', 'guest0')
    ovs.port('br-int', 'tun0', group, ['options:remote_ip=172.31.1.2', 'options:local_ip=172.31.1.1',
                                       'options:key=%d' % KEY, 'options:csum=false'])
    ovs.appctl('tnl/neigh/set', 'br-phy', '172.31.1.2', OUTER_SOURCE_MAC)
    ovs.learn('br-phy', 'wire0', 0, [OUTER_SOURCE_MAC])


def feed(ovs, case, pcap):
    """Starts the traffic of a case and returns the ports that each packet leaves by."""
    macs = [DESTINATION_MAC] + ['02:20:00:00:%02x:%02x' % (n >> 8, n & 255) for n in range(DESTINATION_MACS)]
    if case.group == 'rules':
        ovs.vsctl('set', 'Open_vSwitch', '.', 'other_config:smc-enable=%s' % ('true' if case.smc else 'false'))
        ovs.ofctl('del-flows', 'br0')
        ovs.ofctl('add-flows', 'br0', case.rules(pcap))
        ovs.feed('br0', pcap, settle=120)
        return ['out0']
    if case.weft == 'l2':
        ovs.learn('br0', 'out0', 0, macs)
        ovs.feed('br0', pcap, settle=120 if case.slow else 8)
        return ['out0']
    if case.weft in ('push', 'pop'):
        output, column = ('trunk0', ACCESS) if case.weft == 'push' else ('access0', TRUNK)
        ovs.learn('br0', output, 100, macs[:1])
        ovs.feed('br0', pcap, column)
        return [output]
    if case.weft == 'flood2':
        ovs.appctl('fdb/del', 'br0', '100', DESTINATION_MAC, check=False)
        ovs.feed('br0', pcap, ACCESS)
        return ['trunk0', 'trunk1']
    encap = case.weft.endswith('-encap')
    ovs.learn('br-int', 'tun0' if encap else 'guest0', 0, macs[:1])
    ovs.feed('br-int' if encap else 'br-phy', pcap)
    return ['wire0'] if encap else ['guest0']
