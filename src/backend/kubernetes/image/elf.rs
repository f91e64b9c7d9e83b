//! What has to be known of a program to run it elsewhere: its loader, the libraries that it links, and how much of its file is ever loaded.
//!
//! The format is that of the System V ABI, chapters 4 and 5 (ELF64, little endian).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::LittleEndian;
use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, EM_AARCH64, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64,
    PT_DYNAMIC, PT_INTERP, PT_LOAD,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::read::{ReadCache, StringTable};

/// The length of the header of an ELF64 file.
const HEADER: usize = 64;
/// A count of program headers that says that the true one stands elsewhere (`PN_XNUM`).
const TOO_MANY: u16 = 0xffff;

/// A program or library.
#[derive(Clone, Debug)]
pub(super) struct Elf {
    /// What processor it is for.
    pub machine: Machine,
    /// Whether it can be started: libraries cannot.
    pub starts: bool,
    /// Its loader; `None`: it is linked statically.
    pub interpreter: Option<PathBuf>,
    /// The libraries that it links, by the names that the loader looks for.
    pub needed: Vec<String>,
    /// Folders to look in that also count for what its libraries link (`DT_RPATH`).
    pub rpath: Vec<String>,
    /// Folders to look in for what itself links (`DT_RUNPATH`); where there are any, `rpath` does not count.
    pub runpath: Vec<String>,
    /// What of it goes into an image.
    pub part: Part,
}

/// Processors for which images can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Amd64,
    Arm64,
}

impl Machine {
    /// As images name it (Go's `GOARCH`).
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The first bytes of an open file, with another header. Files are kept open, so that what replaces one meanwhile changes nothing.
#[derive(Clone, Debug)]
pub(super) struct Part {
    file: Arc<File>,
    header: Vec<u8>,
    /// So many bytes.
    pub length: u64,
}

impl Part {
    /// From its beginning.
    pub(super) fn read(&self) -> impl Read + '_ {
        PartReader { part: self, at: 0 }
    }
}

struct PartReader<'a> {
    part: &'a Part,
    at: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Part { file, header, length } = self.part;
        let left = usize::try_from(length - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = match usize::try_from(self.at).ok().and_then(|at| header.get(at..)) {
            Some(rest) if !rest.is_empty() => {
                let count = left.min(rest.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                count
            }
            _ => file.read_at(&mut buffer[..left], self.at)?,
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Why a file cannot be part of an image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is a script ({0}), and an image holds no interpreter for it")]
    Script(String),
    #[error("it is no Linux program: {0}")]
    Format(String),
    #[error("it is for another kind of processor than x86-64 or ARM64 (ELF machine {0})")]
    Machine(u16),
}

/// Opens a program or library and reads what stands in its headers.
///
/// # Errors
/// When it cannot be read, or is something else.
pub(super) fn open(path: &Path) -> Result<Elf, ElfError> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut start = vec![0; HEADER.min(usize::try_from(size).unwrap_or(HEADER))];
    file.read_exact_at(&mut start, 0)?;
    if start.starts_with(b"#!") {
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return Err(ElfError::Script(String::from_utf8_lossy(line).into_owned()));
    }
    let format = |error: object::Error| ElfError::Format(error.to_string());
    let cache = ReadCache::new(file.try_clone()?);
    let data = &cache;
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(format)?;
    if !header.is_little_endian() || !header.is_class_64() {
        return Err(ElfError::Format("its numbers are not 64 bit, little endian".to_owned()));
    }
    let machine = match header.e_machine(LittleEndian) {
        EM_X86_64 => Machine::Amd64,
        EM_AARCH64 => Machine::Arm64,
        other => return Err(ElfError::Machine(other)),
    };
    if !matches!(header.e_type(LittleEndian), ET_EXEC | ET_DYN) {
        return Err(ElfError::Format("it is an object file, not linked".to_owned()));
    }
    let segments = header.program_headers(LittleEndian, data).map_err(format)?;
    let mut elf = Elf {
        machine,
        starts: header.e_entry(LittleEndian) != 0,
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        part: Part {
            length: size,
            header: Vec::new(),
            file: Arc::new(file),
        },
    };
    for segment in segments {
        match segment.p_type(LittleEndian) {
            PT_INTERP => {
                let path = segment.interpreter(LittleEndian, data).map_err(format)?;
                elf.interpreter = path.map(|path| PathBuf::from(text(path)));
            }
            PT_DYNAMIC => dynamic(&mut elf, data, header, segment).map_err(format)?,
            _ => {}
        }
    }
    if let Some(length) = loaded(data, header, size) {
        // Without the section headers, the header must not point at them.
        start[0x28..0x30].fill(0);
        start[0x3a..0x40].fill(0);
        elf.part.length = length;
        elf.part.header = start;
    }
    Ok(elf)
}

type Header = FileHeader64<LittleEndian>;
type Segment = object::elf::ProgramHeader64<LittleEndian>;

/// Reads the dynamic section. Its string table is named by its address in memory, which the loaded segments lead back to the file.
fn dynamic(elf: &mut Elf, data: &ReadCache<File>, header: &Header, segment: &Segment) -> object::Result<()> {
    let Some(entries) = segment.dynamic(LittleEndian, data)? else {
        return Ok(());
    };
    let values = |tag: i64| {
        entries
            .iter()
            .take_while(|entry| entry.d_tag.get(LittleEndian) != 0)
            .filter(move |entry| entry.d_tag.get(LittleEndian) == tag)
            .map(|entry| entry.d_val.get(LittleEndian))
    };
    let (Some(address), Some(size)) = (values(DT_STRTAB).next(), values(DT_STRSZ).next()) else {
        return Ok(());
    };
    let place = header.program_headers(LittleEndian, data)?.iter().find_map(|segment| {
        let start = segment.p_vaddr(LittleEndian);
        let inside = segment.p_type(LittleEndian) == PT_LOAD
            && (start..start.saturating_add(segment.p_filesz(LittleEndian))).contains(&address);
        inside.then(|| address - start + segment.p_offset(LittleEndian))
    });
    let Some(offset) = place else { return Ok(()) };
    let strings = StringTable::new(data, offset, offset.saturating_add(size));
    let names = |tag| -> Vec<String> {
        values(tag)
            .filter_map(|value| strings.get(u32::try_from(value).ok()?).ok())
            .map(text)
            .collect()
    };
    let folders = |tag| -> Vec<String> {
        let folders = names(tag);
        folders
            .iter()
            .flat_map(|list| list.split(':'))
            .filter(|folder| !folder.is_empty())
            .map(str::to_owned)
            .collect()
    };
    elf.needed = names(DT_NEEDED);
    elf.runpath = folders(DT_RUNPATH);
    elf.rpath = if elf.runpath.is_empty() {
        folders(DT_RPATH)
    } else {
        Vec::new()
    };
    Ok(())
}

/// How many of the first bytes are enough to run it: up to the end of the last segment. Behind it there are usually only symbols, debug sections and section
/// headers, a multiple of the rest in a debug build. `None`: all of them, because something else stands there, such as an archive that the program reads itself.
fn loaded(data: &ReadCache<File>, header: &Header, size: u64) -> Option<u64> {
    let count = header.e_phnum.get(LittleEndian);
    let sections = header.section_headers(LittleEndian, data).ok()?;
    if count == TOO_MANY || sections.is_empty() {
        return None;
    }
    let segments = header.program_headers(LittleEndian, data).ok()?;
    let table = header.e_phoff(LittleEndian) + u64::from(count) * u64::from(header.e_phentsize(LittleEndian));
    let end = segments.iter().map(|segment| {
        let (offset, length) = segment.file_range(LittleEndian);
        offset.saturating_add(length)
    });
    let end = end.chain([table, HEADER as u64]).max()?;
    let headers = header.e_shoff(LittleEndian) + sections.len() as u64 * u64::from(header.e_shentsize(LittleEndian));
    let known = sections.iter().filter_map(|section| section.file_range(LittleEndian));
    let known = known
        .map(|(offset, length)| offset.saturating_add(length))
        .chain([headers, end])
        .max()?;
    (end <= size && known >= size).then_some(end)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
