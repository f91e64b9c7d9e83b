//! The engine: brings a plan's network up, carries out its steps, and puts the world back.
//!
//! One dispatcher owns the run. It takes every record in, stamps it, feeds the judge, hands it to the reporters, and answers those who
//! wait for the judge. The steps run in a task of their own and the faults in another; both only send records and ask. Neither prints, and
//! neither judges.

mod backlog;
mod corrupt;
mod faults;
mod load;
mod probe;
mod rehearsal;
mod repeat;
mod stay;
mod steps;
mod upgrade;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backend::Deployer;
use crate::chain::ChainAdapter;
use crate::judge::{Answer, GateSeen, Judge};
use crate::model::verdict::{Class, Report, Verdict};
use crate::model::{FORMAT, Ms, Plan};
use crate::observe::line::Told;
use crate::record::{Clock, Event, Record, Stamped};

use backlog::{Backlog, Input};

pub(crate) use faults::all_links;
pub use faults::{Held, HeldFault};
pub use probe::until;
pub use stay::{Hand, Made};
pub(crate) use steps::{observer, polling, wanted};

/// What a run needs.
pub struct Setup<'a> {
    /// What to do.
    pub plan: Arc<Plan>,
    /// Unique among all runs.
    pub run: String,
    /// Makes the nodes.
    pub deployer: Arc<dyn Deployer>,
    /// Where the backend reports what happens by itself: processes that started and ended, trouble. What the engine does goes the same way, so
    /// that a cause is heard before its effect, whichever of the two reports first what follows from the other.
    pub records: mpsc::UnboundedSender<Record>,
    /// The other end of it.
    pub events: mpsc::UnboundedReceiver<Record>,
    /// The chain.
    pub adapter: &'static dyn ChainAdapter,
    /// Ends the run early.
    pub cancel: Cancel,
    /// Told of everything, in order.
    pub sink: &'a mut (dyn FnMut(Event) + Send),
    /// Whether node homes stay after the run.
    pub keep: Keep,
}

/// Whether node homes stay after the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// They go.
    #[default]
    Never,
    /// They stay unless the scenario passed, or was interrupted.
    OnFailure,
    /// They stay.
    Always,
}

/// Ends a run early; copies end the same run.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    /// Revert faults and tear down.
    pub stop: CancellationToken,
    /// Tear down at once, without grace.
    pub kill: CancellationToken,
    reason: Arc<std::sync::OnceLock<String>>,
}

impl Cancel {
    /// Asks the run to end; `signal` goes into the records.
    pub fn stop(&self, signal: &str) {
        self.reason.get_or_init(|| signal.to_owned());
        self.stop.cancel();
    }

    /// Ends with this one, but can be ended before it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            stop: self.stop.child_token(),
            kill: self.kill.child_token(),
            reason: Arc::default(),
        }
    }

    fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_else(|| "cancelled".to_owned())
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The verdict and all that led to it.
    pub report: Report,
    /// What teardown could not remove, in words.
    pub leftovers: Vec<String>,
}

/// Carries a plan out, from nothing to nothing.
pub async fn run(setup: Setup<'_>) -> Finished {
    carry(setup, false).await.0
}

/// Brings a plan's network up, and leaves it when it is ready: its steps are not carried out. Where it does not become ready, everything is
/// removed as after a run, and nothing but the report is given back.
pub async fn up(setup: Setup<'_>) -> (Finished, Option<Made>) {
    carry(setup, true).await
}

async fn carry(setup: Setup<'_>, stay: bool) -> (Finished, Option<Made>) {
    let Setup {
        plan,
        run,
        deployer,
        records,
        mut events,
        adapter,
        cancel,
        sink,
        keep,
    } = setup;
    let clock = Clock::start();
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let (samples, mut observed) = mpsc::channel(1024);
    let (line, mut told) = mpsc::channel(1024);
    let desk = Desk { records, messages };
    let abort = CancellationToken::new();
    let mut dispatcher = Dispatcher {
        judge: Judge::new(&plan),
        clock,
        last: Ms(0),
        sink,
        waiting: Vec::new(),
        abort: abort.clone(),
        plan: Arc::clone(&plan),
        leftovers: Vec::new(),
        backlog: Backlog::default(),
    };
    dispatcher.now(Record::Begin {
        format: FORMAT,
        trialnet: env!("CARGO_PKG_VERSION").to_owned(),
        run,
        scenario: plan.scenario.clone(),
        seed: plan.seed,
        backend: plan.backend,
        wall: wall_clock(),
    });
    let lead = steps::Lead {
        plan,
        deployer,
        adapter,
        desk,
        clock,
        cancel,
        abort,
        samples,
        line,
        keep,
        stay,
        made: std::sync::OnceLock::new(),
        later: std::sync::OnceLock::new(),
    };
    let leading = tokio::spawn(Box::pin(lead.run()));
    let mut sources = Sources {
        inbox: &mut inbox,
        events: &mut events,
        observed: &mut observed,
        told: &mut told,
    };
    dispatcher.dispatch(&mut sources).await;
    // `lead` catches what its steps do wrong; if it panics itself, the guard still ends everything when this process ends.
    let made = leading.await.unwrap_or_else(|error| {
        dispatcher.leftovers.push(format!("teardown did not finish: {error}"));
        None
    });
    let report = dispatcher.judge.report();
    (dispatcher.sink)(Event::Done(report.clone()));
    let finished = Finished {
        report,
        leftovers: dispatcher.leftovers,
    };
    (finished, made)
}

/// What the dispatcher can be asked.
#[derive(Debug)]
enum Message {
    /// Reply when the network is ready.
    Ready(oneshot::Sender<()>),
    /// Reply when Q is at least this.
    Height(u64, oneshot::Sender<()>),
    /// Reply when the judge's answer to a step is final.
    Answer(usize, oneshot::Sender<Answer>),
    /// Reply when the network has recovered from everything.
    Settled(oneshot::Sender<()>),
    /// Reply when no fault of the rehearsal is on.
    AtRest(oneshot::Sender<()>),
    /// Reply when a fault is over, as far as anybody can see.
    Over(String, oneshot::Sender<()>),
    /// Reply when the batch of an upgrade with this fault has passed its gate, for which Q has to be at least this; or when it cannot any more.
    Gate(String, u64, oneshot::Sender<GateSeen>),
    /// Reply at once with what that waits for.
    GateNow(String, u64, oneshot::Sender<GateSeen>),
    /// Reply when so many nodes of an upgrade have passed their gates.
    Moved(String, usize, oneshot::Sender<()>),
    /// Reply when none of these nodes is down for a fault.
    Free(Vec<crate::model::NodeName>, oneshot::Sender<()>),
    /// Reply when the process of this node is known to be gone.
    Ended(crate::model::NodeName, oneshot::Sender<()>),
    /// Reply at once whether this fault of the rehearsal may strike now.
    Room(String, oneshot::Sender<Result<(), String>>),
    /// Reply at once with what is missing for *ready*, in words.
    Missing(oneshot::Sender<Missing>),
    /// Reply at once with the verdict so far.
    Verdict(oneshot::Sender<Verdict>),
    /// Reply when everything that came before is judged: at once, unless an observer elsewhere is behind.
    Judged(oneshot::Sender<()>),
    /// Wait no longer for an observer elsewhere.
    LetGo,
    /// What teardown could not remove.
    Leftovers(Vec<String>, oneshot::Sender<()>),
}

/// What the judge still waits for, in words, for messages about limits that ran out.
#[derive(Debug, Default)]
struct Missing {
    ready: String,
    quorum_height: u64,
}

/// Where records go and questions are asked. Copies lead to the same dispatcher; messages of one task keep their order.
#[derive(Clone, Debug)]
struct Desk {
    records: mpsc::UnboundedSender<Record>,
    messages: mpsc::UnboundedSender<Message>,
}

/// That a part of trialnet itself failed.
fn internal(expected: &str, panic: &tokio::task::JoinError) -> Record {
    Record::Trouble {
        code: "infra/internal".to_owned(),
        node: None,
        expected: expected.to_owned(),
        seen: format!("{panic}; this is a bug of trialnet"),
    }
}

impl Desk {
    /// Writes a record.
    fn record(&self, record: Record) {
        // As below.
        if self.records.send(record).is_err() {
            tracing::debug!("a record came after the end of the run");
        }
    }

    fn tell(&self, message: Message) {
        // The dispatcher outlives all who hold a desk, but for the moments after `End`, when nothing counts any more.
        if self.messages.send(message).is_err() {
            tracing::debug!("a message came after the end of the run");
        }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> T {
        let (reply, answer) = oneshot::channel();
        self.tell(message(reply));
        match answer.await {
            Ok(answer) => answer,
            // The run is over: whoever still waits is about to be dropped.
            Err(_) => futures::future::pending().await,
        }
    }

    /// The same, at most for a time; `None` when that is over. An answer that follows from what was observed in that time counts also when it
    /// is late.
    async fn ask_within<T>(&self, limit: Ms, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let mut asking = std::pin::pin!(self.ask(message));
        if let Ok(answer) = tokio::time::timeout(limit.duration(), &mut asking).await {
            return Some(answer);
        }
        self.ask(Message::Judged).await;
        asking.now_or_never()
    }
}

/// Who waits for what.
#[derive(Debug)]
enum Waiter {
    Ready(oneshot::Sender<()>),
    Height(u64, oneshot::Sender<()>),
    Answer(usize, oneshot::Sender<Answer>),
    Settled(oneshot::Sender<()>),
    AtRest(oneshot::Sender<()>),
    Over(String, oneshot::Sender<()>),
    Gate(String, u64, oneshot::Sender<GateSeen>),
    Moved(String, usize, oneshot::Sender<()>),
    Free(Vec<crate::model::NodeName>, oneshot::Sender<()>),
    Ended(crate::model::NodeName, oneshot::Sender<()>),
}

/// Owns the run's state.
struct Dispatcher<'a> {
    judge: Judge,
    clock: Clock,
    last: Ms,
    sink: &'a mut (dyn FnMut(Event) + Send),
    waiting: Vec<Waiter>,
    abort: CancellationToken,
    plan: Arc<Plan>,
    leftovers: Vec<String>,
    backlog: Backlog,
}

/// Where everything comes from.
struct Sources<'a> {
    inbox: &'a mut mpsc::UnboundedReceiver<Message>,
    events: &'a mut mpsc::UnboundedReceiver<Record>,
    observed: &'a mut mpsc::Receiver<Record>,
    told: &'a mut mpsc::Receiver<Told>,
}

impl Dispatcher<'_> {
    /// Runs until the last record.
    async fn dispatch(&mut self, sources: &mut Sources<'_>) {
        let Sources {
            inbox,
            events,
            observed,
            told,
        } = sources;
        let (mut observer_open, mut line_open) = (true, true);
        loop {
            let wake = self.wakes();
            // In this order: who asks asks about everything that was recorded before.
            let over = tokio::select! {
                biased;
                Some(record) = events.recv() => self.came(Input::Record(record)),
                message = inbox.recv() => match message {
                    Some(message) => self.came(Input::Message(message)),
                    None => true,
                },
                record = observed.recv(), if observer_open => match record {
                    Some(record) => self.came(Input::Record(record)),
                    None => { observer_open = false; false }
                },
                told = told.recv(), if line_open => match told {
                    Some(told) => self.told(told),
                    None => { line_open = false; false }
                },
                () = at(wake) => self.woken(),
            };
            if over {
                return;
            }
        }
    }

    /// Handles a question.
    fn hear(&mut self, message: Message) {
        match message {
            Message::Ready(reply) => self.waiting.push(Waiter::Ready(reply)),
            Message::Height(height, reply) => self.waiting.push(Waiter::Height(height, reply)),
            Message::Answer(step, reply) => self.waiting.push(Waiter::Answer(step, reply)),
            Message::Settled(reply) => self.waiting.push(Waiter::Settled(reply)),
            Message::AtRest(reply) => self.waiting.push(Waiter::AtRest(reply)),
            Message::Over(id, reply) => self.waiting.push(Waiter::Over(id, reply)),
            Message::Gate(id, goal, reply) => self.waiting.push(Waiter::Gate(id, goal, reply)),
            Message::GateNow(id, goal, reply) => drop(reply.send(self.judge.gate(&id, goal))),
            Message::Moved(of, nodes, reply) => self.waiting.push(Waiter::Moved(of, nodes, reply)),
            Message::Free(nodes, reply) => self.waiting.push(Waiter::Free(nodes, reply)),
            Message::Ended(node, reply) => self.waiting.push(Waiter::Ended(node, reply)),
            Message::Room(id, reply) => drop(reply.send(self.judge.room_for(&id))),
            Message::Missing(reply) => drop(reply.send(self.missing())),
            Message::Verdict(reply) => drop(reply.send(self.verdict_now())),
            Message::Judged(reply) => drop(reply.send(())),
            // Whoever is let go is so before anything else.
            Message::LetGo => {}
            Message::Leftovers(leftovers, reply) => {
                self.leftovers = leftovers;
                let _: Result<(), ()> = reply.send(());
            }
        }
        self.answer_waiters();
    }

    /// Takes one record in that has just come.
    fn now(&mut self, record: Record) {
        self.take(record, self.clock.now());
    }

    /// Takes one record in that came at a moment: stamps it, judges it, reports it.
    fn take(&mut self, record: Record, at: Ms) {
        self.last = self.backlog.stamp(self.last, at);
        if record == Record::Phase(crate::record::Phase::TearingDown) {
            self.backlog.end();
        }
        let stamped = Stamped { at: self.last, record };
        let findings = self.judge.feed(&stamped);
        (self.sink)(Event::Record(stamped));
        for finding in findings {
            // What is proved or broken does not get better by waiting; a failed expectation ends its step by itself.
            if matches!(finding.class, Class::SafetyViolated | Class::Infrastructure) {
                self.abort.cancel();
            }
            (self.sink)(Event::Finding(finding));
        }
        self.answer_waiters();
    }

    /// The verdict that the run would have if it ended now.
    fn verdict_now(&self) -> Verdict {
        let mut judge = self.judge.clone();
        for record in [Record::Phase(crate::record::Phase::TearingDown), Record::End] {
            judge.feed(&Stamped { at: self.last, record });
        }
        judge.report().verdict
    }

    fn answer_waiters(&mut self) {
        for waiter in std::mem::take(&mut self.waiting) {
            match waiter {
                Waiter::Ready(reply) if self.judge.is_ready() => drop(reply.send(())),
                Waiter::Height(height, reply) if self.judge.quorum_height() >= height => drop(reply.send(())),
                Waiter::Settled(reply) if self.judge.settled().is_ok() => drop(reply.send(())),
                Waiter::AtRest(reply) if self.judge.at_rest() => drop(reply.send(())),
                Waiter::Over(id, reply) if self.judge.is_over(&id) => drop(reply.send(())),
                Waiter::Moved(of, nodes, reply) if self.judge.moved_of(&of) >= nodes => drop(reply.send(())),
                Waiter::Free(nodes, reply) if self.judge.are_free(&nodes) => drop(reply.send(())),
                Waiter::Ended(node, reply) if self.judge.is_gone(&node) => drop(reply.send(())),
                Waiter::Gate(id, goal, reply) => match self.judge.gate(&id, goal) {
                    GateSeen::Waits(..) => self.waiting.push(Waiter::Gate(id, goal, reply)),
                    seen => drop(reply.send(seen)),
                },
                Waiter::Answer(step, reply) => match self.judge.answer(step) {
                    Answer::Pending(_) => self.waiting.push(Waiter::Answer(step, reply)),
                    answer => drop(reply.send(answer)),
                },
                other => self.waiting.push(other),
            }
        }
    }

    fn missing(&self) -> Missing {
        let silent: Vec<_> = (self.plan.network.nodes.iter())
            .filter(|node| node.start == crate::model::Start::Auto && self.judge.height(&node.name).is_none())
            .map(|node| node.name.as_str())
            .collect();
        let quorum_height = self.judge.quorum_height();
        let ready = if silent.is_empty() {
            format!("every node answers, but a quorum is at height {quorum_height}")
        } else {
            format!(
                "a quorum is at height {quorum_height}, and no answer came from {}",
                silent.join(", ")
            )
        };
        let unheard = self
            .backlog
            .unheard()
            .map(|why| format!("; the observer in the cluster was not heard: {why}"));
        let ready = ready + &unheard.unwrap_or_default();
        Missing { ready, quorum_height }
    }
}

/// Waits for a moment; for ever, if there is none.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => futures::future::pending().await,
    }
}

/// Unix time in milliseconds.
fn wall_clock() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ms::from(now).0
}

/// Locks, also after a panic elsewhere: what is kept under these locks is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
