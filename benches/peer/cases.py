"""What is compared: for each case the traffic, and what both switches do with it.

Both have one input, which replays the file for ever, and swallow what leaves. weft-replay sets the same up for itself:

  l2            one bridge, NORMAL, no VLANs; all destinations are known at the output
  push / pop    access port 100 to trunk 100, and back
  flood2        from access port 100 to two trunks, destination unknown
  *-encap       a tunnel to 172.31.1.2 with key 100; the underlay's next hop is known
  *-decap       the same tunnel, from the underlay to a port
  rules         one table of 1,000 rules in 10 or 50 mask shapes, all to the output (rules.make); OVS also with its signature
                match cache, which it is shipped without
  stateful      a stateful access list of 13 rules in zone 1 (stateful_rules): established connections pass, new ones to
                four ports are committed; both directions of each connection in turn. TCP connections are begun first
  new-connections  the same list; packets of connections that nobody knows yet. OVS reads the file as it goes (libpcap)
  groups, new-groups  OVS as in the two above. weft has 1,000 ports in 50 security groups instead, of which two talk; with -out,
                one of them talks to a port without a guard. weft-replay makes their packets itself, of as many connections
"""
from dataclasses import dataclass, field, replace
import os

import rules
from gen_pcap import DESTINATION_MAC, DESTINATION_MACS, OUTER_DESTINATION_MAC, OUTER_SOURCE_MAC, KEY

TRUNK, ACCESS = ['trunks=100'], ['tag=100']


@dataclass(frozen=True)
class Case:
    """One line of the table."""
    name: str
    weft: str                                      # weft-replay's --case
    group: str                                     # which OVS it needs: plain, vxlan, gre, rules or stateful
    pcap: dict = field(hash=False)                 # gen_pcap.write's arguments
    slow: bool = False                             # OVS takes long to set its flows up
    smc: bool = False                              # OVS with its signature match cache
    before: dict = field(default=None, hash=False)   # of packets that come in once, before

    @property
    def is_of_new_connections(self):
        """Whether nobody knows a packet's connection yet."""
        return self.weft.startswith('new-')

    def traffic(self, pcap, before):
        """weft-replay's arguments that say what comes in."""
        if 'groups' in self.weft:
            return ['--connections', str(self.pcap['flows']), '--protocol', self.pcap.get('protocol', 'udp')]
        return ['--pcap', pcap] + (['--before', before] if before else [])

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


# What the access list lets new connections to.
OPEN_PORTS = (53, 80, 443, 8080)
# OVS's limit of connections is raised to this.
MOST_CONNECTIONS = 3_000_000


def stateful_rules():
    """The access list, as flow text."""
    lines = ['table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1,zone=1)', 'table=0,priority=5,arp,actions=NORMAL',
             'table=1,priority=30,ip,ct_state=+trk+inv,actions=drop', 'table=1,priority=0,actions=drop']
    lines += ['table=1,priority=20,ip,ct_state=+trk+%s,actions=NORMAL' % state for state in ('est', 'rel')]
    lines += ['table=1,priority=10,%s,ct_state=+trk+new,tp_dst=%d,actions=ct(commit,zone=1),NORMAL' % (protocol, port)
              for protocol in ('udp', 'tcp') for port in OPEN_PORTS]
    return '\n'.join(lines) + '\n'


def label(flows):
    if flows >= 1_000_000:
        return '%dM' % (flows // 1_000_000)
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
    for protocol, counts in (('udp', (1, 1000, 10_000, 100_000)), ('tcp', (1000, 100_000))):
        for flows in counts:
            pcap = {'flows': flows, 'protocol': protocol, 'ports': OPEN_PORTS, 'talk': 'both'}
            before = dict(pcap, talk='greet') if protocol == 'tcp' else None
            name = 'stateful, %s established %s' % (label(flows), protocol.upper())
            cases.append(Case(name, 'stateful', 'stateful', pcap, flows > 10_000, before=before))
    new = {'flows': 1_000_000, 'ports': OPEN_PORTS}
    cases.append(Case('stateful, 1M new UDP', 'new-connections', 'stateful', new))
    for known in [case for case in cases if case.weft == 'stateful']:
        name = known.name.replace('stateful', 'security groups')
        cases.append(replace(known, name=name, weft='groups'))
    cases.append(Case('security groups, 1M new UDP', 'new-groups', 'stateful', new))
    cases.append(Case('security groups to no guard, 1M new UDP', 'new-groups-out', 'stateful', new))
    return cases


def prepare(ovs, group):
    """The bridges and outputs of a group; what differs by case is feed()'s."""
    if group == 'rules':
        ovs.bridge('br0')
        ovs.null_port('br0', 'out0')
        return
    if group == 'stateful':
        ovs.bridge('br0')
        ovs.null_port('br0', 'out0')
        ovs.appctl('dpctl/ct-set-maxconns', str(MOST_CONNECTIONS))
        path = os.path.join(ovs.dir, 'stateful.flows')
        with open(path, 'w') as out:
            out.write(stateful_rules())
        ovs.ofctl('del-flows', 'br0')
        ovs.ofctl('add-flows', 'br0', path)
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


def measure(ovs, case, pcap, seconds, outputs):
    """One window of OVS in a case that was fed."""
    if case.is_of_new_connections:
        return ovs.measure_once('br0', pcap, outputs, ovs.forget_connections)
    return ovs.measure(seconds, outputs)


def feed(ovs, case, pcap, before=None):
    """Starts the traffic of a case, behind that of the file `before`, and returns the ports that each packet leaves by."""
    macs = [DESTINATION_MAC] + ['02:20:00:00:%02x:%02x' % (n >> 8, n & 255) for n in range(DESTINATION_MACS)]
    if case.group == 'rules':
        ovs.vsctl('set', 'Open_vSwitch', '.', 'other_config:smc-enable=%s' % ('true' if case.smc else 'false'))
        ovs.ofctl('del-flows', 'br0')
        ovs.ofctl('add-flows', 'br0', case.rules(pcap))
        ovs.feed('br0', pcap, settle=120)
        return ['out0']
    if case.group == 'stateful':
        ovs.forget_connections()
        ovs.learn('br0', 'out0', 0, macs[:1])
        if before:
            ovs.play('br0', before)
        if not case.is_of_new_connections:
            ovs.feed('br0', pcap, settle=120 if case.slow else 20)
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
