#!/usr/bin/env python3
"""Records what stock Open vSwitch says of flow text, for tests/text.rs.

Each line of an input file is added to a bridge of a private ovs-vswitchd (dummy devices, no privileges) by each of
three versions of OpenFlow, and dumped by the same version. The record has, for each line,

    in  the line
    10  how OpenFlow 1.0 (with Nicira's extensions) dumps it
    13  how OpenFlow 1.3 does
    15  how OpenFlow 1.5 does

with "!" in place of the blank where Open vSwitch refuses the line, and its message. Versions that say the same share
a line ("10 13 15").

    record.py flows  corpus-lines.txt corpus.txt
    record.py groups group-lines.txt groups.txt
    record.py meters meter-lines.txt meters.txt
    record.py stats  - stats.txt

The last dumps rules, groups and meters with their statistics after some packets.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
VERSIONS = {"flows": ["10", "13", "15"], "groups": ["10", "15"], "meters": ["13", "15"]}
LOGGED = re.compile(r"^\d{4}-\d\d-\d\dT[0-9:]+Z\|\d+\|")


class Switch:
    """A private ovsdb-server and ovs-vswitchd with bridge br0 and ports p1 to p3, which have these numbers."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="weft-record-"))
        self.env = dict(os.environ, **{f"OVS_{name}": str(self.dir) for name in ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")})
        subprocess.run(["ovsdb-tool", "create", self.dir / "conf.db", SCHEMA], check=True)
        db = f"unix:{self.dir}/db.sock"
        self.daemons = [self.start("ovsdb-server", self.dir / "conf.db", f"--remote=p{db}", f"--unixctl={self.dir}/db.ctl")]
        self.wait("db.sock")
        self.vsctl = ["ovs-vsctl", f"--db={db}", "--timeout=9"]
        subprocess.run([*self.vsctl, "--no-wait", "init"], check=True)
        self.daemons.append(self.start("ovs-vswitchd", db, "--disable-system", "--enable-dummy", f"--unixctl={self.dir}/switch.ctl"))
        self.wait("switch.ctl")
        words = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "protocols=OpenFlow10,OpenFlow13,OpenFlow15"]
        for port in (1, 2, 3):
            words += ["--", "add-port", "br0", f"p{port}", "--", "set", "interface", f"p{port}", "type=dummy", f"ofport_request={port}"]
        subprocess.run([*self.vsctl, *words], check=True)
        self.wait("br0.mgmt")

    def start(self, *argv):
        log = open(self.dir / f"{argv[0]}.out", "w")
        return subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)

    def wait(self, name):
        for _ in range(500):
            if (self.dir / name).exists():
                return
            time.sleep(0.02)
        raise SystemExit(f"{name} did not appear in {self.dir}")

    def ofctl(self, version, command, *words):
        """Runs ovs-ofctl; the result is (done, its output or what it complains of)."""
        argv = ["ovs-ofctl", "-O", f"OpenFlow{version}", command, f"unix:{self.dir}/br0.mgmt", *words]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=20)
        complaint = [line for line in done.stderr.splitlines() if line and not LOGGED.match(line) and not re.match(r"^[0-9a-f]{8}  ", line)]
        complaint = " / ".join(line.removeprefix("ovs-ofctl: ") for line in complaint)
        return (done.returncode == 0 and not complaint, complaint if complaint or done.returncode else done.stdout)

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait()
        shutil.rmtree(self.dir)


def flow(switch, version, line):
    switch.ofctl(version, "del-flows")
    done, text = switch.ofctl(version, "add-flow", line)
    if done:
        done, text = dump(switch, version, "dump-flows", "--no-stats", "--no-names")
    return done, text


def dump(switch, version, command, *flags):
    argv = ["ovs-ofctl", "-O", f"OpenFlow{version}", *flags, command, f"unix:{switch.dir}/br0.mgmt"]
    done = subprocess.run(argv, env=switch.env, capture_output=True, text=True, timeout=20)
    lines = [line.strip() for line in done.stdout.splitlines() if " reply (" not in line]
    return True, "\\n".join(line for line in lines if line)


def group(switch, version, line):
    switch.ofctl(version, "del-groups")
    switch.ofctl(version, "add-group", "group_id=900,type=all,bucket=output:1")
    done, text = switch.ofctl(version, "add-group", line)
    if done:
        switch.ofctl(version, "del-groups", "group_id=900")
        done, text = dump(switch, version, "dump-groups", "--no-names")
    return done, text


def meter(switch, version, line):
    switch.ofctl(version, "del-meters")
    done, text = switch.ofctl(version, "add-meter", line)
    return dump(switch, version, "dump-meters") if done else (done, text)


def stats():
    """Dumps with statistics, one a line: what was dumped, a tab, the line."""
    switch = Switch()
    out = []
    try:
        switch.ofctl("15", "add-group", "group_id=1,type=select,bucket=weight:1,output:2,bucket=weight:2,output:3")
        switch.ofctl("15", "add-meter", "meter=1,pktps,burst,stats,bands=type=drop,rate=1000,burst_size=10")
        for line in [
            "table=0,priority=5,in_port=1,ip,idle_timeout=60,hard_timeout=90,send_flow_rem,importance=3,cookie=0x12,actions=meter:1,group:1",
            "priority=0,cookie=0x7,actions=drop",
            "table=3,reset_counts,no_packet_counts,actions=output:2",
            "table=4,check_overlap,no_byte_counts,arp,actions=output:2",
        ]:
            print(switch.ofctl("15", "add-flow", line))
        packet = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"
        for _ in range(5):
            subprocess.run(["ovs-appctl", "-t", switch.dir / "switch.ctl", "netdev-dummy/receive", "p1", packet], env=switch.env)
        time.sleep(3.3)
        print(switch.ofctl("15", "mod-flows", "table=4,arp,actions=output:3"))
        time.sleep(1.2)
        for version in VERSIONS["flows"]:
            text = dump(switch, version, "dump-flows", "--no-names")[1]
            out += [f"flow{version}\t{line}" for line in text.split("\\n")]
        out += [f"group\t{line}" for line in dump(switch, "15", "dump-group-stats")[1].split("\\n")]
        out.append("meter\t" + dump(switch, "15", "meter-stats")[1])
    finally:
        switch.stop()
    return out


def main():
    kind, source, target = sys.argv[1:]
    if kind == "stats":
        pathlib.Path(target).write_text("\n".join(stats()) + "\n")
        return
    ask = {"flows": flow, "groups": group, "meters": meter}[kind]
    switch = Switch()
    out = []
    try:
        if kind == "flows":
            # Rules may use these.
            for meter_id in ("1", "3", "5"):
                switch.ofctl("15", "add-meter", f"meter={meter_id},kbps,band=type=drop,rate=1000")
            for group_id in ("1", "0"):
                switch.ofctl("15", "add-group", f"group_id={group_id},type=all,bucket=output:1")
        for line in pathlib.Path(source).read_text().splitlines():
            if not line or line.startswith("#"):
                out.append(line)
                continue
            out.append(f"in  {line}")
            said = {}
            for version in VERSIONS[kind]:
                done, text = ask(switch, version, line)
                said.setdefault((done, text.replace("\n", "\\n")), []).append(version)
            for (done, text), versions in said.items():
                out.append(f"{' '.join(versions)}{'  ' if done else '! '}{text}")
    finally:
        switch.stop()
    version = subprocess.run(["ovs-ofctl", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    head = f"# Recorded by record.py from {version}: see there. Don't edit.\n"
    pathlib.Path(target).write_text(head + "\n".join(out) + "\n")


if __name__ == "__main__":
    main()
