//! Meters: what they may be, what uses them, and their token buckets.

use weft_flow::message::{Band, BandKind, MeterCommand, MeterMod, MeterSpec};

use super::*;

fn drop_above(rate: u32, burst_size: u32) -> Band {
    Band { kind: BandKind::Drop, rate, burst_size }
}

fn meter(id: u32, bands: &[Band]) -> MeterMod {
    let meter = MeterSpec { id, bands: bands.into(), stats: true, ..MeterSpec::default() };
    MeterMod { command: MeterCommand::Add, meter }
}

fn packets(id: u32, bands: &[Band]) -> MeterMod {
    let MeterMod { command, meter } = meter(id, bands);
    MeterMod { command, meter: MeterSpec { packets: true, ..meter } }
}

fn apply(tables: &FlowTables, command: MeterCommand, meter: MeterMod) -> Result<Outcome, Refused> {
    commit(tables, &[Change::Meter(MeterMod { command, ..meter })], at(0))
}

fn added(meter: MeterMod) -> Arc<Meter> {
    let tables = FlowTables::new();
    let id = meter.meter.id;
    apply(&tables, MeterCommand::Add, meter).unwrap();
    let root = tables.load();
    Arc::clone(root.meter(id).unwrap())
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How many of so many packets of 125 octets (1,000 bits) pass at that moment.
fn passed(meter: &Meter, packets: u64, now: Duration) -> u64 {
    (0..packets).map(|_| u64::from(meter.admit(125, now) == Admission::Pass)).sum()
}

#[test]
fn meters_are_added_once_and_checked() {
    let tables = FlowTables::new();
    let one = meter(1, &[drop_above(1, 0)]);
    let refused = |command, meter| apply(&tables, command, meter).unwrap_err();
    assert_eq!(refused(MeterCommand::Modify, one.clone()), Refused::UnknownMeter(1));
    apply(&tables, MeterCommand::Add, one.clone()).unwrap();
    assert_eq!(refused(MeterCommand::Add, one.clone()), Refused::MeterExists(1));
    for id in [0, 0xffff_0001, MeterMod::ALL] {
        assert_eq!(refused(MeterCommand::Add, meter(id, &[])), Refused::InvalidMeter(id));
    }
    assert_eq!(refused(MeterCommand::Add, meter(2, &[drop_above(1, 0); 9])), Refused::TooManyBands(9));
    assert_eq!(refused(MeterCommand::Add, meter(2, &[drop_above(0, 1)])), Refused::BadRate(2));
    for id in [MeterMod::SLOWPATH, MeterMod::CONTROLLER, MeterMod::MAX] {
        apply(&tables, MeterCommand::Add, meter(id, &[])).unwrap();
    }
    apply(&tables, MeterCommand::Modify, one).unwrap();
    apply(&tables, MeterCommand::Delete, meter(77, &[])).unwrap();
    apply(&tables, MeterCommand::Delete, meter(MeterMod::ALL, &[])).unwrap();
    assert_eq!(tables.load().meters().count(), 0);
}

#[test]
fn a_rule_may_use_meters_that_are_there_and_goes_with_them() {
    let tables = FlowTables::new();
    let user = FlowMod { actions: Box::new([Action::Meter(5), Action::Output(OfPort(1))]), ..flow(1, 1, 1) };
    assert_eq!(change(&tables, user.clone()), Err(Refused::BadOutMeter(5)));
    apply(&tables, MeterCommand::Add, meter(5, &[])).unwrap();
    change(&tables, user).unwrap();
    change(&tables, flow(2, 2, 1)).unwrap();
    apply(&tables, MeterCommand::Modify, meter(5, &[drop_above(1, 0)])).unwrap();
    assert_eq!(apply(&tables, MeterCommand::Delete, meter(5, &[])).unwrap().removed, 1);
    assert_eq!(rules(&tables), [(0, 2, 0)]);
}

#[test]
fn a_kilobit_is_a_thousand_bits_and_the_bucket_starts_full() {
    // 10 kbit/s, burst 20 kbit: packets of 1 kbit.
    let meter = added(meter(1, &[drop_above(10, 20)]));
    assert_eq!(passed(&meter, 30, ms(0)), 20);
    assert_eq!(passed(&meter, 5, ms(99)), 0);
    assert_eq!(passed(&meter, 5, ms(100)), 1);
    assert_eq!(passed(&meter, 50, ms(1_100)), 10);
    assert_eq!(passed(&meter, 50, ms(1_000_000)), 20, "no more than the burst is saved");
    assert_eq!(meter.stats(), (140, 140 * 125));
    assert_eq!(meter.band_stats(0), (140 - 51, (140 - 51) * 125));
    assert_eq!(meter.band_stats(1), (0, 0));
}

#[test]
fn packets_are_counted_by_thousandths_and_no_burst_is_a_seconds_worth() {
    let meter = added(packets(1, &[drop_above(100, 0)]));
    assert_eq!(passed(&meter, 500, ms(0)), 100);
    assert_eq!(passed(&meter, 5, ms(9)), 0);
    assert_eq!(passed(&meter, 5, ms(10)), 1);
    assert_eq!(passed(&meter, 500, ms(5_000)), 100);
    // Time that goes backwards fills nothing, and takes nothing back.
    assert_eq!(passed(&meter, 5, ms(4_000)), 0);
    assert_eq!(passed(&meter, 5, ms(5_010)), 1);
}

#[test]
fn of_the_bands_that_are_exceeded_the_one_with_the_highest_rate_applies() {
    let remark = Band { kind: BandKind::DscpRemark(2), rate: 10, burst_size: 10 };
    let meter = added(packets(1, &[remark, drop_above(20, 20)]));
    let said: Vec<_> = (0..30).map(|_| meter.admit(60, ms(0))).collect();
    assert_eq!(said[..10], [Admission::Pass; 10]);
    assert_eq!(said[10..20], [Admission::Remark(2); 10]);
    assert_eq!(said[20..], [Admission::Drop; 10]);
    assert_eq!((meter.band_stats(0).0, meter.band_stats(1).0), (10, 10));
    // What the lower band refuses still takes from the higher one.
    assert_eq!(meter.admit(60, ms(100)), Admission::Pass);
    assert_eq!(meter.admit(60, ms(100)), Admission::Remark(2));
    assert_eq!(meter.admit(60, ms(100)), Admission::Drop);
}

#[test]
fn a_meter_without_bands_counts_and_lets_pass() {
    let meter = added(meter(1, &[]));
    assert_eq!(passed(&meter, 7, ms(3)), 7);
    assert_eq!(meter.stats(), (7, 875));
}

#[test]
fn a_modified_meter_starts_again_but_keeps_its_age() {
    let tables = FlowTables::new();
    apply(&tables, MeterCommand::Add, packets(1, &[drop_above(5, 5)])).unwrap();
    passed(tables.load().meter(1).unwrap(), 9, ms(0));
    let change = MeterMod { command: MeterCommand::Modify, ..packets(1, &[drop_above(7, 7)]) };
    commit(&tables, &[Change::Meter(change)], at(50)).unwrap();
    let meter = Arc::clone(tables.load().meter(1).unwrap());
    assert_eq!((meter.stats(), meter.created), ((0, 0), at(0)));
    assert_eq!(passed(&meter, 20, at(50)), 7);
}

#[test]
fn extreme_rates_neither_wrap_nor_panic() {
    let meter = added(meter(1, &[drop_above(u32::MAX, u32::MAX), drop_above(1, u32::MAX)]));
    assert_eq!(meter.admit(65_535, Duration::ZERO), Admission::Pass);
    assert_eq!(meter.admit(65_535, Duration::MAX), Admission::Pass);
    assert_eq!(meter.admit(u64::MAX, Duration::MAX), Admission::Drop);
}

#[test]
fn four_threads_on_one_meter_never_pass_more_than_it_allows() {
    // 1,000 packets a second for 2 seconds, and 100 at once.
    let meter = added(packets(1, &[drop_above(1000, 100)]));
    let worker = |first: u64| {
        let meter = Arc::clone(&meter);
        std::thread::spawn(move || {
            (0..200_000_u64)
                .map(|n| u64::from(meter.admit(60, ms((n + first) / 100)) == Admission::Pass))
                .sum::<u64>()
        })
    };
    let workers: Vec<_> = (0..4).map(worker).collect();
    let passed: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    let most = 100 + 2_000;
    assert!(passed <= most, "{passed} of {most}");
    assert!(passed >= most * 9 / 10, "{passed} of {most}");
    assert_eq!(meter.stats().0, 800_000);
    assert_eq!(meter.band_stats(0).0, 800_000 - passed);
}
