use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::effects::net_of;
use crate::model::{
    BackendKind, Bounds, ChainKind, FORMAT, FaultKind, Invariants, Limits, Load, Network, Node, Persistence, Plane,
    Repeat, Role, Start, Tx, TxBody, When,
};

/// A plan in the making: a full mesh, blocks every half second.
pub(super) struct Draft(pub(super) Plan);

pub(super) fn mesh(powers: &[u64]) -> Draft {
    let nodes: Vec<Node> = powers
        .iter()
        .enumerate()
        .map(|(index, power)| node(index, *power))
        .collect();
    let links = (0..powers.len())
        .flat_map(|a| (a + 1..powers.len()).map(move |b| (b, a)))
        .collect();
    Draft(Plan {
        format: FORMAT,
        scenario: "test".into(),
        about: None,
        seed: 1,
        backend: BackendKind::Memory,
        kubernetes: crate::model::Kubernetes::default(),
        network: Network {
            chain: ChainKind::Devnode,
            version: "1".into(),
            block_time: Ms(500),
            persistence: Persistence::Volume,
            app: None,
            keys: crate::model::Keys::Seed,
            attach: None,
            config: BTreeMap::new(),
            nodes,
            links,
        },
        versions: indexmap::IndexMap::new(),
        limits: Limits {
            start: Ms::secs(60),
            run: Ms::secs(600),
            settle: Ms::secs(30),
        },
        invariants: Invariants {
            max_stall: Ms::secs(8),
            max_lag: 5,
            off: BTreeSet::new(),
        },
        steps: Vec::new(),
        outcome: None,
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
    })
}

fn node(index: usize, power: u64) -> Node {
    Node {
        name: format!("node-{index}"),
        group: "node".into(),
        role: if power > 0 { Role::Validator } else { Role::Full },
        power,
        version: "1".into(),
        config: BTreeMap::new(),
        start: Start::Auto,
        resources: crate::model::Resources::default(),
    }
}

fn four() -> Draft {
    mesh(&[10; 4])
}

fn names(nodes: &[usize]) -> Vec<NodeName> {
    nodes.iter().map(|node| format!("node-{node}")).collect()
}

fn secs(secs: u64) -> Ms {
    Ms::secs(secs)
}

pub(super) const HELD: Lasts = Lasts::UntilHealed;

fn lasts(seconds: u64) -> Lasts {
    Lasts::For(secs(seconds))
}

impl Draft {
    fn step(mut self, action: Action) -> Self {
        let index = self.0.steps.len();
        let id = match &action {
            Action::Fault(fault) => Some(fault.id.clone()),
            _ => None,
        };
        self.0.steps.push(Step {
            index,
            id,
            name: None,
            when: None,
            go_on: false,
            background: false,
            line: index + 1,
            action,
        });
        self
    }

    fn last(&mut self) -> &mut Step {
        self.0.steps.last_mut().unwrap()
    }

    fn background(mut self, id: &str) -> Self {
        self.last().background = true;
        self.last().id = Some(id.into());
        self
    }

    fn when(mut self, when: When) -> Self {
        self.last().when = Some(when);
        self
    }

    fn manual(mut self, nodes: &[usize]) -> Self {
        nodes
            .iter()
            .for_each(|node| self.0.network.nodes[*node].start = Start::Manual);
        self
    }

    fn links(mut self, links: &[(usize, usize)]) -> Self {
        self.0.network.links = links.to_vec();
        self
    }

    fn fault(self, id: &str, kind: FaultKind, targets: Targets, lasts: Lasts) -> Self {
        self.step(Action::Fault(Fault {
            id: id.into(),
            kind,
            targets,
            lasts,
            component: None,
            wipe: false,
            on_restart: crate::model::OnRestart::Reapply,
        }))
    }

    fn on(self, id: &str, kind: FaultKind, nodes: &[usize], lasts: Lasts) -> Self {
        self.fault(id, kind, Targets::Nodes(names(nodes)), lasts)
    }

    pub(super) fn kill(self, id: &str, nodes: &[usize], lasts: Lasts) -> Self {
        self.on(id, FaultKind::Kill, nodes, lasts)
    }

    /// The fault of the last step again, so many seconds after its first time.
    fn again(mut self, after: &[u64]) -> Self {
        let step = self.last();
        let Action::Fault(fault) = step.action.clone() else {
            panic!("no fault")
        };
        let index = step.index;
        let repeats = after.iter().enumerate().map(|(more, after)| Repeat {
            step: index,
            after: secs(*after),
            fault: Fault {
                id: format!("{}.{}", fault.id, more + 2),
                ..fault.clone()
            },
        });
        self.0.repeats.extend(repeats);
        self
    }

    fn leader(self, id: &str, kind: FaultKind, among: &[usize]) -> Self {
        self.fault(id, kind, Targets::Leader { among: names(among) }, HELD)
    }

    pub(super) fn split(self, id: &str, sides: &[&[usize]], lasts: Lasts) -> Self {
        let all: Vec<usize> = (0..self.0.network.nodes.len()).collect();
        let kind = FaultKind::Partition {
            sides: sides.iter().map(|side| names(side)).collect(),
            plane: Plane::P2p,
            one_way: false,
        };
        self.on(id, kind, &all, lasts)
    }

    pub(super) fn heal(self, ids: &[&str]) -> Self {
        self.step(Action::Heal {
            faults: ids.iter().map(|id| (*id).to_owned()).collect(),
        })
    }

    pub(super) fn start(self, nodes: &[usize]) -> Self {
        self.step(Action::Start { nodes: names(nodes) })
    }

    pub(super) fn wait(self, seconds: u64) -> Self {
        self.step(Action::Wait(secs(seconds)))
    }

    fn power(self, node: usize, power: u64) -> Self {
        let validator = format!("node-{node}");
        self.step(Action::Tx(Tx {
            id: "tx".into(),
            body: TxBody::Power { validator, power },
            node: "node-0".into(),
        }))
    }

    pub(super) fn expect(self, what: What, window: Window) -> Self {
        self.step(Action::Expect(Expect {
            what,
            nodes: None,
            window,
        }))
    }

    pub(super) fn progress(self, blocks: u64, seconds: u64) -> Self {
        self.expect(What::Progress { blocks }, Window::Within(secs(seconds)))
    }

    fn height(self, at_least: u64, seconds: u64) -> Self {
        let bounds = Bounds {
            at_least: Some(at_least),
            at_most: None,
        };
        self.expect(What::Height(bounds), Window::Within(secs(seconds)))
    }

    pub(super) fn halt(self, of: &str, seconds: u64) -> Self {
        self.expect(What::Halt { of: of.into() }, Window::For(secs(seconds)))
    }

    pub(super) fn recovery(self, of: &str, seconds: u64) -> Self {
        self.expect(What::Recovery { of: of.into() }, Window::Within(secs(seconds)))
    }

    fn join(self, id: &str, seconds: u64) -> Self {
        self.step(Action::Join {
            id: id.into(),
            within: secs(seconds),
        })
    }

    pub(super) fn forecast(&self) -> Forecasted {
        let forecasted = forecast(&self.0, Engine::Bft);
        assert_eq!(forecasted.sums.len(), self.0.steps.len());
        forecasted
    }

    #[track_caller]
    fn fine(&self) {
        assert_eq!(self.forecast().problems, []);
    }

    /// Exactly one problem.
    #[track_caller]
    fn refused(&self, step: usize, code: &str, message: &str, help: &str) {
        let problems = self.forecast().problems;
        let [problem] = &problems[..] else {
            panic!("not one problem: {problems:#?}")
        };
        assert_eq!((problem.step, problem.code), (step, code), "{}", problem.message);
        assert_eq!((problem.message.as_str(), problem.help.as_str()), (message, help));
    }

    #[track_caller]
    fn codes(&self, expected: &[(usize, &str)]) {
        let problems = self.forecast().problems;
        let codes: Vec<(usize, &str)> = problems.iter().map(|problem| (problem.step, problem.code)).collect();
        assert_eq!(codes, expected, "{problems:#?}");
    }

    fn sums(&self) -> Vec<(Forecast, String)> {
        self.forecast()
            .sums
            .into_iter()
            .map(|sum| (sum.forecast, sum.why))
            .collect()
    }
}

#[test]
fn the_scenario_of_the_design_is_fine() {
    let draft = mesh(&[10, 10, 10, 10, 0])
        .height(5, 30)
        .kill("victim", &[2], lasts(5))
        .progress(5, 30)
        .recovery("victim", 20)
        .split("split", &[&[0, 1], &[2, 3], &[4]], HELD)
        .halt("split", 10)
        .heal(&["split"])
        .recovery("split", 30);
    draft.fine();
    let sums: Vec<String> = draft
        .sums()
        .into_iter()
        .map(|(forecast, why)| format!("{forecast}: {why}"))
        .collect();
    assert_eq!(
        sums,
        [
            "must go on: 40 of 40 is more than two thirds (26.7)",
            "must go on: 30 of 40 is more than two thirds (26.7)",
            "must go on: 30 of 40 is more than two thirds (26.7)",
            "must go on: 30 of 40 is more than two thirds (26.7)",
            "must halt: 20 of 40 is not more than two thirds (26.7), in the greatest of 2 connected parts",
            "must halt: 20 of 40 is not more than two thirds (26.7), in the greatest of 2 connected parts",
            "must halt: 20 of 40 is not more than two thirds (26.7), in the greatest of 2 connected parts",
            "must go on: 40 of 40 is more than two thirds (26.7)",
        ]
    );
}

#[test]
fn a_repeated_fault_may_be_on_until_its_last_time_is_over() {
    // What the chain bears once it bears again and again.
    let flap = || four().kill("a", &[0], lasts(2)).again(&[6, 12]);
    flap().progress(5, 10).recovery("a", 60).fine();
    // Together with another node it may or may not be too much, as long as any time of it is left.
    flap()
        .wait(4)
        .kill("b", &[1], HELD)
        .progress(1, 5)
        .codes(&[(3, UNDETERMINED)]);
    flap().recovery("a", 60).kill("b", &[1], lasts(2)).progress(1, 5).fine();
    flap().heal(&["a"]).kill("b", &[1], lasts(2)).progress(1, 5).fine();
    // A halt is seen in the first time of it, and nothing is said of the others.
    let halts = || four().kill("a", &[0, 1], lasts(4)).again(&[10, 20]);
    halts()
        .progress(1, 10)
        .codes(&[(0, UNDECLARED_HALT), (1, UNDETERMINED)]);
    halts().halt("a", 2).progress(1, 10).codes(&[(2, UNDETERMINED)]);
    halts().halt("a", 2).recovery("a", 60).progress(1, 10).fine();
    halts().halt("a", 2).heal(&["a"]).progress(1, 10).fine();
    // Recovery is of the last time.
    flap().recovery("a", 10).refused(
        1,
        RECOVERY_IMPOSSIBLE,
        "`a` cannot have recovered within 10s: it strikes 3 times, the last 12s after the first, at least 14s of it from here on",
        "heal `a` before this step, let it end earlier, or allow more time",
    );
}

#[test]
fn nothing_expected_is_fine() {
    four().wait(5).fine();
    four().fine();
    four().kill("a", &[0], HELD).fine();
}

#[test]
fn a_halt_that_nothing_declares_is_refused() {
    four().kill("a", &[0, 1], HELD).refused(
        0,
        UNDECLARED_HALT,
        "`a` halts the chain, and nothing says so before it can end: 20 of 40 is not more than two thirds (26.7), with `a` on",
        "put `expect.halt = { of = \"a\", for = \"5s\" }` right after it, or strike less",
    );
    four().kill("a", &[0, 1], lasts(3)).wait(5).progress(1, 10).refused(
        0,
        UNDECLARED_HALT,
        "`a` halts the chain, and nothing says so before it can end: 20 of 40 is not more than two thirds (26.7), with `a` on",
        "put `expect.halt = { of = \"a\", for = \"2.5s\" }` right after it (it lasts 3s: watch for at most 2.5s), or strike less",
    );
    // Said too late: the fault was healed before.
    four()
        .kill("a", &[0, 1], HELD)
        .heal(&["a"])
        .halt("a", 5)
        .codes(&[(0, UNDECLARED_HALT), (2, CONTRADICTION)]);
    four().kill("a", &[0, 1], HELD).halt("a", 5).fine();
    four()
        .kill("a", &[0, 1], HELD)
        .halt("a", 5)
        .background("watch")
        .join("watch", 10)
        .fine();
}

#[test]
fn exactly_two_thirds_left_is_a_halt() {
    let kill = || mesh(&[10; 9]).kill("a", &[0, 1, 2], HELD);
    kill().halt("a", 5).fine();
    kill().halt("a", 5).progress(1, 10).refused(
        2,
        CONTRADICTION,
        "`expect.progress` cannot come true: the network must halt for all of its time: \
         60 of 90 is not more than two thirds (60), with `a` on",
        "put `heal = [\"a\"]` before this step, or expect the halt instead",
    );
    mesh(&[10; 9]).kill("a", &[0, 1], HELD).progress(1, 10).fine();
}

#[test]
fn a_halt_of_a_chain_that_goes_on_is_refused() {
    four().kill("a", &[0], HELD).halt("a", 5).refused(
        1,
        CONTRADICTION,
        "`expect.halt` cannot come true: once `a` is on, the chain goes on: 30 of 40 is more than two thirds (26.7), with `a` on",
        "expect progress instead, or strike more",
    );
    // Two faults make the halt: it begins with the second.
    let two = || four().kill("a", &[0], HELD).on("b", FaultKind::Pause, &[1], HELD);
    two().halt("b", 5).fine();
    two().halt("a", 5).refused(
        2,
        CONTRADICTION,
        "`expect.halt` cannot come true: once `a` is on, the chain goes on: 30 of 40 is more than two thirds (26.7), with `a` on",
        "it is `b` that completes the halt: `of = \"b\"`",
    );
    two().halt("b", 5).heal(&["b"]).progress(3, 10).recovery("b", 10).fine();
    two().halt("b", 5).heal(&["a"]).progress(3, 10).fine();
}

#[test]
fn power_decides_and_not_the_number() {
    let unequal = || mesh(&[40, 30, 20, 10]);
    unequal().kill("a", &[2, 3], HELD).progress(5, 10).fine();
    unequal().kill("a", &[0], HELD).halt("a", 5).fine();
    unequal().kill("a", &[1, 3], HELD).codes(&[(0, UNDECLARED_HALT)]);
}

#[test]
fn a_full_node_relays_between_the_sides() {
    let star = || mesh(&[10, 10, 10, 10, 0]).links(&[(0, 4), (1, 4), (2, 4), (3, 4)]);
    star().progress(5, 10).fine();
    star()
        .on("hub", FaultKind::Isolate { plane: Plane::P2p }, &[4], HELD)
        .halt("hub", 5)
        .fine();
    star().kill("hub", &[4], HELD).codes(&[(0, UNDECLARED_HALT)]);
    star()
        .split("leaf", &[&[0], &[1, 2, 3, 4]], HELD)
        .progress(5, 10)
        .fine();
    four().split("even", &[&[0, 1], &[2, 3]], HELD).halt("even", 5).fine();
    four()
        .split("even", &[&[0, 1], &[2, 3]], HELD)
        .codes(&[(0, UNDECLARED_HALT)]);
}

#[test]
fn a_halt_watched_for_longer_than_the_fault_is_refused() {
    four().kill("a", &[0, 1], lasts(5)).halt("a", 10).refused(
        1,
        HALT_OUTLASTS_FAULT,
        "`expect.halt` may outlast `a`, which lasts 5s: the halt is watched until 10.5s after that began \
         (500ms for a block under way, 10s of watching); 40 of 40 is more than two thirds (26.7)",
        "let `a` last at least 10.5s, or watch for at most 4.5s",
    );
    let watch = |ms: u64| {
        four()
            .kill("a", &[0, 1], lasts(5))
            .expect(What::Halt { of: "a".into() }, Window::For(Ms(ms)))
    };
    watch(4500).fine();
    watch(4501).codes(&[(1, HALT_OUTLASTS_FAULT)]);
    // The step between may take nothing or all of its time.
    let between = |seconds| {
        let peers = Bounds {
            at_least: Some(1),
            at_most: None,
        };
        four()
            .kill("a", &[0, 1], lasts(20))
            .expect(What::Peers(peers), Window::Within(secs(seconds)))
            .halt("a", 10)
    };
    between(9).fine();
    between(10).refused(
        2,
        HALT_OUTLASTS_FAULT,
        "`expect.halt` may outlast `a`, which lasts 20s: the halt is watched until 20.5s after that began \
         (up to 10s for the steps in between, 500ms for a block under way, 10s of watching); \
         `a` may or may not be on: with it 20 of 40 is not more than two thirds (26.7); \
         without it 40 of 40 is more than two thirds (26.7)",
        "let `a` last at least 20.5s, or watch for at most 9.5s",
    );
    four().kill("a", &[0, 1], lasts(20)).wait(9).halt("a", 10).fine();
    four()
        .kill("a", &[0, 1], lasts(20))
        .wait(15)
        .halt("a", 10)
        .codes(&[(2, HALT_OUTLASTS_FAULT)]);
}

#[test]
fn overlapping_faults_add_up_while_both_are_certainly_on() {
    // While b is injected, some of a's time passes.
    let both = |a| {
        four()
            .kill("a", &[0], Lasts::For(secs(a)))
            .kill("b", &[1], HELD)
            .halt("b", 5)
    };
    both(11).fine();
    both(10).codes(&[(2, HALT_OUTLASTS_FAULT)]);
    both(4).codes(&[(2, HALT_OUTLASTS_FAULT)]);
    // Nobody knows whether a is over, but it is in time for the progress; the halt that may be is nobody's contradiction.
    four()
        .kill("a", &[0], lasts(5))
        .wait(3)
        .kill("b", &[1], lasts(5))
        .progress(5, 30)
        .fine();
    four()
        .kill("a", &[0], lasts(5))
        .wait(5)
        .kill("b", &[1], HELD)
        .progress(5, 30)
        .fine();
}

#[test]
fn f_nodes_may_fail_twice_with_a_recovery_between() {
    let twice = four()
        .kill("a", &[0], lasts(60))
        .recovery("a", 90)
        .kill("b", &[1], HELD)
        .progress(5, 10);
    twice.fine();
    let unhealed = four().kill("a", &[0], HELD).kill("b", &[1], HELD).progress(5, 10);
    unhealed.codes(&[(1, UNDECLARED_HALT), (2, CONTRADICTION)]);
    four()
        .kill("a", &[0], HELD)
        .heal(&["a"])
        .kill("b", &[1], HELD)
        .progress(5, 10)
        .fine();
    four()
        .kill("a", &[0], HELD)
        .start(&[0])
        .kill("b", &[1], HELD)
        .progress(5, 10)
        .fine();
    // Without the recovery, a may still be on.
    four()
        .kill("a", &[0], lasts(60))
        .progress(1, 90)
        .kill("b", &[1], HELD)
        .progress(5, 10)
        .refused(
            3,
            UNDETERMINED,
            "`expect.progress` may or may not come true: the network may not go on in its time: \
         `a` may or may not be on: with it 20 of 40 is not more than two thirds (26.7); \
         without it 30 of 40 is more than two thirds (26.7), with `b` on",
            "put `heal = [\"a\", \"b\"]` before this step, wait for its end by `expect.recovery`, or allow more time",
        );
}

#[test]
fn a_start_ends_a_kill_for_the_nodes_that_it_names() {
    let half = four().kill("a", &[0, 1], HELD).halt("a", 5).start(&[1]);
    half.progress(5, 10).fine();
    let pause = four().on("a", FaultKind::Pause, &[0, 1], HELD).halt("a", 5).start(&[1]);
    pause.progress(5, 10).codes(&[(3, CONTRADICTION)]);
    let recovery = four()
        .kill("a", &[0, 1], HELD)
        .halt("a", 5)
        .start(&[1])
        .recovery("a", 10);
    recovery.codes(&[(3, RECOVERY_IMPOSSIBLE)]);
    four()
        .kill("a", &[0, 1], HELD)
        .halt("a", 5)
        .start(&[1, 0])
        .recovery("a", 10)
        .fine();
}

#[test]
fn progress_needs_time_after_a_halt() {
    let then = |blocks, seconds| {
        four()
            .kill("a", &[0, 1], lasts(20))
            .halt("a", 5)
            .progress(blocks, seconds)
    };
    then(5, 30).fine();
    then(5, 10).refused(
        2,
        CONTRADICTION,
        "`expect.progress` cannot come true: the network must halt for all of its time: \
         20 of 40 is not more than two thirds (26.7), with `a` on",
        "put `heal = [\"a\"]` before this step, or expect the halt instead",
    );
    // The halt takes 5 s to 5.5 s of a's 20 s, so that 14.5 s to 15 s are left of it.
    then(2, 16).fine();
    then(3, 16).refused(
        2,
        UNDETERMINED,
        "`expect.progress` may or may not come true: it needs at least 1.5s, and of its 16s the network goes on for 1s at worst: \
         `a` may or may not be on: with it 20 of 40 is not more than two thirds (26.7); \
         without it 40 of 40 is more than two thirds (26.7)",
        "put `heal = [\"a\"]` before this step, wait for its end by `expect.recovery`, or allow more time",
    );
    then(4, 16).codes(&[(2, CONTRADICTION)]);
    then(1, 15).codes(&[(2, UNDETERMINED)]);
}

#[test]
fn a_height_that_is_known_needs_no_growth() {
    let halted = |at_least| {
        four()
            .height(5, 30)
            .progress(5, 10)
            .kill("a", &[0, 1], HELD)
            .halt("a", 5)
            .height(at_least, 10)
    };
    halted(10).fine();
    halted(11).codes(&[(4, CONTRADICTION)]);
    let waited = |at_least| {
        four()
            .wait(1)
            .when(When::Height {
                height: 20,
                within: secs(30),
            })
            .kill("a", &[0, 1], HELD)
            .halt("a", 5)
            .height(at_least, 10)
    };
    waited(20).fine();
    waited(21).codes(&[(3, CONTRADICTION)]);
}

#[test]
fn transactions_and_nodes_that_fall_behind_need_growth() {
    let halted = || four().kill("a", &[0, 1], HELD).halt("a", 5);
    halted()
        .expect(What::Tx { of: "tx".into() }, Window::Within(secs(5)))
        .codes(&[(2, CONTRADICTION)]);
    let lag = |at_least, at_most| What::Lag(Bounds { at_least, at_most });
    halted()
        .expect(lag(Some(3), None), Window::Within(secs(5)))
        .codes(&[(2, CONTRADICTION)]);
    halted().expect(lag(None, Some(3)), Window::Within(secs(5))).fine();
    four()
        .kill("a", &[0], HELD)
        .expect(lag(Some(3), None), Window::Within(secs(5)))
        .fine();
}

/// What the platform ends may be over at once, or only at the limit of the start.
#[test]
fn what_the_platform_ends_is_possibly_on() {
    let platform = |nodes: &[usize]| {
        let mut draft = four();
        draft.0.backend = crate::model::BackendKind::Kubernetes;
        draft.0.limits.start = secs(60);
        draft.kill("a", nodes, Lasts::Platform)
    };
    platform(&[0]).progress(5, 30).fine();
    platform(&[0]).recovery("a", 20).progress(5, 30).fine();
    platform(&[0]).heal(&["a"]).recovery("a", 20).fine();
    // Half of the power may be back at once, or may not.
    platform(&[0, 1]).progress(5, 30).codes(&[(1, UNDETERMINED)]);
    platform(&[0, 1]).recovery("a", 20).progress(5, 30).fine();
    platform(&[0, 1]).heal(&["a"]).progress(5, 30).fine();
    platform(&[0, 1]).wait(70).progress(5, 30).fine();
    platform(&[0, 1]).halt("a", 5).codes(&[(1, UNDETERMINED)]);
    // Beside another fault: what is in the way of the others may be in the way of the whole recovery.
    platform(&[0]).kill("b", &[1], lasts(300)).recovery("a", 20).fine();
    platform(&[0])
        .kill("b", &[1, 2], lasts(30))
        .recovery("a", 20)
        .codes(&[(1, UNDECLARED_HALT), (2, UNDETERMINED)]);
    // A deletion is the platform's also where it is not said.
    let delete = FaultKind::Remove(crate::model::Removal::Force);
    four()
        .on("a", delete.clone(), &[0, 1], Lasts::Platform)
        .recovery("a", 20)
        .progress(5, 30)
        .fine();
    four()
        .on("a", delete, &[0, 1], Lasts::Platform)
        .progress(5, 30)
        .codes(&[(1, UNDETERMINED)]);
}

/// What does not outlast a restart is certain only as long as nobody has others take the places of its targets.
#[test]
fn what_is_dropped_is_possibly_on_from_the_replacement() {
    let delete = FaultKind::Remove(crate::model::Removal::Force);
    let dropping = |mut draft: Draft| {
        if let Action::Fault(fault) = &mut draft.last().action {
            fault.on_restart = crate::model::OnRestart::Drop;
        }
        draft
    };
    let cut = || four().split("cut", &[&[0, 1], &[2, 3]], HELD);
    let gone = |draft: Draft| draft.on("gone", delete.clone(), &[0], Lasts::Platform);
    dropping(cut()).halt("cut", 5).fine();
    gone(dropping(cut()).halt("cut", 5)).fine();
    // One that goes on does so also in the pod that comes next.
    gone(cut()).halt("cut", 5).fine();
    gone(dropping(cut())).halt("cut", 5).codes(&[(2, UNDETERMINED)]);
    gone(dropping(cut()).halt("cut", 5))
        .progress(5, 30)
        .codes(&[(3, UNDETERMINED)]);
    gone(dropping(cut()).halt("cut", 5))
        .heal(&["cut"])
        .progress(5, 30)
        .fine();
    // Where all of its targets are replaced it is over, and can be seen to be.
    let lone = |nodes: &[usize]| {
        let isolate = FaultKind::Isolate {
            plane: crate::model::Plane::P2p,
        };
        dropping(four().on("lone", isolate, nodes, HELD))
    };
    gone(lone(&[0])).recovery("lone", 20).fine();
    gone(lone(&[0]))
        .wait(10)
        .kill("dead", &[1], HELD)
        .recovery("gone", 20)
        .fine();
    gone(lone(&[0, 1]).halt("lone", 5))
        .recovery("lone", 20)
        .codes(&[(3, RECOVERY_IMPOSSIBLE)]);
    // The kill of a process leaves it its container.
    dropping(cut()).kill("dead", &[0], HELD).halt("cut", 5).fine();
    // What may come back any moment ends it at once, what has come back does not.
    let before = || four().on("gone", delete.clone(), &[0], Lasts::Platform);
    dropping(before().split("cut", &[&[0, 1], &[2, 3]], HELD))
        .halt("cut", 5)
        .codes(&[(2, UNDETERMINED)]);
    dropping(before().recovery("gone", 20).split("cut", &[&[0, 1], &[2, 3]], HELD))
        .halt("cut", 5)
        .fine();
}

/// A drained node is away, or on another machine.
#[test]
fn what_is_drained_is_possibly_down() {
    let drained = |nodes: &[usize]| four().on("a", FaultKind::Drain, nodes, HELD);
    drained(&[0]).progress(5, 30).fine();
    drained(&[0]).progress(5, 30).heal(&["a"]).recovery("a", 20).fine();
    drained(&[0, 1]).progress(5, 30).codes(&[(1, UNDETERMINED)]);
    drained(&[0, 1]).halt("a", 5).codes(&[(1, CONTRADICTION)]);
    drained(&[0]).recovery("a", 20).codes(&[(1, RECOVERY_IMPOSSIBLE)]);
    let off = four().on("a", FaultKind::Machine(crate::model::Outage::Stop), &[0, 1], HELD);
    off.halt("a", 5).fine();
    drained(&[0])
        .kill("b", &[1], HELD)
        .progress(5, 30)
        .codes(&[(2, UNDETERMINED)]);
}

#[test]
fn a_recovery_needs_the_end_of_its_fault() {
    four().kill("a", &[0], HELD).recovery("a", 20).refused(
        1,
        RECOVERY_IMPOSSIBLE,
        "`a` cannot have recovered: nothing ends it before this step",
        "put `heal = [\"a\"]` before this step",
    );
    four().kill("a", &[0], HELD).heal(&["a"]).recovery("a", 20).fine();
    four()
        .kill("a", &[0], Lasts::Platform)
        .recovery("a", 20)
        .codes(&[(1, RECOVERY_IMPOSSIBLE)]);
    four().kill("a", &[0], lasts(60)).wait(10).recovery("a", 20).refused(
        2,
        RECOVERY_IMPOSSIBLE,
        "`a` cannot have recovered within 20s: it lasts 1m, at least 50s of it from here on",
        "heal `a` before this step, let it end earlier, or allow more time",
    );
    four().kill("a", &[0], lasts(30)).progress(5, 30).recovery("a", 20).refused(
        2,
        UNDETERMINED,
        "`a` may not have recovered within 20s: it lasts 30s, up to 30s of it from here on if the steps before are quick",
        "heal `a` before this step, let it end earlier, or allow more time",
    );
    four()
        .kill("a", &[0], lasts(10))
        .recovery("a", 10)
        .codes(&[(1, RECOVERY_IMPOSSIBLE)]);
    let tight = |ms| {
        four()
            .kill("a", &[0], lasts(10))
            .expect(What::Recovery { of: "a".into() }, Window::Within(Ms(ms)))
    };
    tight(10_400).codes(&[(1, CONTRADICTION)]);
    tight(10_500).fine();
    // The network has to go on, too.
    let other = four()
        .kill("a", &[0], lasts(1))
        .kill("b", &[1, 2], HELD)
        .halt("b", 5)
        .recovery("a", 20);
    other.codes(&[(3, CONTRADICTION)]);
    // Faults that do nothing to the quorum end all the same.
    let delay = FaultKind::Delay {
        links: vec![("node-0".into(), "node-1".into())],
        latency: Ms(100),
        jitter: Ms(0),
        each: Vec::new(),
    };
    four()
        .on("slow", delay.clone(), &[0, 1], HELD)
        .progress(5, 10)
        .recovery("slow", 10)
        .codes(&[(2, RECOVERY_IMPOSSIBLE)]);
    four().on("slow", delay, &[0, 1], lasts(5)).recovery("slow", 10).fine();
}

#[test]
fn leaders_count_by_the_worst_and_the_best() {
    four()
        .leader("a", FaultKind::Pause, &[0, 1, 2, 3])
        .progress(5, 10)
        .fine();
    mesh(&[40, 30, 20, 10]).leader("a", FaultKind::Kill, &[0, 1, 2, 3]).progress(5, 10).refused(
        0,
        UNDETERMINED,
        "nobody can say whether the chain goes on from here: at worst 60 of 100 is not more than two thirds (66.7), \
         at best 90 of 100 is more than two thirds (66.7), depending on which nodes fail, with `a` on",
        "strike few enough nodes that it must go on whatever happens, or so many that it must halt",
    );
    let isolate = FaultKind::Isolate { plane: Plane::P2p };
    four()
        .leader("a", isolate.clone(), &[0, 1, 2, 3])
        .progress(5, 10)
        .fine();
    four()
        .kill("b", &[3], HELD)
        .leader("a", isolate.clone(), &[0, 1, 2])
        .halt("a", 5)
        .fine();
    // A quorum by itself may be isolated, or not.
    mesh(&[90, 5, 5])
        .leader("a", isolate.clone(), &[0, 1])
        .progress(5, 10)
        .codes(&[(1, UNDETERMINED)]);
    mesh(&[10]).leader("a", isolate, &[0]).progress(5, 10).fine();
}

#[test]
fn misbehaving_power_is_neither_up_nor_down() {
    let how = |byzantine| FaultKind::Misbehave {
        how: "stall".into(),
        byzantine,
    };
    four().on("a", how(true), &[0], HELD).progress(5, 10).fine();
    four()
        .on("a", how(true), &[0, 1], HELD)
        .progress(5, 10)
        .codes(&[(0, UNDETERMINED)]);
    four().on("a", how(false), &[0, 1], HELD).progress(5, 10).fine();
    four()
        .on("a", how(true), &[0], HELD)
        .kill("b", &[1], HELD)
        .progress(5, 10)
        .codes(&[(1, UNDETERMINED)]);
    four()
        .on("a", how(true), &[0], HELD)
        .kill("b", &[1, 2], HELD)
        .halt("b", 5)
        .fine();
    four().leader("a", how(true), &[0, 1, 2, 3]).progress(5, 10).fine();
    // A leader that misbehaves may still vote: no halt is certain.
    four()
        .leader("a", how(true), &[0, 1, 2, 3])
        .kill("b", &[1], HELD)
        .halt("b", 5)
        .codes(&[(2, CONTRADICTION)]);
}

#[test]
fn undetermined_is_said_once() {
    let plan = mesh(&[40, 30, 20, 10])
        .leader("a", FaultKind::Kill, &[0, 1, 2, 3])
        .halt("a", 5)
        .progress(5, 10);
    plan.codes(&[(0, UNDETERMINED)]);
    let again = mesh(&[40, 30, 20, 10])
        .leader("a", FaultKind::Kill, &[0, 1, 2, 3])
        .heal(&["a"])
        .leader("b", FaultKind::Kill, &[0, 1, 2, 3]);
    again.codes(&[(0, UNDETERMINED), (2, UNDETERMINED)]);
}

#[test]
fn nodes_that_start_later_are_down_until_then() {
    let late = || four().manual(&[3]);
    late().kill("a", &[0], HELD).refused(
        0,
        UNDECLARED_HALT,
        "`a` halts the chain, and nothing says so before it can end: 20 of 40 is not more than two thirds (26.7), \
         with `a` on and `node-3` not started",
        "put `expect.halt = { of = \"a\", for = \"5s\" }` right after it, or strike less",
    );
    late()
        .kill("a", &[0], HELD)
        .halt("a", 5)
        .start(&[3])
        .progress(5, 10)
        .fine();
    late().start(&[3]).kill("a", &[0], HELD).progress(5, 10).fine();
    four().manual(&[2, 3]).start(&[2, 3]).progress(5, 10).refused(
        0,
        CONTRADICTION,
        "the network never gets ready: 20 of 40 is not more than two thirds (26.7), with `node-2` and `node-3` not started",
        "let nodes with more of the voting power start by themselves (`start = \"auto\"`)",
    );
    mesh(&[10, 10, 10, 10, 0])
        .manual(&[4])
        .progress(5, 10)
        .start(&[4])
        .fine();
}

#[test]
fn powers_change_from_their_transaction_on() {
    // 30 of 50, while the new validator is not up.
    four().kill("a", &[0], HELD).power(1, 30).progress(5, 10).fine();
    let halts = four().kill("a", &[0], HELD).power(0, 30);
    halts.refused(
        1,
        UNDECLARED_HALT,
        "this step halts the chain, and nothing says so before it can end: 30 of 60 is not more than two thirds (40), \
         with `a` on",
        "have more of the voting power up before it, or change the powers less",
    );
    four().power(0, 0).kill("a", &[0], HELD).progress(5, 10).fine();
    four().power(0, 0).kill("a", &[1], HELD).halt("a", 5).fine();
    // Seen from a background step, the transaction may be through at once.
    let background = four()
        .progress(5, 60)
        .background("grow")
        .kill("a", &[0], HELD)
        .power(0, 30);
    background.codes(&[(0, UNDETERMINED), (2, UNDECLARED_HALT)]);
}

#[test]
fn a_restart_is_over_with_its_step() {
    let restart = |draft: Draft| draft.on("r", FaultKind::Restart, &[0, 1, 2, 3], Lasts::Itself);
    restart(four()).progress(5, 10).recovery("r", 10).fine();
    assert_eq!(restart(four()).sums()[0].0, Forecast::MustHalt);
    restart(four())
        .background("rolling")
        .progress(5, 30)
        .join("rolling", 30)
        .fine();
    restart(four())
        .background("rolling")
        .progress(5, 5)
        .codes(&[(1, UNDETERMINED)]);
}

#[test]
fn a_background_expectation_sees_what_strikes_meanwhile() {
    let grow = |seconds| four().progress(20, seconds).background("grow");
    // 20 blocks need 10 s; the kill takes 20 s out of the middle, and the steps around it take up to 15.5 s.
    let struck = |seconds| {
        grow(seconds)
            .kill("a", &[0, 1], lasts(20))
            .halt("a", 5)
            .join("grow", 90)
    };
    struck(90).fine();
    struck(32).codes(&[(0, UNDETERMINED)]);
    struck(15).codes(&[(0, CONTRADICTION)]);
    // An expectation of the recovery cannot take itself for granted.
    let watch = |seconds| {
        four()
            .kill("a", &[0], lasts(10))
            .recovery("a", seconds)
            .background("watch")
    };
    watch(20).join("watch", 30).kill("b", &[1], HELD).progress(5, 10).fine();
    watch(5).join("watch", 30).codes(&[(1, RECOVERY_IMPOSSIBLE)]);
    // The heal comes while the recovery is awaited.
    let healed = four()
        .kill("a", &[0], HELD)
        .recovery("a", 20)
        .background("watch")
        .heal(&["a"])
        .join("watch", 30);
    healed.fine();
    let halt = four()
        .kill("a", &[0, 1], HELD)
        .halt("a", 10)
        .background("watch")
        .wait(3)
        .heal(&["a"])
        .join("watch", 30);
    halt.refused(
        1,
        CONTRADICTION,
        "`expect.halt` cannot come true: after step 4 the chain need not halt any more: \
         `a` may or may not be on: with it 20 of 40 is not more than two thirds (26.7); \
         without it 40 of 40 is more than two thirds (26.7)",
        "put the expectation before step 4",
    );
}

#[test]
fn other_steps_take_their_time() {
    let load = Action::Load(Load {
        id: "load".into(),
        rate: 10.0,
        lasts: secs(8),
        size: 10,
        nodes: names(&[0]),
    });
    four()
        .kill("a", &[0, 1], lasts(20))
        .step(load.clone())
        .halt("a", 10)
        .fine();
    four()
        .kill("a", &[0, 1], lasts(20))
        .step(load)
        .wait(3)
        .halt("a", 10)
        .codes(&[(3, HALT_OUTLASTS_FAULT)]);
    let after = four()
        .kill("a", &[0, 1], lasts(20))
        .halt("a", 10)
        .when(When::After(secs(11)));
    after.codes(&[(1, HALT_OUTLASTS_FAULT)]);
    four()
        .kill("a", &[0, 1], lasts(21))
        .halt("a", 10)
        .when(When::After(secs(11)))
        .fine();
}

#[test]
fn unknown_references_are_for_others_to_report() {
    four()
        .halt("nothing", 5)
        .recovery("nothing", 5)
        .heal(&["nothing"])
        .fine();
    four().halt("a", 5).recovery("a", 5).kill("a", &[0], HELD).fine();
}

#[test]
fn effects_follow_the_targets() {
    let plan = mesh(&[10, 10, 10, 0]).split("split", &[&[0, 3], &[1, 2]], HELD).0;
    let split = plan.fault("split").unwrap();
    let cut = |links: &[(usize, usize)]| Some(Effect::Cut(links.iter().copied().collect()));
    assert_eq!(
        effects_of(&plan, split, &names(&[0, 1, 2, 3])),
        cut(&[(0, 1), (0, 2), (1, 3), (2, 3)])
    );
    let isolate = Fault {
        kind: FaultKind::Isolate { plane: Plane::All },
        ..split.clone()
    };
    assert_eq!(
        effects_of(&plan, &isolate, &names(&[1])),
        cut(&[(0, 1), (1, 2), (1, 3)])
    );
    let kill = Fault {
        kind: FaultKind::Kill,
        ..split.clone()
    };
    assert_eq!(
        effects_of(&plan, &kill, &names(&[2])),
        Some(Effect::Down(BTreeSet::from([2])))
    );
    assert_eq!(net_of(&plan, Engine::Bft).links.len(), 6);
}

#[test]
fn a_graceful_stop_and_the_search_for_a_leader_take_longer() {
    let then = |seconds, kind: FaultKind| {
        four()
            .kill("a", &[0], lasts(seconds))
            .on("b", kind, &[1], HELD)
            .halt("b", 5)
    };
    then(11, FaultKind::Pause).fine();
    then(11, FaultKind::Stop).codes(&[(2, HALT_OUTLASTS_FAULT)]);
    then(21, FaultKind::Stop).fine();
    let leader = |seconds| {
        four()
            .kill("a", &[0], lasts(seconds))
            .leader("b", FaultKind::Pause, &[1, 2, 3])
            .halt("b", 5)
    };
    leader(40).codes(&[(2, HALT_OUTLASTS_FAULT)]);
    leader(41).fine();
}

/// As large as plans get: every pair linked, a third of the nodes at a time.
#[test]
fn large_plans_are_reckoned_too() {
    let half = |from: usize| (from..from + 127).collect::<Vec<usize>>();
    let mut draft = mesh(&[10; 254]);
    for round in 0..5 {
        let (third, split) = (format!("third-{round}"), format!("split-{round}"));
        draft = draft
            .kill(&third, &(0..84).collect::<Vec<usize>>(), lasts(5))
            .recovery(&third, 20)
            .split(&split, &[&half(0), &half(127)], HELD)
            .halt(&split, 5)
            .heal(&[&split])
            .recovery(&split, 20);
    }
    draft.fine();
    draft
        .leader("leader", FaultKind::Pause, &half(0))
        .progress(5, 10)
        .fine();
}

#[test]
fn somebody_is_left_to_look_at() {
    let behind = What::Lag(Bounds {
        at_least: None,
        at_most: Some(5),
    });
    let delay = FaultKind::Delay {
        links: Vec::new(),
        latency: Ms(60),
        jitter: Ms(10),
        each: Vec::new(),
    };
    let all: Vec<usize> = (0..4).collect();
    let slow = |nodes: &[usize], lasts: Lasts| four().on("slow", delay.clone(), nodes, lasts);
    let look = |draft: Draft, window: Window| draft.progress(5, 40).expect(behind.clone(), window);
    look(slow(&all, lasts(8)), Window::For(secs(2))).refused(
        2,
        ASKS_NOBODY,
        "this looks at the nodes that are under no fault, and every node may still be under `slow`",
        "say which are meant, as with `nodes = [\"all\"]`, or put `heal = [\"slow\"]` before this step",
    );
    look(slow(&all, HELD), Window::Within(secs(20))).codes(&[(2, ASKS_NOBODY)]);
    look(
        slow(&[0, 1], HELD).on("late", delay.clone(), &[2, 3], HELD),
        Window::Now,
    )
    .codes(&[(3, ASKS_NOBODY)]);
    // It waits for longer than the fault lasts.
    look(slow(&all, lasts(8)), Window::Within(secs(20))).fine();
    look(slow(&all[1..], lasts(8)), Window::For(secs(2))).fine();
    look(slow(&all, HELD).heal(&["slow"]), Window::For(secs(2))).fine();
    let mut named = look(slow(&all, HELD), Window::For(secs(2)));
    if let Action::Expect(expect) = &mut named.last().action {
        expect.nodes = Some(names(&all));
    }
    named.fine();
}

#[test]
fn a_recovery_is_looked_for_where_no_other_fault_is() {
    let delay = FaultKind::Delay {
        links: Vec::new(),
        latency: Ms(60),
        jitter: Ms(10),
        each: Vec::new(),
    };
    let both = |slow: &[usize], lasts: Lasts| {
        four()
            .kill("a", &[0], Lasts::UntilHealed)
            .on("slow", delay.clone(), slow, lasts)
            .heal(&["a"])
            .recovery("a", 20)
    };
    both(&[0, 1], HELD).refused(
        3,
        ASKS_NOBODY,
        "nobody is left on whom `a` could be seen to be over: until then every node of it is under `slow`",
        "put `heal = [\"slow\"]` before this step, or ask after that fault",
    );
    both(&[1, 2], HELD).fine();
    // It ends in time.
    both(&[0, 1], lasts(5)).fine();
}
