//! An observer beside the nodes: what a line to it that breaks may change (when the judge knows), and what not (what it finds).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use trialnet::backend::{
    Addresses, Bytes, Capabilities, Deployer, Dial, Job, JobOutput, LinkId, LinkShape, NodeOps, NodeSpec, Observer,
    Teardown, Trouble, Wanted,
};
use trialnet::observe::pod::{Pod, Settings};
use trialnet::observe::{Config, Target};

use super::*;

/// The double, and an observer that is reached only while the line is up.
#[derive(Clone)]
struct Beside {
    memory: Memory,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    down: AtomicBool,
    open: Mutex<Vec<CancellationToken>>,
    /// The observer, once it was made, and where its records are.
    pod: Mutex<Option<(Arc<Pod>, tempfile::TempDir)>>,
}

impl Line {
    fn cut(&self) {
        self.down.store(true, Ordering::Relaxed);
        for broken in self.open.lock().unwrap().drain(..) {
            broken.cancel();
        }
    }

    fn mend(&self) {
        self.down.store(false, Ordering::Relaxed);
    }
}

impl Beside {
    fn pod(&self, observer: &Observer) -> Arc<Pod> {
        let mut known = self.line.pod.lock().unwrap();
        let (pod, _) = known.get_or_insert_with(|| {
            let settings: Settings = serde_json::from_value(observer.settings.clone()).unwrap();
            let ops = self.memory.ops();
            let target = |(node, port): &(String, String)| Target {
                node: node.clone(),
                endpoint: ops.endpoint(node, "devnode", port).unwrap(),
                dialect: settings.dialect,
                logs: Vec::new(),
            };
            let config = Config {
                targets: observer.targets.iter().map(target).collect(),
                interval: settings.interval,
                timeout: settings.timeout,
                patterns: Vec::new(),
                validators: settings.validators.clone(),
                depth: settings.depth,
            };
            let folder = tempfile::tempdir().unwrap();
            let (pod, _keeping) = Pod::start(config, folder.path(), CancellationToken::new()).unwrap();
            (pod, folder)
        });
        Arc::clone(pod)
    }
}

impl Deployer for Beside {
    fn capabilities(&self) -> &Capabilities {
        self.memory.capabilities()
    }

    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>> {
        self.memory.reserve(wanted, links)
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>> {
        self.memory.run_job(job)
    }

    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.memory.apply(specs)
    }

    fn with_observer(&self, observer: &Observer) -> Result<Dial, Trouble> {
        let (beside, observer) = (self.clone(), observer.clone());
        Ok(Arc::new(move || {
            let (beside, observer) = (beside.clone(), observer.clone());
            Box::pin(async move {
                if beside.line.down.load(Ordering::Relaxed) {
                    return Err("the API server is out".to_owned());
                }
                let pod = beside.pod(&observer);
                let (near, far) = tokio::io::duplex(4096);
                let broken = CancellationToken::new();
                beside.line.open.lock().unwrap().push(broken.clone());
                tokio::spawn(async move { broken.run_until_cancelled(pod.serve(far)).await });
                Ok(Box::new(near) as Box<dyn Bytes>)
            })
        }))
    }

    fn ops(&self) -> Arc<dyn NodeOps> {
        self.memory.ops()
    }

    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>> {
        self.memory.destroy(how)
    }
}

/// Runs a plan with an observer beside its nodes; `during` runs along from the first step on.
async fn run_beside<F>(mut plan: Plan, during: impl FnOnce(Beside, Cancel) -> F) -> Ended
where
    F: Future<Output = ()> + Send + 'static,
{
    plan.kubernetes.observe = ObserveFrom::Cluster;
    let plan = Arc::new(plan);
    let (memory, reports, events) = Memory::new(Arc::clone(&plan), Tamper::None);
    let beside = Beside {
        memory: memory.clone(),
        line: Arc::default(),
    };
    let cancel = Cancel::default();
    let running = CancellationToken::new();
    let along = {
        let (running, during) = (running.clone(), during(beside.clone(), cancel.clone()));
        tokio::spawn(async move {
            running.cancelled().await;
            during.await;
        })
    };
    let records = Mutex::new(Vec::new());
    let mut sink = |event: Event| {
        if let Event::Record(stamped) = event {
            if stamped.record == Record::Phase(trialnet::record::Phase::Running) {
                running.cancel();
            }
            records.lock().unwrap().push(stamped);
        }
    };
    let finished = engine::run(Setup {
        plan,
        run: "test".to_owned(),
        deployer: Arc::new(beside),
        records: reports,
        events,
        adapter: trialnet::chain::adapter(ChainKind::Devnode),
        cancel,
        sink: &mut sink,
        keep: Keep::Never,
    })
    .await;
    along.await.unwrap();
    Ended {
        finished,
        memory,
        records: records.into_inner().unwrap(),
    }
}

/// So long the line is down: longer than any stall or gap is allowed to be.
const GAP: Duration = Duration::from_secs(5);

fn wait(time: Ms) -> (&'static str, Action) {
    ("", Action::Wait(time))
}

/// When the line broke and when it was back, as the records say.
fn gap(records: &[Stamped]) -> (Ms, Ms) {
    let at = |connected: bool| {
        let is =
            |stamped: &&Stamped| matches!(&stamped.record, Record::Observer { connected: is, .. } if *is == connected);
        let mut found = records.iter().filter(is);
        if connected { found.nth(1) } else { found.next() }.unwrap().at
    };
    (at(false), at(true))
}

/// The heights that were observed in a time.
fn heights(records: &[Stamped], from: Ms, to: Ms) -> BTreeSet<u64> {
    let height = |stamped: &Stamped| match &stamped.record {
        Record::Sample(sample) if sample.sent > from && sample.sent < to => Some(sample.height),
        _ => None,
    };
    records.iter().filter_map(height).collect()
}

#[tokio::test]
async fn a_gap_in_the_line_is_no_gap_in_what_was_seen() {
    // The expectation begins and would have to be met while the line is down.
    let progress = expect(What::Progress { blocks: 3 }, Window::Within(Ms::secs(2)));
    let steps = vec![wait(Ms::secs(1)), ("", progress), wait(Ms::secs(1))];
    let ended = run_beside(plan(steps), |beside, _| async move {
        beside.line.cut();
        tokio::time::sleep(GAP).await;
        beside.line.mend();
    })
    .await;
    ended.verdict(Verdict::Passed);
    let (down, up) = gap(&ended.records);
    assert!(up.since(down) >= Ms(4500), "{down} to {up}");
    let seen = heights(&ended.records, down, up);
    assert!(seen.len() > 20, "{seen:?}");
    assert!(ended.records.windows(2).all(|pair| pair[0].at <= pair[1].at));
    let late = |stamped: &&Stamped| matches!(&stamped.record, Record::Sample(sample) if stamped.at.since(sample.sent + sample.took) > Ms(1000));
    assert_eq!(ended.records.iter().filter(late).count(), 0, "each has its own time");
}

#[tokio::test]
async fn a_chain_that_stops_while_the_line_is_down_is_found() {
    let ended = run_beside(plan(vec![wait(Ms::secs(20))]), |beside, _| async move {
        beside.line.cut();
        tokio::time::sleep(Duration::from_millis(500)).await;
        // No step says so: the chain has no excuse.
        let name = |index| format!("validator-{index}");
        let pairs = (0..4).flat_map(|a| (0..4).filter(move |b| *b != a).map(move |b| (a, b)));
        let cut: Vec<LinkShape> = pairs
            .map(|(from, to)| LinkShape {
                link: LinkId {
                    from: name(from),
                    to: name(to),
                    port: "p2p".to_owned(),
                },
                cut: true,
                latency: Ms(0),
                jitter: Ms(0),
                drops: false,
            })
            .collect();
        beside.memory.ops().shape(&cut).await.unwrap();
        tokio::time::sleep(GAP).await;
        beside.line.mend();
    })
    .await;
    ended.verdict(Verdict::LivenessFailed);
    assert_eq!(ended.codes()[0], ("liveness/stall", None));
    let (down, up) = gap(&ended.records);
    let ready = ended
        .records
        .iter()
        .find(|stamped| stamped.record == Record::Ready)
        .unwrap()
        .at;
    let since = Ms(u64::try_from(ended.finished.report.findings[0].since_ms).unwrap()) + ready;
    assert!(since >= down && since < up, "{since} lies in {down} to {up}");
}

#[tokio::test]
async fn an_observer_whose_records_are_lost_is_trouble_and_nothing_else() {
    let progress = expect(What::Progress { blocks: 3 }, Window::Within(Ms::secs(1)));
    let ended = run_beside(
        plan(vec![wait(Ms(300)), ("", progress), wait(Ms::secs(20))]),
        |beside, _| async move {
            beside.line.cut();
            tokio::time::sleep(GAP).await;
            // Another one takes its place.
            drop(beside.line.pod.lock().unwrap().take());
            beside.line.mend();
        },
    )
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0], ("infra/observer-lost", None));
}

#[tokio::test]
async fn whoever_interrupts_does_not_wait_for_the_line() {
    let began = std::time::Instant::now();
    let progress = expect(What::Progress { blocks: 3 }, Window::Within(Ms::secs(1)));
    let ended = run_beside(plan(vec![wait(Ms(300)), ("", progress)]), |beside, cancel| async move {
        beside.line.cut();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cancel.stop("SIGINT");
    })
    .await;
    ended.verdict(Verdict::Interrupted);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
