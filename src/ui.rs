//! The printer: the only place besides `main.rs` that writes to stdout and stderr.
//!
//! Results go to stdout, progress and errors to stderr. Texts carry ANSI colours; the printer takes them out where they do not belong,
//! and every text reads the same without them. On a terminal and outside CI, lines appear above the moving progress.

pub mod paint;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};

use anstream::{AutoStream, ColorChoice};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::env;

/// Progress is drawn at most so many times a second.
const DRAWS_A_SECOND: u8 = 10;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Also into files and pipes.
    Always,
    /// Nowhere.
    Never,
}

/// The printer. A copy prints to the same place; it may be used from several threads.
///
/// A write that fails is given up: there is nobody left to tell, and a closed pipe (`trialnet list | head`) is no error.
#[derive(Clone, Debug)]
pub struct Ui {
    sink: Sink,
    bars: Option<MultiProgress>,
}

#[derive(Clone, Debug)]
enum Sink {
    Process { out: ColorChoice, err: ColorChoice },
    Memory(Captured),
}

/// What a printer into memory has printed, without colours.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    text: Arc<Mutex<[String; 2]>>,
}

/// Some lines of moving progress, taken away when dropped.
#[derive(Debug)]
#[must_use]
pub struct Live {
    bars: Vec<ProgressBar>,
    all: MultiProgress,
}

impl Ui {
    /// A printer to this process's stdout and stderr.
    #[must_use]
    pub fn new(color: Color) -> Self {
        let (out, err) = match color {
            Color::Auto => (
                AutoStream::choice(&std::io::stdout()),
                AutoStream::choice(&std::io::stderr()),
            ),
            Color::Always => (ColorChoice::Always, ColorChoice::Always),
            Color::Never => (ColorChoice::Never, ColorChoice::Never),
        };
        let live = std::io::stderr().is_terminal() && !env::ci() && !env::dumb_terminal();
        let bars = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND)));
        Self {
            sink: Sink::Process { out, err },
            bars,
        }
    }

    /// A printer into memory, for tests. It has no moving progress.
    #[must_use]
    pub fn memory() -> (Self, Captured) {
        let captured = Captured::default();
        let ui = Self {
            sink: Sink::Memory(captured.clone()),
            bars: None,
        };
        (ui, captured)
    }

    /// Prints a result to stdout; a newline is added if there is none at the end.
    pub fn out(&self, text: &str) {
        self.write(0, text);
    }

    /// Prints a line of progress to stderr; a newline is added if there is none at the end.
    pub fn err(&self, text: &str) {
        self.write(1, text);
    }

    /// Prints an error with all its causes to stderr, then the way out.
    pub fn error(&self, error: &dyn Error, help: Option<&str>) {
        let mut parts = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            parts.push(error.to_string());
            cause = error.source();
        }
        let mut text = format!("{} {}", paint::bad("error:"), parts.join(": "));
        if let Some(help) = help {
            text.push('\n');
            text.push_str(&paint::good(" help:"));
            text.push(' ');
            text.push_str(help);
        }
        self.err(&text);
    }

    /// Whether progress moves: stderr is a terminal that can, and no CI service runs us.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.bars.is_some()
    }

    /// So many lines of moving progress below all others; `None` where progress does not move.
    #[must_use]
    pub fn live(&self, lines: usize) -> Option<Live> {
        let all = self.bars.clone()?;
        let style = ProgressStyle::with_template("{wide_msg}").expect("the template is well formed");
        let bars = (0..lines)
            .map(|_| all.add(ProgressBar::new_spinner().with_style(style.clone())))
            .collect();
        Some(Live { bars, all })
    }

    fn write(&self, stream: usize, text: &str) {
        match &self.sink {
            Sink::Memory(captured) => {
                let mut captured = captured.text.lock().expect("no writer panics");
                captured[stream] += &anstream::adapter::strip_str(text).to_string();
                if !text.ends_with('\n') {
                    captured[stream].push('\n');
                }
            }
            Sink::Process { out, err } => {
                let write = || match stream {
                    0 => write_line(AutoStream::new(std::io::stdout().lock(), *out), text),
                    _ => write_line(AutoStream::new(std::io::stderr().lock(), *err), text),
                };
                match &self.bars {
                    Some(bars) => bars.suspend(write),
                    None => write(),
                }
            }
        }
    }
}

impl Captured {
    /// What went to stdout so far.
    #[must_use]
    pub fn out(&self) -> String {
        self.text.lock().expect("no writer panics")[0].clone()
    }

    /// What went to stderr so far.
    #[must_use]
    pub fn err(&self) -> String {
        self.text.lock().expect("no writer panics")[1].clone()
    }
}

impl Live {
    /// Shows these lines instead of the former ones, each cut to the terminal's width. Cheap: drawing is limited to ten times a second.
    pub fn show(&self, lines: &[String]) {
        for (index, bar) in self.bars.iter().enumerate() {
            bar.set_message(lines.get(index).cloned().unwrap_or_default());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for bar in &self.bars {
            bar.finish_and_clear();
            self.all.remove(bar);
        }
    }
}

fn write_line(mut stream: impl Write, text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write!(stream, "{text}{end}").and_then(|()| stream.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_without_colour_in_memory() {
        let (ui, captured) = Ui::memory();
        ui.out(&paint::good("fine"));
        ui.err("a line\n");
        assert_eq!(captured.out(), "fine\n");
        assert_eq!(captured.err(), "a line\n");
        assert!(!ui.is_live());
        assert!(ui.live(3).is_none());
    }

    #[test]
    fn an_error_carries_its_causes_and_the_way_out() {
        #[derive(Debug, thiserror::Error)]
        #[error("read the run folder")]
        struct Outer(#[source] std::io::Error);

        let (ui, captured) = Ui::memory();
        ui.error(&Outer(std::io::Error::other("no such file")), Some("give a folder"));
        assert_eq!(
            captured.err(),
            "error: read the run folder: no such file\n help: give a folder\n"
        );
    }
}
