//! Problems of a scenario file: each with a stable code, a place, and a way out, all of them in one report.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// Everything that is wrong with a scenario file, sorted by place.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    source: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable, for example `scenario/unknown-key`; `trialnet explain` tells more.
    pub code: &'static str,
    /// What is wrong, in a sentence.
    pub message: String,
    /// Where, as a range of bytes of the file.
    pub span: Range<usize>,
    /// What to say at that place.
    pub label: String,
    /// The way out.
    pub help: Option<String>,
    /// Other places that matter, each with what to say there.
    pub related: Vec<(Range<usize>, String)>,
}

/// How a report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether colours are used; they are never the only carrier.
    pub color: bool,
    /// Whether lines are drawn with more than ASCII.
    pub unicode: bool,
    /// The most columns of a line of text; lines of the file are not wrapped.
    pub width: usize,
}

impl Look {
    /// The same everywhere: for files, pipes and snapshots.
    pub const PLAIN: Self = Self {
        color: false,
        unicode: true,
        width: 100,
    };
}

impl Diagnostics {
    pub(super) fn new(file: &str, source: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.span.start, a.code, &a.message).cmp(&(b.span.start, b.code, &b.message)));
        problems.dedup();
        Self {
            file: file.to_owned(),
            source: source.to_owned(),
            problems,
        }
    }

    /// The file's name as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems, sorted by place.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Line and column of a problem, from 1; columns count characters.
    #[must_use]
    pub fn place(&self, problem: &Problem) -> (usize, usize) {
        place(&self.source, problem.span.start)
    }

    /// The whole report: each problem with the lines of the file that it is about, then how many there are.
    #[must_use]
    pub fn render(&self, look: Look) -> String {
        let theme = match (look.unicode, look.color) {
            (true, true) => GraphicalTheme::unicode(),
            (true, false) => GraphicalTheme::unicode_nocolor(),
            (false, color) => GraphicalTheme {
                styles: if color {
                    GraphicalTheme::unicode().styles
                } else {
                    GraphicalTheme::none().styles
                },
                ..GraphicalTheme::ascii()
            },
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(look.width)
            .with_wrap_lines(false)
            .with_links(false)
            .with_context_lines(1)
            .without_syntax_highlighting();
        let source = NamedSource::new(&self.file, self.source.clone());
        let mut text = String::new();
        for problem in &self.problems {
            let shown = Shown {
                problem,
                source: &source,
                width: look.width,
            };
            handler
                .render_report(&mut text, &shown)
                .expect("writing to a string cannot fail");
            text.push('\n');
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// How many problems there are, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut codes: Vec<&str> = self.problems.iter().map(|problem| problem.code).collect();
        codes.dedup();
        let more = codes
            .first()
            .map_or_else(String::new, |code| format!(" `trialnet explain {code}` tells more."));
        match self.problems.len() {
            1 => format!("{}: 1 problem; nothing was started.{more}", self.file),
            count => format!("{}: {count} problems; nothing was started.{more}", self.file),
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Look::PLAIN))
    }
}

impl std::error::Error for Diagnostics {}

impl Problem {
    pub(super) fn new(code: &'static str, span: &Range<usize>, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            span: span.clone(),
            label: "here".into(),
            help: None,
            related: Vec::new(),
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, span: &Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span.clone(), label.into()));
        self
    }
}

/// Line and column of a byte, from 1; columns count characters.
pub(super) fn place(source: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    let before = &source[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// `did you mean "x"?` if a known word is near, then all known words; for `help`.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let list = if known.is_empty() {
        "there are none here".to_owned()
    } else {
        format!("known: {}", list(&known, 24))
    };
    match nearest(word, &known) {
        Some(near) => format!("did you mean `{near}`? ({list})"),
        None => list,
    }
}

/// The known word that somebody may have meant.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|candidate| {
            let other = candidate.to_lowercase().replace('_', "-");
            (
                *candidate,
                strsim::damerau_levenshtein(&lower, &other),
                strsim::jaro_winkler(&lower, &other),
            )
        })
        .filter(|(_, edits, likeness)| *edits <= 1 || *likeness > 0.84)
        .min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)))
        .map(|(candidate, _, _)| candidate)
}

/// `a, b, c`, cut after so many.
pub(super) fn list<T: AsRef<str>>(words: &[T], most: usize) -> String {
    let shown: Vec<&str> = words.iter().take(most).map(AsRef::as_ref).collect();
    match words.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Breaks lines at blanks, but not at those between backquotes: what is quoted is there to be copied.
fn wrap(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    let mut quoted = false;
    let words = text.split_inclusive(|letter: char| {
        quoted ^= letter == '`';
        letter == ' ' && !quoted
    });
    for word in words {
        let length = word.trim_end().chars().count();
        if column > 0 && column + length > width {
            wrapped.truncate(wrapped.trim_end().len());
            wrapped.push('\n');
            column = 0;
        }
        wrapped.push_str(word);
        column += word.chars().count();
    }
    wrapped
}

/// A problem as miette wants it.
struct Shown<'a> {
    problem: &'a Problem,
    source: &'a NamedSource<String>,
    width: usize,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&wrap(&self.problem.message, self.width.saturating_sub(4)))
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.problem.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem
            .help
            .as_ref()
            .map(|help| Box::new(wrap(help, self.width.saturating_sub(8))) as Box<dyn fmt::Display + 'a>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let first = LabeledSpan::new_primary_with_span(Some(self.problem.label.clone()), self.problem.span.clone());
        let others = self
            .problem
            .related
            .iter()
            .map(|(span, label)| LabeledSpan::new_with_span(Some(label.clone()), span.clone()));
        Some(Box::new(std::iter::once(first).chain(others)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters() {
        assert_eq!(place("a\nbé = 1", 5), (2, 3));
        assert_eq!(place("", 0), (1, 1));
        assert_eq!(place("a\n", 99), (2, 1));
    }

    #[test]
    fn lines_break_at_blanks_outside_of_quotes() {
        assert_eq!(wrap("one two three", 8), "one two\nthree");
        assert_eq!(wrap("write `a = 1` now", 8), "write\n`a = 1`\nnow");
        assert_eq!(wrap("averylongword x", 4), "averylongword\nx");
        assert_eq!(wrap("", 4), "");
    }

    #[test]
    fn guesses_are_near() {
        assert_eq!(nearest("halth", &["halt", "height"]), Some("halt"));
        assert_eq!(nearest("max-lag", &["max_lag", "max_stall"]), Some("max_lag"));
        assert_eq!(nearest("zebra", &["halt", "height"]), None);
    }

    #[test]
    fn a_report_has_code_place_line_and_way_out() {
        let source = "format = 1\nnam = \"x\"\n";
        let problem = Problem::new("scenario/unknown-key", &(11..14), "unknown key `nam`").help("did you mean `name`?");
        let text = Diagnostics::new("a.toml", source, vec![problem]).render(Look::PLAIN);
        for part in [
            "scenario/unknown-key",
            "a.toml:2:1",
            "nam = \"x\"",
            "did you mean `name`?",
            "1 problem",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "colours in a plain report");
    }
}
