//! Writing image archives: the layer (a tar of the files), and the docker archive around it. Both are streams, never whole in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::elf::Part;

/// The files of an image by absolute path, each with its mode. In this order they are written.
pub(super) type Files = BTreeMap<String, (u32, Content)>;

/// What a path of an image is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Folder,
    Bytes(Vec<u8>),
    Part(Part),
}

/// What a layer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// Of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// In bytes.
    pub length: u64,
}

/// A tar is made of blocks of so many bytes.
const BLOCK: u64 = 512;

/// Sums a layer without keeping it.
pub(super) fn sum(files: &Files) -> io::Result<Sum> {
    let mut sink = Summed::new(io::sink());
    layer(&mut sink, files)?;
    Ok(sink.finish())
}

/// Writes a docker archive: `manifest.json`, the configuration, the layer.
pub(super) fn write(out: impl Write, tag: &str, config: &[u8], files: &Files, expected: &Sum) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    let config_name = format!("{}.json", hex::encode(Sha256::digest(config)));
    let layer_name = format!("{}/layer.tar", expected.sha256);
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [tag], "Layers": [layer_name] }]);
    let manifest = manifest.to_string().into_bytes();
    entry(&mut out, "manifest.json", manifest.len() as u64, |out| {
        out.write_all(&manifest)
    })?;
    entry(&mut out, &config_name, config.len() as u64, |out| out.write_all(config))?;
    entry(&mut out, &layer_name, expected.length, |out| {
        let mut summed = Summed::new(out);
        layer(&mut summed, files)?;
        if summed.finish() == *expected {
            Ok(())
        } else {
            Err(io::Error::other("a program was changed while its image was written"))
        }
    })?;
    out.write_all(&[0; 2 * BLOCK as usize])?;
    out.flush()
}

/// One file of the outer archive, of which the length is known and the bytes come later.
fn entry<W: Write>(
    out: &mut W,
    name: &str,
    length: u64,
    write: impl FnOnce(&mut W) -> io::Result<()>,
) -> io::Result<()> {
    let mut header = header(EntryType::Regular, 0o644, length);
    header.set_path(name)?;
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    write(out)?;
    let padding = usize::try_from(length.next_multiple_of(BLOCK) - length).expect("less than a block");
    out.write_all(&[0; BLOCK as usize][..padding])
}

/// Writes the layer: each file after the folders that it is in.
fn layer(out: &mut impl Write, files: &Files) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut folders = BTreeSet::new();
    for (path, (mode, content)) in files {
        let path = Path::new(path.trim_start_matches('/'));
        let above: Vec<_> = path
            .ancestors()
            .skip(1)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        for folder in above.into_iter().rev() {
            if folders.insert(folder.to_owned()) {
                append(&mut tar, folder, EntryType::Directory, 0o755, 0, io::empty())?;
            }
        }
        match content {
            Content::Folder => {
                if folders.insert(path.to_owned()) {
                    append(&mut tar, path, EntryType::Directory, *mode, 0, io::empty())?;
                }
            }
            Content::Bytes(bytes) => append(
                &mut tar,
                path,
                EntryType::Regular,
                *mode,
                bytes.len() as u64,
                bytes.as_slice(),
            )?,
            Content::Part(part) => append(&mut tar, path, EntryType::Regular, *mode, part.length, part.read())?,
        }
    }
    tar.finish()
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    length: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut counted = content.take(length);
    tar.append_data(&mut header(kind, mode, length), path, &mut counted)?;
    // A short file would shift everything that follows.
    if counted.limit() == 0 {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Without anything that depends on when and where the archive is made.
fn header(kind: EntryType, mode: u32, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Sums what is written through it.
struct Summed<W> {
    inner: W,
    sha256: Sha256,
    length: u64,
}

impl<W: Write> Summed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            sha256: Sha256::new(),
            length: 0,
        }
    }

    fn finish(self) -> Sum {
        Sum {
            sha256: hex::encode(self.sha256.finalize()),
            length: self.length,
        }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
