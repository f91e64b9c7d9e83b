//! The line to a supervisor: one connection that is made again whenever it breaks, over containers and pods.
//!
//! What is asked while the line is down waits for it, as long as the asker does. Every question but [`Ask::Crash`] may be asked twice, so
//! those that were under way when the line broke are asked again. Events are numbered by the supervisor; none is lost or told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::agent::supervise::protocol::{Ask, Call, PROTOCOL, Reply, Said};
use crate::agent::{lock, node_trouble};
use crate::backend::{Bytes, LinkShape, Trouble};
use crate::model::{NodeName, Stress};
use crate::record::{NodeEvent, Record, json_line};

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a supervisor may take to say who it is.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// The id of what is asked without anybody waiting for the answer.
const STANDING: u64 = 1;
/// The signal of a process whose pod went away: nobody heard how it ended, and SIGKILL is what the kubelet ends with.
const SIGKILL: i32 = 9;

/// Connects to the supervisor of the pod that there is now; gives the pod's UID with the connection, or the reason in words.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, Result<(String, Box<dyn Bytes>), String>> + Send + Sync>;

/// Whom a line leads to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The node.
    pub node: NodeName,
    /// Its component.
    pub component: String,
}

/// What is known of the process at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Whether the line is up.
    pub connected: bool,
    /// Whether it ever was.
    pub met: bool,
    /// Why it is down, if it is.
    pub why: String,
    /// The last process that was started.
    pub pid: Option<u32>,
    /// Over all pods of the node.
    pub generation: u32,
    /// As the supervisor last said.
    pub runs: bool,
}

/// A line to a supervisor. Dropping it ends it.
#[derive(Debug)]
pub struct Control {
    peer: Peer,
    calls: mpsc::UnboundedSender<Pending>,
    view: watch::Receiver<View>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What the line knows of what was asked.
#[derive(Debug, Default)]
struct Shared {
    /// The pod is about to be removed by order.
    doomed: AtomicBool,
    /// What the links have to be, once that is known: a new pod begins with clear ones, a new container with what the one before it was
    /// told.
    shapes: Mutex<Option<Vec<LinkShape>>>,
    /// What has to be used beside the program, once that is known: a new container begins without any of it.
    stress: Mutex<Option<BTreeMap<String, Stress>>>,
}

impl Shared {
    /// What is asked holds until something else is asked, also for containers that are yet to come.
    fn stands(&self, ask: &Ask) {
        if let Ask::Shape(shapes) = ask {
            *lock(&self.shapes) = Some(shapes.clone());
        }
        if let Ask::Stress(wanted) = ask {
            *lock(&self.stress) = Some(wanted.clone());
        }
    }

    /// Another container is there: what the one before it was to suffer alone is over.
    fn drop_what_ended(&self) {
        if let Some(shapes) = lock(&self.shapes).as_mut() {
            shapes.retain(|shape| !shape.drops);
        }
        if let Some(wanted) = lock(&self.stress).as_mut() {
            wanted.retain(|_, stress| !stress.drops);
        }
    }
}

#[derive(Debug)]
struct Pending {
    ask: Ask,
    reply: oneshot::Sender<Result<Reply, Trouble>>,
}

impl Control {
    /// Opens the line; what happens to the process goes to `records`.
    #[must_use]
    pub fn open(peer: Peer, connect: Connect, records: mpsc::UnboundedSender<Record>) -> Self {
        let (calls, inbox) = mpsc::unbounded_channel();
        let (say, view) = watch::channel(View::default());
        let shared = Arc::new(Shared::default());
        let line = Line {
            peer: peer.clone(),
            view: say,
            shared: Arc::clone(&shared),
            records,
            inbox,
            pending: BTreeMap::new(),
            next: STANDING + 1,
            pod: String::new(),
            container: 0,
            after: 0,
            offset: 0,
            heard: BTreeSet::new(),
        };
        let task = tokio::spawn(Box::pin(line.run(connect))).abort_handle();
        Self {
            peer,
            calls,
            view,
            shared,
            task,
        }
    }

    /// Asks, and waits for the answer at most for `limit`, the time until the line is up included.
    ///
    /// # Errors
    /// The supervisor's own, or `infra/supervisor-silent`.
    pub async fn ask(&self, ask: Ask, limit: Duration) -> Result<Reply, Trouble> {
        let what = format!("{ask:?}");
        self.shared.stands(&ask);
        let (reply, answer) = oneshot::channel();
        if self.calls.send(Pending { ask, reply }).is_err() {
            return Err(self.silent(&what, "the run is over"));
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.silent(&what, "the run is over")),
            Err(_) => {
                let view = self.view.borrow().clone();
                let why = if view.connected {
                    "it is connected"
                } else {
                    view.why.as_str()
                };
                Err(self.silent(
                    &what,
                    &format!("no answer within {}; {why}", crate::model::Ms::from(limit)),
                ))
            }
        }
    }

    /// What is known of the process now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits until the supervisor was met, and has started its process if that starts by itself.
    pub async fn up(&self, started: bool) {
        self.until(move |view| view.met && (view.generation > 0 || !started))
            .await;
    }

    /// Waits until something holds of the process.
    pub async fn until(&self, mut holds: impl FnMut(&View) -> bool) {
        let mut view = self.view.clone();
        if view.wait_for(|view| holds(view)).await.is_err() {
            // The run is over: whoever still waits is about to be dropped.
            futures::future::pending::<()>().await;
        }
    }

    /// What the links that it dials were told to suffer.
    #[must_use]
    pub fn shapes(&self) -> Vec<LinkShape> {
        lock(&self.shared.shapes).clone().unwrap_or_default()
    }

    /// Whether the links that it dials are not all clear, or it may be paused: something that a lease holds.
    #[must_use]
    pub fn shaped(&self) -> bool {
        lock(&self.shared.shapes)
            .as_ref()
            .is_some_and(|shapes| !shapes.is_empty())
    }

    /// The pod that there is now is removed by order, so that the end of its process counts as asked for.
    pub fn doom(&self) {
        self.shared.doomed.store(true, Ordering::Relaxed);
    }

    /// The order was refused: the pod stays.
    pub fn pardon(&self) {
        self.shared.doomed.store(false, Ordering::Relaxed);
    }

    fn silent(&self, what: &str, seen: &str) -> Trouble {
        let Peer { node, component } = &self.peer;
        node_trouble(
            "infra/supervisor-silent",
            node,
            format!("the supervisor of {component} does what it is asked: {what}"),
            seen,
        )
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Line {
    peer: Peer,
    view: watch::Sender<View>,
    shared: Arc<Shared>,
    records: mpsc::UnboundedSender<Record>,
    inbox: mpsc::UnboundedReceiver<Pending>,
    /// Asked and not answered, by id.
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// The UID of the pod that was met last.
    pod: String,
    /// Which of its containers was.
    container: u32,
    /// The number of the last event of that pod.
    after: u64,
    /// Generations of the pods before it.
    offset: u32,
    /// Troubles that were told already.
    heard: BTreeSet<u64>,
}

impl Line {
    async fn run(mut self, connect: Connect) {
        loop {
            let why = match connect().await {
                Ok((pod, bytes)) => {
                    self.meet(pod);
                    self.talk(bytes).await
                }
                Err(why) => why,
            };
            self.view.send_modify(|view| {
                view.connected = false;
                view.why = why;
            });
            // The effect of a crash order is that its line breaks.
            let crashed: Vec<u64> = (self.pending.iter())
                .filter(|(_, pending)| pending.ask == Ask::Crash)
                .map(|(id, _)| *id)
                .collect();
            for id in crashed {
                self.answer(id, Ok(Reply::Done));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Another pod: what ran in the one before has ended with it.
    fn meet(&mut self, pod: String) {
        if self.pod == pod {
            return;
        }
        let View {
            runs, pid, generation, ..
        } = self.view.borrow().clone();
        let asked = self.shared.doomed.swap(false, Ordering::Relaxed);
        if runs {
            let tail = if asked {
                Vec::new()
            } else {
                vec!["its pod went away, and another took its place".to_owned()]
            };
            self.tell(NodeEvent::Exited {
                component: self.peer.component.clone(),
                pid: pid.unwrap_or(0),
                generation,
                code: None,
                signal: Some(SIGKILL),
                asked,
                tail,
            });
        }
        self.view.send_modify(|view| view.runs = false);
        self.pod = pod;
        self.container = 0;
        self.after = 0;
        self.offset = generation;
    }

    /// Talks until the connection ends, and says why it did.
    async fn talk(&mut self, bytes: Box<dyn Bytes>) -> String {
        let (read, mut write) = tokio::io::split(bytes);
        let mut lines = BufReader::new(read).lines();
        // Nothing else is asked before it is known who is there.
        if let Err(error) = write_line(&mut write, 0, &Ask::Hello { after: self.after }).await {
            return error;
        }
        let hello = async {
            loop {
                match lines.next_line().await {
                    Ok(Some(line)) => match serde_json::from_str::<Said>(&line) {
                        Ok(Said::Answer { id: 0, result }) => return result.map_err(|trouble| trouble.to_string()),
                        Ok(_) => {}
                        Err(error) => return Err(format!("it said what cannot be read: {error}")),
                    },
                    Ok(None) => return Err("the connection ended".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        match tokio::time::timeout(HELLO_LIMIT, hello).await {
            Ok(Ok(Reply::Hello {
                protocol,
                last,
                container,
                ..
            })) => {
                if protocol != PROTOCOL {
                    return format!(
                        "the supervisor speaks version {protocol} of the protocol, this trialnet {PROTOCOL}"
                    );
                }
                if last < self.after {
                    // Another pod than the one that was looked up: ask it from its first event on.
                    self.pod.clear();
                    return "the pod was replaced meanwhile".to_owned();
                }
                if std::mem::replace(&mut self.container, container) != container {
                    self.shared.drop_what_ended();
                }
            }
            Ok(Ok(other)) => return format!("it answered {other:?}"),
            Ok(Err(why)) => return why,
            Err(_) => return format!("it did not say who it is within {HELLO_LIMIT:?}"),
        }
        self.view.send_modify(|view| {
            view.connected = true;
            view.met = true;
            view.why.clear();
        });
        let shapes = lock(&self.shared.shapes).clone().map(Ask::Shape);
        let stress = lock(&self.shared.stress).clone().map(Ask::Stress);
        for standing in [shapes, stress].into_iter().flatten() {
            if let Err(error) = write_line(&mut write, STANDING, &standing).await {
                return error;
            }
        }
        // What nobody waits for any more must not come after what was said since.
        self.pending.retain(|_, pending| !pending.reply.is_closed());
        for (id, pending) in &self.pending {
            self.shared.stands(&pending.ask);
            if let Err(error) = write_line(&mut write, *id, &pending.ask).await {
                return error;
            }
        }
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => match serde_json::from_str::<Said>(&line) {
                        Ok(said) => {
                            if let Some(heard) = self.hear(said)
                                && let Err(error) = write_line(&mut write, STANDING, &Ask::Heed(heard)).await
                            {
                                return error;
                            }
                        }
                        Err(error) => return format!("it said what cannot be read: {error}"),
                    },
                    Ok(None) => return "the connection ended".to_owned(),
                    Err(error) => return error.to_string(),
                },
                pending = self.inbox.recv() => match pending {
                    // Whoever asked has given up meanwhile: what nobody waits for any more is not done.
                    Some(pending) if pending.reply.is_closed() => {}
                    Some(pending) => {
                        let id = self.next;
                        self.next += 1;
                        self.shared.stands(&pending.ask);
                        let written = write_line(&mut write, id, &pending.ask).await;
                        self.pending.insert(id, pending);
                        if let Err(error) = written {
                            return error;
                        }
                    }
                    None => futures::future::pending().await,
                },
            }
        }
    }

    /// Takes in what is said; the id of a trouble that is to be heeded.
    fn hear(&mut self, said: Said) -> Option<u64> {
        match said {
            Said::Answer { id, result } => self.answer(id, result),
            Said::Event { number, .. } if number <= self.after => {}
            Said::Event { number, event } => {
                self.after = number;
                let event = self.counted(event);
                // Told before anybody can see it and tell what follows from it.
                self.tell(event.clone());
                self.see(&event);
            }
            Said::Trouble { id, trouble } => {
                // One that was said again, since the word that it was heard was lost.
                if id == 0 || self.heard.insert(id) {
                    self.record(trouble.into());
                }
                return (id != 0).then_some(id);
            }
        }
        None
    }

    fn answer(&mut self, id: u64, result: Result<Reply, Trouble>) {
        if let Some(pending) = self.pending.remove(&id) {
            // Whoever asked may have given up.
            drop(pending.reply.send(result));
        }
    }

    /// The event with its generation counted over all pods.
    fn counted(&self, mut event: NodeEvent) -> NodeEvent {
        match &mut event {
            NodeEvent::Started { generation, .. } | NodeEvent::Exited { generation, .. } => *generation += self.offset,
            NodeEvent::Wiped | NodeEvent::Damaged { .. } => {}
        }
        event
    }

    fn see(&self, event: &NodeEvent) {
        self.view.send_modify(|view| match event {
            NodeEvent::Started { pid, generation, .. } => {
                view.pid = Some(*pid);
                view.generation = *generation;
                view.runs = true;
            }
            NodeEvent::Exited { .. } => view.runs = false,
            NodeEvent::Wiped | NodeEvent::Damaged { .. } => {}
        });
    }

    fn tell(&self, event: NodeEvent) {
        self.record(Record::Node {
            node: self.peer.node.clone(),
            event,
        });
    }

    fn record(&self, record: Record) {
        // Nobody listens any more: the run is over.
        drop(self.records.send(record));
    }
}

async fn write_line(write: &mut (impl AsyncWrite + Unpin), id: u64, ask: &Ask) -> Result<(), String> {
    let call = Call { id, ask: ask.clone() };
    let line = json_line(&call).map_err(|error| error.to_string())?;
    write.write_all(&line).await.map_err(|error| error.to_string())?;
    write.flush().await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Connections that the test hands out one after the other.
    struct Doors {
        connect: Connect,
        hand: mpsc::UnboundedSender<(String, DuplexStream)>,
    }

    fn doors() -> Doors {
        let (hand, given) = mpsc::unbounded_channel::<(String, DuplexStream)>();
        let given = Arc::new(tokio::sync::Mutex::new(given));
        let connect: Connect = Arc::new(move || {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (pod, stream) = given.lock().await.recv().await.ok_or("no more doors")?;
                Ok((pod, Box::new(stream) as Box<dyn Bytes>))
            })
        });
        Doors { connect, hand }
    }

    /// The supervisor's side of a connection.
    struct Far {
        lines: tokio::io::Lines<BufReader<tokio::io::ReadHalf<DuplexStream>>>,
        write: tokio::io::WriteHalf<DuplexStream>,
    }

    impl Far {
        fn open(doors: &Doors, pod: &str) -> Self {
            let (near, far) = tokio::io::duplex(1 << 16);
            doors.hand.send((pod.to_owned(), near)).unwrap();
            let (read, write) = tokio::io::split(far);
            Self {
                lines: BufReader::new(read).lines(),
                write,
            }
        }

        async fn call(&mut self) -> Call {
            serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
        }

        async fn say(&mut self, said: Said) {
            let mut line = serde_json::to_vec(&said).unwrap();
            line.push(b'\n');
            self.write.write_all(&line).await.unwrap();
        }

        async fn hello(&mut self, last: u64) -> u64 {
            let Call {
                id,
                ask: Ask::Hello { after },
            } = self.call().await
            else {
                panic!("the first question must be who is there");
            };
            let reply = Reply::Hello {
                protocol: PROTOCOL,
                node: "n-0".into(),
                component: "core".into(),
                last,
                container: 1,
            };
            self.say(Said::Answer { id, result: Ok(reply) }).await;
            after
        }

        async fn started(&mut self, number: u64, generation: u32) {
            let event = NodeEvent::Started {
                component: "core".into(),
                pid: 7,
                generation,
                version: "1".into(),
            };
            self.say(Said::Event { number, event }).await;
        }
    }

    fn line(doors: &Doors) -> (Control, mpsc::UnboundedReceiver<Record>) {
        let (records, heard) = mpsc::unbounded_channel();
        let peer = Peer {
            node: "n-0".into(),
            component: "core".into(),
        };
        (Control::open(peer, Arc::clone(&doors.connect), records), heard)
    }

    async fn event(heard: &mut mpsc::UnboundedReceiver<Record>) -> NodeEvent {
        match heard.recv().await {
            Some(Record::Node { event, .. }) => event,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_question_under_way_is_asked_again_and_no_event_is_told_twice() {
        let doors = doors();
        let (control, mut heard) = line(&doors);
        let mut far = Far::open(&doors, "pod-a");
        assert_eq!(far.hello(0).await, 0);
        far.started(1, 1).await;
        assert!(matches!(
            event(&mut heard).await,
            NodeEvent::Started { generation: 1, .. }
        ));
        let control = Arc::new(control);
        let asking = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.ask(Ask::Pause, LIMIT).await }
        });
        assert_eq!(far.call().await.ask, Ask::Pause);
        drop(far);
        let mut far = Far::open(&doors, "pod-a");
        assert_eq!(far.hello(1).await, 1);
        let again = far.call().await;
        assert_eq!(again.ask, Ask::Pause);
        far.started(1, 1).await;
        far.started(2, 2).await;
        far.say(Said::Answer {
            id: again.id,
            result: Ok(Reply::Done),
        })
        .await;
        assert_eq!(asking.await.unwrap().unwrap(), Reply::Done);
        assert!(matches!(
            event(&mut heard).await,
            NodeEvent::Started { generation: 2, .. }
        ));
    }

    #[tokio::test]
    async fn a_trouble_is_told_once_and_heeded_as_often_as_it_is_said() {
        let doors = doors();
        let (_control, mut heard) = line(&doors);
        let say = |id| Said::Trouble {
            id,
            trouble: node_trouble("infra/lease-lost", "n-0", "a renewal", "none came"),
        };
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        far.say(say(7)).await;
        assert_eq!(far.call().await.ask, Ask::Heed(7));
        // That word is lost with the line.
        drop(far);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        far.say(say(7)).await;
        far.say(say(9)).await;
        assert_eq!(far.call().await.ask, Ask::Heed(7));
        assert_eq!(far.call().await.ask, Ask::Heed(9));
        for _ in 0..2 {
            assert!(matches!(heard.recv().await, Some(Record::Trouble { .. })));
        }
        assert!(heard.try_recv().is_err(), "told twice");
    }

    #[tokio::test]
    async fn a_new_pod_ends_what_ran_in_the_old_one_and_generations_count_on() {
        let doors = doors();
        let (control, mut heard) = line(&doors);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(1).await;
        far.started(1, 3).await;
        assert!(matches!(
            event(&mut heard).await,
            NodeEvent::Started { generation: 3, .. }
        ));
        drop(far);
        let mut far = Far::open(&doors, "pod-b");
        assert_eq!(far.hello(1).await, 0);
        let NodeEvent::Exited {
            generation: 3,
            asked: false,
            tail,
            ..
        } = event(&mut heard).await
        else {
            panic!("an exit that nobody asked for");
        };
        assert!(tail[0].contains("pod"), "{tail:?}");
        far.started(1, 1).await;
        assert!(matches!(
            event(&mut heard).await,
            NodeEvent::Started { generation: 4, .. }
        ));
        control.doom();
        drop(far);
        let mut far = Far::open(&doors, "pod-c");
        far.hello(0).await;
        assert!(matches!(event(&mut heard).await, NodeEvent::Exited { asked: true, .. }));
    }

    #[tokio::test]
    async fn a_crash_is_done_when_the_line_breaks_and_never_asked_twice() {
        let doors = doors();
        let (control, _heard) = line(&doors);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        let control = Arc::new(control);
        let asking = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.ask(Ask::Crash, LIMIT).await }
        });
        assert_eq!(far.call().await.ask, Ask::Crash);
        drop(far);
        assert_eq!(asking.await.unwrap().unwrap(), Reply::Done);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        let asking = tokio::spawn(async move { control.ask(Ask::Start, LIMIT).await });
        let next = far.call().await;
        assert_eq!(next.ask, Ask::Start);
        far.say(Said::Answer {
            id: next.id,
            result: Ok(Reply::Done),
        })
        .await;
        asking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_the_links_have_to_be_is_told_to_each_container_first_also_that_they_are_clear() {
        let doors = doors();
        let (control, _heard) = line(&doors);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        drop(far);
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        // Nobody has said yet what they have to be, so nobody is told: the supervisor may know better.
        tokio::select! {
            call = far.call() => assert_eq!(call.ask, Ask::Renew),
            early = control.ask(Ask::Renew, LIMIT) => panic!("{early:?}"),
        }
        // The heal of a container that is away is given up, and counts all the same.
        drop(far);
        let heal = control.ask(Ask::Shape(Vec::new()), Duration::from_millis(1)).await;
        assert_eq!(heal.unwrap_err().code, "infra/supervisor-silent");
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        assert_eq!(far.call().await.ask, Ask::Shape(Vec::new()));
        assert!(!control.shaped());
    }

    #[tokio::test]
    async fn what_does_not_outlast_a_container_is_told_to_that_one_alone() {
        let doors = doors();
        let (control, _heard) = line(&doors);
        let shape = |drops| LinkShape {
            link: crate::backend::LinkId {
                from: "n-0".into(),
                to: if drops { "n-1" } else { "n-2" }.into(),
                port: "p2p".into(),
            },
            cut: true,
            latency: crate::model::Ms(0),
            jitter: crate::model::Ms(0),
            drops,
        };
        let both = vec![shape(true), shape(false)];
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        let control = Arc::new(control);
        let asking = tokio::spawn({
            let (control, both) = (Arc::clone(&control), both.clone());
            async move { control.ask(Ask::Shape(both), LIMIT).await }
        });
        let call = far.call().await;
        assert_eq!(call.ask, Ask::Shape(both.clone()));
        far.say(Said::Answer {
            id: call.id,
            result: Ok(Reply::Done),
        })
        .await;
        asking.await.unwrap().unwrap();
        drop(far);
        // The same container again, after the line broke.
        let mut far = Far::open(&doors, "pod-a");
        far.hello(0).await;
        assert_eq!(far.call().await.ask, Ask::Shape(both));
        drop(far);
        let mut far = Far::open(&doors, "pod-b");
        far.hello(0).await;
        assert_eq!(far.call().await.ask, Ask::Shape(vec![shape(false)]));
        drop(control);
    }

    #[tokio::test]
    async fn a_line_that_is_down_says_why() {
        let why = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&why);
        let connect: Connect = Arc::new(move || {
            *seen.lock().unwrap() += 1;
            Box::pin(async { Err("no such pod".to_owned()) })
        });
        let (records, _heard) = mpsc::unbounded_channel();
        let peer = Peer {
            node: "n-0".into(),
            component: "core".into(),
        };
        let control = Control::open(peer, connect, records);
        control.until(|view| !view.why.is_empty()).await;
        let trouble = control.ask(Ask::Renew, Duration::from_millis(250)).await.unwrap_err();
        assert_eq!(trouble.code, "infra/supervisor-silent");
        assert!(trouble.seen.contains("no such pod"), "{trouble}");
        assert!(*why.lock().unwrap() > 1, "it tries again");
    }
}
