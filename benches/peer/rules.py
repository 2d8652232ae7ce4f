"""Case S4: 1,000 rules over several mask shapes, as flow text, and flows that each meet one of them."""
import random

RULES = 1000


def shapes(count):
    """So many different masks over source prefix, destination prefix, source port and destination port."""
    every = [(source, destination, ports) for source in (0, 8, 16, 24, 32) for destination in (16, 24, 32)
             for ports in ('', 's', 'd', 'sd')]
    random.Random(3).shuffle(every)
    return every[:count]


def prefix(bits):
    return 0xffffffff << (32 - bits) & 0xffffffff


def dotted(address):
    return '.'.join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def make(count, flows, output):
    """(flow text, tuples): rules in `count` shapes, each shape with a priority of its own, that send to `output`; and
    different (source, destination, source port, destination port), as numbers."""
    rng = random.Random(11)
    masks, rules, lines = shapes(count), [], []
    for number in range(RULES):
        source_bits, destination_bits, ports = masks[number % count]
        source = (0x0a000000 | rng.getrandbits(24)) & prefix(source_bits)
        destination = (0x0b000000 | rng.getrandbits(24)) & prefix(destination_bits)
        source_port, destination_port = rng.randrange(1, 1024), rng.randrange(1, 1024)
        rules.append((source, source_bits, destination, destination_bits, ports, source_port, destination_port))
        line = 'priority=%d,udp' % (100 + number % count)
        if source_bits:
            line += ',nw_src=%s/%d' % (dotted(source), source_bits)
        line += ',nw_dst=%s/%d' % (dotted(destination), destination_bits)
        line += ',tp_src=%d' % source_port if 's' in ports else ''
        line += ',tp_dst=%d' % destination_port if 'd' in ports else ''
        lines.append(line + ',actions=output:' + output)
    lines.append('priority=0,actions=drop')
    return '\n'.join(lines) + '\n', list(draw(rng, rules, flows))


def draw(rng, rules, flows):
    """Flows, each within a rule that is drawn at random: its addresses and ports, the rest random."""
    seen = {}
    while len(seen) < flows:
        source, source_bits, destination, destination_bits, ports, source_port, destination_port = rng.choice(rules)
        if source_bits:
            source |= rng.getrandbits(32) & ~prefix(source_bits) & 0xffffffff
        else:
            source = 0x0a000000 | rng.getrandbits(24)
        if destination_bits < 32:
            destination |= rng.getrandbits(32) & ~prefix(destination_bits) & 0xffffffff
        own = (source_port if 's' in ports else rng.randrange(1, 65536),
               destination_port if 'd' in ports else rng.randrange(1, 65536))
        seen[(source, destination) + own] = None
    return seen
