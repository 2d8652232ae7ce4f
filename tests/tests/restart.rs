//! weftd ends, in every way there is, and starts again: the same switch, with every change that was acknowledged.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use weft_tests::cmd::{self, SHORT};
use weft_tests::node::two_nodes;
use weft_tests::probe::{Stream, down, in_background, wait_traffic};
use weft_tests::weftd::binary;
use weft_tests::{Error, Lab, Netns, Result, Weftd, ping, wait_for, weftd};

#[test]
fn every_acknowledged_change_survives_a_kill() -> Result {
    const TEST: &str = "every_acknowledged_change_survives_a_kill";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    let mut weftd = Weftd::start(&lab, "weft", &ns, "")?;
    weftd.sh("bridge add br0")?;
    for round in 0..5u64 {
        let socket = weftd.socket().to_owned();
        let (begun, first) = mpsc::channel();
        let changes = std::thread::spawn(move || change_until_it_fails(&socket, round, &begun));
        first.recv_timeout(SHORT)?;
        // Not a wait for something: it varies the moment of the kill.
        std::thread::sleep(Duration::from_millis(70 * round));
        weftd.kill()?;
        let acknowledged = changes.join().expect("no panic")?;
        weftd.start_again()?;
        let config = weftd.sh("config show")?;
        for name in &acknowledged {
            assert!(config.contains(&format!("\"{name}\"")), "round {round}: {name} is lost:\n{config}");
        }
        let ports = config.matches("type = \"null\"").count();
        let more = ports - acknowledged.len();
        assert!(more <= 1, "round {round}: {more} changes that were not asked for");
        for name in &acknowledged {
            weftd.sh(&format!("port del {name}"))?;
        }
        if more == 1 {
            weftd.sh(&format!("port del p{round}-{}", acknowledged.len()))?;
        }
    }
    Ok(())
}

/// Adds ports until the switch is gone, and says when the first is there; those that were acknowledged.
fn change_until_it_fails(socket: &str, round: u64, begun: &mpsc::Sender<()>) -> Result<Vec<String>> {
    let ctl = binary("weftctl")?.display().to_string();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let name = format!("p{round}-{number}");
        let words = [&ctl, "--socket", socket, "port", "add", "br0", &name, "type=null", "vlan=7"];
        if !cmd::run(&words, SHORT)?.success() {
            break;
        }
        acknowledged.push(name);
        let _ = begun.send(());
    }
    Ok(acknowledged)
}

#[test]
fn traffic_resumes_by_itself_when_a_killed_switch_starts_again() -> Result {
    const TEST: &str = "traffic_resumes_by_itself_when_a_killed_switch_starts_again";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let [mut one, two] = two_nodes(&lab, 2)?;
    let a = one.numbered_vm(&lab, "a", "vlan=10 persistent=true", 1)?;
    let moved = one.numbered_vm(&lab, "moved", "vlan=10 persistent=true", 2)?;
    let c = two.numbered_vm(&lab, "c", "vlan=10", 3)?;
    let passing = one.numbered_vm(&lab, "passing", "vlan=10", 4)?;
    // Somebody moves the tap elsewhere: it is found there.
    let elsewhere = Netns::new(&lab, "elsewhere")?;
    moved.ns().ip(&format!("link set moved netns {}", elsewhere.name()))?;
    elsewhere.configure("moved", "10.0.0.2/24", 1400)?;
    for address in [c.address(), "10.0.0.2"] {
        assert!(ping(a.ns(), address, 3, "")?.received > 0, "{address}");
    }
    let before = one.weft.sh("config show")?;
    let devices = |name: &str| a.ns().ip(&format!("-o link show dev {name}"));
    let index = devices("a")?.split(':').next().unwrap_or_default().to_owned();

    let across = Stream::start(&lab, "across", (&a, &c), (1000, 9))?;
    let mut local = in_background(&lab, a.ns(), "local", "ping -n -i 0.01 -c 900 -W 1 10.0.0.2")?;
    wait_traffic(&one.weft, "a")?;
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    one.weft.kill()?;
    one.weft.start_again()?;
    let down_for = start.elapsed();
    let across = across.finish()?;
    local.wait(SHORT)?;
    let local = local.log();
    let received: u64 = number_before(&local, " received").ok_or_else(|| Error::new(local.clone()))?;
    println!(
        "kill -9 and start: answers after {} ms; a gap of {} ms across the tunnel, of {} ms between taps",
        down_for.as_millis(),
        across.lost,
        10 * (900 - received),
    );
    // Packets of either are lost while there is no switch, and three seconds of them at most while its tables fill.
    let lost_for = (down_for + Duration::from_secs(3)).as_millis();
    assert!(across.sent > 5000 && u128::from(across.lost) < lost_for, "{across:?}, {down_for:?}");
    assert!(u128::from(10 * (900 - received)) < lost_for, "{local}, {down_for:?}");
    assert_eq!(one.weft.sh("config show")?, before);
    assert_eq!(devices("a")?.split(':').next(), Some(&index[..]), "the same tap as before");
    // The tap that went with the process was made again, where it was.
    assert!(passing.ns().has_device("passing"));
    assert_eq!(down(&one.weft, "passing")?, None);
    for address in [c.address(), "10.0.0.2"] {
        assert!(ping(a.ns(), address, 3, "")?.is_clean(), "{address}");
    }
    [&one, &two].iter().try_for_each(|node| node.close_accounts())
}

fn number_before(text: &str, word: &str) -> Option<u64> {
    text.split(word).next()?.rsplit([' ', '\n']).next()?.parse().ok()
}

#[test]
fn taps_go_and_stay_as_they_should() -> Result {
    const TEST: &str = "taps_go_and_stay_as_they_should";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let (ns, vm) = (Netns::new(&lab, "node")?, Netns::new(&lab, "vm")?);
    let mut weftd = Weftd::start(&lab, "weft", &ns, "")?;
    weftd.sh("bridge add br0")?;
    for (name, keys) in
        [("passing", ""), ("lasting", "persistent=true"), ("changed", ""), ("deleted", "persistent=true")]
    {
        weftd.sh(&format!("port add br0 {name} type=tap netns={} {keys}", vm.name()))?;
    }
    vm.configure("changed", "10.0.0.9/24", 0)?;
    weftd.sh("port set changed persistent=true")?;
    let addresses = vm.ip("addr show dev changed")?;
    assert!(addresses.contains("10.0.0.9/24"), "the guest keeps its address: {addresses}");
    weftd.sh("port del deleted")?;
    wait_for("the deleted tap to go", SHORT, || Ok(!vm.has_device("deleted")))?;
    weftd.stop()?;
    let left = |name: &str| vm.has_device(name);
    assert_eq!((left("passing"), left("lasting"), left("changed")), (false, true, true));
    assert!(!ns.has_device("br0"), "the internal port goes as well");
    assert!(!Path::new(weftd.socket()).exists(), "the control socket goes as well");
    weftd.start_again()?;
    for name in ["passing", "lasting", "changed"] {
        assert!(vm.has_device(name), "{name}");
        assert_eq!(down(&weftd, name)?, None);
    }
    let other = Netns::new(&lab, "other")?;
    weftd.sh(&format!("port set lasting netns={}", other.name()))?;
    assert!(other.has_device("lasting") && !vm.has_device("lasting"), "a tap goes where it is wanted");
    weftd.sh(&format!("port set lasting netns={}", vm.name()))?;
    weftd.sh("port set changed persistent=false")?;
    weftd.sh("port del lasting")?;
    wait_for("the deleted tap to go", SHORT, || Ok(!vm.has_device("lasting")))?;
    weftd.stop()?;
    assert!(!vm.has_device("changed"), "it is not persistent any more");
    Ok(())
}

#[test]
fn a_second_switch_is_refused_in_one_line() -> Result {
    const TEST: &str = "a_second_switch_is_refused_in_one_line";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    let weftd = Weftd::start(&lab, "weft", &ns, "")?;
    weftd.sh("bridge add br0")?;
    let program = binary("weftd")?.display().to_string();
    let (state, other_state) = (lab.path("weft.state"), lab.path("other.state"));
    let (socket, other_socket) = (lab.path("weft.sock"), lab.path("other.sock"));
    let text = |path: &Path| path.display().to_string();
    for (state, socket, expected) in [
        (&state, &other_socket, format!("the state folder {} is in use by another weftd", state.display())),
        (&other_state, &socket, format!("{}: another weftd listens", socket.display())),
    ] {
        let (state, socket) = (text(state), text(socket));
        let output = ns.run(&[&program, "--state-dir", &state, "--socket", &socket], SHORT)?;
        assert_eq!(output.code, 1, "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        assert!(output.stderr.contains(&expected), "{output:?}");
    }
    assert!(weftd.sh("bridge list")?.contains("br0"), "the first one goes on");
    assert!(!other_socket.exists());
    Ok(())
}
