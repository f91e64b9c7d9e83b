//! Steps in their order: what goes with each, references between them, and the actions that are no faults.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Check, Here, Id, Refer};
use crate::model::{Action, Load, Ms, Start, Step, Tx, TxBody, When};
use crate::scenario::diag::{Problem, did_you_mean, list};
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Named, Selectors};
use crate::scenario::select::Nodes;

/// The actions of the language.
pub(super) const ACTIONS: [&str; 24] = [
    "kill",
    "pause",
    "stop",
    "start",
    "restart",
    "upgrade",
    "partition",
    "isolate",
    "delay",
    "loss",
    "bandwidth",
    "stress",
    "fill",
    "read_only",
    "drain",
    "machine",
    "corrupt",
    "heal",
    "wait",
    "load",
    "tx",
    "misbehave",
    "join",
    "expect",
];

/// Actions that are faults.
const FAULTS: [&str; 15] = [
    "kill",
    "pause",
    "stop",
    "restart",
    "partition",
    "isolate",
    "delay",
    "loss",
    "bandwidth",
    "stress",
    "fill",
    "read_only",
    "drain",
    "machine",
    "misbehave",
];

/// Actions that may go on beside the next steps.
const BACKGROUND: [&str; 5] = ["load", "wait", "restart", "upgrade", "expect"];

/// Keys that go with every step.
const COMMON: [&str; 5] = ["id", "name", "when", "continue", "background"];

impl Check<'_> {
    pub(super) fn steps(&mut self, steps: &At<Vec<At<raw::Step>>>) {
        if steps.is_empty() && !self.problems.iter().any(|problem| problem.span.start >= steps.at.start) {
            let problem = Problem::new(code::NO_STEPS, &steps.at, "the scenario has no steps")
                .label("nothing happens")
                .help("add [[steps]] with `expect.progress = { blocks = 5, within = \"30s\" }`");
            self.problems.push(problem);
        }
        self.collect_ids(steps);
        let mut too_long = false;
        for (index, step) in steps.iter().enumerate() {
            self.current = index;
            self.step(index, step);
            if !too_long && self.timeline.elapsed > self.plan.limits.run {
                too_long = true;
                self.run_limit(step);
            }
        }
    }

    /// Complains about nodes that wait for a `start` step when there is none for them.
    pub(super) fn never_started(&mut self, groups: &At<Named<raw::Group>>, steps: &[At<raw::Step>]) {
        let planned = |index: usize| self.plan.steps.iter().any(|step| step.index == index);
        // What is wrong with a step that may be the missing one has been said already.
        let unclear = steps.iter().enumerate().any(|(index, step)| {
            let word = step.table.iter().find(|(key, _)| ACTIONS.contains(&key.as_str()));
            word.is_none_or(|(word, _)| word == "start") && !planned(index)
        });
        let nodes = &self.plan.network.nodes;
        if unclear || !self.sound || nodes.iter().all(|node| node.start == Start::Manual) {
            return;
        }
        for (name, group) in &groups.0 {
            let Some(start) = &group.start else { continue };
            let of_group = |index: &usize| self.plan.network.nodes[*index].group == name.value;
            let all: Nodes = (0..self.plan.network.nodes.len()).filter(of_group).collect();
            let never: Nodes = all
                .iter()
                .copied()
                .filter(|node| !self.timeline.started.contains(node) && !self.missed.contains(node))
                .collect();
            let names = self.names(&never);
            let Some(first) = names.first() else { continue };
            let example = if never.len() > 1 && never == all {
                format!("group:{}", name.value)
            } else {
                first.clone()
            };
            let problem = Problem::new(
                code::NEVER_STARTED,
                &start.at,
                format!("no step starts {}", list(&names, 6)),
            )
            .label("waits for a `start` step")
            .help(format!(
                "add a step `start = {{ nodes = [\"{example}\"] }}`, or remove `start = \"manual\"`"
            ));
            self.problems.push(problem);
        }
    }

    /// Every id of the file, so that references to later steps can be told from references to none.
    fn collect_ids(&mut self, steps: &[At<raw::Step>]) {
        for (index, step) in steps.iter().enumerate() {
            let Some((word, key)) = step.table.iter().find(|(key, _)| ACTIONS.contains(&key.as_str())) else {
                continue;
            };
            let never = step
                .expect
                .as_ref()
                .is_some_and(|expect| super::expect::is_never(expect));
            let referable = FAULTS.contains(&word.as_str()) || ["load", "tx", "upgrade"].contains(&word.as_str());
            let (id, at) = match &step.id {
                Some(id) => {
                    self.name("an id", id, 40);
                    (id.value.clone(), id.at.clone())
                }
                None if referable => (format!("step-{}", index + 1), key.clone()),
                None => continue,
            };
            let background = step.background.as_ref().is_some_and(|background| background.value);
            if let Some(first) = self.ids.iter().find(|other| other.id == id) {
                let problem = Problem::new(code::DUPLICATE_ID, &at, format!("two steps are called `{id}`"))
                    .label("again")
                    .related(&first.at, "first")
                    .help("give one of them another `id`");
                self.problems.push(problem);
            }
            self.ids.push(Id {
                id,
                at,
                index,
                word: word.clone(),
                background,
                never,
            });
        }
    }

    fn step(&mut self, index: usize, step: &At<raw::Step>) {
        let Some((word, key)) = self.action_word(step) else {
            return;
        };
        let background = step.background.as_ref().is_some_and(|background| background.value);
        let go_on = step.r#continue.as_ref().is_some_and(|go_on| go_on.value);
        let here = Here {
            id: step
                .id
                .as_ref()
                .map_or_else(|| format!("step-{}", index + 1), |id| id.value.clone()),
            word,
            key,
            background,
            go_on,
            once: None,
        };
        self.modifiers(&here, step);
        let when = step.when.as_ref().and_then(|when| self.when(when));
        if !self.offered_on_found_nodes(&here) {
            return;
        }
        let Some(action) = self.action(&here, step) else {
            return;
        };
        let id = match &action {
            Action::Fault(fault) => Some(fault.id.clone()),
            Action::Load(load) => Some(load.id.clone()),
            Action::Tx(tx) => Some(tx.id.clone()),
            Action::Upgrade(upgrade) => Some(upgrade.id.clone()),
            _ => step.id.as_ref().map(|id| id.value.clone()),
        };
        self.spans.push(here.key.clone());
        self.plan.steps.push(Step {
            index,
            id,
            name: step.name.as_ref().map(|name| name.value.clone()),
            when,
            go_on,
            background,
            line: self.line(&step.at),
            action,
        });
    }

    /// The one action of a step.
    pub(super) fn action_word(&mut self, step: &At<raw::Step>) -> Option<(&'static str, Range<usize>)> {
        let found: Vec<(&'static str, Range<usize>)> = step
            .table
            .iter()
            .filter_map(|(key, at)| {
                let word = ACTIONS.into_iter().find(|word| word == key)?;
                Some((word, at.clone()))
            })
            .collect();
        let unknown = step
            .table
            .iter()
            .any(|(key, _)| !ACTIONS.contains(&key.as_str()) && !COMMON.contains(&key.as_str()));
        match found.as_slice() {
            [one] => return Some(one.clone()),
            // The unknown key was complained about, and is what was meant.
            [] if unknown => {}
            [] => {
                let problem = Problem::new(code::ONE_ACTION, &step.at, "this step does nothing")
                    .label("no action")
                    .help(format!("give it one of: {}", ACTIONS.join(", ")));
                self.problems.push(problem);
            }
            [(first, _), (second, at), rest @ ..] => {
                let mut problem = Problem::new(
                    code::ONE_ACTION,
                    at,
                    format!("a step has exactly one action, but this one has `{first}` and `{second}`"),
                )
                .label("second action")
                .related(&found[0].1, "first action")
                .help("write a [[steps]] of its own for each; they run in the order of the file");
                for (_, at) in rest {
                    problem = problem.related(at, "one more");
                }
                self.problems.push(problem);
            }
        }
        None
    }

    /// `background` and `continue`, where they mean something.
    fn modifiers(&mut self, here: &Here, step: &At<raw::Step>) {
        let at = |field: &Option<At<bool>>| field.as_ref().map_or(0..0, |value| value.key.clone());
        if here.background && !BACKGROUND.contains(&here.word) {
            let help = if FAULTS.contains(&here.word) {
                "a fault lasts while the next steps run, until its `for` or a `heal`; leave `background` out"
            } else {
                "leave `background` out; it is for load, wait, restart, upgrade and expect"
            };
            let problem = Problem::new(
                code::BACKGROUND,
                &at(&step.background),
                format!("`{}` cannot run in the background", here.word),
            )
            .label("not here")
            .help(help);
            self.problems.push(problem);
        }
        if here.go_on && !["expect", "upgrade"].contains(&here.word) {
            let problem = Problem::new(
                code::POINTLESS,
                &at(&step.r#continue),
                format!(
                    "`continue` is for `expect` and `upgrade`; `{}` expects nothing",
                    here.word
                ),
            )
            .label("no effect")
            .help("leave it out");
            self.problems.push(problem);
        }
    }

    fn when(&mut self, when: &At<raw::When>) -> Option<When> {
        let raw::When {
            height,
            within,
            after,
            progress_of,
            nodes_done,
            table: keys,
        } = &when.value;
        let has = |key: &str| keys.iter().any(|(seen, _)| seen == key);
        let wrong = |message: &str| {
            Problem::new(code::WINDOW, &when.key, message)
                .label("this `when`")
                .help("write `when = { height = 40, within = \"1m\" }`, `when = { after = \"10s\" }` or `when = { progress_of = \"roll\", nodes_done = 2, within = \"2m\" }`")
        };
        if has("progress_of") || has("nodes_done") {
            let whole = ["progress_of", "nodes_done", "within"].iter().all(|key| has(key));
            if !whole || has("height") || has("after") {
                let problem = wrong("`progress_of`, `nodes_done` and `within` go together, and with nothing else");
                self.problems.push(problem);
                return None;
            }
            return self.moved_so_far(progress_of.as_ref()?, nodes_done.as_ref(), within.as_ref());
        }
        let problem = match (has("height"), has("within"), has("after")) {
            (true, true, false) => {
                let height = self.number(height.as_ref(), "height", 1, u64::MAX / 2);
                let within = self.lasting(within.as_ref());
                return Some(When::Height {
                    height: height?,
                    within: within?,
                });
            }
            (false, false, true) => {
                let after = self.lasting(after.as_ref())?;
                self.timeline.elapsed = self.timeline.elapsed + after;
                return Some(When::After(after));
            }
            (true, false, false) => wrong("a `when` with a `height` needs a limit: `within`"),
            (false, true, _) => wrong("`within` goes with `height` or `progress_of`"),
            (false, false, false) if keys.is_empty() => wrong("this `when` waits for nothing"),
            (false, false, false) => return None,
            (true, _, true) => wrong("a step waits for a `height` or for a time (`after`), not for both"),
        };
        self.problems.push(problem);
        None
    }

    fn moved_so_far(
        &mut self,
        of: &At<String>,
        nodes: Option<&At<u64>>,
        within: Option<&At<raw::Time>>,
    ) -> Option<When> {
        let within = self.lasting(within);
        self.refer(of, Refer::Upgrade)?;
        let (_, upgrade) = self.plan.upgrades().find(|(_, upgrade)| upgrade.id == of.value)?;
        let most = upgrade.nodes().count() as u64;
        let nodes = self.number(nodes, "nodes_done", 1, most)?;
        Some(When::Moved {
            of: of.value.clone(),
            nodes: usize::try_from(nodes).ok()?,
            within: within?,
        })
    }

    pub(super) fn action(&mut self, here: &Here, step: &raw::Step) -> Option<Action> {
        let raw::Step {
            id: _,
            name: _,
            when: _,
            r#continue: _,
            background: _,
            kill,
            pause,
            drain,
            machine,
            stop,
            start,
            restart,
            upgrade,
            partition,
            isolate,
            delay,
            loss,
            bandwidth,
            stress,
            fill,
            read_only,
            corrupt,
            heal,
            wait,
            load,
            tx,
            misbehave,
            join,
            expect,
            table: _,
        } = step;
        // Exactly one of these is there, or none where it could not be read.
        if let Some(kill) = kill {
            self.kill(here, kill)
        } else if let Some(pause) = pause {
            self.pause(here, pause)
        } else if let Some(drain) = drain {
            self.drain(here, drain)
        } else if let Some(machine) = machine {
            self.machine(here, machine)
        } else if let Some(stop) = stop {
            self.stop(here, stop)
        } else if let Some(restart) = restart {
            self.restart(here, restart)
        } else if let Some(upgrade) = upgrade {
            self.upgrade(here, upgrade)
        } else if let Some(partition) = partition {
            self.partition(here, partition)
        } else if let Some(isolate) = isolate {
            self.isolate(here, isolate)
        } else if let Some(delay) = delay {
            self.delay(here, delay)
        } else if let Some(misbehave) = misbehave {
            self.misbehave(here, misbehave)
        } else if let Some(loss) = loss {
            self.lose(here, loss)
        } else if let Some(bandwidth) = bandwidth {
            self.bound(here, bandwidth)
        } else if let Some(stress) = stress {
            self.stress(here, stress)
        } else if let Some(read_only) = read_only {
            self.read_only(here, read_only)
        } else if let Some(fill) = fill {
            self.fill(here, fill)
        } else if let Some(corrupt) = corrupt {
            self.corrupt(here, corrupt)
        } else if let Some(start) = start {
            self.start(start)
        } else if let Some(heal) = heal {
            self.heal(heal)
        } else if let Some(wait) = wait {
            let time = self.lasting(Some(wait))?;
            self.passes(here, time);
            Some(Action::Wait(time))
        } else if let Some(load) = load {
            self.load(here, load)
        } else if let Some(tx) = tx {
            self.tx(here, tx)
        } else if let Some(join) = join {
            self.join(join)
        } else {
            self.expect(here, expect.as_ref()?)
        }
    }

    /// Time that passes for certain before the next step.
    pub(super) fn passes(&mut self, here: &Here, time: Ms) {
        if !here.background {
            self.timeline.elapsed = self.timeline.elapsed + time;
        }
    }

    fn run_limit(&mut self, step: &At<raw::Step>) {
        let mut problem = Problem::new(
            code::RUN_LIMIT,
            &step.at,
            format!(
                "up to the end of this step the waits and windows alone take {}, but the run may last {}",
                self.timeline.elapsed, self.plan.limits.run
            ),
        )
        .label("the limit is passed here")
        .help("raise `run` under [limits], or shorten the steps");
        if let Some(limit) = &self.run_limit {
            problem = problem.related(limit, "the limit");
        }
        self.problems.push(problem);
    }

    fn start(&mut self, start: &At<raw::StartNodes>) -> Option<Action> {
        let selectors = start.nodes.as_ref()?;
        let nodes = self.select(selectors)?;
        let downable: Nodes = self
            .timeline
            .on()
            .filter(|live| live.ends_by_start())
            .flat_map(|live| live.targets.iter().copied())
            .collect();
        let running: Nodes = nodes
            .iter()
            .copied()
            .filter(|node| self.timeline.started.contains(node) && !downable.contains(node))
            .collect();
        if !running.is_empty() {
            let names = list(&self.names(&running), 6);
            let problem = Problem::new(
                code::ALREADY_STARTED,
                &selectors.at,
                format!("already running here: {names}"),
            )
            .label("no earlier step ended these")
            .help("start only nodes with `start = \"manual\"`, or nodes that a `kill` or `stop` holds down");
            self.problems.push(problem);
            return None;
        }
        self.timeline.started.extend(&nodes);
        for live in &mut self.timeline.faults {
            if live.ends_by_start() {
                live.targets.retain(|node| !nodes.contains(node));
                live.touched.retain(|node| !nodes.contains(node));
                live.ended |= live.targets.is_empty();
            }
        }
        Some(Action::Start {
            nodes: self.names(&nodes),
        })
    }

    fn heal(&mut self, heal: &At<Vec<At<String>>>) -> Option<Action> {
        if heal.is_empty() {
            let on: Vec<&str> = self.timeline.on().map(|live| live.fault.id.as_str()).collect();
            let problem = Problem::new(code::EMPTY_SELECTION, &heal.at, "an empty list heals nothing")
                .label("nothing is selected")
                .help(format!(
                    "faults that may be on here: {}",
                    if on.is_empty() { "none".into() } else { list(&on, 12) }
                ));
            self.problems.push(problem);
            return None;
        }
        let found: Vec<Option<usize>> = heal.iter().map(|id| self.refer(id, Refer::Lasting)).collect();
        for live in &mut self.timeline.faults {
            live.ended |= heal.iter().any(|id| id.value == live.fault.id);
        }
        found.iter().all(Option::is_some).then(|| Action::Heal {
            faults: heal.iter().map(|id| id.value.clone()).collect(),
        })
    }

    fn load(&mut self, here: &Here, load: &At<raw::Load>) -> Option<Action> {
        let raw::Load {
            rate,
            r#for: lasts,
            size,
            nodes,
            table: _,
        } = &load.value;
        let lasts = self.lasting(lasts.as_ref());
        if let Some(lasts) = lasts {
            self.passes(here, lasts);
        }
        let rate = rate.as_ref().and_then(|rate| {
            if rate.value > 0.0 && rate.value <= 10_000.0 {
                return Some(rate.value);
            }
            let message = format!(
                "`rate` is above 0 and up to 10000 transactions a second, not {}",
                rate.value
            );
            self.problems
                .push(Problem::new(code::OUT_OF_RANGE, &rate.at, message).label("out of range"));
            None
        });
        let size = match size {
            Some(_) => self.number(size.as_ref(), "size", 32, 65_536),
            None => Some(64),
        };
        let nodes = self.asked(nodes.as_ref(), &here.key)?;
        Some(Action::Load(Load {
            id: here.id.clone(),
            rate: rate?,
            lasts: lasts?,
            size: usize::try_from(size?).expect("a size within its range fits"),
            nodes: self.names(&nodes),
        }))
    }

    /// The nodes that a load or transaction goes to: those named, or all that are free.
    fn asked(&mut self, nodes: Option<&At<Selectors>>, key: &Range<usize>) -> Option<Nodes> {
        let Some(selectors) = nodes else {
            if !self.sound {
                return None;
            }
            let free = self.timeline.free();
            if free.is_empty() {
                let problem = Problem::new(
                    code::EMPTY_SELECTION,
                    key,
                    "no started node is without a declared fault that may still be on",
                )
                .label("nobody could take it")
                .help("name the nodes, or heal a fault first");
                self.problems.push(problem);
                return None;
            }
            return Some(free);
        };
        let nodes = self.select(selectors)?;
        if !self.all_started(&nodes, selectors) {
            return None;
        }
        self.none_down(&nodes, selectors, true)?;
        Some(nodes)
    }

    fn tx(&mut self, here: &Here, tx: &At<raw::Tx>) -> Option<Action> {
        let raw::Tx {
            value,
            power,
            node,
            table: keys,
        } = &tx.value;
        let has = |key: &str| keys.iter().any(|(seen, _)| seen == key);
        let body = match (has("value"), has("power")) {
            (true, false) => value.as_ref().and_then(|value| self.tx_value(value)),
            (false, true) => power.as_ref().and_then(|power| self.tx_power(power)),
            (both, _) => {
                let message = if both {
                    "a `tx` sends a `value` or a `power`, not both"
                } else {
                    "this `tx` sends nothing"
                };
                let problem = Problem::new(code::TX, &here.key, message)
                    .label("this `tx`")
                    .help("write `tx = { value = \"key=value\" }` or `tx = { power = { validator = \"validator-0\", to = 20 } }`");
                self.problems.push(problem);
                None
            }
        };
        let node = match node {
            Some(name) => {
                let index = self.node(name)?;
                let one = At {
                    key: name.key.clone(),
                    at: name.at.clone(),
                    value: vec![name.clone()],
                };
                *self.asked(Some(&one), &here.key)?.get(&index)?
            }
            None => *self.asked(None, &here.key)?.first()?,
        };
        Some(Action::Tx(Tx {
            id: here.id.clone(),
            body: body?,
            node: self.plan.network.nodes[node].name.clone(),
        }))
    }

    fn tx_value(&mut self, value: &At<String>) -> Option<TxBody> {
        let fits = value.split_once('=').is_some_and(|(key, rest)| {
            let plain = |text: &str| !text.is_empty() && text.len() <= 1000 && !text.contains(['=', ':', '"', '\\']);
            plain(key) && plain(rest) && key != "val" && value.chars().all(|letter| letter.is_ascii_graphic())
        });
        if fits {
            return Some(TxBody::Raw(value.value.clone()));
        }
        let problem = Problem::new(code::TX, &value.at, format!("the chain would not take \"{}\"", value.value))
            .label("not a `key=value`")
            .help("a key and a value of visible ASCII characters with exactly one `=` between them, without `:` or quotes; for validators there is `power`");
        self.problems.push(problem);
        None
    }

    fn tx_power(&mut self, power: &At<raw::TxPower>) -> Option<TxBody> {
        let help = "leave it out: the network's validators stay as they are";
        if self.not_for_found(
            &power.key,
            "nobody knows the keys of found nodes, so their power cannot be changed",
            help,
        ) {
            return None;
        }
        let raw::TxPower {
            validator,
            to,
            table: _,
        } = &power.value;
        if self.adapter.is_some_and(|adapter| adapter.engine().counts_heads()) {
            let message = "no transaction changes who seals: sealers vote one another in and out";
            let problem = Problem::new(code::NOT_OFFERED, &power.key, message)
                .label("not on this chain")
                .help("leave it out: the network's validators stay as they are");
            self.problems.push(problem);
            return None;
        }
        let index = self.node(validator.as_ref()?)?;
        let at = &to.as_ref()?.at;
        let to = self.number(to.as_ref(), "to", 0, 1_000_000_000_000)?;
        let name = self.plan.network.nodes[index].name.clone();
        let others: u64 = self.powers.iter().sum::<u64>() - self.powers[index];
        let wrong = if to == 0 && self.powers[index] == 0 {
            Some((
                format!("`{name}` is no validator here, and removing a key that is none halts every node"),
                "give it a power first, or remove another one",
            ))
        } else if to == 0 && others == 0 {
            Some((
                format!("`{name}` is the last validator; without it there is no quorum"),
                "give another node a power first",
            ))
        } else {
            None
        };
        if let Some((message, help)) = wrong {
            self.problems.push(
                Problem::new(code::TX, at, message)
                    .label("would break the chain")
                    .help(help),
            );
            return None;
        }
        self.powers[index] = to;
        Some(TxBody::Power {
            validator: name,
            power: to,
        })
    }

    fn join(&mut self, join: &At<raw::Join>) -> Option<Action> {
        let raw::Join { id, within, table: _ } = &join.value;
        let within = self.lasting(within.as_ref());
        let id = id.as_ref()?;
        let index = self.refer(id, Refer::Background)?;
        if self.ids.iter().any(|known| known.index == index && known.never) {
            let problem = Problem::new(
                code::BACKGROUND,
                &id.at,
                format!(
                    "`{}` goes on to the end of the run, so that no join can wait for it",
                    id.value
                ),
            )
            .label("never ends before")
            .help("leave the join out: it is judged at the end by itself");
            self.problems.push(problem);
            return None;
        }
        Some(Action::Join {
            id: id.value.clone(),
            within: within?,
        })
    }

    /// The step that an id names: an earlier one of the right kind.
    pub(in crate::scenario) fn refer(&mut self, id: &At<String>, wanted: Refer) -> Option<usize> {
        let current = self.current;
        let what = match wanted {
            Refer::Fault => "a fault",
            Refer::Lasting => "a fault that lasts",
            Refer::Tx => "a `tx` step",
            Refer::Background => "a step with `background = true`",
            Refer::Upgrade => "an `upgrade` with `background = true`",
        };
        let fits = |known: &Id| match wanted {
            Refer::Fault => FAULTS.contains(&known.word.as_str()),
            Refer::Lasting => FAULTS.contains(&known.word.as_str()) && known.word != "restart",
            Refer::Tx => known.word == "tx",
            Refer::Background => known.background,
            Refer::Upgrade => known.background && known.word == "upgrade",
        };
        let earlier: BTreeMap<usize, &str> = self
            .ids
            .iter()
            .filter(|known| fits(known) && known.index < current)
            .map(|known| (known.index, known.id.as_str()))
            .collect();
        let help = if earlier.is_empty() {
            format!("no earlier step is {what}")
        } else {
            did_you_mean(&id.value, earlier.values().copied())
        };
        let problem = match self.ids.iter().find(|known| known.id == id.value) {
            None => Problem::new(
                code::UNKNOWN_ID,
                &id.at,
                format!("no step has the id `{}`; {what} is wanted", id.value),
            )
            .label("no such id")
            .help(help),
            Some(known) if known.index >= current => Problem::new(
                code::LATE_REFERENCE,
                &id.at,
                format!("`{}` comes later, and steps run strictly in order", id.value),
            )
            .label("refers to a later step")
            .related(&known.at, "comes only here")
            .help("move one of the two"),
            Some(known) if !fits(known) => Problem::new(
                code::WRONG_KIND,
                &id.at,
                format!(
                    "step `{}` is {} `{}`, but {what} is wanted",
                    id.value,
                    article(&known.word),
                    known.word
                ),
            )
            .label(if wanted == Refer::Lasting && known.word == "restart" {
                "a restart ends by itself"
            } else {
                "wrong kind of step"
            })
            .related(&known.at, format!("`{}`", known.id))
            .help(help),
            Some(known) => return Some(known.index),
        };
        self.problems.push(problem);
        None
    }

    /// Complains about what needs a supervisor where the nodes are found and have none.
    pub(super) fn offered_on_found_nodes(&mut self, here: &Here) -> bool {
        let needs_none = ["kill", "wait", "load", "tx", "join", "heal", "expect"].contains(&here.word);
        if needs_none || self.plan.network.attach.is_none() {
            return true;
        }
        if ["drain", "machine"].contains(&here.word) {
            self.not_for_found(
                &here.key,
                "trialnet did not place found nodes, so nobody knows who else is on their machines",
                "evict the pods (`kill` with `how = \"evict\"`), or let trialnet make the nodes",
            );
            return false;
        }
        self.needs_supervisor(&format!("`{}`", here.word), &here.key);
        false
    }

    /// Complains that found nodes cannot be acted on from within.
    pub(super) fn needs_supervisor(&mut self, what: &str, at: &Range<usize>) {
        let problem = Problem::new(
            code::NOT_OFFERED,
            at,
            format!("{what} needs a supervisor in the pod, which found nodes do not have"),
        )
        .label("not on found nodes")
        .help("pods that somebody else made can be deleted, force-deleted and evicted (`kill` with `how`); for the rest, let trialnet make the nodes");
        self.problems.push(problem);
    }

    /// Whether the backend has something; `None`: it lacks it, and that was said.
    pub(super) fn offered(&mut self, word: &str, at: &Range<usize>) -> Option<()> {
        if self.options.capabilities.lacks.contains_key(word) {
            self.not_offered(word, at);
            return None;
        }
        Some(())
    }

    /// Complains that the backend lacks something, with its reason.
    pub(super) fn not_offered(&mut self, word: &str, at: &Range<usize>) -> bool {
        self.not_offered_as(word, word, at)
    }

    /// The same of something that the file words otherwise.
    pub(super) fn not_offered_as(&mut self, word: &str, shown: &str, at: &Range<usize>) -> bool {
        let capabilities = self.options.capabilities;
        let (code, reason) = match capabilities.lacks.get(word) {
            Some(reason) => (code::NOT_OFFERED, *reason),
            None => (code::NOT_YET, "no backend of this version carries it out yet"),
        };
        let message = format!("the {} backend does not offer `{shown}`", capabilities.backend);
        self.problems
            .push(Problem::new(code, at, message).label("not offered").help(reason));
        false
    }
}

/// `a` or `an`.
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}
