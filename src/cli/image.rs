//! `trialnet image`: an image as a file, for clusters into which nothing can be loaded from here.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::ImageArgs;
use crate::backend::Trouble;
use crate::backend::kubernetes::image::{self, Made};
use crate::exit;
use crate::ui::Ui;

/// Writes the image of a program, or that of trialnet itself. `exe` is the latter.
#[must_use]
pub fn run(args: &ImageArgs, ui: &Ui, exe: &Path) -> u8 {
    let made = match make(args, exe) {
        Ok(made) => made,
        Err(trouble) => {
            ui.error(&trouble, None);
            return exit::INFRASTRUCTURE;
        }
    };
    match write(&made, &args.output) {
        Ok(()) => {
            ui.out(&words(args, &made));
            exit::PASSED
        }
        Err(error) => {
            ui.error(&error, None);
            exit::INFRASTRUCTURE
        }
    }
}

fn make(args: &ImageArgs, exe: &Path) -> Result<Made, Trouble> {
    let ImageArgs {
        program,
        called,
        name,
        output: _,
    } = args;
    let made = match program {
        Some(program) => image::of_program_called(program, called.as_deref())?,
        None => image::of_self(exe)?.made,
    };
    Ok(match name {
        Some(name) => made.named(name.clone()),
        None => made,
    })
}

/// A reader sees the whole file or none.
fn write(made: &Made, path: &Path) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = Path::new(&draft);
    let write = || {
        let mut out = BufWriter::new(File::create(draft)?);
        made.write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.flush()?;
        std::fs::rename(draft, path)
    };
    write().map_err(|error| {
        // It may not be there at all.
        drop(std::fs::remove_file(draft));
        io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display()))
    })
}

fn words(args: &ImageArgs, made: &Made) -> String {
    let (file, name) = (args.output.display(), &made.tag);
    let said = if args.program.is_some() {
        format!("of a version, [versions.\"…\"] image = \"{name}\"")
    } else {
        format!("[backend.kubernetes] own_image = \"{name}\"")
    };
    format!(
        "{file} is the image {name} ({} in it)\n\
         docker load --input {file} && docker push {name}    or: skopeo copy docker-archive:{file} docker://{name}\n\
         in the scenario: {said}",
        made.program
    )
}

/// The name of an image on the command line: with a tag, so that it is known which one is meant.
pub(super) fn name(text: &str) -> Result<String, String> {
    let (path, tag) = text
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .ok_or("write it with its tag, as REGISTRY/NAME:TAG")?;
    // https://github.com/distribution/reference: a host may have a port, path components are in lower case.
    let (host, rest) = path.split_once('/').unwrap_or(("", path));
    let host_good = host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:_".contains(c));
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    let rest_good = rest.split('/').all(|part| !part.is_empty() && part.chars().all(lower));
    let tag_good = !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if host_good && rest_good && tag_good && !path.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("an image is called REGISTRY/NAME:TAG, its path in lower case".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_tag() {
        for good in [
            "trialnet:1",
            "registry.example/trialnet:0.1.0",
            "127.0.0.1:5000/a/b_c:x-1",
            "team/chain:V2",
        ] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in [
            "trialnet",
            "127.0.0.1:5000/trialnet",
            "x/Upper:1",
            "x/a b:1",
            "/a:1",
            "x//a:1",
            "a:",
            ":1",
            "a:b/c",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let args = ImageArgs {
            program: Some("/bin/sh".into()),
            called: Some("shell".into()),
            name: Some("here/shell:1".into()),
            output: folder.path().join("shell.tar"),
        };
        let (ui, captured) = Ui::memory();
        assert_eq!(
            run(&args, &ui, Path::new("/no/such")),
            exit::PASSED,
            "{}",
            captured.err()
        );
        assert!(
            captured.out().contains("image = \"here/shell:1\""),
            "{}",
            captured.out()
        );
        assert!(captured.out().contains("/usr/local/bin/shell"), "{}", captured.out());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let args = ImageArgs {
            output: folder.path().join("no/such/shell.tar"),
            ..args
        };
        let (ui, captured) = Ui::memory();
        assert_eq!(run(&args, &ui, Path::new("/no/such")), exit::INFRASTRUCTURE);
        assert!(
            captured.err().contains("shell.tar cannot be written"),
            "{}",
            captured.err()
        );
    }
}
