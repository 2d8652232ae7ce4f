"""A private OVS-DPDK: own database, sockets, logs and network namespace; net_pcap in, net_null out.

Its polling thread runs on one core, all else on another. While it is paused (SIGSTOP) the core is free for the other
switch; that is what lets both take turns in one run.
"""
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

VSWITCHD = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk'
SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'
# Preloading 100,000 packets takes about 500 MB; the rest is DPDK's own.
MEMORY_MIB = 1000
HUGEPAGES_MIB = 1280
NEEDS = [
    ('openvswitch-switch-dpdk', lambda: os.path.exists(VSWITCHD)),
    ('openvswitch-switch', lambda: os.path.exists(SCHEMA) and shutil.which('ovs-vsctl')),
    ('openvswitch-common', lambda: all(shutil.which(tool) for tool in ('ovsdb-tool', 'ovsdb-server', 'ovs-appctl', 'ovs-ofctl'))),
    ('librte-net-pcap23', lambda: glob.glob('/usr/lib/*/dpdk/pmds-*/librte_net_pcap.so*')),
    ('librte-mempool-ring23', lambda: glob.glob('/usr/lib/*/dpdk/pmds-*/librte_mempool_ring.so*')),
    ('librte-net-null23', lambda: glob.glob('/usr/lib/*/dpdk/pmds-*/librte_net_null.so*')),
    ('iproute2', lambda: shutil.which('ip')),
    ('util-linux', lambda: shutil.which('taskset') and shutil.which('nsenter')),
]


class PeerError(Exception):
    """OVS did not do what it was asked to."""


def missing_packages():
    """The apt packages (Debian 12) that lack."""
    return [package for package, found in NEEDS if not found()]


def call(command, env=None, check=True, timeout=60):
    """Runs a command (a list) and returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    if check and done.returncode:
        raise PeerError('%s: status %d: %s' % (' '.join(command), done.returncode, (done.stdout + done.stderr)[-600:].strip()))
    return done.stdout.strip()


def read_pmd_stats(text, core):
    """The numbers of one polling thread, from dpif-netdev/pmd-stats-show."""
    block = re.search(r'pmd thread numa_id \d+ core_id %d:\n(.*?)(?=\n\S|\Z)' % core, text, re.S)
    pairs = re.findall(r'^\s+([^:\n]+):\s+([\d.]+)', block.group(1), re.M) if block else []
    return {name.strip(): float(value) for name, value in pairs}


def cpu_seconds(pid, core):
    """Seconds that the polling thread of `core` in process `pid` has been on the CPU."""
    for comm in glob.glob('/proc/%d/task/*/comm' % pid):
        with open(comm) as name:
            if re.match(r'pmd-c%02d/' % core, name.read()):
                with open(os.path.join(os.path.dirname(comm), 'schedstat')) as stat:
                    return int(stat.read().split()[0]) / 1e9
    raise PeerError('OVS has no polling thread on core %d' % core)


def wait_until(condition, seconds, what):
    """Waits for `condition` to hold, or raises."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise PeerError('%s took more than %d s' % (what, seconds))
        time.sleep(0.05)


class Ovs:
    """One running OVS-DPDK. Everything that it made is gone after close()."""

    def __init__(self, folder, core, control_core, tsc_hz, huge=True):
        self.core, self.control_core, self.tsc_hz = core, control_core, tsc_hz
        self.dir = os.path.join(folder, 'ovs')
        self.netns = 'weft-compare-%d' % os.getpid()
        self.env = dict(os.environ, OVS_RUNDIR=self.dir, OVS_LOGDIR=self.dir, OVS_DBDIR=self.dir, OVS_SYSCONFDIR=self.dir)
        self.database = self.switch = None
        self.paused = False
        self.generator = None
        self.generators = 0
        try:
            self._start(huge)
        except BaseException:
            self.close()
            raise

    def _start(self, huge):
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        call(['ip', 'netns', 'add', self.netns])
        call(['ip', '-n', self.netns, 'link', 'set', 'lo', 'up'])
        db = os.path.join(self.dir, 'db.sock')
        call(['ovsdb-tool', 'create', self.dir + '/conf.db', SCHEMA])
        self.database = self._spawn('ovsdb-server', [self.dir + '/conf.db', '--remote=punix:' + db, '--unixctl=%s/db.ctl' % self.dir])
        wait_until(lambda: os.path.exists(db), 10, 'starting ovsdb-server')
        self.vsctl('--no-wait', 'init')
        for name, value in self._config(huge).items():
            self.vsctl('--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:%s="%s"' % (name, value))
        self.switch = self._spawn(VSWITCHD, ['unix:' + db, '--unixctl=%s/vs.ctl' % self.dir, '--log-file=%s/vs.log' % self.dir])
        try:
            wait_until(self._initialised, 40, 'starting ovs-vswitchd with DPDK')
        except PeerError as error:
            raise PeerError('%s; its log ends with:\n%s' % (error, self.log_tail())) from None

    def _config(self, huge):
        # Without huge pages DPDK wants its legacy memory mode, and OVS's own choice (--in-memory) left away by it.
        extra = '--no-pci --no-telemetry --file-prefix=weft_compare_%d' % os.getpid()
        return {
            'pmd-cpu-mask': hex(1 << self.core),
            'dpdk-init': 'true',
            'dpdk-lcore-mask': hex(1 << self.control_core),
            'dpdk-alloc-mem': MEMORY_MIB,
            'dpdk-extra': extra if huge else extra + ' --no-huge --legacy-mem',
        }

    def _spawn(self, program, arguments):
        inside = ['nsenter', '--net=/run/netns/' + self.netns, 'taskset', '-c', str(self.control_core)]
        with open(os.path.join(self.dir, os.path.basename(program) + '.out'), 'w') as out:
            return subprocess.Popen(inside + [program, '-vconsole:off'] + arguments, stdout=out, stderr=out,
                                    stdin=subprocess.DEVNULL, env=self.env)

    def _initialised(self):
        if self.switch.poll() is not None:
            raise PeerError('ovs-vswitchd ended with status %d' % self.switch.returncode)
        if not os.path.exists(self.dir + '/vs.ctl'):
            return False
        return self.vsctl('get', 'Open_vSwitch', '.', 'dpdk_initialized') == 'true'

    def log_tail(self):
        try:
            with open(self.dir + '/vs.log') as log:
                return log.read()[-1500:]
        except OSError:
            return '(no log)'

    def vsctl(self, *arguments):
        return call(['ovs-vsctl', '--timeout=30', '--db=unix:%s/db.sock' % self.dir] + list(arguments), self.env)

    def appctl(self, *arguments, check=True):
        return call(['ovs-appctl', '--timeout=30', '-t', self.dir + '/vs.ctl'] + list(arguments), self.env, check)

    def ofctl(self, command, bridge, *arguments):
        return call(['ovs-ofctl', command, 'unix:%s/%s.mgmt' % (self.dir, bridge)] + list(arguments), self.env)

    def ip(self, *arguments):
        return call(['ip', '-n', self.netns] + list(arguments))

    def bridge(self, name, *settings):
        self.vsctl('add-br', name, '--', 'set', 'bridge', name, 'datapath_type=netdev', 'fail-mode=standalone', *settings)

    def port(self, bridge, name, kind, settings=(), column=()):
        """Adds a port; `settings` are the interface's, `column` the port's (tag, trunks)."""
        self.vsctl('add-port', bridge, name, *column, '--', 'set', 'interface', name, 'type=' + kind, *settings)
        error = self.vsctl('get', 'interface', name, 'error')
        if error not in ('[]', '""', ''):
            raise PeerError('port %s: %s' % (name, error))

    def null_port(self, bridge, name, column=()):
        """A port that swallows all and receives nothing."""
        self.port(bridge, name, 'dpdk', ['options:dpdk-devargs="net_null_%s,no-rx=1"' % name, 'options:n_rxq=1'], column)

    def learn(self, bridge, port, vlan, macs):
        """Adds static FDB entries over one connection: ovs-appctl would take a process for each."""
        calls = [json.dumps({'method': 'fdb/add', 'params': [bridge, port, str(vlan), mac], 'id': number})
                 for number, mac in enumerate(macs)]
        decoder, answers, buffer = json.JSONDecoder(), 0, ''
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(30)
            control.connect(self.dir + '/vs.ctl')
            for start in range(0, len(calls), 64):
                control.sendall(''.join(calls[start:start + 64]).encode())
                while answers < min(start + 64, len(calls)):
                    buffer += control.recv(65536).decode()
                    while buffer.strip():
                        try:
                            answer, end = decoder.raw_decode(buffer.lstrip())
                        except ValueError:
                            break
                        buffer, answers = buffer.lstrip()[end:], answers + 1
                        if answer.get('error'):
                            raise PeerError('fdb/add: %s' % answer['error'])

    def feed(self, bridge, pcap, column=(), settle=8):
        """Replays `pcap` for ever into `bridge`, and waits (at most `settle` s) until the flows of its packets are set up."""
        self._revalidate_every(100)
        self.generators += 1
        self.generator = (bridge, 'gen%d' % self.generators)
        devargs = 'options:dpdk-devargs="net_pcap_%s,rx_pcap=%s,infinite_rx=1"' % (self.generator[1], pcap)
        self.port(bridge, self.generator[1], 'dpdk', [devargs, 'options:n_rxq=1'], column)
        end, calm = time.monotonic() + settle, 0
        while time.monotonic() < end and calm < 3:
            stats, _ = self._window(0.5)
            upcalls = stats.get('miss with success upcall', 0) + stats.get('miss with failed upcall', 0)
            received = stats.get('packets received', 0)
            calm = calm + 1 if received > 0 and upcalls < 0.0002 * received + 50 else 0
        # A pause in the middle of a round of the revalidators looks like a slow machine to OVS, which then cuts its limit
        # of flows by the seconds that it took. So there are no rounds while the case is measured.
        self._revalidate_every(3_600_000)
        time.sleep(1)

    def play(self, bridge, pcap, patience=120):
        """Plays `pcap` into `bridge` once, read as it goes; the polling thread's statistics of that."""
        self.resume()
        self.generators += 1
        name = 'once%d' % self.generators
        self.appctl('dpif-netdev/pmd-stats-clear')
        self.port(bridge, name, 'dpdk', ['options:dpdk-devargs="net_pcap_%s,rx_pcap=%s"' % (name, pcap), 'options:n_rxq=1'])
        end, before, stats = time.monotonic() + patience, -1, {}
        while stats.get('packets received', 0) != before or not before:
            if time.monotonic() > end:
                raise PeerError('playing %s took more than %d s' % (pcap, patience))
            before = stats.get('packets received', 0)
            time.sleep(0.5)
            stats = read_pmd_stats(self.appctl('dpif-netdev/pmd-stats-show'), self.core)
        self.vsctl('--if-exists', 'del-port', bridge, name)
        return stats

    def measure_once(self, bridge, pcap, outputs, prepare):
        """One pass over `pcap`, behind `prepare`. The rate is by TSC: packets x Hz / cycles that the polling thread was busy,
        of the time that it was on the CPU. Reading the file is part of it."""
        self.resume()
        prepare()
        before, start, used = self._sent(outputs), time.monotonic(), cpu_seconds(self.switch.pid, self.core)
        stats = self.play(bridge, pcap)
        used, wall = cpu_seconds(self.switch.pid, self.core) - used, time.monotonic() - start
        share = min(1.0, max(0.01, used / wall))
        packets, cycles = stats.get('packets received', 0), stats.get('processing cycles', 0)
        if not packets or not cycles:
            raise PeerError('OVS received nothing')
        sent = (self._sent(outputs) - before) / len(outputs)
        if sent < 0.98 * packets:
            raise PeerError('OVS sent %d of %d packets on: it dropped the rest' % (sent, packets))
        mpps = packets * self.tsc_hz / cycles / 1e6
        return {'mpps': mpps / share, 'cycles_per_packet': share * cycles / packets, 'cpu_share': share,
                'connections': int(self.appctl('dpctl/ct-get-nconns') or 0)}

    def forget_connections(self):
        """Connections, and the flows that came with them."""
        self.resume()
        self.appctl('dpctl/flush-conntrack')
        self.appctl('dpctl/del-flows', check=False)
        time.sleep(0.3)

    def _revalidate_every(self, milliseconds):
        """How often OVS checks and ages its flows; often lets its limit of flows rise fast."""
        names = ('max-revalidator=%d', 'max-idle=%d')
        self.vsctl('set', 'Open_vSwitch', '.', *('other_config:' + name % max(milliseconds, least)
                                                 for name, least in zip(names, (100, 60_000))))

    def starve(self):
        """Ends what feed() began."""
        if self.generator:
            self.resume()
            self.vsctl('--if-exists', 'del-port', *self.generator)
            self.appctl('dpctl/del-flows', check=False)
            self.generator = None

    def pause(self):
        if not self.paused:
            self.switch.send_signal(signal.SIGSTOP)
            self.paused = True

    def resume(self):
        if self.paused:
            self.switch.send_signal(signal.SIGCONT)
            self.paused = False
            time.sleep(0.3)

    def _window(self, seconds):
        """The polling thread's statistics over a window, and the share of it that it was on the CPU."""
        self.appctl('dpif-netdev/pmd-stats-clear')
        start, used = time.monotonic(), cpu_seconds(self.switch.pid, self.core)
        time.sleep(seconds)
        stats = read_pmd_stats(self.appctl('dpif-netdev/pmd-stats-show'), self.core)
        used, wall = cpu_seconds(self.switch.pid, self.core) - used, time.monotonic() - start
        return stats, min(1.0, max(0.01, used / wall))

    def _sent(self, ports):
        text = self.appctl('dpctl/show', '-s')
        counts = [re.search(r'port \d+: %s \(.*?TX packets:(\d+)' % re.escape(port), text, re.S) for port in ports]
        return sum(int(count.group(1)) for count in counts if count)

    def measure(self, seconds, outputs):
        """One window. The rate is by TSC: packets x Hz / cycles of the polling thread, idle ones included, of the time that
        it was on the CPU. `outputs` is where each packet must go: a bench that measured drops would be a fast one."""
        self.resume()
        for _ in range(5):
            before = self._sent(outputs)
            stats, share = self._window(seconds)
            sent = (self._sent(outputs) - before) / len(outputs)
            packets, upcalls = stats.get('packets received', 0), stats.get('miss with success upcall', 0)
            # A polling thread that others keep from the core shows its numbers late.
            if packets and upcalls < 0.001 * packets:
                break
        else:
            raise PeerError('OVS received nothing, or still sets flows up: %d for %d packets' % (upcalls, packets))
        cycles = stats.get('idle cycles', 0) + stats.get('processing cycles', 0)
        if not cycles:
            raise PeerError('OVS has counted no cycles')
        # What was sent is counted over a little more than the window, so it can't be less but by drops.
        if sent < 0.98 * packets:
            raise PeerError('OVS sent %d of %d packets on: it dropped the rest' % (sent, packets))
        mpps = packets * self.tsc_hz / cycles / 1e6
        return {'mpps': mpps / share, 'cycles_per_packet': share * cycles / packets, 'cpu_share': share,
                'upcalls': int(upcalls),
                'emc_percent': 100 * stats.get('emc hits', 0) / packets}

    def close(self):
        """Ends the processes and takes the namespace away. May be called twice."""
        if self.switch and self.switch.poll() is None:
            self.switch.send_signal(signal.SIGCONT)
            if os.path.exists(self.dir + '/vs.ctl'):
                try:
                    self.appctl('exit', '--cleanup', check=False)
                except subprocess.TimeoutExpired:
                    pass
        for process in (self.switch, self.database):
            end_process(process, 8 if process is self.switch else 0)
        subprocess.run(['ip', 'netns', 'del', self.netns], capture_output=True)


def end_process(process, patience):
    """Waits `patience` seconds for a process of ours to end by itself, then ends it."""
    if process is None:
        return
    for signal_number, seconds in ((None, patience), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            if signal_number is not None and process.poll() is None:
                process.send_signal(signal_number)
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
