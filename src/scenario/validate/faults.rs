//! Faults: whom they strike, what they cut, when they end.

use std::collections::BTreeSet;

use super::{Check, Here};
use crate::model::{Action, ChainKind, Fault, FaultKind, Lasts, Ms, Persistence, Plane, Targets};
use crate::scenario::diag::{Problem, list};
use crate::scenario::explain as code;
use crate::scenario::misbehave;
use crate::scenario::raw::{self, At, Down, Selectors, Time};
use crate::scenario::select::{Live, Nodes};

impl Check<'_> {
    pub(super) fn kill(&mut self, here: &Here, kill: &At<raw::Kill>) -> Option<Action> {
        let raw::Kill {
            nodes,
            pick,
            down,
            keys: _,
        } = &kill.value;
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
        self.fault(here, FaultKind::Kill, targets?, lasts?)
    }

    /// A pause or a stop.
    pub(super) fn on_nodes(&mut self, here: &Here, kind: FaultKind, fault: &At<raw::Lasting>) -> Option<Action> {
        let raw::Lasting {
            nodes,
            pick,
            r#for: lasts,
            keys: _,
        } = &fault.value;
        let lasts = self.until(lasts.as_ref());
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        self.fault(here, kind, targets?, lasts?)
    }

    pub(super) fn restart(&mut self, here: &Here, restart: &At<raw::Restart>) -> Option<Action> {
        let raw::Restart { nodes, pick, keys: _ } = &restart.value;
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref())?;
        self.fault(here, FaultKind::Restart, targets, Lasts::Itself)
    }

    pub(super) fn isolate(&mut self, here: &Here, isolate: &At<raw::Isolate>) -> Option<Action> {
        let raw::Isolate {
            nodes,
            pick,
            plane,
            r#for: lasts,
            keys: _,
        } = &isolate.value;
        let plane = self.plane(plane.as_ref());
        let lasts = self.until(lasts.as_ref());
        let targets = self.targets(here, nodes.as_ref(), pick.as_ref());
        self.fault(here, FaultKind::Isolate { plane: plane? }, targets?, lasts?)
    }

    pub(super) fn misbehave(&mut self, here: &Here, misbehave: &At<raw::Misbehave>) -> Option<Action> {
        let raw::Misbehave {
            how,
            nodes,
            pick,
            r#for: lasts,
            keys: _,
        } = &misbehave.value;
        let lasts = self.until(lasts.as_ref());
        if self.adapter.is_some() && self.plan.network.chain != ChainKind::Devnode {
            let problem = Problem::new(code::NOT_OFFERED, &here.key, "only a devnode can be told to misbehave")
                .label("not on this chain")
                .help("use `chain = \"devnode\"`, or a fault from outside, such as `isolate`");
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
        self.fault(here, how?, targets?, lasts?)
    }

    pub(super) fn partition(&mut self, here: &Here, partition: &At<raw::Partition>) -> Option<Action> {
        let raw::Partition {
            sides,
            others,
            plane,
            r#for: lasts,
            direction,
            keys: _,
        } = &partition.value;
        let plane = self.plane(plane.as_ref());
        let lasts = self.until(lasts.as_ref());
        let offered = match direction {
            Some(direction) if direction.0 => self.not_offered("one-way", &direction.at),
            _ => true,
        };
        let sides = self.sides(sides.as_ref()?, others.as_ref().map(|others| others.0))?;
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
        };
        let targets = Targets::Nodes(self.names(&struck));
        self.fault(here, kind, targets, lasts.filter(|_| offered)?)
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
            jitter,
            r#for: lasts,
            keys: _,
        } = &delay.value;
        let lasts = self.until(lasts.as_ref());
        let slow = self.time(latency.as_ref(), Ms(1), Ms::secs(60));
        let jitter = match (jitter, slow) {
            (Some(_), Some(slow)) => self.time(jitter.as_ref(), Ms(0), slow),
            (Some(_), None) => None,
            (None, _) => Some(Ms(0)),
        };
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
            None => self.links_of(here, nodes.as_ref(), pick.as_ref())?,
        };
        if links.is_empty() && self.adapter.is_some() {
            let at = between.as_ref().map_or(&here.key, |between| &between.at);
            let problem = Problem::new(code::EMPTY_SELECTION, at, "there is no link to make slow")
                .label("no link")
                .help("choose nodes that are peers; `trialnet plan` lists the links");
            self.problems.push(problem);
            return None;
        }
        let name = |node: usize| self.plan.network.nodes[node].name.clone();
        let kind = FaultKind::Delay {
            links: links.iter().map(|&(a, b)| (name(a), name(b))).collect(),
            latency: slow?,
            jitter: jitter?,
        };
        let targets = Targets::Nodes(self.names(&struck));
        self.fault(here, kind, targets, lasts?)
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
                    .label("not for `delay`")
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
    fn links(&self) -> impl Iterator<Item = (usize, usize)> {
        let links = self.plan.network.links.iter();
        links.map(|&(a, b)| (a.min(b), a.max(b)))
    }

    fn plane(&mut self, plane: Option<&At<raw::Plane>>) -> Option<Plane> {
        let Some(plane) = plane else {
            return Some(Plane::P2p);
        };
        if plane.0 == Plane::All && self.options.capabilities.lacks.contains_key("plane-all") {
            self.not_offered("plane-all", &plane.at);
            return None;
        }
        Some(plane.0)
    }

    /// When a fault with an optional `for` ends. `None`: a problem was reported.
    fn until(&mut self, time: Option<&At<Time>>) -> Option<Lasts> {
        match time {
            Some(_) => self.lasting(time).map(Lasts::For),
            None => Some(Lasts::UntilHealed),
        }
    }

    /// A fault that is planned and stands on the timeline from now on.
    fn fault(&mut self, here: &Here, kind: FaultKind, targets: Targets, lasts: Lasts) -> Option<Action> {
        let ends_process = matches!(kind, FaultKind::Kill | FaultKind::Stop | FaultKind::Restart);
        if ends_process && self.plan.network.persistence == Persistence::Ephemeral {
            let message = format!(
                "`{}` would take the node's data with it, since persistence is \"ephemeral\"",
                here.word
            );
            let problem = Problem::new(code::NOT_YET, &here.key, message)
                .label("loses data, which this version cannot do")
                .help("use `persistence = \"volume\"`, or a fault that leaves the process alive, such as `pause` or `isolate`");
            self.problems.push(problem);
            return None;
        }
        let fault = Fault {
            id: here.id.clone(),
            kind,
            targets,
            lasts,
        };
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
            fault: fault.clone(),
        });
        Some(Action::Fault(fault))
    }

    /// The nodes that a later step without `nodes` leaves out: a slow link leaves nobody out, and of a partition the side with the
    /// most power is the network that goes on.
    fn touched(&self, fault: &Fault, struck: &Nodes) -> Nodes {
        match &fault.kind {
            FaultKind::Delay { .. } | FaultKind::Restart => Nodes::new(),
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
            | FaultKind::Pause
            | FaultKind::Stop
            | FaultKind::Isolate { .. }
            | FaultKind::Misbehave { .. } => struck.clone(),
        }
    }
}
