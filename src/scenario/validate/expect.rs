//! Expectations: the question, whom it is asked of, and when it has to hold.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Check, Here, Refer};
use crate::model::{Action, Bounds, Expect, Ms, NodeName, What, Window};
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Named, Selectors, Time};

/// The questions of the language.
const QUESTIONS: [&str; 11] = [
    "height",
    "progress",
    "halt",
    "recovery",
    "lag",
    "peers",
    "version",
    "validators",
    "log",
    "restarts",
    "tx",
];

/// When an expectation has to hold, as it is written.
struct Times<'a> {
    within: Option<&'a At<Time>>,
    lasts: Option<&'a At<Time>>,
    never: Option<&'a At<bool>>,
}

/// Whether an expectation goes on to the end of the run.
pub(super) fn is_never(expect: &raw::Expect) -> bool {
    let never = |field: Option<&At<bool>>| field.is_some_and(|never| never.value);
    let numbers = [&expect.lag, &expect.peers, &expect.restarts];
    numbers
        .into_iter()
        .flatten()
        .any(|numbers| never(numbers.never.as_ref()))
        || expect
            .height
            .as_ref()
            .is_some_and(|height| never(height.never.as_ref()))
        || expect.version.as_ref().is_some_and(|is| never(is.never.as_ref()))
        || expect.validators.as_ref().is_some_and(|set| never(set.never.as_ref()))
        || expect.log.as_ref().is_some_and(|log| never(log.never.as_ref()))
}

impl Check<'_> {
    pub(super) fn expect(&mut self, here: &Here, expect: &At<raw::Expect>) -> Option<Action> {
        self.one_question(expect)?;
        let raw::Expect {
            height,
            progress,
            halt,
            recovery,
            lag,
            peers,
            version,
            validators,
            log,
            restarts,
            tx,
            table: _,
        } = &expect.value;
        let expect = if let Some(height) = height {
            self.height(here, height)
        } else if let Some(progress) = progress {
            self.progress(progress)
        } else if let Some(halt) = halt {
            self.halt(here, halt)
        } else if let Some(recovery) = recovery {
            self.recovery(here, recovery)
        } else if let Some(lag) = lag {
            self.numbers(here, lag, What::Lag, true)
        } else if let Some(peers) = peers {
            self.numbers(here, peers, What::Peers, true)
        } else if let Some(version) = version {
            self.is(here, version)
        } else if let Some(validators) = validators {
            self.validators(here, validators)
        } else if let Some(log) = log {
            self.log(here, log)
        } else if let Some(restarts) = restarts {
            self.numbers(here, restarts, What::Restarts, false)
        } else {
            self.committed(tx.as_ref()?)
        }?;
        if expect.window == Window::Never && here.background {
            let problem = Problem::new(code::POINTLESS, &here.key, "`never` goes on beside the steps by itself")
                .label("in the background anyway")
                .help("leave `background` out");
            self.problems.push(problem);
        }
        Some(Action::Expect(expect))
    }

    fn one_question(&mut self, expect: &At<raw::Expect>) -> Option<()> {
        let asked: Vec<&(String, Range<usize>)> = expect
            .table
            .iter()
            .filter(|(key, _)| QUESTIONS.contains(&key.as_str()))
            .collect();
        let problem = match asked.as_slice() {
            [_] => return Some(()),
            [] if !expect.table.is_empty() => return None,
            [] => Problem::new(code::ONE_ACTION, &expect.key, "this `expect` asks nothing")
                .label("no question")
                .help(format!("give it one of: {}", QUESTIONS.join(", "))),
            [(first, first_at), (second, at), ..] => Problem::new(
                code::ONE_ACTION,
                at,
                format!("an `expect` asks one question, but this one asks for `{first}` and `{second}`"),
            )
            .label("second question")
            .related(first_at, "first question")
            .help("write a [[steps]] of its own for each"),
        };
        self.problems.push(problem);
        None
    }

    fn height(&mut self, here: &Here, height: &At<raw::Height>) -> Option<Expect> {
        let raw::Height {
            at_least,
            at_most,
            nodes,
            within,
            r#for: lasts,
            never,
            table: _,
        } = &height.value;
        let times = Times {
            within: within.as_ref(),
            lasts: lasts.as_ref(),
            never: never.as_ref(),
        };
        let bounds = self.bounds(height, &height.table, at_least.as_ref(), at_most.as_ref());
        let window = self.window(here, &times);
        let nodes = self.of(here, nodes.as_ref(), window, true)?;
        Some(Expect {
            what: What::Height(bounds?),
            nodes,
            window: window?,
        })
    }

    fn numbers(
        &mut self,
        here: &Here,
        numbers: &At<raw::Numbers>,
        what: fn(Bounds) -> What,
        asks_node: bool,
    ) -> Option<Expect> {
        let raw::Numbers {
            at_least,
            at_most,
            nodes,
            within,
            r#for: lasts,
            never,
            table: _,
        } = &numbers.value;
        let times = Times {
            within: within.as_ref(),
            lasts: lasts.as_ref(),
            never: never.as_ref(),
        };
        let bounds = self.bounds(numbers, &numbers.table, at_least.as_ref(), at_most.as_ref());
        let window = self.window(here, &times);
        let nodes = self.of(here, nodes.as_ref(), window, asks_node)?;
        Some(Expect {
            what: what(bounds?),
            nodes,
            window: window?,
        })
    }

    fn progress(&mut self, progress: &At<raw::Progress>) -> Option<Expect> {
        let raw::Progress {
            blocks,
            within,
            table: _,
        } = &progress.value;
        let blocks = self.number(blocks.as_ref(), "blocks", 1, 1_000_000);
        let within = self.lasting(within.as_ref());
        Some(Expect {
            what: What::Progress { blocks: blocks? },
            nodes: None,
            window: Window::Within(within?),
        })
    }

    fn halt(&mut self, here: &Here, halt: &At<raw::Halt>) -> Option<Expect> {
        let raw::Halt {
            of,
            r#for: lasts,
            table: _,
        } = &halt.value;
        let lasts = self.lasting(lasts.as_ref());
        if let Some(lasts) = lasts {
            self.passes(here, lasts);
        }
        let of = of.as_ref()?;
        self.refer(of, Refer::Fault)?;
        Some(Expect {
            what: What::Halt { of: of.value.clone() },
            nodes: None,
            window: Window::For(lasts?),
        })
    }

    fn recovery(&mut self, here: &Here, recovery: &At<raw::Recovery>) -> Option<Expect> {
        let raw::Recovery { of, within, table: _ } = &recovery.value;
        let within = self.lasting(within.as_ref());
        let of = of.as_ref()?;
        self.refer(of, Refer::Fault)?;
        if !here.background && !here.go_on {
            // The run only gets past this step once the fault's revert was verified.
            for live in self.timeline.faults.iter_mut().filter(|live| live.fault.id == of.value) {
                live.ended = true;
            }
        }
        Some(Expect {
            what: What::Recovery { of: of.value.clone() },
            nodes: None,
            window: Window::Within(within?),
        })
    }

    fn is(&mut self, here: &Here, version: &At<raw::Is>) -> Option<Expect> {
        let raw::Is {
            is,
            nodes,
            within,
            r#for: lasts,
            never,
            table: _,
        } = &version.value;
        let times = Times {
            within: within.as_ref(),
            lasts: lasts.as_ref(),
            never: never.as_ref(),
        };
        let window = self.window(here, &times);
        let nodes = self.of(here, nodes.as_ref(), window, true)?;
        let is = self.some_text(is.as_ref()?)?;
        Some(Expect {
            what: What::Version { is },
            nodes,
            window: window?,
        })
    }

    fn validators(&mut self, here: &Here, validators: &At<raw::Validators>) -> Option<Expect> {
        let raw::Validators {
            count,
            powers,
            nodes,
            within,
            r#for: lasts,
            never,
            table: keys,
        } = &validators.value;
        let times = Times {
            within: within.as_ref(),
            lasts: lasts.as_ref(),
            never: never.as_ref(),
        };
        if !keys.iter().any(|(key, _)| key == "count" || key == "powers") {
            let problem = Problem::new(
                code::BOUNDS,
                &validators.key,
                "this expectation says nothing of the validator set",
            )
            .label("no `count` and no `powers`")
            .help("write `validators = { count = 4 }` or `validators = { powers = { validator-0 = 10 } }`");
            self.problems.push(problem);
        }
        let most = self.plan.network.nodes.len().max(1) as u64;
        let counted = match count {
            Some(_) if self.sound => self.number(count.as_ref(), "count", 1, most).map(Some),
            _ => Some(None),
        };
        if let Some(powers) = powers {
            let help = "expect their number by `count`";
            self.not_for_found(&powers.key, "nobody knows which found node has which key", help);
        }
        let powers = self.named_powers(powers.as_ref());
        let window = self.window(here, &times);
        let nodes = self.of(here, nodes.as_ref(), window, true)?;
        Some(Expect {
            what: What::Validators {
                count: counted?,
                powers: powers?,
            },
            nodes,
            window: window?,
        })
    }

    fn named_powers(&mut self, powers: Option<&At<Named<u64>>>) -> Option<BTreeMap<NodeName, u64>> {
        let mut named = BTreeMap::new();
        let mut good = true;
        for (name, power) in powers.into_iter().flat_map(|powers| &powers.value.0) {
            good &= self.node(name).is_some();
            named.insert(name.value.clone(), power.value);
        }
        good.then_some(named)
    }

    fn log(&mut self, here: &Here, log: &At<raw::Log>) -> Option<Expect> {
        let raw::Log {
            contains,
            nodes,
            within,
            never,
            table: keys,
        } = &log.value;
        let times = Times {
            within: within.as_ref(),
            lasts: None,
            never: never.as_ref(),
        };
        if !keys.iter().any(|(key, _)| key == "within" || key == "never") {
            let problem = Problem::new(
                code::WINDOW,
                &log.key,
                "a log has no state: say until when the line has to come",
            )
            .label("no `within` and no `never`")
            .help("add `within = \"10s\"`, or `never = true` if it must not come");
            self.problems.push(problem);
        }
        let window = self.window(here, &times);
        let nodes = self.of(here, nodes.as_ref(), window, false)?;
        let contains = self.some_text(contains.as_ref()?)?;
        Some(Expect {
            what: What::Log { contains },
            nodes,
            window: window?,
        })
    }

    fn committed(&mut self, tx: &At<raw::Committed>) -> Option<Expect> {
        let raw::Committed { of, within, table: _ } = &tx.value;
        let within = self.lasting(within.as_ref());
        let of = of.as_ref()?;
        self.refer(of, Refer::Tx)?;
        Some(Expect {
            what: What::Tx { of: of.value.clone() },
            nodes: None,
            window: Window::Within(within?),
        })
    }

    fn some_text(&mut self, text: &At<String>) -> Option<String> {
        if text.trim().is_empty() {
            let problem = Problem::new(code::BOUNDS, &text.at, "an empty text is found everywhere")
                .label("empty")
                .help("say what has to be there");
            self.problems.push(problem);
            return None;
        }
        Some(text.value.clone())
    }

    /// The nodes that are asked. `Some(None)`: those that are free at the moment of judging.
    #[expect(
        clippy::option_option,
        reason = "outside: whether a problem was reported; inside: the plan's own option"
    )]
    fn of(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        window: Option<Window>,
        asks_node: bool,
    ) -> Option<Option<Vec<NodeName>>> {
        let Some(selectors) = nodes else {
            return Some(None);
        };
        let nodes = self.select(selectors)?;
        if !self.all_started(&nodes, selectors) {
            return None;
        }
        // Later steps may bring a node back while these are waited for.
        let later = here.background || window == Some(Window::Never);
        if asks_node && !later {
            self.none_down(&nodes, selectors, true)?;
        }
        Some(Some(self.names(&nodes)))
    }

    fn bounds<T>(
        &mut self,
        table: &At<T>,
        keys: &[(String, Range<usize>)],
        at_least: Option<&At<u64>>,
        at_most: Option<&At<u64>>,
    ) -> Option<Bounds> {
        let example = "write `at_least = 5`, `at_most = 10`, or both";
        let problem = match (at_least, at_most) {
            // A bound that could not be read was complained about.
            (None, None) if keys.iter().any(|(key, _)| key == "at_least" || key == "at_most") => return None,
            (None, None) => Problem::new(code::BOUNDS, &table.key, "this expectation names no number")
                .label("no `at_least` and no `at_most`")
                .help(example),
            (Some(least), Some(most)) if least.value > most.value => Problem::new(
                code::BOUNDS,
                &most.at,
                format!("nothing is at least {} and at most {}", least.value, most.value),
            )
            .label("less than `at_least`")
            .related(&least.at, "at least this")
            .help("exchange the two numbers, or leave one out"),
            (Some(least), None) if least.value == 0 => Problem::new(
                code::BOUNDS,
                &least.at,
                "everything is at least 0, so this can never fail",
            )
            .label("always so")
            .help("give a number of 1 or more"),
            _ => {
                return Some(Bounds {
                    at_least: at_least.map(|least| least.value),
                    at_most: at_most.map(|most| most.value),
                });
            }
        };
        self.problems.push(problem);
        None
    }

    /// When an expectation has to hold.
    fn window(&mut self, here: &Here, times: &Times<'_>) -> Option<Window> {
        let Times { within, lasts, never } = times;
        if let Some(never) = never
            && !never.value
        {
            let problem = Problem::new(code::POINTLESS, &never.key, "`never = false` says nothing")
                .label("no effect")
                .help("leave it out");
            self.problems.push(problem);
            return None;
        }
        let given: Vec<&Range<usize>> = [
            within.map(|time| &time.key),
            lasts.map(|time| &time.key),
            never.map(|never| &never.key),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [first, second, ..] = given.as_slice() {
            let problem = Problem::new(
                code::WINDOW,
                second,
                "an expectation holds `within` a time, `for` a time, or `never`: one of these",
            )
            .label("second window")
            .related(first, "first window")
            .help("write two steps if both are meant");
            self.problems.push(problem);
            return None;
        }
        if let Some(within) = within {
            return self.lasting(Some(within)).map(Window::Within);
        }
        if let Some(lasts) = lasts {
            let time: Ms = self.lasting(Some(lasts))?;
            self.passes(here, time);
            return Some(Window::For(time));
        }
        Some(if never.is_some() { Window::Never } else { Window::Now })
    }
}
