//! Neutron's firewall, as its agents left it in br-int of two nodes: what it permits and refuses, what becomes of connections
//! whose rule goes, and the same policy said with weft's own security groups. See [`neutron`].

use weft_tests::cmd::SHORT;
use weft_tests::neutron::{A1, A1_OTHER, A2, Cloud, Compute, Vm, number_after};
use weft_tests::node::NEEDS;
use weft_tests::probe::python;
use weft_tests::{Lab, Process, Result, clean_ping, scenarios, servers, wait_for, wait_reachable};

scenarios! {
    the_recorded_firewall_permits_refuses_and_cuts needs NEEDS;
    security_groups_say_the_same needs NEEDS;
}

/// Who may begin what, by the recorded rules: A2 has the group of all VMs (TCP 22 and ICMP) and one of its own with TCP 8000 to
/// 8100, TCP 9000 for a group whose one member is A1 (by conjunctions), and UDP 5000 for the network.
const POLICY: [(Vm, Vm, &str, u16, bool); 17] = [
    (A1, A2, "tcp", 22, true),
    (A1, A2, "tcp", 80, false),
    (A1, A2, "tcp", 7999, false),
    (A1, A2, "tcp", 8000, true),
    (A1, A2, "tcp", 8050, true),
    (A1, A2, "tcp", 8100, true),
    (A1, A2, "tcp", 8101, false),
    (A1, A2, "tcp", 9000, true),
    (A1_OTHER, A2, "tcp", 9000, false),
    (A1_OTHER, A2, "tcp", 8000, true),
    (A1, A2, "udp", 5000, true),
    (A1_OTHER, A2, "udp", 5000, true),
    (A1, A2, "udp", 5001, false),
    (A2, A1, "tcp", 22, true),
    (A2, A1, "tcp", 8000, false),
    (A1_OTHER, A1, "tcp", 22, true),
    (A1_OTHER, A1, "tcp", 80, false),
];

/// Answers on all ports of the policy, with what it was sent. It listens on TCP port 1 when all others are ready.
const SERVER: &str = r#"
import asyncio, socket
async def tcp(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(data, peer)
async def main():
    for port in (22, 80, 7999, 8000, 8050, 8100, 8101, 9000):
        await asyncio.start_server(tcp, "0.0.0.0", port)
    for port in (5000, 5001):
        await asyncio.get_running_loop().create_datagram_endpoint(Udp, ("0.0.0.0", port))
    await (await asyncio.start_server(tcp, "0.0.0.0", 1)).serve_forever()
asyncio.run(main())
"#;

/// Asks ADDRESS KIND PORT SECONDS each, all at once, and prints `yes` or `no` for each.
const ASK: &str = r#"
import socket, sys, threading
def ask(address, kind, port, seconds):
    s = socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(float(seconds))
    try:
        s.connect((address, int(port)))
        s.send(b"x")
        return "yes" if s.recv(1) == b"x" else "no"
    except TimeoutError:
        return "no"
asked = [word.split() for word in sys.argv[1:]]
said = [None] * len(asked)
def one(at): said[at] = ask(*asked[at])
threads = [threading.Thread(target=one, args=(at,)) for at in range(len(asked))]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(*said)
"#;

/// Connects, and prints its port; then sends an octet and waits for its return, time and again, with a line for each.
const TALK: &str = r#"
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
s.settimeout(None)
print(s.getsockname()[1])
while True:
    s.send(b"x")
    assert s.recv(1) == b"x"
    print("returned")
    time.sleep(0.02)
"#;

/// A connection that is in use.
struct Talk(Process);

impl Talk {
    fn start(lab: &Lab, cloud: &Cloud, (name, port): (&str, u16)) -> Result<Self> {
        let number = port.to_string();
        let argv = ["/usr/bin/python3", "-u", "-c", TALK, A2.address, &number];
        let talk = Talk(cloud.host(A1).ns().spawn(lab, name, &argv)?);
        talk.goes_on()?;
        Ok(talk)
    }

    fn returned(&self) -> usize {
        self.0.log().lines().count()
    }

    fn goes_on(&self) -> Result {
        let before = self.returned();
        wait_for("octets that return", SHORT, || Ok(self.returned() > before + 3))
    }

    /// Its port at A1.
    fn port(&self) -> String {
        self.0.log().lines().next().unwrap_or_default().to_owned()
    }

    /// Its mark in c2's zone for the network; 0 isn't printed.
    fn mark(&self, c2: &Compute) -> Result<u64> {
        let filter = format!("zone={} proto=tcp src={} sport={}", A2.vlan, A1.address, self.port());
        let listed = c2.weft.sh(&format!("conntrack list {filter}"))?;
        assert_eq!(listed.lines().count(), 1, "{filter}: {listed}");
        if listed.contains(",mark=") { number_after(&listed, ",mark=") } else { Ok(0) }
    }

    /// How often the octet that is under way was sent again.
    fn sent_again(&self, cloud: &Cloud) -> Result<u32> {
        let shown = cloud.host(A1).ns().sh(&format!("ss -Hton sport = :{}", self.port()))?;
        let timer = shown.split("timer:(on,").nth(1).and_then(|rest| rest.split([',', ')']).nth(1));
        Ok(timer.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Nothing returns from now on, but for what was under way: it is sent again, and c2 drops what comes in there, for that
    /// reason.
    fn is_cut(&self, cloud: &Cloud, (port, reason): (&str, &str)) -> Result {
        let dropped = || cloud.c2.weft.drops(port, reason);
        let (before, refused, again) = (self.returned(), dropped()?, self.sent_again(cloud)?);
        wait_for("an octet that is sent again", SHORT, || Ok(self.sent_again(cloud)? > again.max(1)))?;
        assert!(dropped()? > refused, "{}", cloud.c2.weft.accounts()?);
        assert!(self.returned() <= before + 1, "{}", cloud.c2.weft.sh("conntrack list dst=10.1.0.4")?);
        Ok(())
    }
}

/// The port of c2 by which c1's packets come.
const TUNNEL: &str = "vxlan-0a4e0001";

/// Both nodes with a server in each VM of network A.
fn cloud_with_servers(lab: &Lab, workers: u32) -> Result<(Cloud, Vec<Process>)> {
    let cloud = Cloud::new(lab, workers)?;
    let start = |vm: Vm| servers::python(lab, cloud.host(vm).ns(), SERVER, 1);
    let servers = [A1, A1_OTHER, A2].into_iter().map(start).collect::<Result<_>>()?;
    Ok((cloud, servers))
}

/// Each end asks what it may, and what it may not; pings go everywhere in the network.
fn policy_holds(cloud: &Cloud) -> Result {
    for (from, to) in [(A1, A2), (A2, A1_OTHER), (A1_OTHER, A1)] {
        wait_reachable(cloud.host(from), to.address)?;
        clean_ping(cloud.host(from), cloud.host(to), "")?;
    }
    for vm in [A1, A1_OTHER, A2] {
        let asked: Vec<_> = POLICY.iter().filter(|(from, ..)| *from == vm).collect();
        let words: Vec<String> = asked
            .iter()
            .map(|(_, to, kind, port, may)| {
                format!("{} {kind} {port} {}", to.address, if *may { 20 } else { 1 })
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = python(cloud.host(vm).ns(), ASK, &words, SHORT)?;
        for (said, (_, _, kind, port, may)) in said.split_whitespace().zip(&asked) {
            assert_eq!(said == "yes", *may, "{} {kind} {port}: {asked:?}", vm.port);
        }
        assert_eq!(said.split_whitespace().count(), asked.len());
    }
    Ok(())
}

/// While A1 tries in vain to reach port 8101 of A2, c2 says which rule it is, with one of the packets, and c1 that it has left.
fn why_says_what_is_refused(lab: &Lab, cloud: &Cloud, reason: &str) -> Result<serde_json::Value> {
    let tries = "import socket, sys\nwhile True:\n s = socket.socket(); s.settimeout(0.2)\n try: s.connect((sys.argv[1], 8101))\n except TimeoutError: pass";
    let argv = ["/usr/bin/python3", "-c", tries, A2.address];
    let _tries = cloud.host(A1).ns().spawn(lab, "tries", &argv)?;
    let mut row = serde_json::Value::Null;
    wait_for("a refused packet that why shows", SHORT, || {
        let report = cloud.c2.weft.json(&format!("why {}", A2.port))?;
        let rows = report["drops"].as_array().cloned().unwrap_or_default();
        let is_it = |row: &&serde_json::Value| {
            row["reason"] == reason && row["sample"]["text"].to_string().contains(" > 10.1.0.4.8101: TCP")
        };
        row = rows.iter().find(is_it).cloned().unwrap_or_default();
        Ok(!row.is_null())
    })?;
    assert_eq!(row["port"], TUNNEL, "{row}");
    let stage = row["stage"].as_str().unwrap_or_default();
    assert!(["flow tables", "security groups"].contains(&stage), "{row}");
    let left = cloud.c1.weft.sh(&format!("why {} --wait 0", A1.port))?;
    assert!(left.contains("vxlan-0a4e0002 (vxlan to 10.78.0.2, VNI 1285)"), "{left}");
    Ok(row)
}

fn the_recorded_firewall_permits_refuses_and_cuts(lab: &Lab, workers: u32) -> Result {
    let (cloud, _servers) = cloud_with_servers(lab, workers)?;
    cloud.load_firewall(lab)?;
    assert_eq!(cloud.c1.dump("br-int", "")?.lines().count(), 376);
    policy_holds(&cloud)?;
    let row = why_says_what_is_refused(lab, &cloud, "rule_drop")?;
    let (rule, found) = (&row["rule"], &row["rule"]["found"]);
    assert_eq!((&rule["bridge"], &rule["table"]), (&"br-int".into(), &93.into()), "{row}");
    assert_eq!((&found["priority"], &found["actions"]), (&0.into(), &"drop".into()), "{row}");
    let cookie = format!("cookie={:#x},", found["cookie"].as_u64().unwrap_or(0));
    assert!(cloud.c2.dump("br-int", "table=93")?.contains(&cookie), "{row}");

    // TCP 22's rules go; then A1 leaves the group that may connect to 9000.
    let (ssh, other) = (Talk::start(lab, &cloud, ("ssh", 22))?, Talk::start(lab, &cloud, ("other", 9000))?);
    let c2 = &cloud.c2;
    assert_eq!((ssh.mark(c2)?, other.mark(c2)?), (0, 0));
    c2.weft.sh("flow del br-int table=82,tcp,reg5=0x3,tp_dst=22")?;
    ssh.is_cut(&cloud, (TUNNEL, "rule_drop"))?;
    assert_eq!((ssh.mark(c2)?, other.mark(c2)?), (1, 0));
    other.goes_on()?;
    let member = c2.dump("br-int", "--no-stats table=82,ip,reg6=0x1,nw_src=10.1.0.203")?;
    assert_eq!(member.matches("conjunction(").count(), 2, "{member}");
    c2.weft.sh("flow del br-int table=82,ip,reg6=0x1,nw_src=10.1.0.203")?;
    other.is_cut(&cloud, (TUNNEL, "rule_drop"))?;
    // When the member is back, what it sends passes by a rule in front of the one for marks; answers that are marked don't. So
    // what was cut stays cut; a new connection is not marked.
    for rule in member.lines() {
        c2.weft.ctl(&["flow", "add", "br-int", rule.trim()])?;
    }
    other.is_cut(&cloud, (A2.port, "rule_drop"))?;
    let another = Talk::start(lab, &cloud, ("another", 9000))?;
    assert_eq!((other.mark(c2)?, another.mark(c2)?), (1, 0));
    another.goes_on()
}

/// What the recorded rules say of network A's VMs, as security groups of each node.
fn guard(node: &Compute, vms: &[(Vm, &str)]) -> Result {
    for line in [
        "acl group add default",
        "acl rule add default egress",
        "acl rule add default ingress protocol=tcp ports=22",
        "acl rule add default ingress protocol=icmp",
        "acl group add friends",
        "acl member add friends 10.1.0.203",
        "acl group add special",
        "acl rule add special ingress protocol=tcp ports=8000-8100",
        "acl rule add special ingress protocol=tcp ports=9000 remote=friends",
        "acl rule add special ingress protocol=udp ports=5000 remote=10.1.0.0/24",
    ] {
        node.weft.sh(line)?;
    }
    for (Vm { port, mac, address, .. }, groups) in vms {
        node.weft.ctl(&["port", "set", port, &format!("port_security={mac} {address}")])?;
        node.weft.sh(&format!("acl bind {port} {groups}"))?;
    }
    Ok(())
}

fn security_groups_say_the_same(lab: &Lab, workers: u32) -> Result {
    let (cloud, _servers) = cloud_with_servers(lab, workers)?;
    cloud.load_rules(lab)?;
    guard(&cloud.c1, &[(A1, "default"), (A1_OTHER, "default")])?;
    guard(&cloud.c2, &[(A2, "default special")])?;
    policy_holds(&cloud)?;
    let row = why_says_what_is_refused(lab, &cloud, "acl_ingress")?;
    let (table, cookie) = (&row["rule"]["table"], &row["rule"]["found"]["cookie"]);
    let dump = cloud.c2.dump("br-int", "--all --no-stats")?;
    let rule = format!("cookie={:#x}, table={table},", cookie.as_u64().unwrap_or(0));
    assert!(table.as_u64() > Some(255) && dump.contains(&rule), "{rule}: {row}");

    let (ssh, other) = (Talk::start(lab, &cloud, ("ssh", 22))?, Talk::start(lab, &cloud, ("other", 9000))?);
    let c2 = &cloud.c2.weft;
    c2.sh("acl rule del default 2")?;
    ssh.is_cut(&cloud, (TUNNEL, "acl_ingress"))?;
    other.goes_on()?;
    c2.sh("acl member del friends 10.1.0.203")?;
    other.is_cut(&cloud, (TUNNEL, "acl_ingress"))?;
    // Nothing is marked: what is permitted again goes on where it was.
    c2.sh("acl member add friends 10.1.0.203")?;
    other.goes_on()?;
    c2.sh("acl rule add default ingress protocol=tcp ports=22 id=2")?;
    ssh.goes_on()
}
