//! Faults: whom they strike, what they cut, when they end.

use std::collections::BTreeSet;

use super::{Check, Here};
use crate::model::{
    Action, ChainKind, Fault, FaultKind, Keys, Lasts, Ms, NodeName, OnRestart, Outage, Persistence, Plane, Removal,
    Targets,
};
use crate::scenario::diag::{Problem, did_you_mean, list};
use crate::scenario::explain as code;
use crate::scenario::misbehave;
use crate::scenario::raw::{self, At, Down, Ends, Latency, Selectors, Time};
use crate::scenario::select::{Live, Nodes};

/// What a step says of its targets' data.
struct Losing<'a> {
    wipe: Option<&'a At<bool>>,
    unsafe_double_sign: Option<&'a At<bool>>,
    /// Only one component is struck.
    component: bool,
}

/// A fault on whole nodes that leaves their data alone.
pub(super) fn plain(here: &Here, kind: FaultKind, targets: Targets, lasts: Lasts) -> Fault {
    Fault {
        id: here.id.clone(),
        kind,
        targets,
        lasts,
        component: None,
        wipe: false,
        on_restart: OnRestart::Reapply,
    }
}

impl Check<'_> {
    pub(super) fn kill(&mut self, here: &Here, kill: &At<raw::Kill>) -> Option<Action> {
        match kill.how.as_ref().map_or(Ends::Process, |how| how.0) {
            Ends::Process => self.kill_process(here, kill),
            pod => self.kill_pod(here, kill, pod),
        }
    }

    fn kill_process(&mut self, here: &Here, kill: &At<raw::Kill>) -> Option<Action> {
        let raw::Kill {
            nodes,
            pick,
            down,
            how: _,
            grace,
            component,
            wipe,
            refused,
            unsafe_double_sign,
            every,
            times,
            table: _,
        } = &kill.value;
        if self.plan.network.attach.is_some() {
            self.needs_supervisor("the kill of a process", &here.key);
            return None;
        }
        let mut good = true;
        if let Some(grace) = grace {
            let help = "leave `grace` out, or use `stop`, or `how = \"delete\"`";
            good = self.odd_kill(&grace.key, "a process is killed at once, without a grace", help);
        }
        if let Some(refused) = refused {
            let help = "leave it out, or say `how = \"evict\"`";
            good = self.odd_kill(&refused.key, "only an eviction can be refused", help);
        }
        let lasts = match down.as_ref().map(|down| (down.value, down)) {
            None | Some((Down::UntilStart, _)) => Some(Lasts::UntilHealed),
            Some((Down::Platform, _)) => Some(Lasts::Platform),
            Some((Down::For(time), at)) => {
                let at = At {
                    key: at.key.clone(),
                    at: at.at.clone(),
                    value: Time(time),
                };
                self.lasting(Some(&at)).map(Lasts::For)
            }
        };
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        let component = match component {
            Some(name) => self.component(name)?,
            None => None,
        };
        let losing = Losing {
            wipe: wipe.as_ref(),
            unsafe_double_sign: unsafe_double_sign.as_ref(),
            component: component.is_some(),
        };
        let (targets, lasts) = (targets?, lasts?);
        let wipe = self.loss(here, &FaultKind::Kill, lasts, &targets, &losing)?;
        let fault = Fault {
            component,
            wipe,
            ..plain(here, FaultKind::Kill, targets, lasts)
        };
        let again = self.again(here, (every.as_ref(), times.as_ref()), &fault)?;
        good.then(|| self.repeated(fault, again))
    }

    /// Deletes or evicts pods; the platform makes new ones.
    fn kill_pod(&mut self, here: &Here, kill: &At<raw::Kill>, ends: Ends) -> Option<Action> {
        let raw::Kill {
            nodes,
            pick,
            down,
            how,
            grace,
            component,
            wipe,
            refused,
            unsafe_double_sign,
            every,
            times,
            table: _,
        } = &kill.value;
        let how = how.as_ref()?;
        if self.options.capabilities.lacks.contains_key("pods") {
            let word = self.source.get(how.at.clone()).unwrap_or_default();
            let shown = format!("how = {word}");
            self.not_offered_as("pods", &shown, &how.at);
            return None;
        }
        let mut good = true;
        if let Some(down) = down.as_ref().filter(|down| down.value != Down::Platform) {
            let help = "leave `down` out; to hold a node down, kill its process (`how = \"process\"`)";
            good = self.odd_kill(
                &down.key,
                "nothing holds a pod down: the platform makes a new one at once",
                help,
            );
        }
        if let Some(component) = component {
            let help = "leave `component` out, or kill its process (`how = \"process\"`)";
            good = self.odd_kill(&component.key, "a pod goes with all its components", help);
        }
        let removal = match ends {
            Ends::Pod => self.pod_grace(grace.as_ref()).map(|grace| Removal::Delete { grace }),
            Ends::PodByForce => Some(Removal::Force),
            _ => Some(Removal::Evict),
        };
        if let Some(grace) = grace
            && ends != Ends::Pod
        {
            let help = "leave `grace` out, or say `how = \"delete\"`";
            good = self.odd_kill(&grace.key, "only a deletion takes a grace", help);
        }
        let refuses = refused.as_ref().is_some_and(|refused| refused.value);
        if let Some(refused) = refused
            && ends != Ends::PodByEviction
        {
            let help = "leave it out, or say `how = \"evict\"`";
            good = self.odd_kill(&refused.key, "only an eviction can be refused", help);
        }
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref())?;
        if refuses {
            let Targets::Nodes(nodes) = targets else {
                let at = pick.as_ref().map_or(&here.key, |pick| &pick.at);
                self.odd_kill(
                    at,
                    "a refused eviction strikes nobody, so there is no leader to find",
                    "name the nodes",
                );
                return None;
            };
            if let Some(wipe) = wipe {
                good = self.odd_kill(&wipe.key, "a refused eviction takes no data", "leave `wipe` out");
            }
            if let Some(key) = every.as_ref().map(|at| &at.key).or(times.as_ref().map(|at| &at.key)) {
                good = self.odd_kill(key, "a refused eviction is no fault to repeat", "leave it out");
            }
            return good.then_some(Action::Evict { nodes, drain: false });
        }
        let kind = FaultKind::Remove(removal?);
        let losing = Losing {
            wipe: wipe.as_ref(),
            unsafe_double_sign: unsafe_double_sign.as_ref(),
            component: false,
        };
        let wipe = self.loss(here, &kind, Lasts::Platform, &targets, &losing)?;
        let fault = Fault {
            wipe,
            ..plain(here, kind, targets, Lasts::Platform)
        };
        let again = self.again(here, (every.as_ref(), times.as_ref()), &fault)?;
        good.then(|| self.repeated(fault, again))
    }

    /// The grace of a deletion: whole seconds, at least one. `None`: a problem was reported.
    #[expect(
        clippy::option_option,
        reason = "outside: whether a problem was reported; inside: the plan's own option"
    )]
    fn pod_grace(&mut self, grace: Option<&At<Time>>) -> Option<Option<Ms>> {
        let Some(grace) = grace else { return Some(None) };
        let Ms(millis) = grace.value.0;
        if millis == 0 {
            let help = "say `how = \"force-delete\"` if that is meant: it can run one validator twice";
            self.odd_kill(
                &grace.at,
                "a grace of zero deletes by force, which is a fault of its own",
                help,
            );
            return None;
        }
        if !millis.is_multiple_of(1000) {
            self.odd_kill(
                &grace.at,
                "Kubernetes counts a grace in whole seconds",
                "for example \"1s\"",
            );
            return None;
        }
        self.time(Some(grace), Ms::secs(1), Ms::secs(300)).map(Some)
    }

    /// Complains about parts of a `kill` that do not go together; `false`, for the sake of the callers.
    fn odd_kill(&mut self, at: &std::ops::Range<usize>, message: &str, help: &str) -> bool {
        let _: Option<()> = self.odd(code::KILL, at, message, "does not go with the rest", help);
        false
    }

    /// A component that the nodes have; `Some(None)`: their only one, which is the whole node.
    #[expect(
        clippy::option_option,
        reason = "outside: whether a problem was reported; inside: the plan's own option"
    )]
    fn component(&mut self, name: &At<String>) -> Option<Option<String>> {
        let known = self.adapter?.components(&self.plan.network);
        if known.contains(&name.value.as_str()) {
            return Some((known.len() > 1).then(|| name.value.clone()));
        }
        let problem = Problem::new(
            code::KILL,
            &name.at,
            format!("the nodes have no component `{}`", name.value),
        )
        .label("unknown component")
        .help(did_you_mean(name, known));
        self.problems.push(problem);
        None
    }

    /// Whether the data of the targets go with them, and whether the file says so knowingly. `None`: a problem was reported.
    fn loss(
        &mut self,
        here: &Here,
        kind: &FaultKind,
        lasts: Lasts,
        targets: &Targets,
        losing: &Losing<'_>,
    ) -> Option<bool> {
        let network = &self.plan.network;
        let wipe = losing.wipe.filter(|wipe| wipe.value);
        let validators: Vec<&str> = targets
            .nodes()
            .iter()
            .filter(|name| self.plan.node_index(name).is_some_and(|node| self.powers[node] > 0))
            .map(String::as_str)
            .collect();
        let voting = list(&validators, 6);
        let meant = losing.unsafe_double_sign.is_some_and(|meant| meant.value);
        let left_to_platform = *kind == FaultKind::Kill && lasts == Lasts::Platform;
        let removed = matches!(kind, FaultKind::Remove(_) | FaultKind::Drain);
        let kept = network.persistence;
        let ephemeral = kept.is_lost(removed);
        let at = wipe.map_or(&here.key, |wipe| &wipe.key);
        let (message, help) = match wipe {
            _ if left_to_platform && (ephemeral || wipe.is_some()) => (
                "nobody can empty the volumes of a process that is left to the platform: nothing comes between its end and its start".to_owned(),
                "hold it down (`down = \"5s\"`), delete the pod (`how = \"delete\"`), or use `persistence = \"volume\"` without `wipe`",
            ),
            _ if losing.component && (ephemeral || wipe.is_some()) => (
                "the data belong to the whole node, whose other components go on".to_owned(),
                "kill the whole node, or use `persistence = \"volume\"` without `wipe`",
            ),
            None if ephemeral => (
                format!(
                    "`{}` takes the nodes' data with it, since persistence is \"{}\", and the step does not say so",
                    here.word,
                    kept.word()
                ),
                "add `wipe = true`, or use `persistence = \"volume\"`",
            ),
            Some(_) if removed && !ephemeral => (
                "the volume of a node outlives its pod, so a deletion of the pod cannot remove the data".to_owned(),
                "leave `wipe` out; or kill the process with `wipe = true`; or use `persistence = \"ephemeral\"`",
            ),
            Some(_) if network.keys == Keys::InPlace && !validators.is_empty() => (
                format!("the only copy of a key goes with the data: {voting}"),
                "leave validators out, or use `keys = \"seed\"`",
            ),
            Some(_) if !validators.is_empty() && !meant => (
                format!("a validator without its data has forgotten what it signed and may sign twice: {voting}"),
                "strike nodes that do not vote; or add `unsafe_double_sign = true` if that is what is to be tried",
            ),
            None if meant => (
                "`unsafe_double_sign` is about `wipe`, which is not said".to_owned(),
                "leave it out, or add `wipe = true`",
            ),
            _ => return Some(wipe.is_some()),
        };
        let problem = Problem::new(code::WIPE, at, message)
            .label("data is lost here")
            .help(help);
        self.problems.push(problem);
        None
    }

    pub(super) fn pause(&mut self, here: &Here, fault: &At<raw::Lasting>) -> Option<Action> {
        let raw::Lasting {
            nodes,
            pick,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &fault.value;
        let lasts = self.until(lasts.as_ref());
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        if let Some(said) = on_restart.as_ref().filter(|said| said.0 == OnRestart::Reapply) {
            let message = "a pause does not go on in another container: nobody halts the processes there";
            let help = "leave `on_restart` out, or say \"drop\"; to hold a node down, `kill` it";
            return self.odd(code::ON_RESTART, &said.at, message, "not of a pause", help);
        }
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, FaultKind::Pause, targets?, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn drain(&mut self, here: &Here, drain: &At<raw::Drain>) -> Option<Action> {
        let raw::Drain {
            nodes,
            pick,
            r#for: lasts,
            refused,
            wipe,
            unsafe_double_sign,
            table: _,
        } = &drain.value;
        let (targets, mut good) = self.machines(here, nodes.as_ref(), pick.as_ref())?;
        let ends = self.until(lasts.as_ref());
        if refused.as_ref().is_some_and(|refused| refused.value) {
            for at in [lasts.as_ref().map(|at| &at.key), wipe.as_ref().map(|at| &at.key)]
                .into_iter()
                .flatten()
            {
                good = self.odd_machines(at, "a refused drain strikes nobody", "leave it out, or `refused`");
            }
            let nodes = targets.nodes().to_vec();
            return good.then_some(Action::Evict { nodes, drain: true });
        }
        let losing = Losing {
            wipe: wipe.as_ref(),
            unsafe_double_sign: unsafe_double_sign.as_ref(),
            component: false,
        };
        let fault = self.losing(here, FaultKind::Drain, targets, ends?, &losing)?;
        good.then(|| self.fault(fault))
    }

    pub(super) fn machine(&mut self, here: &Here, machine: &At<raw::Machine>) -> Option<Action> {
        let raw::Machine {
            how,
            nodes,
            pick,
            r#for: lasts,
            table: _,
        } = &machine.value;
        let (targets, good) = self.machines(here, nodes.as_ref(), pick.as_ref())?;
        let ends = self.until(lasts.as_ref());
        let outage = how.as_ref()?.0;
        if outage == Outage::Stop && self.plan.network.persistence == Persistence::Memory {
            let message = "volumes of memory go with a machine that is off, and a validator with what it signed";
            self.odd_machines(
                &here.key,
                message,
                "use `persistence = \"volume\"`, or `how = \"pause\"`",
            );
            return None;
        }
        let fault = plain(here, FaultKind::Machine(outage), targets, ends?);
        good.then(|| self.fault(fault))
    }

    /// The nodes whose machines are struck, and whether all is well besides: they are placed before the run.
    fn machines(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        pick: Option<&At<String>>,
    ) -> Option<(Targets, bool)> {
        if self.options.capabilities.lacks.contains_key("machines") {
            self.not_offered_as("machines", here.word, &here.key);
            return None;
        }
        let mut good = true;
        if self.plan.network.keys == Keys::InPlace {
            let help = "use `keys = \"seed\"`, or strike the pods (`kill` with `how`)";
            let message =
                "where keys are made in place, volumes are bound before the pods can have machines of their own";
            good = self.odd_machines(&here.key, message, help);
        }
        let targets = self.targets(here, nodes, pick)?;
        if matches!(targets, Targets::Leader { .. }) {
            let at = pick.map_or(&here.key, |pick| &pick.at);
            let message = "nodes get machines of their own before the run, when nobody knows who will lead";
            self.odd_machines(at, message, "pick by number, or name the nodes");
            return None;
        }
        Some((targets, good))
    }

    /// Complains about a fault of machines; `false`, for the sake of the callers.
    fn odd_machines(&mut self, at: &std::ops::Range<usize>, message: &str, help: &str) -> bool {
        let _: Option<()> = self.odd(code::MACHINES, at, message, "not with machines", help);
        false
    }

    pub(super) fn stop(&mut self, here: &Here, fault: &At<raw::Stop>) -> Option<Action> {
        let raw::Stop {
            nodes,
            pick,
            r#for: lasts,
            wipe,
            unsafe_double_sign,
            every,
            times,
            table: _,
        } = &fault.value;
        let lasts = self.until(lasts.as_ref());
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        let losing = Losing {
            wipe: wipe.as_ref(),
            unsafe_double_sign: unsafe_double_sign.as_ref(),
            component: false,
        };
        let fault = self.losing(here, FaultKind::Stop, targets?, lasts?, &losing)?;
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn restart(&mut self, here: &Here, restart: &At<raw::Restart>) -> Option<Action> {
        let raw::Restart {
            nodes,
            pick,
            wipe,
            unsafe_double_sign,
            table: _,
        } = &restart.value;
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref())?;
        let losing = Losing {
            wipe: wipe.as_ref(),
            unsafe_double_sign: unsafe_double_sign.as_ref(),
            component: false,
        };
        let fault = self.losing(here, FaultKind::Restart, targets, Lasts::Itself, &losing)?;
        Some(self.fault(fault))
    }

    /// A fault on whole nodes that may take their data.
    fn losing(
        &mut self,
        here: &Here,
        kind: FaultKind,
        targets: Targets,
        lasts: Lasts,
        losing: &Losing<'_>,
    ) -> Option<Fault> {
        let wipe = self.loss(here, &kind, lasts, &targets, losing)?;
        Some(Fault {
            wipe,
            ..plain(here, kind, targets, lasts)
        })
    }

    pub(super) fn isolate(&mut self, here: &Here, isolate: &At<raw::Isolate>) -> Option<Action> {
        let raw::Isolate {
            nodes,
            pick,
            plane,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &isolate.value;
        let plane = self.plane(plane.as_ref());
        let lasts = self.until(lasts.as_ref());
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, FaultKind::Isolate { plane: plane? }, targets?, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn misbehave(&mut self, here: &Here, misbehave: &At<raw::Misbehave>) -> Option<Action> {
        let raw::Misbehave {
            how,
            nodes,
            pick,
            r#for: lasts,
            table: _,
        } = &misbehave.value;
        let lasts = self.until(lasts.as_ref());
        if self.adapter.is_some() && self.plan.network.chain != ChainKind::Devnode {
            let problem = Problem::new(code::NOT_OFFERED, &here.key, "only a devnode can be told to misbehave")
                .label("not on this chain")
                .help("use `chain = \"devnode\"`, or a fault from outside, such as `isolate`");
            self.problems.push(problem);
            return None;
        }
        if let Some(late) = how.as_ref().filter(|how| how.starts_with("slow-start")) {
            let problem = Problem::new(code::MISBEHAVE, &late.at, "a devnode that runs has started already")
                .label("only at a start")
                .help("say it in the configuration: `config = { misbehave = \"slow-start=3s\" }`");
            self.problems.push(problem);
            return None;
        }
        let how = how.as_ref().and_then(|how| match misbehave::byzantine(how) {
            Ok(byzantine) => Some(FaultKind::Misbehave {
                how: how.value.clone(),
                byzantine,
            }),
            Err((message, help)) => {
                self.problems.push(
                    Problem::new(code::MISBEHAVE, &how.at, message)
                        .label("unknown misbehaviour")
                        .help(help),
                );
                None
            }
        });
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        let fault = plain(here, how?, targets?, lasts?);
        Some(self.fault(fault))
    }

    pub(super) fn partition(&mut self, here: &Here, partition: &At<raw::Partition>) -> Option<Action> {
        let raw::Partition {
            sides,
            others,
            plane,
            r#for: lasts,
            direction,
            every,
            times,
            on_restart,
            table: _,
        } = &partition.value;
        let plane = self.plane(plane.as_ref());
        let lasts = self.until(lasts.as_ref());
        let one_way = direction.as_ref().filter(|direction| direction.0);
        let lacks = self.options.capabilities.lacks.contains_key("one-way");
        let offered = match one_way {
            Some(direction) if lacks => self.not_offered("one-way", &direction.at),
            _ => true,
        };
        let place = sides.as_ref()?;
        let sides = self.sides(place, others.as_ref().map(|others| others.0))?;
        if one_way.is_some() && offered && sides.len() != 2 {
            let message = format!(
                "one way is from the first side to the second, and this partition has {} sides",
                sides.len()
            );
            let problem = Problem::new(code::PARTITION, &place.at, message)
                .label("not two sides")
                .help("name two sides, and put all others on them, for example by `others = \"with-first\"`");
            self.problems.push(problem);
            return None;
        }
        let side_of = |node: usize| sides.iter().position(|side| side.contains(&node));
        let struck: Nodes = self
            .plan
            .network
            .links
            .iter()
            .filter(|(a, b)| side_of(*a) != side_of(*b))
            .flat_map(|&(a, b)| [a, b])
            .collect();
        if struck.is_empty() && self.adapter.is_some() {
            let problem = Problem::new(code::PARTITION, &partition.key, "this partition cuts no link")
                .label("nothing is cut")
                .help("put nodes that are peers on different sides");
            self.problems.push(problem);
            return None;
        }
        let kind = FaultKind::Partition {
            sides: sides.iter().map(|side| self.names(side)).collect(),
            plane: plane?,
            one_way: one_way.is_some(),
        };
        let targets = Targets::Nodes(self.names(&struck));
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, kind, targets, lasts.filter(|_| offered)?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    /// Disjoint sides that hold every node.
    fn sides(&mut self, sides: &At<Vec<At<Selectors>>>, others: Option<bool>) -> Option<Vec<Nodes>> {
        let found: Vec<Option<Nodes>> = sides.iter().map(|side| self.select(side)).collect();
        let mut found: Vec<Nodes> = found.into_iter().collect::<Option<_>>()?;
        if found.is_empty() {
            if self.sound {
                let problem = Problem::new(code::PARTITION, &sides.at, "a partition needs a side")
                    .label("no sides")
                    .help("write `sides = [[\"validator-0\"], [\"validator-1\", \"validator-2\"]]`");
                self.problems.push(problem);
            }
            return None;
        }
        let mut good = true;
        for (later, place) in sides.iter().enumerate() {
            for earlier in 0..later {
                let twice: Nodes = found[earlier].intersection(&found[later]).copied().collect();
                if twice.is_empty() {
                    continue;
                }
                good = false;
                let names = list(&self.names(&twice), 6);
                let problem = Problem::new(code::PARTITION, &place.at, format!("on two sides: {names}"))
                    .label("this side")
                    .related(&sides[earlier].at, "and this one")
                    .help("every node stands on exactly one side");
                self.problems.push(problem);
            }
        }
        let named: Nodes = found.iter().flatten().copied().collect();
        let rest: Nodes = (0..self.plan.network.nodes.len())
            .filter(|node| !named.contains(node))
            .collect();
        match others {
            _ if rest.is_empty() => {}
            Some(false) => found.extend(rest.into_iter().map(|node| Nodes::from([node]))),
            Some(true) => found[0].extend(rest),
            None => {
                let names = list(&self.names(&rest), 6);
                let problem = Problem::new(code::PARTITION, &sides.at, format!("on no side: {names}"))
                    .label("does not name every node")
                    .help("add `others = \"alone\"` (each on a side of its own) or `others = \"with-first\"`, or put them on a side");
                self.problems.push(problem);
                return None;
            }
        }
        good.then_some(found)
    }

    pub(super) fn delay(&mut self, here: &Here, delay: &At<raw::Delay>) -> Option<Action> {
        let raw::Delay {
            latency,
            nodes,
            pick,
            between,
            regions,
            jitter,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &delay.value;
        let lasts = self.until(lasts.as_ref());
        let (kind, targets) = match (latency.as_ref()?, regions) {
            (
                At {
                    value: Latency::Between(table),
                    key,
                    ..
                },
                Some(regions),
            ) => {
                let others = [
                    nodes.as_ref().map(|at| &at.key),
                    pick.as_ref().map(|at| &at.key),
                    between.as_ref().map(|at| &at.key),
                ];
                if let Some(at) = others.into_iter().flatten().next() {
                    return self.odd_regions(
                        at,
                        "`regions` names the nodes",
                        "leave `nodes`, `pick` and `between` out",
                    );
                }
                self.between_regions(regions, (key, table), jitter.as_ref())?
            }
            (
                At {
                    value: Latency::One(one),
                    key,
                    at,
                },
                None,
            ) => {
                let one = At {
                    key: key.clone(),
                    at: at.clone(),
                    value: *one,
                };
                let slow = self.time(Some(&one), Ms(1), Ms::secs(60));
                let jitter = match (jitter, slow) {
                    (Some(_), Some(slow)) => self.time(jitter.as_ref(), Ms(0), slow),
                    (Some(_), None) => None,
                    (None, _) => Some(Ms(0)),
                };
                let (links, targets) = self.pairs(here, nodes.as_ref(), pick.as_ref(), between.as_ref())?;
                let kind = FaultKind::Delay {
                    links,
                    latency: slow?,
                    jitter: jitter?,
                    each: Vec::new(),
                };
                (kind, targets)
            }
            (At { at, .. }, Some(_)) => {
                return self.odd_regions(
                    at,
                    "between regions the latency is a table",
                    "for example `latency = { eu-us = \"40ms\" }`",
                );
            }
            (At { at, .. }, None) => {
                return self.odd_regions(
                    at,
                    "a table of latencies is for regions",
                    "name them: `regions = { eu = [\"validator-0\"], us = [\"validator-1\"] }`",
                );
            }
        };
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, kind, targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn lose(&mut self, here: &Here, loss: &At<raw::Loss>) -> Option<Action> {
        let raw::Loss {
            percent,
            nodes,
            pick,
            between,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &loss.value;
        self.offered("loss", &here.key)?;
        let lasts = self.until(lasts.as_ref());
        let percent = percent.as_ref().and_then(|percent| {
            if (1.0..=90.0).contains(&percent.value) {
                return Some(percent.value);
            }
            let message = format!("`percent` is from 1 to 90, not {}", percent.value);
            let problem = Problem::new(code::OUT_OF_RANGE, &percent.at, message)
                .label("out of range")
                .help("to lose all packets, use `partition` or `isolate`");
            self.problems.push(problem);
            None
        });
        let (links, targets) = self.pairs(here, nodes.as_ref(), pick.as_ref(), between.as_ref())?;
        let kind = FaultKind::Loss {
            links,
            percent: percent?,
        };
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, kind, targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn bound(&mut self, here: &Here, bandwidth: &At<raw::Bandwidth>) -> Option<Action> {
        let raw::Bandwidth {
            rate,
            nodes,
            pick,
            between,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &bandwidth.value;
        self.offered("bandwidth", &here.key)?;
        let lasts = self.until(lasts.as_ref());
        let (links, targets) = self.pairs(here, nodes.as_ref(), pick.as_ref(), between.as_ref())?;
        let raw::Rate(rate) = rate.as_ref()?.value;
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, FaultKind::Bandwidth { links, rate }, targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    /// The links that a fault of links concerns, and its targets: all links of some nodes, or those between two sets of nodes.
    fn pairs(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        pick: Option<&At<String>>,
        between: Option<&At<Vec<At<Selectors>>>>,
    ) -> Option<(Vec<(NodeName, NodeName)>, Targets)> {
        let (links, struck) = match between {
            Some(between) => {
                if nodes.is_some() || pick.is_some() {
                    let problem = Problem::new(
                        code::WINDOW,
                        &between.key,
                        "`between` names the nodes; `nodes` and `pick` go without it",
                    )
                    .label("two ways at once")
                    .help("leave one of them out");
                    self.problems.push(problem);
                    return None;
                }
                self.links_between(between)?
            }
            None => self.links_of(here, nodes, pick)?,
        };
        if links.is_empty() && self.adapter.is_some() {
            let at = between.map_or(&here.key, |between| &between.at);
            let message = match here.word {
                "loss" => "there is no link to lose packets on",
                "bandwidth" => "there is no link to bound",
                _ => "there is no link to make slow",
            };
            let problem = Problem::new(code::EMPTY_SELECTION, at, message)
                .label("no link")
                .help("choose nodes that are peers; `trialnet plan` lists the links");
            self.problems.push(problem);
            return None;
        }
        let name = |node: usize| self.plan.network.nodes[node].name.clone();
        let links = links.iter().map(|&(a, b)| (name(a), name(b))).collect();
        Some((links, Targets::Nodes(self.names(&struck))))
    }

    /// All links of some nodes.
    fn links_of(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        pick: Option<&At<String>>,
    ) -> Option<(BTreeSet<(usize, usize)>, Nodes)> {
        let names = match self.targets(here, nodes, pick)? {
            Targets::Nodes(names) => names,
            Targets::Leader { .. } => {
                let at = pick.map_or(&here.key, |pick| &pick.at);
                let problem = Problem::new(code::PICK, at, "the links of the leader are not known beforehand")
                    .label(format!("not for `{}`", here.word))
                    .help("pick by number, or name the nodes");
                self.problems.push(problem);
                return None;
            }
        };
        let chosen: Nodes = names.iter().filter_map(|name| self.plan.node_index(name)).collect();
        let links = self
            .links()
            .filter(|(a, b)| chosen.contains(a) || chosen.contains(b))
            .collect();
        Some((links, chosen))
    }

    /// The links from one set of nodes to another.
    fn links_between(&mut self, between: &At<Vec<At<Selectors>>>) -> Option<(BTreeSet<(usize, usize)>, Nodes)> {
        let [first, second] = between.as_slice() else {
            let problem = Problem::new(
                code::WRONG_TYPE,
                &between.at,
                format!("`between` wants two lists of nodes, not {}", between.len()),
            )
            .label("two lists")
            .help("write `between = [[\"validator-0\"], [\"validator-1\", \"validator-2\"]]`");
            self.problems.push(problem);
            return None;
        };
        let (a, b) = (self.select(first), self.select(second));
        let (from, to) = (a?, b?);
        let links: BTreeSet<_> = self
            .links()
            .filter(|(a, b)| (from.contains(a) && to.contains(b)) || (from.contains(b) && to.contains(a)))
            .collect();
        let struck = links.iter().flat_map(|&(a, b)| [a, b]).collect();
        Some((links, struck))
    }

    /// Each pair of peers once, the lower index first.
    pub(super) fn links(&self) -> impl Iterator<Item = (usize, usize)> {
        let links = self.plan.network.links.iter();
        links.map(|&(a, b)| (a.min(b), a.max(b)))
    }

    fn plane(&mut self, plane: Option<&At<raw::Plane>>) -> Option<Plane> {
        let Some(plane) = plane else {
            return Some(Plane::P2p);
        };
        if plane.0 == Plane::All {
            self.offered("plane-all", &plane.at)?;
        }
        Some(plane.0)
    }

    /// What becomes of a fault when others take its targets' places. `None`: a problem was reported.
    pub(super) fn at_restart(&mut self, said: Option<&At<raw::OnRestart>>) -> Option<OnRestart> {
        let Some(said) = said else {
            return Some(OnRestart::Reapply);
        };
        if said.0 == OnRestart::Drop {
            let shown = "on_restart = \"drop\"";
            if self.options.capabilities.lacks.contains_key("on-restart") {
                self.not_offered_as("on-restart", shown, &said.at);
                return None;
            }
        }
        Some(said.0)
    }

    /// When a fault with an optional `for` ends. `None`: a problem was reported.
    pub(super) fn until(&mut self, time: Option<&At<Time>>) -> Option<Lasts> {
        match time {
            Some(_) => self.lasting(time).map(Lasts::For),
            None => Some(Lasts::UntilHealed),
        }
    }

    /// A fault that is planned and stands on the timeline from now on.
    pub(super) fn fault(&mut self, fault: Fault) -> Action {
        let names = match &fault.targets {
            Targets::Nodes(names) => names,
            Targets::Leader { among } => among,
        };
        let struck: Nodes = names.iter().filter_map(|name| self.plan.node_index(name)).collect();
        self.timeline.faults.push(Live {
            touched: self.touched(&fault, &struck),
            targets: struck,
            since: self.timeline.elapsed,
            ended: false,
            repeated: Ms(0),
            comes_back: self.plan.comes_back(&fault).then_some(self.plan.limits.start),
            fault: fault.clone(),
        });
        Action::Fault(fault)
    }

    /// The nodes that a later step without `nodes` leaves out: a slow link or a busy processor leaves nobody out, and of a partition the side with the
    /// most power is the network that goes on.
    pub(super) fn touched(&self, fault: &Fault, struck: &Nodes) -> Nodes {
        match &fault.kind {
            FaultKind::Fill(fill) if !fill.is_whole() => Nodes::new(),
            FaultKind::Delay { .. }
            | FaultKind::Loss { .. }
            | FaultKind::Bandwidth { .. }
            | FaultKind::Stress(_)
            | FaultKind::Restart
            | FaultKind::Upgrade => Nodes::new(),
            FaultKind::Partition { sides, .. } => {
                let power = |side: &[String]| -> u64 {
                    let powers = side.iter().filter_map(|name| self.plan.node_index(name));
                    powers.map(|node| self.plan.network.nodes[node].power).sum()
                };
                let most = sides.iter().map(|side| power(side)).max().unwrap_or(0);
                let strongest = sides.iter().find(|side| power(side) == most);
                let spared: Nodes = strongest
                    .into_iter()
                    .flatten()
                    .filter_map(|name| self.plan.node_index(name))
                    .collect();
                struck.difference(&spared).copied().collect()
            }
            FaultKind::Kill
            | FaultKind::Remove(_)
            | FaultKind::Drain
            | FaultKind::Machine(_)
            | FaultKind::Pause
            | FaultKind::Stop
            | FaultKind::Fill(_)
            | FaultKind::ReadOnly
            | FaultKind::Isolate { .. }
            | FaultKind::Misbehave { .. } => struck.clone(),
        }
    }
}
