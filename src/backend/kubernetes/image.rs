//! Images made from programs, without a registry and without docker build, and loaded into the cluster's nodes.
//!
//! An image holds a program, and, if it is linked dynamically, its loader and the libraries that it links, at the paths where the loader looks
//! for them. Of each file only the part that is ever loaded goes in: a debug build is several times as long. The name's tag follows from the content,
//! so the same program is the same image everywhere, and one that a node has never needs to be loaded again.

mod archive;
mod elf;
mod libraries;
mod load;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::agent::trouble;
use crate::backend::Trouble;
use archive::{Content, Files};
use elf::Elf;
use libraries::Linked;

pub use load::{load, reaches};

/// The registry in the names of images that trialnet makes. It does not exist, so they can only be loaded.
pub const REGISTRY: &str = "trialnet.local";
/// Who runs the programs, unless the pod says otherwise.
pub const USER: u32 = 1000;
/// The folder of trialnet itself in its image, and in every pod.
pub const OWN_FOLDER: &str = "/trialnet/bin";

/// Where other programs are.
const PROGRAMS: &str = "/usr/local/bin";

/// An image that can be written and loaded. What it is made from is kept open.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name: `trialnet.local/<program>:<16 hexadecimal digits>`.
    pub tag: String,
    /// The program's path in the image.
    pub program: String,
    files: Files,
    /// The image's configuration as JSON; its sum is the image's id.
    config: Vec<u8>,
    layer: archive::Sum,
}

/// The image of trialnet itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// The image.
    pub made: Made,
    /// The command that runs trialnet in it, and in every container that has a copy of its folder [`OWN_FOLDER`] at the same path.
    pub command: Vec<String>,
}

impl Made {
    /// The same image under another name.
    #[must_use]
    pub fn named(self, tag: String) -> Self {
        Self { tag, ..self }
    }

    /// Writes the image as an archive that `docker load`, `ctr images import` and minikube read (docker image specification 1.2). The same image gives the same bytes.
    ///
    /// # Errors
    /// When the destination fails, or a file that the image is made from was changed in place.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        archive::write(out, &self.tag, &self.config, &self.files, &self.layer)
    }
}

/// Makes an image from a program of this machine: a path, or a name on PATH.
///
/// # Errors
/// `infra/program-missing` if there is none, `infra/image-program` if it cannot run in an image: a script, another system's program, or one with a library missing.
pub fn of_program(program: &Path) -> Result<Made, Trouble> {
    of_program_called(program, None)
}

/// The same, with another name for the program in the image than that of its file.
///
/// # Errors
/// As [`of_program`].
pub fn of_program_called(program: &Path, called: Option<&str>) -> Result<Made, Trouble> {
    let path = locate(program)?;
    let name = called.map_or_else(|| file_name(&path), str::to_owned);
    let (elf, failed) = open(&path)?;
    let at = format!("{PROGRAMS}/{name}");
    let Linked {
        loader,
        libraries,
        folders,
    } = libraries::find(&elf, &path, Path::new(&at)).map_err(&failed)?;
    let mut files = base_files();
    files.insert(at.clone(), (0o755, Content::Part(elf.part.clone())));
    for library in loader.into_iter().chain(libraries) {
        files.insert(
            library.at.to_string_lossy().into_owned(),
            (0o755, Content::Part(library.part)),
        );
    }
    let mut env = vec![format!("PATH={PROGRAMS}:/usr/bin:/bin")];
    if !folders.is_empty() {
        // The image has no cache of libraries, and which folders a loader knows by itself is the distribution's choice.
        let folders: Vec<_> = folders.iter().map(|folder| folder.to_string_lossy()).collect();
        env.push(format!("LD_LIBRARY_PATH={}", folders.join(":")));
    }
    make(&name, &elf, at.clone(), &[at], &env, files).map_err(|error| failed(error.to_string()))
}

/// Makes the image of trialnet itself from its executable. Everything is in one folder, from which it runs whatever else the container holds:
/// if it is linked dynamically, the command begins with its own loader.
///
/// # Errors
/// `infra/image-program` if this trialnet is no Linux program.
pub fn of_self(exe: &Path) -> Result<Own, Trouble> {
    // Where an executable was replaced while it runs, the running one is meant.
    let running = std::env::current_exe().is_ok_and(|current| current == exe);
    let file = if running { Path::new("/proc/self/exe") } else { exe };
    let (elf, failed) = open(if file.exists() { file } else { exe })?;
    let program = format!("{OWN_FOLDER}/trialnet");
    let Linked { loader, libraries, .. } = libraries::find(&elf, exe, Path::new(&program)).map_err(&failed)?;
    let mut files = base_files();
    files.insert(program.clone(), (0o755, Content::Part(elf.part.clone())));
    let mut command = vec![program.clone()];
    if let Some(loader) = loader {
        let at = format!("{OWN_FOLDER}/ld.so");
        let lib = format!("{OWN_FOLDER}/lib");
        command = vec![at.clone(), "--library-path".to_owned(), lib.clone(), program.clone()];
        files.insert(at, (0o755, Content::Part(loader.part)));
        for library in libraries {
            let at = format!("{lib}/{}", library.name);
            files.entry(at).or_insert((0o755, Content::Part(library.part)));
        }
    }
    let env = [format!("PATH={OWN_FOLDER}:/usr/bin:/bin")];
    let made = make("trialnet", &elf, program, &command, &env, files).map_err(|error| failed(error.to_string()))?;
    Ok(Own { made, command })
}

/// Puts an image together: sums its layer, writes its configuration.
fn make(name: &str, elf: &Elf, program: String, entry: &[String], env: &[String], files: Files) -> io::Result<Made> {
    let layer = archive::sum(&files)?;
    let moment = "1970-01-01T00:00:00Z";
    let config = serde_json::json!({
        "architecture": elf.machine.name(),
        "os": "linux",
        "created": moment,
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": env,
            "Entrypoint": entry,
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.sha256)] },
        "history": [{ "created": moment, "created_by": "trialnet" }],
    });
    let config = config.to_string().into_bytes();
    let sum = hex::encode(Sha256::digest(&config));
    Ok(Made {
        tag: format!("{REGISTRY}/{}:{}", image_name(name), &sum[..16]),
        program,
        files,
        config,
        layer,
    })
}

/// What every image holds: names for root and the user, how host names are resolved, and a folder for temporary files.
fn base_files() -> Files {
    let text = |text: String| (0o644, Content::Bytes(text.into_bytes()));
    BTreeMap::from([
        ("/tmp".to_owned(), (0o1777, Content::Folder)),
        (
            "/etc/passwd".to_owned(),
            text(format!(
                "root:x:0:0:root:/:/sbin/nologin\ntrialnet:x:{USER}:{USER}:trialnet:/tmp:/sbin/nologin\n"
            )),
        ),
        (
            "/etc/group".to_owned(),
            text(format!("root:x:0:\ntrialnet:x:{USER}:\n")),
        ),
        ("/etc/nsswitch.conf".to_owned(), text("hosts: files dns\n".to_owned())),
    ])
}

/// Opens a program; also gives the function that turns what is wrong with it into trouble.
fn open(path: &Path) -> Result<(Elf, impl Fn(String) -> Trouble + Clone + use<>), Trouble> {
    let shown = path.display().to_string();
    let failed = move |seen: String| {
        trouble(
            "infra/image-program",
            format!("{shown} can be made into an image"),
            format!("{seen}; a statically linked program always can, or name an `image` that a registry has"),
        )
    };
    let elf = elf::open(path).map_err(|error| failed(error.to_string()))?;
    if !elf.starts || (elf.interpreter.is_none() && !elf.needed.is_empty()) {
        return Err(failed("it is a library".to_owned()));
    }
    Ok((elf, failed))
}

/// A program's path: of a name without a slash, the first on PATH.
fn locate(program: &Path) -> Result<PathBuf, Trouble> {
    let missing = |seen: String| {
        let expected = format!("the program {} is there", program.display());
        trouble("infra/program-missing", expected, seen)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return if program.is_file() {
            Ok(program.to_owned())
        } else {
            Err(missing("there is no such file".to_owned()))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| missing("it is not on PATH".to_owned()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A name as references to images allow it: lower case letters, digits, single separators between them.
fn image_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut out = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if plain(c) || matches!(c, '.' | '_') { c } else { '-' };
        if plain(c) || out.chars().last().is_some_and(plain) {
            out.push(c);
        }
    }
    let out = out.trim_end_matches(|c| !plain(c));
    if out.is_empty() {
        "program".to_owned()
    } else {
        out.to_owned()
    }
}

#[cfg(test)]
mod tests;
