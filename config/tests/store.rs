//! The state file survives a process that is killed at any moment, and is never taken for what it is not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod folder;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use folder::Folder;
use weft_config::model::Bridge;
use weft_config::{Bounded, Change, Config, Flush, Store, StoreError};
use weft_wire::PortName;

/// A configuration that holds a number and is large enough to take several writes.
fn numbered(number: u32) -> Result<Config, String> {
    let mut config = Config::default();
    for index in 0..200 {
        let name = PortName::new(&format!("br{index}")).map_err(|error| error.to_string())?;
        let fdb_size = Bounded::new(number).map_err(|error| error.to_string())?;
        config.bridges.push(Bridge { fdb_size, ..Bridge::new(name) });
    }
    Ok(config)
}

fn number(config: &Config) -> u32 {
    let numbers: Vec<u32> = config.bridges.iter().map(|bridge| bridge.fdb_size.get()).collect();
    assert!(
        numbers.len() == 200 && numbers.iter().all(|number| *number == numbers[0]),
        "a mixture: {numbers:?}"
    );
    numbers[0]
}

const CHILD: &str = "WEFT_STORE_TEST_FOLDER";

/// Not a test of its own: what the process that is killed does.
#[test]
fn child_that_saves_forever() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(folder) = std::env::var(CHILD) else { return Ok(()) };
    let mut store = Store::open(Path::new(&folder))?;
    let start = store.load()?.map_or(1, |config| number(&config));
    for next in start + 1.. {
        store.save(&numbered(next)?)?;
        println!("\nsaved {next}");
    }
    Ok(())
}

/// The same with changes: members that join a group, from the one that is missing on.
#[test]
fn child_that_adds_members_forever() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(folder) = std::env::var(CHILD) else { return Ok(()) };
    let mut store = Store::open(Path::new(&folder))?;
    let mut config = match store.load()? {
        Some(config) => config,
        None => with_group(),
    };
    store.save(&config)?;
    for next in members(&config) as u32 + 1.. {
        let changes = [joins(next)];
        config = config.apply(&changes)?;
        let flush = if next % 3 == 0 { Flush::First } else { Flush::Soon };
        store.keep(&changes, &config, flush)?;
        println!("\nsaved {next}");
    }
    Ok(())
}

/// A configuration of one group without members.
fn with_group() -> Config {
    let add = serde_json::from_str(r#"{"acl_group_add": {"group": {"name": "web"}}}"#).unwrap();
    Config::default().apply(&[add]).unwrap()
}

fn joins(number: u32) -> Change {
    let member = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
    let text = format!(r#"{{"acl_member_add": {{"group": "web", "member": "{member}"}}}}"#);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// How many members the one group has: all up to that number.
fn members(config: &Config) -> usize {
    config.acl.groups.first().map_or(0, |group| group.members.len())
}

/// Held by who starts a process, and by who has a store open that a process is to open next: between fork and exec a new
/// process has all files of this one, locks among them.
static FORK: Mutex<()> = Mutex::new(());

fn spawn(folder: &Folder, child: &str) -> std::io::Result<Child> {
    let _fork = FORK.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(std::env::current_exe()?)
        .args(["--exact", child, "--nocapture"])
        .env(CHILD, &folder.0)
        .stdout(Stdio::piped())
        .spawn()
}

/// Kills the child at many moments; `found` looks at what is there afterwards.
fn kill_again_and_again(name: &str, child: &str, found: impl Fn(&Config) -> u32) {
    let folder = Folder::new(name);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rounds = 0u32;
    let mut before = 0;
    while rounds < 10 || rounds < 40 && Instant::now() < deadline {
        let mut child = spawn(&folder, child).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("saved ")?.parse::<u32>().ok());
        let first = lines.next().unwrap();
        // Not a wait for something: it varies the moment of the kill.
        std::thread::sleep(Duration::from_micros(u64::from(rounds) * 733));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = lines.last().unwrap_or(first);
        let found = {
            let _fork = FORK.lock().unwrap_or_else(PoisonError::into_inner);
            found(&Store::open(&folder.0).unwrap().load().unwrap().unwrap())
        };
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "acknowledged {acknowledged}, found {found}"
        );
        assert!(first > before);
        before = found;
        rounds += 1;
    }
}

#[test]
fn killing_a_writer_loses_nothing_that_was_acknowledged() {
    kill_again_and_again("kill", "child_that_saves_forever", number);
}

#[test]
fn killing_who_appends_loses_nothing_that_was_acknowledged() {
    kill_again_and_again("append", "child_that_adds_members_forever", |config| {
        let group = &config.acl.groups[0];
        let last = group.members.iter().next_back().map(ToString::to_string);
        let number = members(config) as u32;
        let expected = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
        assert_eq!(last, Some(expected), "none is missing in between");
        number
    });
}

#[test]
fn changes_are_appended_until_the_journal_is_long_and_a_torn_one_is_left_out() {
    let folder = Folder::new("journal");
    let mut store = Store::open(&folder.0).unwrap();
    let mut config = with_group();
    store.save(&config).unwrap();
    let journal = folder.0.join("state.journal");
    let length = || fs::metadata(&journal).unwrap().len();
    let (state, empty) = (fs::read(store.path()).unwrap(), length());
    let mut longest = 0;
    for next in 1..=2000 {
        let changes = [joins(next)];
        config = config.apply(&changes).unwrap();
        store.keep(&changes, &config, Flush::Soon).unwrap();
        assert!(next > 500 || fs::read(store.path()).unwrap() == state, "{next}: only appended");
        longest = longest.max(length());
    }
    assert!(longest > 50_000 && longest <= 1 << 16, "{longest}");
    assert_ne!(fs::read(store.path()).unwrap(), state);
    assert!(store.load().unwrap().as_ref() == Some(&config));
    assert_eq!(store.torn(), 0);
    // Half of another one.
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, [&whole[..], b"01234567 [{\"acl_mem"].concat()).unwrap();
    assert!(store.load().unwrap().as_ref() == Some(&config));
    assert_eq!(store.torn(), 19);
    // What goes on from another state file says nothing.
    store.save(&Config::default()).unwrap();
    fs::write(&journal, &whole).unwrap();
    assert_eq!(store.load().unwrap(), Some(Config::default()));
    // Equal to an earlier one, and yet another.
    store.save(&config).unwrap();
    fs::write(&journal, &whole).unwrap();
    assert!(store.load().unwrap().as_ref() == Some(&config));
    store.save(&config).unwrap();
    // A damaged middle is no torn end.
    let changes = [joins(3000), joins(3001)];
    let next = config.apply(&changes).unwrap();
    for change in &changes {
        store.keep(std::slice::from_ref(change), &next, Flush::First).unwrap();
    }
    let mut bad = fs::read(&journal).unwrap();
    bad[empty as usize + 20] ^= 1;
    fs::write(&journal, bad).unwrap();
    let error = store.load().map(drop).unwrap_err().to_string();
    assert!(error.ends_with("the journal is damaged: a line in its middle is damaged; moved away, the switch is as the state file beside it says"), "{error}");
}

#[test]
fn a_long_journal_is_made_short_while_nothing_is_kept_and_only_then() {
    let folder = Folder::new("rest");
    let mut store = Store::open(&folder.0).unwrap();
    let mut config = with_group();
    store.save(&config).unwrap();
    let mut add = |store: &mut Store, numbers: std::ops::Range<u32>| {
        for next in numbers {
            let changes = [joins(next)];
            config = config.apply(&changes).unwrap();
            store.keep(&changes, &config, Flush::Soon).unwrap();
        }
        config.clone()
    };
    // A short one stays.
    let config = add(&mut store, 0..100);
    assert_eq!([(); 3].map(|()| store.rest(&config).unwrap()), [false; 3]);
    let config = add(&mut store, 100..700);
    assert!(!store.rest(&config).unwrap(), "something was kept a moment ago");
    assert!(store.rest(&config).unwrap());
    assert!(fs::metadata(folder.0.join("state.journal")).unwrap().len() < 100);
    assert!(!store.rest(&config).unwrap());
    assert!(store.load().unwrap().as_ref() == Some(&config));
}

#[test]
fn a_journal_may_be_as_long_as_the_state_file() {
    let folder = Folder::new("size");
    let mut store = Store::open(&folder.0).unwrap();
    let mut config = with_group();
    config = config.apply(&(0..8000).map(joins).collect::<Vec<_>>()).unwrap();
    store.save(&config).unwrap();
    let state = fs::metadata(store.path()).unwrap().len();
    let (mut longest, mut last, mut anew) = (0, 0, 0);
    for next in 8000..10_000 {
        let changes = [joins(next)];
        config = config.apply(&changes).unwrap();
        store.keep(&changes, &config, Flush::Soon).unwrap();
        let length = fs::metadata(folder.0.join("state.journal")).unwrap().len();
        anew += u32::from(length < last);
        (longest, last) = (longest.max(length), length);
    }
    assert!(state > 100_000 && longest > 100_000 && longest <= state, "{longest} octets beside {state}");
    assert_eq!(anew, 1);
}

/// What a user waits for: a member more in a group of a thousand, beside fifty groups and a thousand ports. `--nocapture` shows
/// it, and what replacing the state file takes.
#[test]
fn a_change_is_kept_much_faster_than_the_whole() {
    let folder = Folder::new("speed");
    let mut store = Store::open(&folder.0).unwrap();
    let mut config = with_group();
    config = config.apply(&(1..=1000).map(joins).collect::<Vec<_>>()).unwrap();
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (mut appended, mut whole) = (Vec::new(), Vec::new());
    for next in 1001..=1040 {
        let changes = [joins(next)];
        config = config.apply(&changes).unwrap();
        let start = Instant::now();
        store.save(&config).unwrap();
        whole.push(start.elapsed());
        let start = Instant::now();
        store.keep(&changes, &config, Flush::Soon).unwrap();
        appended.push(start.elapsed());
    }
    let (appended, whole) = (median(&mut appended), median(&mut whole));
    println!("appended {appended:?}, whole {whole:?}");
    assert!(
        appended * 2 < whole && appended < Duration::from_millis(1),
        "appended {appended:?}, whole {whole:?}"
    );
}

#[test]
fn a_second_owner_is_refused_with_one_line() {
    let folder = Folder::new("lock");
    let first = Store::open(&folder.0).unwrap();
    let error = Store::open(&folder.0).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    let expected = format!(
        "the state folder {} is in use by another weftd (process {})",
        folder.0.display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
    drop(first);
    // A process that another test starts holds a copy of the lock until it executes its program.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut again = Store::open(&folder.0);
    while matches!(again, Err(StoreError::InUse { .. })) && Instant::now() < deadline {
        again = Store::open(&folder.0);
    }
    again.unwrap();
}

#[test]
fn a_damaged_file_is_an_error_wherever_it_is_cut_or_changed() {
    let folder = Folder::new("damage");
    let mut store = Store::open(&folder.0).unwrap();
    assert!(store.load().unwrap().is_none());
    let mut config = numbered(7).unwrap();
    config.bridges.truncate(3);
    store.save(&config).unwrap();
    let good = fs::read(store.path()).unwrap();
    for cut in 0..good.len() {
        fs::write(store.path(), &good[..cut]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(store.path(), &bad).unwrap();
        assert!(store.load().is_err(), "changed at {at}");
    }
    fs::write(store.path(), [0xff, 0xfe]).unwrap();
    assert!(store.load().unwrap_err().to_string().contains("not UTF-8"));
    fs::write(store.path(), &good).unwrap();
    assert_eq!(store.load().unwrap(), Some(config));
}

#[test]
fn a_seed_is_used_once() {
    let folder = Folder::new("seed");
    let mut store = Store::open(&folder.0).unwrap();
    let seed = folder.0.join("weft.toml");
    fs::write(&seed, "[[bridge]]\nname = 'br0'\n[[bridge.port]]\nname = 'vm1'\nvlan = 5000\n").unwrap();
    let error = store.load_or_seed(Some(&seed)).unwrap_err().to_string();
    assert!(
        error.ends_with("weft.toml:5: bridge[br0].port[vm1].vlan: VLAN 5000 is out of range: 0 to 4095"),
        "{error}"
    );
    assert!(store.load().unwrap().is_none());
    fs::write(&seed, "[[bridge]]\nname = 'br0'\n[[bridge.port]]\nname = 'vm1'\n").unwrap();
    let seeded = store.load_or_seed(Some(&seed)).unwrap();
    assert_eq!(seeded.bridges[0].ofport_of("vm1").map(|number| number.0), Some(1));
    fs::write(&seed, "[[bridge]]\nname = 'br1'\n").unwrap();
    assert_eq!(store.load_or_seed(Some(&seed)).unwrap(), seeded);
}
