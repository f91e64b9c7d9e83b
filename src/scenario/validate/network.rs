//! The network: groups, powers, versions, configuration.

use std::collections::BTreeMap;

use super::Check;
use crate::model::{App, BackendKind, ChainKind, Keys, Ms, Node, Persistence, Role, Start, Version};
use crate::scenario::diag::{Problem, did_you_mean};
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Config, Named, Power, Time};

/// The most nodes of a network: a local network gives each its own loopback address of one /24.
const MOST_NODES: u64 = 254;

/// The greatest voting power of a node: sums of 254 such stay far below what chains count with.
const MOST_POWER: u64 = 1_000_000_000_000;

/// The power of a validator whose group says none, as in the genesis files that CometBFT makes.
const USUAL_POWER: u64 = 10;

type Settings = BTreeMap<String, serde_json::Value>;

impl Check<'_> {
    pub(super) fn network(&mut self, network: &At<raw::Network>, versions: Option<&At<Named<raw::Version>>>) {
        let raw::Network {
            chain,
            groups,
            version,
            block_time,
            persistence,
            config,
            app,
            keys: made,
            attach,
            table: _,
        } = &network.value;
        if let Some(chain) = chain {
            let adapter = (self.options.adapter)(chain.0);
            self.adapter = Some(adapter);
            self.plan.network.chain = chain.0;
            self.plan.network.block_time = adapter.default_block_time();
            adapter.default_version().clone_into(&mut self.plan.network.version);
        }
        if let Some(time) = self.time(block_time.as_ref(), Ms(50), Ms::secs(60)) {
            self.plan.network.block_time = time;
        }
        self.whole_blocks(block_time.as_ref());
        self.plan.network.persistence = persistence.as_ref().map_or(Persistence::Volume, |kept| kept.0);
        if let Some(versions) = versions {
            self.declared(versions);
        }
        match version {
            Some(version) => {
                self.plan.network.version.clone_from(version);
                self.version(version);
            }
            None => self.default_version(),
        }
        let config = config.as_ref();
        let version = self.plan.network.version.clone();
        self.plan.network.config = self.config(config, &version);
        self.configs.extend(config.map(|config| (None, config.clone())));
        self.plan.network.attach = attach.as_ref().and_then(|attach| self.attach(attach));
        self.plan.network.app = app.as_ref().and_then(|app| self.app(app));
        if let Some(made) = made {
            self.made(made);
        }
        if let Some(config) = config {
            let help = "leave `config` out: they run as somebody else has set them up";
            self.not_for_found(&config.key, "found nodes are not configured", help);
        }
        if let Some(groups) = groups {
            self.sound = true;
            self.groups(groups, config);
        }
        if let Some(adapter) = self.adapter
            && self.sound
        {
            let nodes = &self.plan.network.nodes;
            self.plan.network.links = if self.plan.network.attach.is_some() {
                // Who dials whom is not known of them.
                let all = 0..nodes.len();
                all.flat_map(|a| (a + 1..nodes.len()).map(move |b| (a, b))).collect()
            } else {
                adapter.topology(nodes)
            };
        }
        self.powers = self.plan.network.nodes.iter().map(|node| node.power).collect();
        self.runs = (self.plan.network.nodes.iter())
            .map(|node| node.version.clone())
            .collect();
        self.timeline.started = self
            .plan
            .network
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.start == Start::Auto)
            .map(|(index, _)| index)
            .collect();
    }

    /// Some chains count the interval between blocks in steps.
    fn whole_blocks(&mut self, block_time: Option<&At<Time>>) {
        let (Some(adapter), Some(time)) = (self.adapter, block_time) else {
            return;
        };
        let step = adapter.block_step();
        if self.plan.network.block_time.0.is_multiple_of(step.0) {
            return;
        }
        let message = format!(
            "{} makes blocks every {step} or a multiple of it, not every {}",
            adapter.name(),
            time.value.0
        );
        let problem = Problem::new(code::OUT_OF_RANGE, &time.at, message)
            .label("no multiple")
            .help(format!("for example `block_time = \"{step}\"`"));
        self.problems.push(problem);
    }

    /// An application of one's own.
    fn app(&mut self, app: &At<raw::App>) -> Option<App> {
        let raw::App {
            binary,
            image,
            program,
            args,
            env,
            table: _,
        } = &app.value;
        let help = "leave `app` out: it runs already, in their pods";
        if self.not_for_found(&app.key, "found nodes are given no application", help) {
            return None;
        }
        let text = |text: &Option<At<String>>| text.as_ref().map(|text| text.value.clone());
        let args: Vec<String> = args
            .iter()
            .flat_map(|args| args.iter().map(|arg| arg.value.clone()))
            .collect();
        let blank = [binary, image, program]
            .into_iter()
            .flatten()
            .any(|text| text.trim().is_empty());
        let missing_image = self.options.backend == BackendKind::Kubernetes && binary.is_none() && image.is_none();
        let missing_binary = self.options.backend == BackendKind::Local && binary.is_none();
        let (message, help) = if self.adapter.is_some() && self.plan.network.chain != ChainKind::Cometbft {
            (
                "only CometBFT takes an application of your own",
                "use `chain = \"cometbft\"`, or leave `app` out",
            )
        } else if blank {
            ("an empty text names no program", "leave the key out, or name it")
        } else if missing_binary {
            (
                "nothing says which program the application is",
                "add `binary = \"…\"`: the local backend runs programs",
            )
        } else if missing_image {
            (
                "nothing says which program the application is",
                "add `binary = \"…\"`, or `image = \"…\"` and `program = \"…\"`",
            )
        } else if image.is_some() && program.is_none() {
            (
                "nothing says which program of the image the application is",
                "add `program = \"…\"`, its name or path in the image: trialnet starts it itself",
            )
        } else if !args.iter().any(|arg| arg.contains("{socket}")) {
            (
                "the application is not told where to listen",
                "write `{socket}` in one of `args`, for example `args = [\"--address\", \"unix://{socket}\"]`",
            )
        } else {
            let from_image = image.is_some() && self.options.backend == BackendKind::Kubernetes;
            return Some(App {
                binary: text(binary).filter(|_| !from_image),
                image: text(image),
                program: text(program),
                args,
                env: env
                    .iter()
                    .flat_map(|env| &env.0)
                    .map(|(name, value)| (name.value.clone(), value.value.clone()))
                    .collect(),
            });
        };
        let problem = Problem::new(code::APP, &app.key, message)
            .label("this application")
            .help(help);
        self.problems.push(problem);
        None
    }

    /// Where the validators' keys are made.
    fn made(&mut self, made: &At<raw::Keys>) {
        let help = "leave `keys` out: they have theirs";
        if self.not_for_found(&made.key, "found nodes are given no keys", help) {
            return;
        }
        if made.0 == Keys::InPlace && self.adapter.is_some() && self.plan.network.chain != ChainKind::Cometbft {
            let problem = Problem::new(code::NOT_OFFERED, &made.at, "only CometBFT makes its keys in place")
                .label("not on this chain")
                .help("use `chain = \"cometbft\"`, or leave `keys` out");
            self.problems.push(problem);
            return;
        }
        if made.0 == Keys::InPlace && self.plan.network.persistence.is_lost(true) {
            let kept = self.plan.network.persistence.word();
            let message = format!("keys that are made in place need volumes that last, and persistence is \"{kept}\"");
            let problem = Problem::new(code::KEYS_LOST, &made.at, message)
                .label("the only copy goes with the job that makes it")
                .help("use `persistence = \"volume\"`, or leave `keys` out: then they follow from the seed");
            self.problems.push(problem);
        }
        self.plan.network.keys = made.0;
    }

    fn groups(&mut self, groups: &At<Named<raw::Group>>, shared: Option<&At<Config>>) {
        for (name, group) in &groups.0 {
            self.group(name, group, shared);
        }
        let nodes = &self.plan.network.nodes;
        let total = nodes.len() as u64;
        let problem = if groups.0.is_empty() {
            Problem::new(
                code::NO_NODES,
                &groups.key,
                "the network has no groups, and so no nodes",
            )
            .label("no groups")
            .help("add `[network.groups.validator]` with `role = \"validator\"` and `count = 4`")
        } else if total > MOST_NODES {
            Problem::new(
                code::OUT_OF_RANGE,
                &groups.key,
                format!("a network has at most {MOST_NODES} nodes, not {total}"),
            )
            .label("too many nodes")
        } else if !self.sound {
            return;
        } else if nodes.iter().all(|node| node.power == 0) {
            Problem::new(
                code::POWER,
                &groups.key,
                "no node has voting power, so there is no quorum",
            )
            .label("no validator")
            .help("give a group `role = \"validator\"`")
        } else if nodes.iter().all(|node| node.start == Start::Manual) {
            Problem::new(code::NO_NODES, &groups.key, "no node starts by itself")
                .label("every group has `start = \"manual\"`")
                .help("leave `start` out in the groups that form the network at first")
        } else {
            return;
        };
        self.problems.push(problem);
    }

    fn group(&mut self, name: &At<String>, group: &At<raw::Group>, shared: Option<&At<Config>>) {
        let raw::Group {
            role,
            count,
            power,
            version,
            config,
            start,
            resources,
            table: keys,
        } = &group.value;
        if let Some(start) = start.as_ref().filter(|start| start.0 == Start::Manual) {
            let help = "leave `start` out: they run already";
            self.not_for_found(&start.at, "found nodes are not started by trialnet", help);
        }
        if let Some(config) = config {
            let help = "leave `config` out: they run as somebody else has set them up";
            self.not_for_found(&config.key, "found nodes are not configured", help);
        }
        let resources = self.resources(resources.as_ref());
        let broken = |key: &str| keys.iter().any(|(seen, _)| seen == key);
        if name.value == "all" {
            let problem = Problem::new(
                code::BAD_NAME,
                &name.at,
                "a group cannot be called `all`, which means every node",
            )
            .label("taken")
            .help("call it by what its nodes do, for example `validator` or `full`");
            self.problems.push(problem);
        } else {
            self.name("a group's name", name, 20);
        }
        let count = match count {
            Some(_) => self.number(count.as_ref(), "count", 1, MOST_NODES),
            None if broken("count") => None,
            None => Some(1),
        };
        let Some(count) = count else {
            // How many nodes there are is not known, so no name can be said to be wrong.
            self.sound = false;
            return;
        };
        let role = role.as_ref().map_or(Role::Validator, |role| role.0);
        let powers = self.group_powers(power.as_ref(), role, count);
        let version = match version {
            Some(version) => {
                self.version(version);
                version.value.clone()
            }
            None => self.plan.network.version.clone(),
        };
        if version != self.plan.network.version {
            // The network's keys go to nodes of this version too; what is wrong for both is the same problem once.
            self.config(shared, &version);
        }
        let own = config.as_ref().map(|config| (Some(name.value.clone()), config.clone()));
        self.configs.extend(own);
        let config = self.config(config.as_ref(), &version);
        for (index, power) in (0..count).zip(powers) {
            self.plan.network.nodes.push(Node {
                name: format!("{}-{index}", name.value),
                group: name.value.clone(),
                role,
                power,
                version: version.clone(),
                config: config.clone(),
                start: start
                    .as_ref()
                    .filter(|_| self.plan.network.attach.is_none())
                    .map_or(Start::Auto, |start| start.0),
                resources: resources.clone(),
            });
        }
    }

    /// The power of each node of a group; something of the right length also where it is wrong.
    fn group_powers(&mut self, power: Option<&At<Power>>, role: Role, count: u64) -> Vec<u64> {
        let nodes = usize::try_from(count).expect("a count within its range fits");
        if role != Role::Validator {
            if let Some(power) = power {
                let problem = Problem::new(code::POWER, &power.key, "only validators have voting power")
                    .label("these nodes are no validators")
                    .help("leave `power` out, or make it `role = \"validator\"`");
                self.problems.push(problem);
            }
            return vec![0; nodes];
        }
        let heads = self.adapter.is_some_and(|adapter| adapter.engine().counts_heads());
        let Some(power) = power else {
            return vec![if heads { 1 } else { USUAL_POWER }; nodes];
        };
        if heads {
            let one = match &power.value {
                Power::One(value) => *value == 1,
                Power::Each(list) => list.iter().all(|value| value.value == 1),
            };
            if !one {
                let name = self.adapter.map_or("", |adapter| adapter.name());
                let problem = Problem::new(code::POWER, &power.at, format!("on {name} every validator counts one"))
                    .label("powers differ on other chains")
                    .help("leave `power` out");
                self.problems.push(problem);
                return vec![1; nodes];
            }
        }
        match &power.value {
            Power::One(value) => {
                self.power(*value, &power.at);
                vec![*value; nodes]
            }
            Power::Each(list) => {
                for value in list {
                    self.power(value.value, &value.at);
                }
                if list.len() != nodes {
                    let problem = Problem::new(
                        code::POWER,
                        &power.at,
                        format!("{} powers for {nodes} nodes", list.len()),
                    )
                    .label("one number for each node")
                    .help(format!("make the list {nodes} long, or give one number for all"));
                    self.problems.push(problem);
                }
                let mut powers: Vec<u64> = list.iter().map(|value| value.value).collect();
                powers.resize(nodes, USUAL_POWER);
                powers
            }
        }
    }

    fn power(&mut self, value: u64, at: &std::ops::Range<usize>) {
        if (1..=MOST_POWER).contains(&value) {
            return;
        }
        let message = format!("a validator's power is from 1 to {MOST_POWER}, not {value}");
        let problem = Problem::new(code::POWER, at, message).label("out of range").help(
            "a node that does not vote has `role = \"full\"`; a validator that comes later has `start = \"manual\"`",
        );
        self.problems.push(problem);
    }

    /// Versions that the file describes.
    fn declared(&mut self, versions: &At<Named<raw::Version>>) {
        for (name, version) in &versions.0 {
            let raw::Version {
                binary,
                image,
                program,
                user,
                reports,
                table: _,
            } = &version.value;
            if name.trim().is_empty() || name.len() > 60 || name.contains(char::is_whitespace) {
                let problem = Problem::new(
                    code::BAD_NAME,
                    &name.at,
                    format!("a version cannot be called \"{}\"", name.value),
                )
                .label("not a name")
                .help("1 to 60 characters without blanks, for example `[versions.\"0.38.26\"]`");
                self.problems.push(problem);
            }
            for text in [binary, image, program, reports].into_iter().flatten() {
                if text.trim().is_empty() {
                    let problem = Problem::new(code::OUT_OF_RANGE, &text.at, "an empty text says nothing here")
                        .label("empty")
                        .help("leave the key out where the chain's own default will do");
                    self.problems.push(problem);
                }
            }
            let mut known = self
                .adapter
                .and_then(|adapter| adapter.version(name))
                .unwrap_or_default();
            // In a cluster a version is one of both, so that what the file names is never another program than the usual one beside it.
            if self.options.backend == BackendKind::Kubernetes {
                known.binary = known.binary.filter(|_| image.is_none());
                known.image = known.image.filter(|_| binary.is_none());
            }
            let text =
                |own: &Option<At<String>>, known: Option<String>| own.as_ref().map(|own| own.value.clone()).or(known);
            // What the file names goes before what the chain would have; where images run, an image before a program.
            let images = self.options.backend == BackendKind::Kubernetes;
            let user = match user {
                Some(_) => self.number(user.as_ref(), "user", 1, 2_147_483_647),
                None => None,
            };
            let version = Version {
                binary: text(binary, known.binary).filter(|_| !(images && image.is_some())),
                image: text(image, known.image).filter(|_| !images || image.is_some() || binary.is_none()),
                program: text(program, known.program),
                user: user.and_then(|user| u32::try_from(user).ok()),
                reports: text(reports, known.reports),
            };
            self.plan.versions.insert(name.value.clone(), version);
        }
    }

    fn default_version(&mut self) {
        let name = self.plan.network.version.clone();
        if let Some(adapter) = self.adapter
            && !self.plan.versions.contains_key(&name)
        {
            let version = adapter.version(&name).unwrap_or_default();
            self.plan.versions.insert(name, version);
        }
    }

    /// Checks a version that nodes are to run, and takes it into the plan.
    pub(super) fn version(&mut self, name: &At<String>) {
        let Some(adapter) = self.adapter else { return };
        if !self.plan.versions.contains_key(&name.value) {
            let Some(version) = adapter.version(name) else {
                let mut known: Vec<&str> = self.plan.versions.keys().map(String::as_str).collect();
                if !known.contains(&adapter.default_version()) {
                    known.push(adapter.default_version());
                }
                let help = format!(
                    "{}; or say what it is: [versions.\"{}\"] with `binary = \"…\"`",
                    did_you_mean(name, known),
                    name.value
                );
                let problem = Problem::new(
                    code::UNKNOWN_VERSION,
                    &name.at,
                    format!(
                        "{} has no version \"{}\" that is known here",
                        adapter.name(),
                        name.value
                    ),
                )
                .label("unknown version")
                .help(help);
                self.problems.push(problem);
                return;
            };
            self.plan.versions.insert(name.value.clone(), version);
        }
        if self.options.backend == BackendKind::Kubernetes && self.plan.network.chain != ChainKind::Devnode {
            let Version { binary, image, .. } = &self.plan.versions[&name.value];
            if binary.is_none() && image.is_none() && self.plan.network.attach.is_none() {
                let problem = Problem::new(
                    code::UNKNOWN_VERSION,
                    &name.at,
                    format!("neither an image nor a program is known for version \"{}\"", name.value),
                )
                .label("pods run images")
                .help(format!(
                    "add `image = \"…\"` to [versions.\"{}\"], or `binary = \"…\"`, from which an image is made",
                    name.value
                ));
                self.problems.push(problem);
            }
        }
        let needs_program = self.plan.network.chain != ChainKind::Devnode && self.options.backend == BackendKind::Local;
        if needs_program && self.plan.versions[&name.value].binary.is_none() {
            let problem = Problem::new(
                code::UNKNOWN_VERSION,
                &name.at,
                format!("no program is known for version \"{}\"", name.value),
            )
            .label("the local backend runs programs")
            .help(format!(
                "add `binary = \"…\"` to [versions.\"{}\"]: a name on PATH or a path",
                name.value
            ));
            self.problems.push(problem);
        }
    }

    /// The chain's own keys, checked for a version.
    pub(super) fn config(&mut self, config: Option<&At<Config>>, version: &str) -> Settings {
        let mut keys = Settings::new();
        for (key, value) in config.into_iter().flat_map(|config| &config.value.0) {
            if keys.insert(key.value.clone(), value.value.clone()).is_some() {
                let problem = Problem::new(code::CONFIG, &key.at, format!("`{}` is set twice", key.value))
                    .label("again")
                    .help("a quoted \"a.b\" and a nested a.b are the same key");
                self.problems.push(problem);
            }
            let Some(adapter) = self.adapter else { continue };
            if let Err(wrong) = adapter.check_config(version, key, value) {
                let at = if wrong.key { &key.at } else { &value.at };
                let mut problem = Problem::new(code::CONFIG, at, wrong.message).label(if wrong.key {
                    "this key"
                } else {
                    "this value"
                });
                problem.help = wrong.help;
                self.problems.push(problem);
            }
        }
        keys
    }
}
