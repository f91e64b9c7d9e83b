//! `report.html`: one file that shows what happened, without anything from elsewhere.
//!
//! Made from the run folder alone, of a run that is over or was cut off. What is here only gathers: the records become series that are thin enough to be drawn
//! (a hundred nodes and an hour make a page of a few megabytes), and `page/page.js` draws them as SVG. A charting library was not taken: what is to be seen are
//! lanes, gaps and curves over one axis, which they do not draw, and each is several times as long as the script.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::codes;
use crate::judge::Judge;
use crate::model::verdict::Report;
use crate::model::{Ms, NodeName, Plan};
use crate::record::{NodeEvent, Phase, Record, Sample, Silence, Stamped};

use super::compare::Figures;
use super::excerpt::{self, Excerpt};
use super::folder::{self, FolderError};

/// The file in the run folder.
pub const FILE: &str = "report.html";

/// So many points of all curves are drawn at most; more cannot be told apart.
const POINTS: usize = 60_000;
/// So many blocks are kept with their time, the latest of each stretch where there were more.
const BLOCKS: usize = 20_000;
/// Three intervals of the heartbeat (one second): a longer time without an answer was not observed.
const GAP: i64 = 3000;
/// The greatest whole number that a script is exact with: a node may claim any height.
const MOST: i64 = (1 << 53) - 1;
/// So many findings get an excerpt of their logs.
const EXCERPTS: usize = 20;

/// The page of a run.
///
/// # Errors
/// When it is not a run folder that can be read.
pub fn page(folder: &Path) -> Result<String, FolderError> {
    let (plan, records) = folder::read(folder)?;
    let mut gather = Gather::new(&plan);
    for stamped in records {
        gather.feed(&stamped?);
    }
    let whole = folder::verdict(folder)?.is_some();
    let data = gather.data(folder, whole);
    Ok(html(&data))
}

/// What is compared of a run with others; it is called by the folder's name.
///
/// # Errors
/// When it is not a run folder that can be read.
pub(super) fn figures(folder: &Path) -> Result<Figures, FolderError> {
    let (plan, records) = folder::read(folder)?;
    let mut gather = Gather::new(&plan);
    for stamped in records {
        gather.feed(&stamped?);
    }
    let judged = gather.ready.unwrap_or(i64::MAX)..gather.removal.unwrap_or(i64::MAX);
    let inside = gather.blocks.iter().filter(|(at, _)| judged.contains(at));
    let mut blocks: Vec<i64> = inside.map(|(_, took)| *took).collect();
    blocks.sort_unstable();
    Ok(Figures {
        name: folder
            .file_name()
            .unwrap_or(folder.as_os_str())
            .to_string_lossy()
            .into_owned(),
        versions: plan.network.nodes.iter().map(|node| node.version.clone()).collect(),
        report: gather.judge.report(),
        blocks,
    })
}

/// Fills the data into the page. Whatever a node said, it stays text: `<` cannot end the script.
fn html(data: &Data) -> String {
    let json = serde_json::to_string(data).expect("data have only text keys and finite numbers");
    let json = json.replace('<', "\\u003c");
    let title: String = data.scenario.chars().filter(|char| !"<>&\"".contains(*char)).collect();
    include_str!("page/page.html")
        .replace("/*STYLE*/", include_str!("page/page.css"))
        .replace("/*SCRIPT*/", include_str!("page/page.js"))
        .replace("TITLE", &title)
        .replace("/*DATA*/", &json)
}

/// What the script gets. All times are milliseconds from *ready*, or from the start where it never came.
#[derive(Debug, Serialize)]
struct Data {
    trialnet: String,
    run: String,
    scenario: String,
    about: Option<String>,
    backend: String,
    /// Unix time in milliseconds at 0.
    wall: i64,
    /// Whether the run came to its end.
    whole: bool,
    ready: bool,
    start: i64,
    end: i64,
    /// When the settling and the removal began.
    settling: Option<i64>,
    removal: Option<i64>,
    /// How often a node is asked.
    poll: u64,
    report: Report,
    /// The titles of the codes of the findings.
    titles: BTreeMap<String, &'static str>,
    /// By the finding's place.
    excerpts: BTreeMap<usize, Vec<Excerpt>>,
    nodes: Vec<NodeData>,
    /// The height that a quorum has reached: time and height in turn.
    quorum: Vec<i64>,
    /// When it grew, and after how long each: in turn.
    blocks: Vec<i64>,
    /// Only each so manieth of them is there.
    thinned: usize,
    load: Vec<LoadPoint>,
    /// When trialnet itself was late, and by how much: in turn.
    late: Vec<i64>,
}

#[derive(Debug, Serialize)]
struct NodeData {
    name: NodeName,
    group: String,
    role: String,
    version: String,
    /// Pieces of its curve, each of time and height in turn; between two nothing was observed.
    heights: Vec<Vec<i64>>,
    /// How long answers took, in milliseconds: the median, the slowest of a hundred (p99), the slowest.
    latency: Option<[u64; 3]>,
    answers: u64,
    /// When they were how many.
    peers: Vec<(i64, u64)>,
    /// Its power by its own account of the set.
    powers: Vec<(i64, u64)>,
    /// What it called itself from when on.
    versions: Vec<(i64, String)>,
    /// From, to, why it gave no answer.
    silent: Vec<(i64, i64, Silence)>,
    /// What happened to its processes.
    events: Vec<(i64, String)>,
    restarts: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LoadPoint {
    id: String,
    at: i64,
    sent: u64,
    accepted: u64,
    refused: u64,
}

/// What is gathered of one node.
#[derive(Debug, Default)]
struct Track {
    heights: Vec<Vec<(i64, u64)>>,
    last: Option<i64>,
    took: Vec<u32>,
    peers: Vec<(i64, u64)>,
    powers: Vec<(i64, u64)>,
    versions: Vec<(i64, String)>,
    silent: Vec<(i64, i64, Silence)>,
    events: Vec<(i64, String)>,
    starts: BTreeMap<String, u64>,
}

/// Gathers what the page shows, record by record. Times are from the start here.
struct Gather<'a> {
    plan: &'a Plan,
    judge: Judge,
    begin: Option<(String, String, u64)>,
    now: i64,
    ready: Option<i64>,
    settling: Option<i64>,
    removal: Option<i64>,
    tracks: BTreeMap<&'a str, Track>,
    quorum: Vec<(i64, u64)>,
    blocks: Vec<(i64, i64)>,
    load: BTreeMap<String, Vec<LoadPoint>>,
    late: Vec<(i64, i64)>,
}

fn ms(time: Ms) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

impl<'a> Gather<'a> {
    fn new(plan: &'a Plan) -> Self {
        let nodes = plan.network.nodes.iter();
        Self {
            plan,
            judge: Judge::new(plan),
            begin: None,
            now: 0,
            ready: None,
            settling: None,
            removal: None,
            tracks: nodes.map(|node| (node.name.as_str(), Track::default())).collect(),
            quorum: Vec::new(),
            blocks: Vec::new(),
            load: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    fn feed(&mut self, stamped: &Stamped) {
        self.judge.feed(stamped);
        self.now = ms(stamped.at);
        let at = self.now;
        match &stamped.record {
            Record::Begin {
                trialnet, run, wall, ..
            } => self.begin = Some((trialnet.clone(), run.clone(), *wall)),
            Record::Ready => self.ready = self.ready.or(Some(at)),
            Record::Phase(Phase::Settling) => self.settling = Some(at),
            Record::Phase(Phase::TearingDown) => self.removal = Some(at),
            Record::Sample(sample) => self.sample(sample),
            Record::Silent { node, sent, cause, .. } => self.silent(node, ms(*sent), *cause),
            Record::Peers { node, sent, count, .. } => {
                if let Some(track) = self.tracks.get_mut(node.as_str()) {
                    track.peers.push((ms(*sent), *count));
                }
            }
            Record::Validators { node, sent, powers, .. } => {
                if let Some(track) = self.tracks.get_mut(node.as_str()) {
                    let power = powers.get(node).copied().unwrap_or(0);
                    if track.powers.last().is_none_or(|(_, last)| *last != power) {
                        track.powers.push((ms(*sent), power));
                    }
                }
            }
            Record::Node { node, event } => {
                if let Some(track) = self.tracks.get_mut(node.as_str()) {
                    track.event(at, event);
                }
            }
            Record::Load {
                id,
                sent,
                accepted,
                refused,
            } => self.load.entry(id.clone()).or_default().push(LoadPoint {
                id: id.clone(),
                at,
                sent: *sent,
                accepted: *accepted,
                refused: *refused,
            }),
            Record::Late { by, .. } => self.late.push((at, ms(*by))),
            _ => {}
        }
        self.grown(at);
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(track) = self.tracks.get_mut(sample.node.as_str()) else {
            return;
        };
        let at = ms(sample.sent);
        let gap = track.last.is_none_or(|last| at - last > GAP);
        // A silence ended it too.
        if gap
            || track
                .silent
                .last()
                .is_some_and(|(_, to, _)| track.last.is_none_or(|last| *to > last))
        {
            track.heights.push(Vec::new());
        }
        // The silence lasted until now.
        if let Some((_, to, _)) = track
            .silent
            .last_mut()
            .filter(|(_, to, _)| track.last.is_none_or(|last| *to > last))
        {
            *to = at;
        }
        track.last = Some(at);
        track.took.push(u32::try_from(sample.took.0).unwrap_or(u32::MAX));
        if let Some(piece) = track.heights.last_mut() {
            piece.push((at, sample.height));
        }
        if track.versions.last().is_none_or(|(_, last)| *last != sample.version) {
            track.versions.push((at, sample.version.clone()));
        }
    }

    fn silent(&mut self, node: &str, at: i64, cause: Silence) {
        let Some(track) = self.tracks.get_mut(node) else { return };
        match track.silent.last_mut() {
            Some((_, to, last)) if *last == cause && at - *to <= GAP && track.last.is_none_or(|seen| seen <= *to) => {
                *to = at;
            }
            last => {
                if let Some((_, to, _)) = last.filter(|(_, to, _)| track.last.is_none_or(|seen| seen <= *to)) {
                    *to = at;
                }
                track.silent.push((at, at, cause));
            }
        }
    }

    /// The quorum's height after a record.
    fn grown(&mut self, at: i64) {
        let height = self.judge.quorum_height();
        let (before, since) = self
            .quorum
            .last()
            .map_or((0, None), |(at, height)| (*height, Some(*at)));
        if height <= before {
            return;
        }
        if let Some(since) = since {
            let blocks = i64::try_from(height - before).unwrap_or(1).max(1);
            self.blocks.push((at, (at - since) / blocks));
        }
        self.quorum.push((at, height));
    }

    fn data(self, folder: &Path, whole: bool) -> Data {
        let zero = self.ready.unwrap_or(0);
        let report = self.judge.report();
        let (trialnet, run, wall) = self.begin.clone().unwrap_or_default();
        let wall = i64::try_from(wall).unwrap_or(0) + zero;
        let excerpts = report.findings.iter().enumerate().take(EXCERPTS);
        let excerpts = excerpts
            .filter_map(|(at, finding)| {
                Some((
                    at,
                    excerpt::around(folder, finding.node.as_deref()?, wall + finding.since_ms),
                ))
            })
            .filter(|(_, logs)| !logs.is_empty())
            .collect();
        let titles = report.findings.iter().filter_map(|finding| {
            let (_, title, _) = codes::find(&finding.code)?;
            Some((finding.code.clone(), *title))
        });
        let buckets = (POINTS / self.plan.network.nodes.len().max(1)).clamp(100, 2000);
        let width = (self.now / i64::try_from(buckets).unwrap_or(1)).max(1);
        let thinned = self.blocks.len().div_ceil(BLOCKS).max(1);
        let mut load: Vec<LoadPoint> = self.load.into_values().flatten().collect();
        for point in &mut load {
            point.at -= zero;
        }
        let mut tracks = self.tracks;
        Data {
            trialnet,
            run,
            scenario: self.plan.scenario.clone(),
            about: self.plan.about.clone(),
            backend: word(&self.plan.backend),
            wall,
            whole,
            ready: self.ready.is_some(),
            start: -zero,
            end: self.now - zero,
            settling: self.settling.map(|at| at - zero),
            removal: self.removal.map(|at| at - zero),
            poll: crate::engine::polling(self.plan).0,
            titles: titles.collect(),
            excerpts,
            report,
            nodes: (self.plan.network.nodes.iter())
                .map(|node| {
                    let track = tracks.remove(node.name.as_str()).unwrap_or_default();
                    NodeData {
                        name: node.name.clone(),
                        group: node.group.clone(),
                        role: word(&node.role),
                        version: node.version.clone(),
                        ..track.data(zero, width)
                    }
                })
                .collect(),
            quorum: pairs(&thin(&self.quorum, width), zero),
            blocks: (self.blocks.iter().step_by(thinned))
                .flat_map(|(at, took)| [at - zero, *took])
                .collect(),
            thinned,
            load,
            late: self.late.iter().flat_map(|(at, by)| [at - zero, *by]).collect(),
        }
    }
}

impl Track {
    fn event(&mut self, at: i64, event: &NodeEvent) {
        let words = match event {
            NodeEvent::Started {
                component,
                generation,
                version,
                ..
            } => {
                *self.starts.entry(component.clone()).or_default() += 1;
                format!("{component} {version} started, generation {generation}")
            }
            NodeEvent::Exited {
                component,
                code,
                signal,
                asked,
                ..
            } => {
                let how = match (code, signal) {
                    (Some(code), _) => format!("with {code}"),
                    (None, Some(signal)) => format!("by signal {signal}"),
                    (None, None) => "in an unknown way".to_owned(),
                };
                let who = if *asked { "ended by trialnet" } else { "ended by itself" };
                format!("{component} {who}, {how}")
            }
            NodeEvent::Wiped => "its data were removed".to_owned(),
            NodeEvent::Damaged { file, .. } => format!("{file} was damaged"),
        };
        self.events.push((at, words));
    }

    fn data(mut self, zero: i64, width: i64) -> NodeData {
        self.took.sort_unstable();
        let took = |share: usize| {
            let at = (self.took.len() * share / 100).min(self.took.len().saturating_sub(1));
            self.took.get(at).map(|took| u64::from(*took))
        };
        let latency = took(50)
            .zip(took(99))
            .zip(took(100))
            .map(|((median, most), last)| [median, most, last]);
        let answers = self.took.len() as u64;
        let shift = |(at, value): (i64, u64)| (at - zero, value);
        NodeData {
            name: String::new(),
            group: String::new(),
            role: String::new(),
            version: String::new(),
            heights: self
                .heights
                .iter()
                .map(|piece| pairs(&thin(piece, width), zero))
                .collect(),
            latency,
            answers,
            peers: self.peers.into_iter().map(shift).collect(),
            powers: self.powers.into_iter().map(shift).collect(),
            versions: self
                .versions
                .into_iter()
                .map(|(at, version)| (at - zero, version))
                .collect(),
            silent: self
                .silent
                .into_iter()
                .map(|(from, to, why)| (from - zero, to - zero, why))
                .collect(),
            events: self.events.into_iter().map(|(at, words)| (at - zero, words)).collect(),
            restarts: self.starts.values().copied().max().unwrap_or(0).saturating_sub(1),
        }
    }
}

/// Of each stretch of time the last point, and every point at which the curve goes back: nobody may miss that. The first and the last stay.
fn thin(points: &[(i64, u64)], width: i64) -> Vec<(i64, u64)> {
    let mut thin: Vec<(i64, u64)> = Vec::new();
    for (at, point) in points.iter().enumerate() {
        let next = points.get(at + 1);
        let last_of_its = next.is_none_or(|next| next.0.div_euclid(width) != point.0.div_euclid(width));
        let falls = next.is_some_and(|next| next.1 < point.1) || (at > 0 && points[at - 1].1 > point.1);
        // Of a stretch without growth both ends are enough.
        let level = thin.last().is_some_and(|last| last.1 == point.1) && next.is_some_and(|next| next.1 == point.1);
        if at == 0 || falls || (last_of_its && !level) {
            thin.push(*point);
        }
    }
    thin
}

fn pairs(points: &[(i64, u64)], zero: i64) -> Vec<i64> {
    (points.iter())
        .flat_map(|(at, height)| [at - zero, i64::try_from(*height).unwrap_or(MOST).min(MOST)])
        .collect()
}

/// The word that a value has in files.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::folder::Folder;
    use super::super::sample;
    use super::*;
    use crate::record::Event;

    fn folder(plan: &Plan, records: &[Stamped]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(place.path(), plan, "").unwrap();
        for record in records {
            folder.event(&Event::Record(record.clone())).unwrap();
        }
        place
    }

    /// What the script reads.
    fn data(page: &str) -> Value {
        let (_, rest) = page
            .split_once(r#"<script type="application/json" id="data">"#)
            .unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn a_page_of_a_run() {
        let place = folder(&sample::plan(), &sample::records());
        let page = page(place.path()).unwrap();
        // Nothing is left to be filled in, and nothing comes from elsewhere.
        for word in [
            "/*STYLE*/",
            "/*SCRIPT*/",
            "/*DATA*/",
            "TITLE",
            "src=",
            "@import",
            "url(",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        let links = page.matches("http").count() - page.matches("http-equiv").count();
        assert_eq!(links, page.matches("http://www.w3.org/2000/svg").count());
        let data = data(&page);
        assert_eq!(data["whole"], false, "there is no verdict.json");
        assert_eq!((&data["start"], &data["end"]), (&json!(-800), &json!(11_600)));
        assert_eq!(data["removal"], 11_201);
        assert_eq!(data["wall"], 1_795_000_000_800_u64);
        let node = &data["nodes"][0];
        assert_eq!(node["name"], "validator-0");
        assert_eq!(
            node["heights"],
            json!([[-110, 1], [8_190, 41]]),
            "eight seconds without an answer are a gap"
        );
        assert_eq!(data["nodes"][2]["restarts"], 0);
        assert_eq!(data["nodes"][2]["events"][1][1], "devnode 1 started, generation 2");
        assert_eq!(data["report"]["faults"][0]["verified_ms"], 1_310);
        let code = data["report"]["findings"][0]["code"].as_str().unwrap();
        assert!(data["titles"][code].is_string());
    }

    #[test]
    fn what_a_node_says_stays_text() {
        let plan = Plan {
            about: Some("</script><script>alert(1)</script>".into()),
            scenario: "a<b>".into(),
            ..sample::plan()
        };
        let place = folder(&plan, &sample::records());
        let page = page(place.path()).unwrap();
        assert!(!page.contains("alert(1)</script>"));
        assert_eq!(data(&page)["about"], "</script><script>alert(1)</script>");
        assert!(page.contains("<title>ab · trialnet</title>"));
    }

    #[test]
    fn thinned_curves_keep_their_ends_and_every_fall() {
        let points: Vec<(i64, u64)> = (0..1000_i64).map(|at| (at, at.unsigned_abs() / 10)).collect();
        let thinned = thin(&points, 100);
        assert_eq!((thinned.first(), thinned.last()), (Some(&(0, 0)), Some(&(999, 99))));
        assert!(thinned.len() <= 12, "{}", thinned.len());
        let mut fallen = points.clone();
        fallen[555].1 = 3;
        let thinned = thin(&fallen, 100);
        for kept in [(554, 55), (555, 3)] {
            assert!(thinned.contains(&kept), "{thinned:?}");
        }
        assert_eq!(
            thin(&[(0, 1), (50, 1), (150, 1), (250, 1), (350, 1)], 100),
            [(0, 1), (350, 1)]
        );
    }
}
