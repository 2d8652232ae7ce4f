#!/usr/bin/env python3
"""Runs weft and OVS-DPDK in turn on the same packets, on the same core, and prints rates and ratios.

  benches/compare.py                      every case, 3 rounds
  benches/compare.py --case 'VXLAN'       those whose name matches
  benches/compare.py --only ovs           one side alone

A round is one window of OVS (replay by net_pcap from memory, out by net_null) and then one of weft (weft-replay); while
one runs, the other is stopped. Each receives in bursts as its ports do: OVS of up to 32 packets, weft of up to 64. The table
shows the median over the rounds of rates and of each round's own ratio, because on a shared machine only what ran side by side
compares. Rates are per second of CPU time, so that other work on the core costs both only what it does to the caches; the last
line says how much of the core they had. Needs root, two cores, and what it names when it lacks. Huge pages
that OVS wants are taken for the run and given back; without any it runs in small pages, and the table says so.
"""
import argparse
import glob
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, 'peer'))

import cases  # noqa: E402
import gen_pcap  # noqa: E402
import ovs_dpdk  # noqa: E402
from hugepages import HugePages  # noqa: E402


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def tsc_hz():
    """The time stamp counter's rate by the kernel's calibration: BogoMIPS is twice that in MHz."""
    with open('/proc/cpuinfo') as info:
        found = re.search(r'^bogomips\s*:\s*([\d.]+)', info.read(), re.M)
    return float(found.group(1)) / 2 * 1e6 if found else 0.0


def read_weft(text):
    """The last line of weft-replay's output that is a JSON object."""
    lines = [line for line in text.splitlines() if line.startswith('{')]
    if not lines:
        raise ovs_dpdk.PeerError('weft-replay printed no JSON: %s' % text[-300:].strip())
    result = json.loads(lines[-1])
    return {name: float(result[name]) for name in ('mpps', 'cycles_per_packet', 'tsc_hz', 'cpu_share') if name in result}


def by_cpu_time(result, share):
    """The rate per second of CPU time: `share` is how much of the wall time the process was on the CPU. A weft-replay that
    counts CPU time itself says so by a `cpu_share` of its own."""
    share = result.get('cpu_share', min(1.0, max(0.01, share)))
    return dict(result, mpps=result['mpps'] / share, cycles_per_packet=result['cycles_per_packet'] * share, cpu_share=share)


def build_weft():
    """Builds weft-replay as it is shipped, and returns its path."""
    say('building weft-replay (release)')
    command = ['cargo', 'build', '--release', '--quiet', '--package', 'weft-benches', '--bin', 'weft-replay',
               '--message-format=json']
    done = subprocess.run(command, cwd=os.path.dirname(HERE), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit('compare.py: weft-replay does not build')
    for line in done.stdout.splitlines():
        path = json.loads(line).get('executable')
        if path and os.path.basename(path) == 'weft-replay':
            return path
    sys.exit('compare.py: cargo built no weft-replay')


def run_weft(options, case, pcap, before):
    command = [options.weft, '--case', case.weft, '--seconds', str(options.seconds),
               '--rounds', '1', '--core', str(options.core), '--json'] + case.traffic(pcap, before)
    rules = case.rules(pcap)
    command += ['--rules', rules] if rules else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        samples = sample_cpu(process, 60 + 4 * options.seconds)
        out, errors = process.communicate(timeout=5)
    finally:
        ovs_dpdk.end_process(process, 0)
    if process.returncode:
        raise ovs_dpdk.PeerError('weft-replay: status %d: %s' % (process.returncode, errors[-300:].strip()))
    return by_cpu_time(read_weft(out), last_share(samples, options.seconds))


def sample_cpu(process, limit):
    """(time, seconds on the CPU) of a process, over and over until it ends."""
    start, samples = time.monotonic(), []
    while process.poll() is None:
        if time.monotonic() - start > limit:
            raise ovs_dpdk.PeerError('weft-replay did not end within %d s' % limit)
        try:
            texts = [open(path).read() for path in glob.glob('/proc/%d/task/*/schedstat' % process.pid)]
            samples.append((time.monotonic(), sum(int(text.split()[0]) for text in texts if text) / 1e9))
        except OSError:
            pass                                   # a thread has just ended
        time.sleep(0.02)
    return samples


def last_share(samples, seconds):
    """The part of the last `seconds`, which are the measurement, that the process was on the CPU."""
    window = [sample for sample in samples if sample[1] > 0 and sample[0] >= samples[-1][0] - seconds]
    if len(window) < 2:
        return 1.0
    (start, used), (end, used_by_end) = window[0], window[-1]
    return (used_by_end - used) / (end - start)


def run_case(options, case, files, ovs):
    """All rounds of a case: a list of {'ovs': ..., 'weft': ...}. `files` are the packets, and those that come before."""
    pcap, before = files
    outputs = cases.feed(ovs, case, pcap, before) if ovs else None
    rounds = []
    try:
        for number in range(options.rounds):
            measured = {}
            if ovs:
                measured['ovs'] = cases.measure(ovs, case, pcap, options.seconds, outputs)
                ovs.pause()
            if options.weft:
                measured['weft'] = run_weft(options, case, pcap, before)
            rounds.append(measured)
            shown = ['%s %.2f Mpps' % (side, measured[side]['mpps']) for side in measured]
            say('  %s, round %d: %s' % (case.name, number + 1, ', '.join(shown)))
    finally:
        if ovs:
            ovs.starve()
    return rounds


def median(rounds, side, name):
    values = [measured[side][name] for measured in rounds if side in measured]
    return statistics.median(values) if values else None


def least_share(results):
    """The smallest part of a window that a switch had the core, in percent."""
    rounds = [measured for _, rounds in results if not isinstance(rounds, str) for measured in rounds]
    shares = [side['cpu_share'] for measured in rounds for side in measured.values()]
    return 100 * min(shares, default=0.0)


def ratios(rounds):
    """weft over OVS of each round in which both ran."""
    return [measured['weft']['mpps'] / measured['ovs']['mpps'] for measured in rounds if len(measured) == 2]


def row(name, rounds):
    """One line of the table, as texts."""
    cells = [name]
    for side in ('ovs', 'weft'):
        mpps, cycles = median(rounds, side, 'mpps'), median(rounds, side, 'cycles_per_packet')
        cells += ['-', '-'] if mpps is None else ['%.2f' % mpps, '%.0f' % cycles]
    each = ratios(rounds)
    cells.append('%.1fx [%.1f-%.1f]' % (statistics.median(each), min(each), max(each)) if each else '-')
    return cells


def table(lines):
    """Aligned columns: the first to the left, numbers to the right."""
    lines = [['64-octet frames', 'OVS Mpps', 'cycles', 'weft Mpps', 'cycles', 'weft/OVS']] + lines
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = []
    for line in lines:
        cells = [text.rjust(width) for text, width in zip(line[1:], widths[1:])]
        texts.append('  '.join([line[0].ljust(widths[0])] + cells))
    return '\n'.join(texts)


def start_ovs(options, group, folder, pages):
    """OVS-DPDK with the bridges of a group. DPDK does not get its memory at each try; the last one is without huge pages."""
    for huge in (True, True, False) if pages.enough else (False,):
        say('starting OVS-DPDK (%s)%s' % (group, '' if huge else ' without huge pages'))
        try:
            ovs = ovs_dpdk.Ovs(folder, options.core, options.control_core, tsc_hz(), huge)
        except ovs_dpdk.PeerError as error:
            failure = error
            say('  %s' % error)
            continue
        pages.enough = huge
        try:
            cases.prepare(ovs, group)
        except BaseException:
            ovs.close()
            raise
        return ovs
    raise failure


def file_of(folder, arguments):
    """The file with packets that gen_pcap.write makes of these arguments."""
    path = os.path.join(folder, re.sub(r'\W+', '_', str(sorted(arguments.items()))) + '.pcap')
    if not os.path.exists(path):
        gen_pcap.write(path, **arguments)
    return path


def run_group(options, group, wanted, folder, pages):
    """Yields (case, rounds or an error's text) for the cases of one OVS set-up."""
    ovs = None
    try:
        if options.only != 'weft':
            ovs = start_ovs(options, group, folder, pages)
        for case in wanted:
            files = file_of(folder, case.pcap), case.before and file_of(folder, case.before)
            try:
                yield case, run_case(options, case, files, ovs)
            except (ovs_dpdk.PeerError, subprocess.TimeoutExpired) as error:
                say('  %s: FAILED: %s' % (case.name, error))
                yield case, str(error)
    finally:
        if ovs:
            ovs.close()


def run_all(options, wanted, folder):
    """The results of all cases, and whether OVS had huge pages."""
    pages = HugePages(ovs_dpdk.HUGEPAGES_MIB) if options.only != 'weft' else HugePages(0)
    results = []
    try:
        if not pages.enough:
            say('no huge pages to be had: OVS runs in small pages, and a little slower for it')
        for group in dict.fromkeys(case.group for case in wanted):
            of_group = [case for case in wanted if case.group == group]
            try:
                results += list(run_group(options, group, of_group, folder, pages))
            except ovs_dpdk.PeerError as error:
                say('  %s: FAILED: %s' % (group, error))
                results += [(case, str(error)) for case in of_group]
    finally:
        pages.close()
    return results, pages.enough


def parse_arguments(arguments=None):
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--case', default='', metavar='REGEX', help='only the cases whose name matches')
    parser.add_argument('--only', choices=['ovs', 'weft'], help='only one side')
    parser.add_argument('--rounds', type=int, default=3, help='rounds per case, 1 to 100 (default 3)')
    parser.add_argument('--seconds', type=float, default=1.5, help='length of a window, 0.2 to 60 s (default 1.5)')
    parser.add_argument('--core', type=int, default=cores[-1], help='the core that is measured (default %d)' % cores[-1])
    parser.add_argument('--weft', metavar='PATH', help='a weft-replay that is already built')
    parser.add_argument('--json', metavar='FILE', help='write every measurement to this file')
    options = parser.parse_args(arguments)
    if not 1 <= options.rounds <= 100 or not 0.2 <= options.seconds <= 60:
        parser.error('--rounds is 1 to 100, --seconds 0.2 to 60')
    others = [core for core in cores if core != options.core]
    if options.core not in cores or not others:
        parser.error('--core %d: needs this core and another one; there are %s' % (options.core, cores))
    options.control_core = others[0]
    return options


def check_machine(options):
    """Says all that lacks, at once."""
    if os.geteuid() != 0:
        sys.exit('compare.py: needs root')
    lacking = ovs_dpdk.missing_packages() if options.only != 'weft' else []
    if lacking:
        sys.exit('compare.py: these packages lack: apt-get install %s' % ' '.join(lacking))


def interrupted(number, _frame):
    raise KeyboardInterrupt('signal %d' % number)


def main():
    options = parse_arguments()
    wanted = [case for case in cases.all_cases() if re.search(options.case, case.name, re.I)]
    if not wanted:
        sys.exit('compare.py: no case matches %r; there are:\n  %s' % (
            options.case, '\n  '.join(case.name for case in cases.all_cases())))
    check_machine(options)
    if options.only == 'ovs':
        options.weft = None
    elif not options.weft:
        options.weft = build_weft()
    signal.signal(signal.SIGTERM, interrupted)
    with tempfile.TemporaryDirectory(prefix='weft-compare-') as folder:
        results, huge = run_all(options, wanted, folder)
    failed = [case.name for case, rounds in results if isinstance(rounds, str)]
    print(table([row(case.name, [] if isinstance(rounds, str) else rounds) for case, rounds in results]))
    print('median of %d rounds of %.1f s on core %d, TSC %.0f MHz; each had the core for %.0f %% of its windows or more%s' % (
        options.rounds, options.seconds, options.core, tsc_hz() / 1e6, least_share(results),
        '' if huge else '; OVS WITHOUT huge pages'))
    if options.json:
        with open(options.json, 'w') as out:
            json.dump([{'case': case.name, 'rounds': rounds} for case, rounds in results], out, indent=1)
    if failed:
        sys.exit('compare.py: FAILED: %s' % ', '.join(failed))


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('compare.py: interrupted; everything is put back')
