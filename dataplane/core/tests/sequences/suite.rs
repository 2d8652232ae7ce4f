//! Random cases of a kind: those of its file, which need no Open vSwitch, and fresh ones.

use weft_tests::{Lab, Need, Result};

use crate::case::{self, Case, Outcome, Recorded, Step};
use crate::rig::dice::Dice;
use crate::stock::Stock;
use crate::talks::Talk;
use crate::{Counts, number};

/// Random cases of a kind.
pub struct Suite {
    /// `tests/data/NAME-truth.txt` has what Open vSwitch did.
    pub name: &'static str,
    /// The first lines of that file.
    pub head: &'static str,
    /// How many random ones are in it, from seed 1 on.
    pub recorded: u64,
    /// How many are made if nothing is said.
    pub cases: u64,
    pub play: fn(&mut Stock, u64) -> Result<Recorded>,
    pub compare: fn(&mut Counts, &Recorded),
}

impl Suite {
    fn file(&self) -> String {
        format!("{}/../../tests/data/{}-truth.txt", env!("CARGO_MANIFEST_DIR"), self.name)
    }

    /// The cases that are in the file: the random ones, and what is behind them.
    pub fn read(&self) -> (Vec<Recorded>, Vec<Recorded>) {
        let mut cases = case::parse(&std::fs::read_to_string(self.file()).unwrap());
        assert!(cases.len() >= self.recorded as usize, "{} cases", cases.len());
        let others = cases.split_off(self.recorded as usize);
        (cases, others)
    }

    /// Compares the cases of the file, where all are random.
    pub fn replay(&self) -> Counts {
        let (random, others) = self.read();
        assert_eq!(others, []);
        let mut counts = Counts::default();
        random.iter().for_each(|recorded| (self.compare)(&mut counts, recorded));
        counts
    }

    /// Compares fresh cases, where Open vSwitch is to be had.
    pub fn beside_ovs(&self) -> Result {
        let Some(mut peers) = Peers::open(self.name)? else { return Ok(()) };
        let mut counts = Counts::default();
        let text = self.run(&mut peers, &mut counts)?;
        self.record(text)?;
        counts.finish();
        Ok(())
    }

    /// Plays cases and compares them; as they are recorded, if that is asked for.
    pub fn run(&self, peers: &mut Peers, counts: &mut Counts) -> Result<Option<String>> {
        let records = std::env::var_os("WEFT_OVS_RECORD").is_some();
        let (first, count) = match records {
            true => (1, self.recorded),
            false => (number("WEFT_SEED", 1000), number("WEFT_CASES", self.cases)),
        };
        let mut text = String::new();
        for seed in first.. {
            let played = if records { counts.cases as u64 } else { seed - first };
            if played == count {
                break;
            }
            let Some(recorded) = peers.play(seed, self.play)? else {
                counts.died += 1;
                continue;
            };
            text += &recorded.print();
            let (before, cases) = (counts.unexplained.len(), counts.cases);
            (self.compare)(counts, &recorded);
            if counts.unexplained.len() > before {
                // Open vSwitch sweeps when it likes: once more, in a new one.
                peers.renew()?;
                if let Some(again) = peers.play(seed, self.play)? {
                    counts.unexplained.truncate(before);
                    counts.cases = cases;
                    (self.compare)(counts, &again);
                }
            }
        }
        Ok(records.then_some(text))
    }

    /// Writes the file anew, if there is something to write.
    pub fn record(&self, text: Option<String>) -> Result {
        match text {
            Some(text) => Ok(std::fs::write(self.file(), self.head.to_owned() + &text)?),
            None => Ok(()),
        }
    }
}

/// Plays talks of which packets depend on what became of those before them, in turn; `hear` tells a talk.
pub fn converse(
    (stock, dice): (&mut Stock, &mut Dice),
    case: Case,
    (mut talks, rounds): (Vec<Talk>, usize),
    hear: impl Fn(&mut Talk, &[u8], &Outcome),
) -> Result<Recorded> {
    let mut recorded = Recorded { case, ..Recorded::default() };
    stock.begin(&recorded.case.rules)?;
    for _ in 0..rounds {
        if dice.percent(2) {
            let wait = Step::Wait(dice.pick(&[1, 29, 31, 61, 900, 86_400]));
            stock.add(&mut recorded, &[wait])?;
        }
        let talk = dice.below(talks.len());
        for packet in talks[talk].next(dice) {
            stock.add(&mut recorded, &[Step::Packet(packet.clone())])?;
            hear(&mut talks[talk], &packet, recorded.outcomes.last().unwrap());
        }
    }
    recorded.connections = stock.connections()?;
    Ok(recorded)
}

/// Open vSwitch, and another one when it dies.
pub struct Peers {
    pub current: Stock,
    lab: Lab,
    number: u32,
}

impl Peers {
    /// `None`, said aloud, where it is not installed.
    pub fn open(name: &str) -> Result<Option<Peers>> {
        let needs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl"].map(Need::Tool);
        let Some(lab) = Lab::open(name, &needs)? else { return Ok(None) };
        Ok(Some(Peers { current: Stock::start(&lab, "ovs")?, lab, number: 0 }))
    }

    fn renew(&mut self) -> Result {
        self.number += 1;
        self.current = Stock::start(&self.lab, &format!("ovs{}", self.number))?;
        Ok(())
    }

    /// What becomes of a random case; `None` if Open vSwitch doesn't survive it.
    fn play(&mut self, seed: u64, case: fn(&mut Stock, u64) -> Result<Recorded>) -> Result<Option<Recorded>> {
        match case(&mut self.current, seed) {
            Ok(recorded) => Ok(Some(recorded)),
            Err(error) => {
                println!("Open vSwitch dies of case {seed}: {error}");
                self.renew()?;
                Ok(None)
            }
        }
    }
}
