//! `trialnet list`: which scenarios there are.

use std::path::PathBuf;

use fs_err as fs;

use super::ListArgs;
use super::files::{FilesError, expand};
use crate::exit;
use crate::report::words::{count, cut};
use crate::ui::{Ui, paint};

/// What a scenario is about is cut here.
const ABOUT: usize = 96;

/// A scenario file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Its `name`, or what is wrong with the file.
    pub name: Result<String, String>,
    /// Its `network.chain`.
    pub chain: Option<String>,
    /// Its `about`.
    pub about: Option<String>,
}

/// Lists the scenarios in the given files and folders.
#[must_use]
pub fn run(args: &ListArgs, ui: &Ui) -> u8 {
    match find(&args.paths) {
        Ok(found) if found.is_empty() => {
            ui.err("no scenario found");
            exit::NOTHING_SELECTED
        }
        Ok(found) => {
            ui.out(&render(&found));
            exit::PASSED
        }
        Err(error) => {
            ui.error(&error, None);
            exit::USAGE
        }
    }
}

/// The scenarios among the files; other TOML files (a `Cargo.toml`) are passed over. Nothing is validated.
///
/// # Errors
/// When a path does not exist or cannot be read.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Found>, FilesError> {
    let files = expand(paths)?;
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(FilesError::Io)?;
        found.extend(look(path, &text));
    }
    Ok(found)
}

fn look(path: PathBuf, text: &str) -> Option<Found> {
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        // Broken, but meant as a scenario, as far as can be told.
        Err(error) if text.lines().any(|line| line.starts_with("[network")) => {
            return Some(Found {
                path,
                name: Err(format!("not valid TOML: {}", error.message())),
                chain: None,
                about: None,
            });
        }
        Err(_) => return None,
    };
    let network = table.get("network").filter(|_| table.contains_key("format"))?;
    let word = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str).map(str::to_owned);
    Some(Found {
        path,
        name: word(table.get("name")).ok_or_else(|| "without a name".to_owned()),
        chain: word(network.get("chain")),
        about: word(table.get("about")),
    })
}

/// The list for people, with colours.
#[must_use]
pub fn render(found: &[Found]) -> String {
    let mut lines = Vec::new();
    for Found {
        path,
        name,
        chain,
        about,
    } in found
    {
        let name = match name {
            Ok(name) => paint::bold(name),
            Err(problem) => paint::warn(&format!("({problem})")),
        };
        let chain = chain.as_ref().map(|chain| format!("  {chain}")).unwrap_or_default();
        lines.push(format!("{name}{chain}  {}", paint::dim(&path.display().to_string())));
        lines.extend(about.as_ref().map(|about| format!("    {}", cut(about, ABOUT))));
    }
    lines.push(count(found.len(), "scenario"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_told_from_other_files() {
        let temp = tempfile::tempdir().unwrap();
        let files = [
            (
                "a.toml",
                "format = 1\nname = \"one\"\nabout = \"What it shows.\"\n[network]\nchain = \"devnode\"\n",
            ),
            ("Cargo.toml", "[package]\nname = \"x\"\n"),
            ("broken.toml", "format = \n[network]\n"),
            ("nameless.toml", "format = 1\n[network]\n"),
            ("other.toml", "= nonsense"),
        ];
        for (name, text) in files {
            fs::write(temp.path().join(name), text).unwrap();
        }
        let mut found = find(&[temp.path().to_owned()]).unwrap();
        for found in &mut found {
            found.path = found.path.file_name().unwrap().into();
        }
        let (ui, captured) = Ui::memory();
        ui.out(&render(&found));
        insta::assert_snapshot!(captured.out());
    }

    #[test]
    fn an_empty_folder_selects_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (ui, captured) = Ui::memory();
        let paths = vec![temp.path().to_owned()];
        assert_eq!(run(&ListArgs { paths }, &ui), exit::NOTHING_SELECTED);
        assert_eq!(captured.err(), "no scenario found\n");
    }
}
