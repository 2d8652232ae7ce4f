//! What must not be taken: bad configurations, bad requests, bad packets. Each is refused with a clear line or counted, and
//! nothing else notices.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::cmd::SHORT;
use weft_tests::probe::{Stream, file, gauge, python, wait_calm, wait_traffic};
use weft_tests::{Host, Lab, Netns, Result, Weftd, ping, veth, wait_for, weftd};

/// A switch with two VMs on VLAN 10 of `br0`; the switch comes last, so that it goes first.
fn two_vms(lab: &Lab, toml: &str) -> Result<(Netns, [Host; 2], Weftd)> {
    let ns = Netns::new(lab, "node")?;
    let weftd = Weftd::start(lab, "weft", &ns, toml)?;
    weftd.sh("bridge add br0")?;
    let vm = |name: &str, number: u8| -> Result<Host> {
        let mut vm = Host::new(lab, name, name)?;
        weftd.sh(&format!("port add br0 {name} type=tap netns={} vlan=10", vm.ns().name()))?;
        vm.configure(&format!("10.0.0.{number}/24"), "", 0)?;
        Ok(vm)
    };
    let vms = [vm("a", 1)?, vm("b", 2)?];
    assert!(ping(vms[0].ns(), vms[1].address(), 2, "")?.received > 0);
    Ok((ns, vms, weftd))
}

#[test]
fn a_file_seeds_an_empty_state_only() -> Result {
    let Some(lab) = Lab::open("a_file_seeds_an_empty_state_only", &weftd::NEEDS)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    let seed = "[[bridge]]\nname = \"br0\"\n[[bridge.port]]\nname = \"p1\"\ntype = \"null\"\nvlan = 5\n";
    let mut weftd = Weftd::start(&lab, "weft", &ns, seed)?;
    assert!(weftd.sh("port list")?.contains("p1"));
    weftd.sh("port add br0 p2 type=null")?;
    let before = weftd.sh("config show")?;
    weftd.stop()?;
    std::fs::write(weftd.config(), "[[bridge]]\nname = \"other\"\n")?;
    weftd.start_again()?;
    assert_eq!(weftd.sh("config show")?, before, "the state is the truth");
    Ok(())
}

#[test]
fn what_is_equal_is_not_touched_by_a_file() -> Result {
    let Some(lab) = Lab::open("what_is_equal_is_not_touched_by_a_file", &weftd::NEEDS)? else {
        return Ok(());
    };
    let (ns, [a, b], weftd) = two_vms(&lab, "")?;
    let before = weftd.sh("config show")?;
    let (fdb, ports) = (weftd.fdb()?, weftd.sh("--json bridge list")?);
    let saved = lab.path("saved.toml").display().to_string();
    let printed = weftd.sh(&format!("config save {saved}"))?;
    assert_eq!(printed, "", "like cp, it says nothing when all is well");
    let stream = Stream::start(&lab, "stream", (&a, &b), (1000, 5))?;
    wait_traffic(&weftd, "a")?;

    weftd.sh(&format!("config apply {saved}"))?;
    assert_eq!(weftd.sh("config show")?, before, "a round trip changes nothing");
    let more = format!(
        "{before}\n[[bridge]]\nname = \"br1\"\n[[bridge.port]]\nname = \"p9\"\ntype = \"null\"\nvlan = 9\n"
    );
    let more = file(&lab, "more.toml", &more)?.display().to_string();
    let differences = weftd.sh(&format!("config apply {more}"))?;
    assert!(differences.contains("br1") && differences.contains("p9"), "{differences}");
    assert!(!differences.contains("br0"), "{differences}");
    assert!(ns.has_device("br1"));
    std::fs::copy(&saved, weftd.config())?;
    weftd.reload()?;
    wait_for("SIGHUP to make the switch as the file is", SHORT, || Ok(weftd.sh("config show")? == before))?;
    assert!(!ns.has_device("br1"));
    assert!(weftd.log().contains("- bridge br1"), "{}", weftd.log());

    stream.finish_clean()?;
    assert_eq!(weftd.sh("--json bridge list")?.len(), ports.len());
    for entry in fdb {
        assert!(weftd.fdb()?.contains(&entry), "{entry} is forgotten");
    }
    assert_eq!(weftd.port("b")?["ofport"], 2);

    let other = Netns::new(&lab, "other")?;
    let copy = Weftd::start(&lab, "copy", &other, &before.replace("netns", "# netns"))?;
    let show =
        |text: &str| text.lines().filter(|line| !line.contains("netns")).collect::<Vec<_>>().join("\n");
    assert_eq!(show(&copy.sh("config show")?), show(&before), "a saved file seeds another switch");
    Ok(())
}

#[test]
fn a_bad_file_is_refused_in_one_line_and_nothing_is_applied() -> Result {
    let Some(lab) = Lab::open("a_bad_file_is_refused_in_one_line_and_nothing_is_applied", &weftd::NEEDS)?
    else {
        return Ok(());
    };
    let (ns, [a, b], weftd) = two_vms(&lab, "")?;
    ns.ip("link add taken0 type veth peer name taken1")?;
    let good = weftd.sh("config show")?;
    let devices = || -> Result<Vec<String>> {
        let hosts = [&ns, a.ns(), b.ns()].map(|ns| ns.ip("-o link show"));
        let lines = hosts.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(lines.lines().map(without_state).collect())
    };
    let before = devices()?;
    let stream = Stream::start(&lab, "stream", (&a, &b), (1000, 5))?;
    // A tap that could be made comes with each, before and after what can't be.
    let extra = |name: &str| format!("[[bridge.port]]\nname = \"{name}\"\ntype = \"tap\"\nmtu = 1400\n");
    for (reloads, (bad, expected)) in (1..).zip([
        ("[[bridge.port]]\nname = \"x\"\nfrobnicate = 1\n", "frobnicate"),
        ("[[bridge.port]]\nname = \"x\"\ntype = \"tap\"\nvlan = 5000\n", "5000 is out of range: 0 to 4095"),
        ("[[bridge.port]]\nname = \"a\"\ntype = \"tap\"\n", "'a'"),
        ("[[bridge.port]]\nname = \"nosuch0\"\ntype = \"netdev\"\n", "nosuch0"),
        ("[[bridge.port]]\nname = \"x\"\ntype = \"tap\"\nnetns = \"wt-nowhere\"\n", "wt-nowhere"),
        ("[[bridge.port]]\nname = \"taken0\"\ntype = \"tap\"\n", "taken0"),
        ("[[bridge.port]]\nname = \"x\"\ntype = \"replay\"\nfile = \"/no/such.pcap\"\n", "/no/such.pcap"),
        (
            "[[bridge.tunnel]]\nname = \"v\"\ntype = \"vxlan\"\nlocal = \"10.0.0.300\"\nremote = \"10.0.0.2\"\n",
            "10.0.0.300",
        ),
        ("[[bridge", "unclosed"),
        ("\u{0}\u{1}", ""),
    ]) {
        let text = format!("{good}\n{}{bad}{}", extra("early"), extra("late"));
        // A table that is cut short ends the file.
        let text = if bad.len() < 10 { format!("{good}\n{bad}") } else { text };
        let path = file(&lab, "bad.toml", &text)?;
        let line = weftd.refused(&format!("config apply {}", path.display()))?;
        println!("{line}");
        assert!(line.contains(expected), "{line}");
        std::fs::copy(&path, weftd.config())?;
        weftd.reload()?;
        wait_for("SIGHUP to be refused", SHORT, || {
            Ok(weftd.log().matches("SIGHUP: ").count() == reloads)
        })?;
        assert_eq!(devices()?, before, "{line}");
        assert_eq!(weftd.sh("config show")?, good, "{line}");
    }
    // The MTU of a changes, and is put back when b's new namespace turns out not to be there.
    let both = good.replace("name = \"a\"", "name = \"a\"\nmtu = 1300").replace(b.ns().name(), "wt-nowhere");
    let both = file(&lab, "both.toml", &both)?;
    let line = weftd.refused(&format!("config apply {}", both.display()))?;
    assert!(line.contains("wt-nowhere"), "{line}");
    assert!(a.ns().ip("link show dev a")?.contains("mtu 1500"));
    assert_eq!(weftd.sh("config show")?, good);
    stream.finish_clean()?;
    Ok(())
}

/// A line of `ip -o link show` without the flags and the operational state, which a kernel may take a second to settle.
fn without_state(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with('<')).collect();
    if let Some(at) = words.iter().position(|word| *word == "state") {
        words.drain(at..words.len().min(at + 2));
    }
    words.join(" ")
}

#[test]
fn a_switch_does_not_start_from_a_bad_file() -> Result {
    let Some(lab) = Lab::open("a_switch_does_not_start_from_a_bad_file", &weftd::NEEDS)? else {
        return Ok(());
    };
    let ns = Netns::new(&lab, "node")?;
    let path = file(&lab, "bad.toml", "[switch]\nworkers = 0\n")?.display().to_string();
    let program = weftd::binary("weftd")?.display().to_string();
    let (state, socket) = (lab.path("state").display().to_string(), lab.path("sock").display().to_string());
    let flags = [&program[..], "--config", &path, "--state-dir", &state, "--socket", &socket];
    let output = ns.run(&flags, SHORT)?;
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
    assert!(
        output.stderr.contains("bad.toml:2: switch.workers: ") && output.stderr.contains("1 to 64"),
        "{output:?}"
    );
    Ok(())
}

/// The most memory that a process has had so far, in MiB.
fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes >> 10).ok_or_else(|| weft_tests::Error::new(status.clone()))
}

/// Some 100 MB of a line over and over.
fn hundred_megabytes(lab: &Lab, name: &str, line: &str) -> Result<String> {
    Ok(file(lab, name, &line.repeat(100_000_000 / line.len()))?.display().to_string())
}

#[test]
fn rules_without_measure_are_refused_soon_and_in_bounded_memory() -> Result {
    let Some(lab) = Lab::open("rules_without_measure_are_refused_soon_and_in_bounded_memory", &weftd::NEEDS)?
    else {
        return Ok(());
    };
    let (_ns, [a, b], weftd) = two_vms(&lab, "")?;
    let before = weftd.sh("flow dump br0 --no-stats")?;
    let stream = Stream::start(&lab, "stream", (&a, &b), (1000, 6))?;
    let rule =
        "table=7,priority=4711,tcp,nw_src=10.1.2.3,nw_dst=10.0.0.0/8,tp_dst=80,actions=output:1,output:2\n";
    let long = format!("actions=drop\nactions={}\n", "output:1,".repeat(1_000_000 / 9));
    let clones = |count: usize| format!("actions={}drop{}", "clone(".repeat(count), ")".repeat(count));
    // 10,000 of them are a line that is too long for a file. As an argument, it is not, and nor are 9,000 in a file.
    let (long, deep) = (file(&lab, "long", &long)?, file(&lab, "deep", &clones(9_000))?);
    for (path, expected) in [
        (hundred_megabytes(&lab, "rules", rule)?, ": the text is too long: a bundle takes 64 MiB"),
        (
            hundred_megabytes(&lab, "short", "actions=drop\n")?,
            ": the text has too many lines: a bundle takes 2097152 changes",
        ),
        (
            hundred_megabytes(&lab, "comments", "# and no rule\n")?,
            ": the text is too long: a bundle takes 64 MiB",
        ),
        (long.display().to_string(), ": line 2, column 1: the line is longer than 65536 octets"),
        (deep.display().to_string(), ": nested too deep: at most 100 levels"),
    ] {
        let start = Instant::now();
        let line = weftd.refused(&format!("flow add br0 --file {path}"))?;
        println!("{:.1?}, {} MiB: {line}", start.elapsed(), peak_memory(weftd.pid()?)?);
        assert!(line.starts_with(&format!("weftctl: {path}: ")) && line.ends_with(expected), "{line}");
        assert!(start.elapsed() < Duration::from_secs(20) && line.len() < 400, "{line}");
    }
    let line = weftd.try_ctl(&["flow", "add", "br0", &clones(10_000)])?.stderr;
    assert!(line.ends_with(": nested too deep: at most 100 levels\n") && line.len() < 400, "{line}");
    let peak = peak_memory(weftd.pid()?)?;
    assert!(peak < 1024, "{peak} MiB");
    assert_eq!(weftd.sh("flow dump br0 --no-stats")?, before);
    stream.finish_clean().map(drop)
}

/// Sends octets to the control socket and returns the line that comes back.
fn talk(weftd: &Weftd, request: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(weftd.socket())?;
    stream.set_read_timeout(Some(SHORT))?;
    stream.set_write_timeout(Some(SHORT))?;
    // A switch that has heard enough closes while we still talk.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = BufReader::new(stream).read_line(&mut answer);
    Ok(answer)
}

#[test]
fn nobody_waits_for_a_bad_client() -> Result {
    let Some(lab) = Lab::open("nobody_waits_for_a_bad_client", &weftd::NEEDS)? else { return Ok(()) };
    let (_ns, [a, b], weftd) = two_vms(&lab, "")?;
    let stream = Stream::start(&lab, "stream", (&a, &b), (1000, 8))?;

    let mut half = UnixStream::connect(weftd.socket())?;
    half.write_all(b"{\"id\":1,\"op\":\"ver")?;
    // Thousands of requests, no answer read.
    let mut deaf = UnixStream::connect(weftd.socket())?;
    deaf.set_nonblocking(true)?;
    let requests = b"{\"id\":7,\"op\":\"show\"}\n".repeat(500);
    let mut pushed = 0;
    while let Ok(sent) = deaf.write(&requests) {
        pushed += sent;
    }
    assert!(pushed > requests.len(), "{pushed}");
    let crowd: Vec<_> = (0..80).filter_map(|_| UnixStream::connect(weftd.socket()).ok()).collect();
    let crowded = weftd.refused("version")?;
    assert!(crowded.contains("has 64 clients already"), "{crowded}");
    drop(crowd);

    let slowest = std::cell::Cell::new(Duration::ZERO);
    let version = || -> Result {
        let start = Instant::now();
        weftd.sh("version")?;
        slowest.set(slowest.get().max(start.elapsed()));
        Ok(())
    };
    wait_for("the crowd to go", SHORT, || Ok(weftd.try_ctl(&["version"])?.success()))?;
    for garbage in [&b"\xff\xfe\x00 garbage\n"[..], b"{}\n", b"[1,2,3]\n", b"{\"id\":3,\"op\":\"dance\"}\n"] {
        let answer = talk(&weftd, garbage)?;
        assert!(answer.contains("bad_request"), "{answer}");
        version()?;
    }
    let deep = format!("{{\"id\":1,\"op\":{}\n", "[".repeat(100_000));
    assert!(talk(&weftd, deep.as_bytes())?.contains("bad_request"));
    let mut long = vec![b'x'; 1 << 20];
    long.extend(b"\n");
    assert!(talk(&weftd, &long)?.contains("too_long"));
    long[(1 << 20) - 1] = b'\n';
    assert!(talk(&weftd, &long)?.contains("bad_request"), "as long as a request may be");
    version()?;
    assert!(slowest.get() < Duration::from_secs(3), "a client waited for {:?}", slowest.get());
    println!("the slowest answer took {:?} (weftctl's start included)", slowest.get());

    half.write_all(b"sion\"}\n")?;
    let mut answer = String::new();
    BufReader::new(&half).read_line(&mut answer)?;
    assert!(answer.contains("\"version\""), "{answer}");
    stream.finish_clean()?;
    drop(deaf);
    wait_calm(weftd.pid()?, 20.0, Duration::from_secs(1)).map(drop)
}

/// Sends garbage out of a device: noise, frames whose headers lie about lengths, tags upon tags, frames larger than the MTU
/// allows. `python3 - DEVICE SEED COUNT WHAT`; prints how many the kernel took.
const GARBAGE: &str = r#"
import random, socket, struct, sys, time
device, seed, count, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
r = random.Random(seed)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((device, 0))
mtu = 1500
vtep = bytes.fromhex(sys.argv[5]) if len(sys.argv) > 5 else b'\x02\0\0\0\0\1'
def noise(n): return r.randbytes(n)
def mac(): return r.choice([b'\xff'*6, b'\x02\0\0\0\0' + noise(1), b'\x01\x80\xc2\0\0' + noise(1), noise(6), b'\0'*6])
def tags(): return b''.join(r.choice([b'\x81\0', b'\x88\xa8', b'\x91\0']) + noise(2) for _ in range(r.choice([0,0,1,1,2,3,40])))
def ipv4(payload, proto, total=None, ihl=5, frag=0, dst=None):
    total = 20 + len(payload) if total is None else total
    h = struct.pack('!BBHHHBBH4s4s', 0x40 | ihl, r.randrange(256), total & 0xffff, 1, frag, 64, proto, 0, bytes([192,168,77,2]), dst or noise(4))
    c = sum(struct.unpack('!10H', h)); c = (c & 0xffff) + (c >> 16); c = (c & 0xffff) + (c >> 16)
    return h[:10] + struct.pack('!H', ~c & 0xffff) + h[12:] + payload
def frame():
    kind = r.randrange(7)
    if kind == 0: return noise(r.randrange(14, 200))
    if kind == 1: return mac() + mac() + tags() + noise(r.randrange(0, 100))
    if kind == 2: return mac() + mac() + b'\x08\0' + noise(r.randrange(0, 64))
    if kind == 3: return mac() + mac() + b'\x08\0' + ipv4(noise(r.randrange(0, 60)), r.choice([1,6,17,47]), r.randrange(65536), r.randrange(16), r.choice([0,0,0x2000,1,0x1fff]))
    if kind == 4: return mac() + mac() + b'\x86\xdd' + noise(r.randrange(0, 80))
    if kind == 5: return mac() + mac() + b'\x08\x06' + noise(r.randrange(0, 40))
    return mac() + mac() + tags()[:8] + noise(mtu - r.randrange(0, 12))
def tunnel():
    inner = frame()[:1400]
    flags, vni = r.choice([8, 8, 8, 0, 255]), r.choice([1010, 1010, 0, 0xffffff])
    vx = struct.pack('!BBHI', flags, 0, 0, vni << 8) + inner
    if r.random() < .3: vx = vx[:r.randrange(0, 30)]
    udp = struct.pack('!HHHH', r.randrange(65536), 4789, r.choice([8 + len(vx), 8 + len(vx), 0, 7, 65535, r.randrange(65536)]), r.choice([0, 0, r.randrange(65536)])) + vx
    total = r.choice([None, None, None, 20, 0, 65535, 28])
    return vtep + b'\x02\0\0\0\0\2' + b'\x08\0' + ipv4(udp, 17, total, dst=bytes([192,168,77,1]))
sent = 0
for _ in range(count):
    f = tunnel() if what == 'tunnel' else frame()
    # A frame that ends within its tag never comes out of the kernel's own stack.
    if what == 'whole': f += b'\0' * (20 - len(f))
    try:
        s.send(f); sent += 1
        if sent % 64 == 0: time.sleep(.002)
    except OSError: pass
print(sent)
"#;

#[test]
fn garbage_on_every_kind_of_port_is_counted() -> Result {
    let Some(lab) = Lab::open("garbage_on_every_kind_of_port_is_counted", &weftd::NEEDS)? else {
        return Ok(());
    };
    let (ns, [a, b], weftd) = two_vms(&lab, "[switch]\nworkers = 2\n")?;
    let hosts = ["packet", "xdp", "native"].map(|name| Host::new(&lab, name, "eth0"));
    let [packet, xdp, peer] = hosts;
    let (packet, xdp, peer) = (packet?, xdp?, peer?);
    veth((packet.ns(), "eth0"), (&ns, "vpacket"))?;
    veth((xdp.ns(), "eth0"), (&ns, "vxdp"))?;
    veth((peer.ns(), "eth0"), (&ns, "uplink"))?;
    ns.configure("uplink", "192.168.77.1/24", 0)?;
    peer.ns().configure("eth0", "192.168.77.2/24", 0)?;
    weftd.sh("port add br0 vpacket backend=af_packet")?;
    weftd.sh("port add br0 vxdp backend=af_xdp")?;
    weftd.sh("port add br0 z type=tap")?;
    ns.ip("link set z address 02:00:00:00:00:7a")?;
    weftd.sh("vni map br0 10 1010")?;
    weftd.sh("tunnel add br0 vx type=vxlan local=192.168.77.1 remote=192.168.77.2")?;
    assert_eq!(ping(peer.ns(), "192.168.77.1", 2, "")?.received, 2, "the uplink is still the host's");
    let stream = Stream::start(&lab, "stream", (&a, &b), (500, 6))?;
    let count = std::env::var("WEFT_TEST_FRAMES").unwrap_or_else(|_| "3000".to_owned());
    // What the kernel had no room for is counted as well.
    let counted = |counters: &Value| -> u64 {
        ["rx_packets", "rx_missed"].iter().filter_map(|key| counters[*key].as_u64()).sum()
    };
    let received = |name: &str| -> Result<u64> { Ok(counted(&weftd.port(name)?["counters"])) };
    let limit = Duration::from_secs(300);
    for (from, device, port, what) in [
        (&ns, "z", "z", "plain"),
        (packet.ns(), "eth0", "vpacket", "whole"),
        (xdp.ns(), "eth0", "vxdp", "plain"),
    ] {
        let before = received(port)?;
        let sent: u64 = python(from, GARBAGE, &[device, "7", &count, what], limit)?.trim().parse()?;
        let mut got = 0;
        let all = wait_for("garbage to be counted", SHORT, || {
            got = received(port)? - before;
            Ok(got >= sent)
        });
        println!("{port}: {sent} sent, {got} counted {}", weftd.port(port)?["counters"]);
        assert!(all.is_ok() && got == sent && sent > 1000, "{port}: {sent} sent, {got} counted");
    }
    let uplink = || -> Result<u64> { Ok(counted(&weftd.json("show")?["uplinks"][0]["counters"])) };
    let mac = ns.sh("cat /sys/class/net/uplink/address")?.trim().replace(':', "");
    let before = uplink()?;
    let arguments = ["eth0", "8", &count, "tunnel", &mac];
    let sent: u64 = python(peer.ns(), GARBAGE, &arguments, limit)?.trim().parse()?;
    let mut got = 0;
    let all = wait_for("garbage to be counted", SHORT, || {
        got = uplink()? - before;
        Ok(got >= sent)
    });
    println!("uplink: {sent} sent, {got} counted\n{}", weftd.sh("stats drops")?);
    assert!(all.is_ok() && sent > 1000, "uplink: {sent} sent, {got} counted");
    python(peer.ns(), GARBAGE, &["eth0", "9", &count, "plain"], limit)?;
    stream.finish_clean()?;
    assert!(gauge(&weftd, "frames_free")? > 50_000);
    weftd.settle()?;
    weftd.no_accounts();
    Ok(())
}
