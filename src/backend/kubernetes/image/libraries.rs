//! The libraries that a program links, found as its loader finds them (ld.so(8)): DT_RPATH, DT_RUNPATH, the loader's cache, the standard folders.
//!
//! `LD_LIBRARY_PATH` does not count, because trialnet starts nodes without it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};

use super::elf::{self, Elf, ElfError, Machine, Part};

/// The index of libraries that ldconfig(8) makes.
const CACHE: &str = "/etc/ld.so.cache";
/// Of glibc: looked for by name when the first host name is resolved, therefore linked by nobody. From 2.34 on they are part of libc.
const RESOLVERS: [&str; 2] = ["libnss_files.so.2", "libnss_dns.so.2"];

/// A library that was found.
#[derive(Clone, Debug)]
pub(super) struct Library {
    /// The name that is linked; the loader itself has that of its path.
    pub name: String,
    /// Where the program finds it in an image, if the program stands where [`find`] was told.
    pub at: PathBuf,
    /// Its content.
    pub part: Part,
}

/// What a program needs besides itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Linked {
    /// The loader, at the path that the program names; `None`: it is linked statically.
    pub loader: Option<Library>,
    /// All libraries, each once.
    pub libraries: Vec<Library>,
    /// The folders of the image in which the loader must look besides those that the program names, in the order of the finds.
    pub folders: Vec<PathBuf>,
}

/// A program or library that is to be looked through.
struct Object {
    elf: Elf,
    /// Its folder here and in the image.
    origin: [PathBuf; 2],
    /// The folders, here and in the image, that it has from those who link it (`DT_RPATH`).
    inherited: Vec<[PathBuf; 2]>,
}

/// Finds everything that a program links, directly and through its libraries. `path` is where it is here, `at` where it is to be in the image.
///
/// # Errors
/// When a library is missing; in words.
pub(super) fn find(program: &Elf, path: &Path, at: &Path) -> Result<Linked, String> {
    let Some(interpreter) = program.interpreter.clone() else {
        return Ok(Linked::default());
    };
    let loader = elf::open(&interpreter).map_err(|error| format!("its loader {}: {error}", interpreter.display()))?;
    let search = Search {
        cache: std::fs::read(CACHE).map(|bytes| read_cache(&bytes)).unwrap_or_default(),
        machine: program.machine,
    };
    let mut linked = Linked {
        loader: Some(Library {
            name: name_of(&interpreter),
            at: interpreter.clone(),
            part: loader.part,
        }),
        ..Linked::default()
    };
    // The loader is linked by libc under its own name, and is there already.
    let mut seen = BTreeSet::from([name_of(&interpreter)]);
    if name_of(&interpreter).starts_with("ld-musl") {
        // musl's loader is its libc.
        seen.insert("libc.so".to_owned());
    }
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut queue = VecDeque::from([Object {
        elf: program.clone(),
        origin: [
            folder(&path.canonicalize().unwrap_or_else(|_| path.to_owned())),
            folder(at),
        ],
        inherited: Vec::new(),
    }]);
    while let Some(object) = queue.pop_front() {
        let paths = object.paths();
        for name in &object.elf.needed {
            if !seen.insert(name_of(Path::new(name))) {
                continue;
            }
            let (found, elf) = search.library(name, &paths)?;
            if found.by_search {
                let folder = folder(&found.at);
                if !linked.folders.contains(&folder) {
                    linked.folders.push(folder);
                }
            }
            linked.libraries.push(Library {
                name: name_of(Path::new(name)),
                at: found.at.clone(),
                part: elf.part.clone(),
            });
            queue.push_back(Object {
                elf,
                origin: [folder(&found.here), folder(&found.at)],
                inherited: paths.inherited.clone(),
            });
        }
        if queue.is_empty() && linked.libraries.iter().any(|library| library.name == "libc.so.6") {
            for name in RESOLVERS.into_iter().filter(|name| seen.insert((*name).to_owned())) {
                if let Ok((found, elf)) = search.library(name, &Paths::default()) {
                    linked.libraries.push(Library {
                        name: name.to_owned(),
                        at: found.at.clone(),
                        part: elf.part.clone(),
                    });
                    queue.push_back(Object {
                        elf,
                        origin: [folder(&found.here), folder(&found.at)],
                        inherited: Vec::new(),
                    });
                }
            }
        }
    }
    Ok(linked)
}

/// Where to look first for what an object links.
#[derive(Clone, Debug, Default)]
struct Paths {
    /// `DT_RPATH` of the object and of those who link it.
    inherited: Vec<[PathBuf; 2]>,
    /// `DT_RUNPATH` of the object.
    own: Vec<[PathBuf; 2]>,
}

impl Object {
    fn paths(&self) -> Paths {
        let Self { elf, origin, inherited } = self;
        let expand = |folder: &String| {
            [0, 1].map(|side| {
                let origin: &Path = &origin[side];
                let lib = if elf.machine == Machine::Amd64 { "lib64" } else { "lib" };
                let folder = folder
                    .replace("${ORIGIN}", "$ORIGIN")
                    .replace("${LIB}", lib)
                    .replace("$LIB", lib);
                normal(Path::new(&folder.replace("$ORIGIN", &origin.to_string_lossy())))
            })
        };
        let own: Vec<_> = elf.runpath.iter().map(expand).collect();
        let mut all: Vec<_> = elf.rpath.iter().map(expand).collect();
        // With a RUNPATH of its own an object takes no part in the RPATH of others, but hands it on.
        all.extend(inherited.iter().cloned());
        Paths { inherited: all, own }
    }
}

struct Found {
    here: PathBuf,
    at: PathBuf,
    /// In no folder that a program or library names.
    by_search: bool,
}

struct Search {
    cache: BTreeMap<String, Vec<PathBuf>>,
    machine: Machine,
}

impl Search {
    /// A library for the right processor; others of its name are passed over, as the loader does.
    fn library(&self, name: &str, paths: &Paths) -> Result<(Found, Elf), String> {
        let mut seen = Vec::new();
        for found in self.candidates(name, paths) {
            match elf::open(&found.here) {
                Ok(elf) if elf.machine == self.machine => return Ok((found, elf)),
                Ok(_) => seen.push(format!("{}: for another processor", found.here.display())),
                Err(ElfError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => seen.push(format!("{}: {error}", found.here.display())),
            }
        }
        let seen = if seen.is_empty() {
            String::new()
        } else {
            format!(" ({})", seen.join("; "))
        };
        Err(format!("the library {name} that it links is not on this machine{seen}"))
    }

    fn candidates(&self, name: &str, paths: &Paths) -> Vec<Found> {
        let exact = |path: PathBuf, by_search| Found {
            here: path.clone(),
            at: path,
            by_search,
        };
        if name.contains('/') {
            return vec![exact(PathBuf::from(name), false)];
        }
        let Paths { inherited, own } = paths;
        let rpath = if own.is_empty() { inherited.as_slice() } else { &[] };
        let named = rpath.iter().chain(own).map(|[here, at]| Found {
            here: here.join(name),
            at: at.join(name),
            by_search: false,
        });
        let cached = self.cache.get(name).into_iter().flatten().cloned();
        let standard = standard(self.machine).into_iter().map(|folder| folder.join(name));
        named
            .chain(cached.chain(standard).map(|path| exact(path, true)))
            .collect()
    }
}

/// The folders in which loaders of the common distributions look by themselves.
fn standard(machine: Machine) -> Vec<PathBuf> {
    let triple = match machine {
        Machine::Amd64 => "x86_64-linux-gnu",
        Machine::Arm64 => "aarch64-linux-gnu",
    };
    let folders = [
        "/lib/*",
        "/usr/lib/*",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
        "/usr/local/lib",
    ];
    folders
        .iter()
        .map(|folder| PathBuf::from(folder.replace('*', triple)))
        .collect()
}

/// The paths in the loader's cache by library name, without those for processors with special abilities. Format: glibc `sysdeps/generic/dl-cache.h`,
/// `struct cache_file_new`, which may stand behind one of the older format.
fn read_cache(bytes: &[u8]) -> BTreeMap<String, Vec<PathBuf>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else {
        return found;
    };
    let bytes = &bytes[start..];
    let number = |at: usize| -> Option<usize> {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let string = |at: usize| -> Option<String> {
        let text = bytes.get(at..)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let count = number(MAGIC.len()).unwrap_or(0).min(bytes.len() / ENTRY);
    for index in 0..count {
        let at = HEADER + index * ENTRY;
        let entry = || {
            let plain = bytes.get(at + 16..at + 24)?.iter().all(|byte| *byte == 0);
            Some((plain, string(number(at + 4)?)?, string(number(at + 8)?)?))
        };
        if let Some((true, name, path)) = entry() {
            found.entry(name).or_default().push(PathBuf::from(path));
        }
    }
    found
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Without `.` and `..`, by words alone: the folders of the image are no links.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of the format that glibc reads, behind one of the older format.
    fn cache(entries: &[(&str, &str, u64)]) -> Vec<u8> {
        let table = 48 + 24 * entries.len();
        let mut strings = Vec::new();
        let mut bytes = b"glibc-ld.so.cache1.1".to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(48, 0);
        for (name, path, ability) in entries {
            bytes.extend(0x0303_u32.to_le_bytes());
            for text in [name, path] {
                bytes.extend(u32::try_from(table + strings.len()).unwrap().to_le_bytes());
                strings.extend(text.as_bytes());
                strings.push(0);
            }
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(ability.to_le_bytes());
        }
        [b"ld.so-1.7.0\0\0\0\0\0".as_slice(), &bytes, &strings].concat()
    }

    #[test]
    fn the_cache_of_the_loader_is_read() {
        let read = read_cache(&cache(&[
            ("liba.so.1", "/opt/fast/liba.so.1", 1 << 62),
            ("liba.so.1", "/opt/x/liba.so.1", 0),
            ("libb.so", "/usr/lib/libb.so", 0),
        ]));
        assert_eq!(read.len(), 2);
        assert_eq!(
            read["liba.so.1"],
            [PathBuf::from("/opt/x/liba.so.1")],
            "any processor can use it"
        );
        assert_eq!(read["libb.so"], [PathBuf::from("/usr/lib/libb.so")]);
    }

    #[test]
    fn a_cache_that_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = cache(&[("liba.so.1", "/opt/x/liba.so.1", 0)]);
        for length in 0..whole.len() - 1 {
            read_cache(&whole[..length]);
        }
        assert!(read_cache(b"").is_empty());
    }

    #[test]
    fn paths_are_made_plain_by_words() {
        assert_eq!(
            normal(Path::new("/usr/local/bin/../lib/./x")),
            Path::new("/usr/local/lib/x")
        );
        assert_eq!(normal(Path::new("/../..")), Path::new("/"));
    }
}
