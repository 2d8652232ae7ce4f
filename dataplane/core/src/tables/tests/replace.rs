//! All rules at once.

use super::*;

fn with_cookie(flow: FlowMod, cookie: u64) -> FlowMod {
    FlowMod { cookie: Some(cookie), ..flow }
}

#[test]
fn replacing_touches_only_what_differs_in_one_publication() {
    let tables = FlowTables::new();
    let old = [flow(1, 1, 1), flow(2, 2, 1), flow(3, 3, 1)];
    commit(&tables, &old.clone().map(Change::Flow), at(1)).unwrap();
    commit(&tables, &[Change::FlowIn(TableId(256), flow(9, 9, 9))], at(1)).unwrap();
    old.iter().for_each(|flow| rule(&tables, flow).unwrap().count(5, 500, at(2)));
    let version = tables.version();
    let wanted = [flow(4, 4, 1), flow(2, 2, 7), flow(1, 1, 1), with_cookie(flow(4, 4, 1), 8)];

    let differences = tables.load().diff(Extent::Users, &wanted);
    let told: Vec<_> = differences
        .iter()
        .map(|difference| match difference {
            Difference::Missing(at) => ("missing", *at),
            Difference::Surplus(rule) => ("surplus", usize::from(rule.priority)),
            Difference::Changed { rule, flow } => {
                assert_eq!(rule.priority, 2);
                ("changed", *flow)
            }
        })
        .collect();
    assert_eq!(told, [("changed", 1), ("missing", 3), ("surplus", 3)]);

    let outcome = tables.replace(Extent::Users, &wanted, at(3)).unwrap().commit();
    let Outcome { added, replaced, removed, .. } = outcome;
    assert_eq!((outcome.version, added, replaced, removed), (version + 1, 1, 1, 1));
    assert_eq!(rules(&tables), [(0, 1, 0), (0, 2, 0), (0, 4, 8), (256, 9, 0)]);
    let same = rule(&tables, &flow(1, 1, 1)).unwrap();
    assert_eq!((same.stats().packets, same.created), (5, at(1)));
    assert!(tables.load().diff(Extent::Users, &wanted).is_empty());
    assert_eq!(tables.replace(Extent::Users, &wanted, at(4)).unwrap().commit().version, version + 1);
}

#[test]
fn one_table_is_replaced_alone_and_an_error_leaves_everything_as_it_was() {
    let tables = FlowTables::new();
    change(&tables, flow(1, 1, 1)).unwrap();
    let own = Extent::Table(TableId(300));
    tables.replace(own, &[flow(5, 5, 1), flow(6, 6, 1)], at(1)).unwrap().commit();
    assert_eq!(rules(&tables), [(0, 1, 0), (300, 5, 0), (300, 6, 0)]);
    let bad = FlowMod { actions: Box::new([Action::Meter(3)]), ..flow(7, 7, 1) };
    let error = tables.replace(own, &[flow(8, 8, 1), bad], at(1)).unwrap_err();
    assert_eq!((error.index, error.why), (1, Refused::BadOutMeter(3)));
    assert_eq!(rules(&tables), [(0, 1, 0), (300, 5, 0), (300, 6, 0)]);
    tables.replace(own, &[], at(1)).unwrap().commit();
    assert_eq!(rules(&tables), [(0, 1, 0)]);
}
