//! Ever smaller schedules: fewer faults, then shorter ones, then fewer nodes. Pure but for the question whether one still fails.

use std::collections::BTreeSet;

use crate::model::{FaultKind, Lasts, Ms, NodeName, Plan, Targets, Timed};

/// No fault is made shorter than this: its effect has to be seen.
const SHORTEST: Ms = Ms(200);
/// The first fault of the smallest schedule begins so soon, if the failure allows it.
const SOON: Ms = Ms(500);

/// What is tried.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    pub(super) schedule: Vec<Timed>,
    /// With the steps of the scenario beside it.
    pub(super) steps: bool,
}

/// The smallest case that still fails, from one that does. `fails` says which of some cases it found to fail, if any; each answer may
/// take many runs, and `None` also stands for a failure that did not show.
pub(super) async fn smallest(plan: &Plan, case: Case, fails: &mut impl AsyncFnMut(Vec<Case>) -> Option<usize>) -> Case {
    let mut case = case;
    let alone = Case {
        steps: false,
        ..case.clone()
    };
    if fails(vec![alone.clone()]).await.is_some() {
        case = alone;
    }
    case.schedule = fewer(&case, fails).await;
    case.schedule = shorter(&case, fails).await;
    case.schedule = narrower(plan, &case, fails).await;
    if let Some(schedule) = sooner(&case.schedule) {
        let sooner = Case {
            schedule,
            ..case.clone()
        };
        if fails(vec![sooner.clone()]).await.is_some() {
            return sooner;
        }
    }
    case
}

/// Delta debugging (ddmin; Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): no single fault of the
/// result could be left out, as far as the failure shows each time.
async fn fewer(case: &Case, fails: &mut impl AsyncFnMut(Vec<Case>) -> Option<usize>) -> Vec<Timed> {
    let mut list = case.schedule.clone();
    let mut parts = 2;
    while list.len() >= 2 {
        let size = list.len().div_ceil(parts);
        let chunks: Vec<Vec<Timed>> = list.chunks(size).map(<[Timed]>::to_vec).collect();
        let rests = (0..chunks.len()).map(|left_out| {
            let kept = chunks.iter().enumerate().filter(|(at, _)| *at != left_out);
            kept.flat_map(|(_, chunk)| chunk.clone()).collect::<Vec<_>>()
        });
        let mut tried: Vec<Vec<Timed>> = chunks.clone();
        if chunks.len() > 2 {
            tried.extend(rests);
        }
        let cases = tried.iter().map(|schedule| Case {
            schedule: schedule.clone(),
            ..case.clone()
        });
        match fails(cases.collect()).await {
            Some(at) => {
                parts = if at < chunks.len() {
                    2
                } else {
                    (chunks.len() - 1).max(2)
                };
                list.clone_from(&tried[at]);
            }
            None if parts >= list.len() => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    list
}

/// Halves how long faults last: of all together as often as it goes, then of each.
async fn shorter(case: &Case, fails: &mut impl AsyncFnMut(Vec<Case>) -> Option<usize>) -> Vec<Timed> {
    let mut list = case.schedule.clone();
    loop {
        let all: Vec<Timed> = list
            .iter()
            .map(|timed| halved(timed).unwrap_or_else(|| timed.clone()))
            .collect();
        let tried = Case {
            schedule: all.clone(),
            ..case.clone()
        };
        if all == list || fails(vec![tried]).await.is_none() {
            break;
        }
        list = all;
    }
    for at in 0..list.len() {
        // What all together could not be, one alone may be, but hardly more than once or twice.
        while let Some(half) = halved(&list[at]) {
            let mut schedule = list.clone();
            schedule[at] = half;
            let tried = Case {
                schedule: schedule.clone(),
                ..case.clone()
            };
            if fails(vec![tried]).await.is_none() {
                break;
            }
            list = schedule;
        }
    }
    list
}

/// Drops nodes of faults that strike more than one.
async fn narrower(plan: &Plan, case: &Case, fails: &mut impl AsyncFnMut(Vec<Case>) -> Option<usize>) -> Vec<Timed> {
    let mut list = case.schedule.clone();
    for at in 0..list.len() {
        loop {
            let struck = plan.struck(&list[at].fault);
            if struck.len() < 2 {
                break;
            }
            let smaller = struck.iter().filter_map(|node| without(plan, &list[at], *node));
            let schedules: Vec<Vec<Timed>> = smaller
                .map(|timed| {
                    let mut schedule = list.clone();
                    schedule[at] = timed;
                    schedule
                })
                .collect();
            let cases = schedules.iter().map(|schedule| Case {
                schedule: schedule.clone(),
                ..case.clone()
            });
            match fails(cases.collect()).await {
                Some(which) => list.clone_from(&schedules[which]),
                None => break,
            }
        }
    }
    list
}

/// A fault that lasts half as long.
fn halved(timed: &Timed) -> Option<Timed> {
    let Lasts::For(lasts) = timed.fault.lasts else {
        return None;
    };
    // Hundredths of a second are enough, and read better.
    let half = Ms(lasts.0 / 2 / 10 * 10);
    (half >= SHORTEST).then(|| {
        let mut timed = timed.clone();
        timed.fault.lasts = Lasts::For(half);
        timed
    })
}

/// All faults earlier by as much as the first one waits.
fn sooner(schedule: &[Timed]) -> Option<Vec<Timed>> {
    let by = schedule.first()?.at.since(SOON);
    (by > Ms(0)).then(|| {
        let earlier = |timed: &Timed| Timed {
            at: timed.at.since(by),
            fault: timed.fault.clone(),
        };
        schedule.iter().map(earlier).collect()
    })
}

/// A fault without one of the nodes that it strikes. `None`: nothing would be left.
fn without(plan: &Plan, timed: &Timed, node: usize) -> Option<Timed> {
    let name = &plan.network.nodes[node].name;
    let mut timed = timed.clone();
    let left: BTreeSet<usize> = plan
        .struck(&timed.fault)
        .into_iter()
        .filter(|other| *other != node)
        .collect();
    if left.is_empty() {
        return None;
    }
    let names: Vec<NodeName> = left.iter().map(|node| plan.network.nodes[*node].name.clone()).collect();
    match &mut timed.fault.kind {
        FaultKind::Partition { sides, .. } => {
            for side in sides.iter_mut() {
                side.retain(|other| other != name);
            }
            // It joins the side that goes on: the one that holds nobody who is struck.
            let on = sides
                .iter_mut()
                .find(|side| !side.is_empty() && !side.iter().any(|other| names.contains(other)))?;
            on.push(name.clone());
            sides.retain(|side| !side.is_empty());
            let side_of = |node: usize| {
                let name = &plan.network.nodes[node].name;
                sides.iter().position(|side| side.contains(name))
            };
            let cut = plan.network.links.iter().filter(|(a, b)| side_of(*a) != side_of(*b));
            let ends: BTreeSet<usize> = cut.flat_map(|&(a, b)| [a, b]).collect();
            let ends = ends.into_iter().map(|node| plan.network.nodes[node].name.clone());
            timed.fault.targets = Targets::Nodes(ends.collect());
        }
        FaultKind::Delay { links, .. } | FaultKind::Loss { links, .. } | FaultKind::Bandwidth { links, .. } => {
            links.retain(|(a, b)| names.contains(a) || names.contains(b));
            timed.fault.targets = Targets::Nodes(names);
        }
        _ => timed.fault.targets = Targets::Nodes(names),
    }
    Some(timed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::plan;
    use crate::model::{ChainKind, Fault, Plane};

    fn kill(at: u64, nodes: &[usize]) -> Timed {
        Timed {
            at: Ms(at),
            fault: Fault {
                id: format!("chaos-{at}"),
                kind: FaultKind::Kill,
                targets: Targets::Nodes(nodes.iter().map(|node| format!("validator-{node}")).collect()),
                lasts: Lasts::For(Ms(1_600)),
                component: None,
                wipe: false,
                on_restart: crate::model::OnRestart::Reapply,
            },
        }
    }

    fn seven() -> Plan {
        plan(ChainKind::Devnode, 7, 2)
    }

    async fn shrunk(schedule: Vec<Timed>, fails: impl Fn(&Case) -> bool) -> (Case, usize) {
        let mut runs = 0;
        let mut ask = async |cases: Vec<Case>| {
            runs += cases.len();
            cases.iter().position(&fails)
        };
        let case = Case { schedule, steps: true };
        let case = smallest(&seven(), case, &mut ask).await;
        (case, runs)
    }

    /// Both of a pair are struck, however many others are.
    fn pair(case: &Case) -> bool {
        let struck = |node: &str| {
            let struck = |timed: &Timed| timed.fault.targets.nodes().iter().any(|name| name == node);
            case.schedule.iter().any(struck)
        };
        struck("validator-1") && struck("validator-4")
    }

    #[tokio::test]
    async fn a_long_schedule_shrinks_to_the_pair() {
        let schedule: Vec<Timed> = (0..20).map(|n| kill(1_000 + 100 * n, &[n as usize % 7])).collect();
        let (case, runs) = shrunk(schedule, pair).await;
        assert_eq!(case.schedule.len(), 2);
        assert!(!case.steps && pair(&case));
        assert!(
            case.schedule
                .iter()
                .all(|timed| timed.fault.lasts == Lasts::For(SHORTEST))
        );
        assert_eq!(case.schedule[0].at, SOON);
        assert!(runs < 100, "{runs} runs");
    }

    #[tokio::test]
    async fn nodes_that_do_not_matter_are_dropped() {
        let (case, _) = shrunk(vec![kill(1_000, &[0, 1, 2, 4, 6])], pair).await;
        assert_eq!(case.schedule[0].fault.targets.nodes(), ["validator-1", "validator-4"]);
    }

    #[tokio::test]
    async fn what_matters_stays() {
        let schedule = vec![kill(700, &[1]), kill(900, &[4])];
        let with_steps = |case: &Case| case.steps && pair(case) && case.schedule[0].at == Ms(700);
        let (case, _) = shrunk(schedule.clone(), with_steps).await;
        assert!(case.steps);
        assert_eq!(case.schedule[0].at, Ms(700));
        let never = |_: &Case| false;
        let (case, _) = shrunk(schedule.clone(), never).await;
        assert_eq!(case.schedule, schedule);
    }

    #[test]
    fn a_side_of_a_partition_gets_smaller() {
        let plan = seven();
        let name = |node: usize| format!("validator-{node}");
        let mut timed = kill(1, &[0, 1, 2, 3, 4, 5, 6]);
        timed.fault.kind = FaultKind::Partition {
            sides: vec![(2..7).map(name).collect(), vec![name(0), name(1)]],
            plane: Plane::P2p,
            one_way: false,
        };
        let smaller = without(&plan, &timed, 0).unwrap();
        assert_eq!(plan.struck(&smaller.fault), BTreeSet::from([1]));
        assert_eq!(without(&plan, &smaller, 1), None);
    }
}
