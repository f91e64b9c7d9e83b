//! The line to an observer beside the nodes: one connection that is made again whenever it breaks. No record is lost or told twice.
//!
//! Times of the observer are told by the run's clock. What its clock shows is asked with each new connection and every ten seconds: between
//! question and answer lies the moment at which it was read, so each answer bounds the difference from both sides, and all bounds together are
//! kept. A time that is told is wrong by half the shortest round trip at most, and what two clocks drift apart until the next answer.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pod::{Ask, PROTOCOL, Said};
use crate::backend::{Bytes, Dial};
use crate::model::Ms;
use crate::record::{Clock, Record, json_line};

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a connection may take to be made, the limits of the way included.
const DIAL: Duration = Duration::from_secs(10);
/// How long the observer may take to say who it is and what time it is.
const HELLO: Duration = Duration::from_secs(5);
/// How long it may be silent, of whom a mark comes twenty times a second.
const SILENT: Duration = Duration::from_secs(3);
/// How often its clock is asked for at the begin of a connection, and the time between two questions later.
const CLOCKS: u64 = 5;
const CLOCK: Duration = Duration::from_secs(10);
/// How often it is told what has arrived.
const HAVE: Duration = Duration::from_secs(1);
/// How far two clocks may drift apart: one part in so many.
const DRIFT: i64 = 10_000;

/// What the line tells, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A record, and when it was made, by the run's clock.
    At(Ms, Record),
    /// Everything that was recorded before this moment has been told.
    Upto(Ms),
    /// The line is up; how well the observer's clock is known.
    Up(String),
    /// The line is down, and why. Told with each try.
    Down(String),
    /// Records are gone for good, and why; the last that is told.
    Lost(String),
}

/// Follows an observer until `cancel`, or until nobody listens to `out`. Must be called in a tokio runtime.
pub fn follow(dial: Dial, clock: Clock, out: mpsc::Sender<Told>, cancel: CancellationToken) -> JoinHandle<()> {
    let line = Line {
        clock,
        out,
        difference: None,
        after: 0,
        who: None,
    };
    tokio::spawn(async move {
        // Both ends are ordinary.
        let _end: Option<()> = Box::pin(cancel.run_until_cancelled(line.run(dial))).await;
    })
}

/// Why a connection ended.
enum End {
    Broken(String),
    Lost(String),
    /// Nobody listens any more.
    Closed,
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

struct Line {
    clock: Clock,
    out: mpsc::Sender<Told>,
    difference: Option<Difference>,
    /// The number of the last record that was told.
    after: u64,
    /// Which observer told it.
    who: Option<String>,
}

impl Line {
    async fn run(mut self, dial: Dial) {
        loop {
            let ended = match timeout(DIAL, dial()).await {
                Ok(Ok(bytes)) => Box::pin(self.talk(bytes)).await,
                Ok(Err(why)) => End::Broken(why),
                Err(_) => End::Broken(format!("no connection within {}", Ms::from(DIAL))),
            };
            let told = match ended {
                End::Closed => return,
                End::Lost(why) => {
                    drop(self.out.send(Told::Lost(why)).await);
                    return;
                }
                End::Broken(why) => self.out.send(Told::Down(why)).await,
            };
            if told.is_err() {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Talks until the connection ends, and says why it did.
    async fn talk(&mut self, bytes: Box<dyn Bytes>) -> End {
        match self.converse(bytes).await {
            Ok(never) => never,
            Err(end) => end,
        }
    }

    async fn converse(&mut self, bytes: Box<dyn Bytes>) -> Result<End, End> {
        let (read, mut write) = tokio::io::split(bytes);
        let mut lines = BufReader::new(read).lines();
        match timeout(HELLO, self.greet(&mut lines, &mut write)).await {
            Ok(greeted) => greeted?,
            Err(_) => {
                return Err(End::Broken(format!(
                    "it did not say who it is within {}",
                    Ms::from(HELLO)
                )));
            }
        }
        let known = self.difference.as_ref().map_or(Ms(0), Difference::error);
        self.tell(Told::Up(format!("its clock is known to ±{known}"))).await?;
        let (mut clock, mut have) = (interval(CLOCK), interval(HAVE));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        have.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (mut id, mut asked) = (CLOCKS, Ms(0));
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    heard = Instant::now();
                    match understand(line)? {
                        Said::Clock { id: of, now } => if of == id {
                            self.saw(asked, now);
                        },
                        said => self.hear(said).await?,
                    }
                }
                _ = clock.tick() => {
                    id += 1;
                    asked = self.clock.now();
                    say(&mut write, &Ask::Clock { id }).await?;
                }
                _ = have.tick() => say(&mut write, &Ask::Have { number: self.after }).await?,
                () = sleep_until(heard + SILENT) => {
                    return Err(End::Broken(format!("nothing came for {}", Ms::from(SILENT))));
                }
            }
        }
    }

    /// Asks who is there and what time it is there, and from where on its records are wanted.
    async fn greet<R, W>(&mut self, lines: &mut Lines<BufReader<R>>, write: &mut W) -> Result<(), End>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        say(write, &Ask::Hello { protocol: PROTOCOL }).await?;
        let Said::Hello { protocol, who } = understand(lines.next_line().await)? else {
            return Err(End::Broken("it did not say who it is".to_owned()));
        };
        if protocol != PROTOCOL {
            let why = format!("the observer speaks version {protocol} of the protocol, this trialnet {PROTOCOL}");
            return Err(End::Lost(why));
        }
        if self.who.as_ref().is_some_and(|known| *known != who) {
            let why = "another observer took its place, which has none of its records: its pod was removed, or its machine began anew";
            return Err(End::Lost(why.to_owned()));
        }
        self.who = Some(who);
        for id in 1..=CLOCKS {
            let asked = self.clock.now();
            say(write, &Ask::Clock { id }).await?;
            match understand(lines.next_line().await)? {
                Said::Clock { id: of, now } if of == id => self.saw(asked, now),
                other => return Err(End::Broken(format!("it was asked for the time and said {other:?}"))),
            }
        }
        say(write, &Ask::Follow { after: self.after }).await
    }

    async fn hear(&mut self, said: Said) -> Result<(), End> {
        match said {
            Said::Record { number, .. } if number <= self.after => Ok(()),
            Said::Record { number, .. } if number > self.after + 1 => {
                let first = self.after + 1;
                Err(End::Lost(format!(
                    "the records {first} to {} are not there any more",
                    number - 1
                )))
            }
            Said::Record { number, at, mut record } => {
                self.after = number;
                record.on_clock(|sent| self.here(sent));
                self.tell(Told::At(self.here(at), record)).await
            }
            Said::Upto { at } => self.tell(Told::Upto(self.here(at))).await,
            Said::Hello { .. } | Said::Clock { .. } => Ok(()),
        }
    }

    async fn tell(&self, told: Told) -> Result<(), End> {
        self.out.send(told).await.map_err(|_| End::Closed)
    }

    /// A time of the observer's by the run's clock.
    fn here(&self, there: Ms) -> Ms {
        self.difference
            .as_ref()
            .map_or(there, |difference| difference.here(there))
    }

    /// Its clock showed `there` between `asked` and now.
    fn saw(&mut self, asked: Ms, there: Ms) {
        let seen = Difference::between(asked, there, self.clock.now());
        self.difference = Some(match self.difference.take() {
            None => seen,
            Some(known) => known.and(seen),
        });
    }
}

/// What has to be added to a time of the observer's to have that of the run, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    least: i64,
    most: i64,
    /// What is taken: it changes only when it is proved wrong, so that times keep their distances.
    taken: i64,
    /// When that was known.
    at: Ms,
}

impl Difference {
    /// A clock showed `there` at some moment from `asked` to `heard`, all rounded down to milliseconds.
    fn between(asked: Ms, there: Ms, heard: Ms) -> Self {
        let (least, most) = (signed(asked) - signed(there) - 1, signed(heard) - signed(there) + 1);
        Self {
            least,
            most,
            taken: least + (most - least) / 2,
            at: heard,
        }
    }

    /// Both are true, but for what the clocks drifted apart in between.
    fn and(self, seen: Self) -> Self {
        let drift = 1 + signed(seen.at.since(self.at)) / DRIFT;
        let (least, most) = (seen.least.max(self.least - drift), seen.most.min(self.most + drift));
        if least > most {
            // One of the clocks jumped: what was known before is worth nothing.
            return seen;
        }
        Self {
            least,
            most,
            taken: self.taken.clamp(least, most),
            at: seen.at,
        }
    }

    fn here(&self, there: Ms) -> Ms {
        Ms(u64::try_from(signed(there) + self.taken).unwrap_or(0))
    }

    /// By how much a time may be wrong at most.
    fn error(&self) -> Ms {
        Ms(self.taken.abs_diff(self.least).max(self.taken.abs_diff(self.most)))
    }
}

fn signed(time: Ms) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX / 4)
}

fn understand(line: std::io::Result<Option<String>>) -> Result<Said, End> {
    let line = line?.ok_or_else(|| End::Broken("the connection ended".to_owned()))?;
    serde_json::from_str(&line).map_err(|error| End::Broken(format!("it said what cannot be read: {error}")))
}

async fn say(write: &mut (impl AsyncWrite + Unpin), ask: &Ask) -> Result<(), End> {
    let line = json_line(ask).map_err(std::io::Error::from)?;
    let sending = async {
        write.write_all(&line).await?;
        write.flush().await
    };
    match timeout(SILENT, sending).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::Broken(format!("it takes nothing since {}", Ms::from(SILENT)))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::observe::Config;
    use crate::observe::pod::Pod;
    use crate::record::Silence;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn each_answer_bounds_the_difference() {
        let slow = Difference::between(Ms(1000), Ms(50), Ms(1100));
        assert_eq!((slow.least, slow.most, slow.taken), (949, 1051, 1000));
        let quick = Difference::between(Ms(2000), Ms(1030), Ms(2004));
        let both = slow.clone().and(quick);
        assert_eq!((both.least, both.most), (969, 975));
        assert_eq!(both.taken, 975, "moved no further than was proved");
        assert_eq!(both.error(), Ms(6));
        assert_eq!(both.here(Ms(25)), Ms(1000));
        // A slow answer teaches nothing.
        let later = both.clone().and(Difference::between(Ms(3000), Ms(2500), Ms(4000)));
        assert_eq!(later.taken, both.taken);
        assert!(later.most - later.least <= both.most - both.least + 2);
        // Drift widens what is known: an hour later a jump of 300 ms is believed as drift, one of a minute as a jump.
        let hour = 3_600_000;
        let drifted = later
            .clone()
            .and(Difference::between(Ms(hour), Ms(hour - 1275), Ms(hour + 4)));
        assert_eq!((drifted.taken, drifted.error()), (1274, Ms(6)), "{drifted:?}");
        let jumped = later.and(Difference::between(Ms(hour), Ms(hour - 61_000), Ms(hour + 4)));
        assert_eq!(jumped.taken, 61_002);
        assert_eq!(
            Difference::between(Ms(5), Ms(500), Ms(6)).here(Ms(10)),
            Ms(0),
            "before the run"
        );
    }

    /// An observer of a node that is not there, whose connections can be broken.
    struct Far {
        pod: Arc<Pod>,
        down: AtomicBool,
        dials: AtomicUsize,
        open: Mutex<Vec<CancellationToken>>,
        stop: CancellationToken,
        keeping: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
    }

    impl Far {
        fn start(folder: &std::path::Path) -> Arc<Self> {
            let config = Config {
                targets: vec![crate::observe::Target {
                    node: "n-0".into(),
                    // Nobody listens at this port: each look is refused at once.
                    endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
                    dialect: crate::chain::Dialect::Comet,
                    logs: Vec::new(),
                }],
                interval: Ms(20),
                timeout: Ms(500),
                patterns: Vec::new(),
                validators: BTreeMap::new(),
                depth: 0,
            };
            let stop = CancellationToken::new();
            let (pod, keeping) = Pod::start(config, folder, stop.clone()).unwrap();
            Arc::new(Self {
                pod,
                down: AtomicBool::new(false),
                dials: AtomicUsize::new(0),
                open: Mutex::default(),
                stop,
                keeping: Mutex::new(Some(keeping)),
            })
        }

        fn dial(self: &Arc<Self>) -> Dial {
            let far = Arc::clone(self);
            Arc::new(move || {
                let far = Arc::clone(&far);
                Box::pin(async move {
                    far.dials.fetch_add(1, Ordering::Relaxed);
                    if far.down.load(Ordering::Relaxed) {
                        return Err("the API server is out".to_owned());
                    }
                    // So small that it breaks in the middle of lines.
                    let (near, other) = tokio::io::duplex(256);
                    let broken = CancellationToken::new();
                    far.open.lock().unwrap().push(broken.clone());
                    let pod = Arc::clone(&far.pod);
                    tokio::spawn(async move { broken.run_until_cancelled(pod.serve(other)).await });
                    Ok(Box::new(near) as Box<dyn Bytes>)
                })
            })
        }

        fn cut(&self) {
            self.down.store(true, Ordering::Relaxed);
            for broken in self.open.lock().unwrap().drain(..) {
                broken.cancel();
            }
        }

        /// Records something, as if it were observed.
        async fn observe(&self, number: u64) {
            let (by, interval) = (Ms(number), Ms(1));
            self.pod.keep(Record::Late { by, interval }).await;
        }

        async fn end(&self) {
            self.cut();
            self.stop.cancel();
            let keeping = self.keeping.lock().unwrap().take().unwrap();
            keeping.await.unwrap().unwrap();
        }
    }

    /// What is told until the record with this number.
    async fn told(heard: &mut mpsc::Receiver<Told>, until: u64, all: &mut Vec<(Ms, u64)>, others: &mut Vec<Told>) {
        let deadline = Instant::now() + LIMIT;
        while all.last().is_none_or(|(_, number)| *number < until) {
            match tokio::time::timeout_at(deadline, heard.recv()).await.unwrap().unwrap() {
                Told::At(at, Record::Late { by, interval: Ms(1) }) => all.push((at, by.0)),
                // What its own observing brings.
                Told::At(_, Record::Late { .. }) => {}
                Told::At(_, Record::Silent { cause, .. }) => assert_eq!(cause, Silence::Refused),
                Told::Upto(at) => assert!(all.iter().all(|(before, _)| *before <= at)),
                other => others.push(other),
            }
        }
    }

    #[tokio::test]
    async fn no_record_is_lost_or_told_twice_when_the_line_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let far = Far::start(folder.path());
        let (out, mut heard) = mpsc::channel(4);
        let clock = Clock::start();
        let cancel = CancellationToken::new();
        let following = follow(far.dial(), clock, out, cancel.clone());
        let (mut all, mut others) = (Vec::new(), Vec::new());
        let mut number = 0;
        for round in 0..5 {
            for _ in 0..200 {
                number += 1;
                far.observe(number).await;
            }
            // In the middle of what is being told.
            told(&mut heard, number - 150, &mut all, &mut others).await;
            far.cut();
            for _ in 0..50 {
                number += 1;
                far.observe(number).await;
            }
            let dials = far.dials.load(Ordering::Relaxed);
            while far.dials.load(Ordering::Relaxed) < dials + 2 {
                // What had been on its way still arrives.
                if let Ok(Some(one)) = timeout(Duration::from_millis(10), heard.recv()).await {
                    match one {
                        Told::At(at, Record::Late { by, interval: Ms(1) }) => all.push((at, by.0)),
                        Told::At(..) | Told::Upto(_) => {}
                        other => others.push(other),
                    }
                }
            }
            assert!(all.last().unwrap().1 < number, "round {round}: the line is down");
            far.down.store(false, Ordering::Relaxed);
        }
        told(&mut heard, number, &mut all, &mut others).await;
        let numbers: Vec<u64> = all.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, (1..=number).collect::<Vec<_>>());
        assert!(
            all.windows(2).all(|pair| pair[0].0 <= pair[1].0),
            "in the order of time"
        );
        assert!(
            all.last().unwrap().0 <= clock.now() + Ms(100),
            "by the clock of the run"
        );
        let ups = others.iter().filter(|told| matches!(told, Told::Up(_))).count();
        assert_eq!(ups, 6, "{others:?}");
        assert!(others.contains(&Told::Down("the API server is out".to_owned())));
        cancel.cancel();
        following.await.unwrap();
    }

    #[tokio::test]
    async fn another_observer_in_its_place_is_noticed() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (before, after) = (Far::start(first.path()), Far::start(second.path()));
        let now = Arc::new(Mutex::new(before.dial()));
        let dial: Dial = {
            let now = Arc::clone(&now);
            Arc::new(move || now.lock().unwrap()())
        };
        let (out, mut heard) = mpsc::channel(64);
        let _following = follow(dial, Clock::start(), out, CancellationToken::new());
        before.observe(1).await;
        told(&mut heard, 1, &mut Vec::new(), &mut Vec::new()).await;
        *now.lock().unwrap() = after.dial();
        before.cut();
        loop {
            match timeout(LIMIT, heard.recv()).await.unwrap() {
                Some(Told::Lost(why)) => break assert!(why.contains("another observer"), "{why}"),
                Some(_) => {}
                None => panic!("it ended without a word"),
            }
        }
        assert_eq!(heard.recv().await, None);
    }

    #[tokio::test]
    async fn an_observer_that_was_started_again_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (out, mut heard) = mpsc::channel(64);
        let before = Far::start(folder.path());
        let now = Arc::new(Mutex::new(before.dial()));
        let dial: Dial = {
            let now = Arc::clone(&now);
            Arc::new(move || now.lock().unwrap()())
        };
        let _following = follow(dial, Clock::start(), out, CancellationToken::new());
        let (mut all, mut others) = (Vec::new(), Vec::new());
        before.observe(1).await;
        told(&mut heard, 1, &mut all, &mut others).await;
        before.observe(2).await;
        before.end().await;
        let after = Far::start(folder.path());
        after.observe(3).await;
        *now.lock().unwrap() = after.dial();
        told(&mut heard, 3, &mut all, &mut others).await;
        let numbers: Vec<u64> = all.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(!others.iter().any(|told| matches!(told, Told::Lost(_))), "{others:?}");
    }
}
