//! What a node keeps on its disk, below `DIR/data/`:
//!
//! - `blocks.jsonl`: the committed blocks, line N being the block of height N with the certificate
//!   that proves it ([`StoredBlock`]). The state is computed from it at the start.
//! - `wal.jsonl`: the inputs of consensus ([`WalRecord`]), written before anything that follows
//!   from them is sent, so that a killed node takes up its height where it was and never votes
//!   twice. It begins anew after a megabyte, between two heights.
//!
//! Both are plain appends that reach the operating system before the call returns: they survive
//! the death of the process, not that of the machine. A last line that was cut short is dropped.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use arc_malachitebft_core_consensus::Input;
use fs_err::{File, OpenOptions};

use super::app::{App, TxError};
use super::codec::{StoredBlock, WalRecord};
use super::types::{Block, Ctx, Hash, Height, Hex, ValidatorSet, sha256};

/// How a line of an empty block begins; such lines need no parsing at the start.
const EMPTY_BLOCK: &[u8] = br#"{"block":{"txs":[],"#;

/// The committed blocks and the state that they lead to.
pub struct Ledger {
    file: File,
    /// Where each line begins, and where the next will.
    offsets: Vec<u64>,
    app: App,
    last: Option<Block>,
    txs: HashMap<Hash, (Height, u32)>,
    failed: HashMap<(Height, u32), TxError>,
}

impl Ledger {
    /// Opens or creates the block file and computes the state.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else than blocks in order.
    pub fn open(data: &Path, genesis: Hash, validators: ValidatorSet) -> io::Result<Self> {
        let path = data.join("blocks.jsonl");
        let file = open_append(&path)?;
        let mut ledger = Self {
            file,
            offsets: vec![0],
            app: App::new(genesis, validators),
            last: None,
            txs: HashMap::new(),
            failed: HashMap::new(),
        };
        let mut reader = BufReader::with_capacity(64 * 1024, File::open(&path)?);
        let mut line = Vec::new();
        let mut last_line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                break;
            }
            if !line.starts_with(EMPTY_BLOCK) {
                ledger.take_in(parse_block(&line, ledger.offsets.len())?);
            }
            let end = ledger.end() + line.len() as u64;
            ledger.offsets.push(end);
            std::mem::swap(&mut line, &mut last_line);
        }
        // What follows the last complete line is a write that the process did not finish.
        ledger.file.set_len(ledger.end())?;
        if !last_line.is_empty() {
            let block = parse_block(&last_line, ledger.offsets.len() - 1)?;
            ledger.app.skip_to(block.header().height);
            ledger.last = Some(block);
        }
        Ok(ledger)
    }

    /// The height of the last committed block, 0 when there is none.
    pub fn height(&self) -> Height {
        Height(self.offsets.len() as u64 - 1)
    }

    /// The last committed block.
    pub fn last(&self) -> Option<&Block> {
        self.last.as_ref()
    }

    /// The hash of the last committed block; zero when there is none.
    pub fn last_hash(&self) -> Hash {
        self.last.as_ref().map_or(Hex::ZERO, Block::hash)
    }

    /// The state after it.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Where a transaction was committed: height and place in the block.
    pub fn find_tx(&self, hash: &Hash) -> Option<(Height, u32)> {
        self.txs.get(hash).copied()
    }

    /// Why a committed transaction had no effect, if so.
    pub fn failure(&self, height: Height, index: u32) -> Option<&TxError> {
        self.failed.get(&(height, index))
    }

    /// Writes the next block and applies it.
    ///
    /// # Errors
    /// When the file cannot be written; the state is then as before.
    pub fn commit(&mut self, stored: &StoredBlock, block: &Block) -> io::Result<()> {
        let mut line = serde_json::to_vec(stored)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.offsets.push(self.end() + line.len() as u64);
        self.take_in(block.clone());
        Ok(())
    }

    /// Blocks as they stand in the file, from the first to the last of these heights but no more
    /// than about so many bytes; at least one, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&self, from: Height, to: Height, bytes: u64) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut size = 0;
        for height in from.0.max(1)..=to.0.min(self.height().0) {
            let line = self.line(Height(height))?;
            size += line.len() as u64;
            if size > bytes && !lines.is_empty() {
                break;
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// The block of a height with its certificate; `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn block(&self, height: Height) -> io::Result<Option<StoredBlock>> {
        if height.0 == 0 || height > self.height() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&self.line(height)?)?))
    }

    fn line(&self, height: Height) -> io::Result<Vec<u8>> {
        let index = usize::try_from(height.0).map_err(io::Error::other)?;
        let (from, to) = (self.offsets[index - 1], self.offsets[index]);
        let mut line = vec![0; usize::try_from(to - from - 1).map_err(io::Error::other)?];
        let mut file = self.file.file();
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut line)?;
        Ok(line)
    }

    fn end(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    fn take_in(&mut self, block: Block) {
        let height = block.header().height;
        let outcomes = self.app.apply(&block);
        for ((index, tx), outcome) in (0_u32..).zip(block.txs()).zip(outcomes) {
            self.txs.insert(sha256(tx), (height, index));
            if let Err(error) = outcome {
                self.failed.insert((height, index), error);
            }
        }
        self.last = Some(block);
    }
}

fn parse_block(line: &[u8], height: usize) -> io::Result<Block> {
    let stored: StoredBlock = serde_json::from_slice(line)
        .map_err(|error| io::Error::other(format!("blocks.jsonl line {height}: {error}")))?;
    if stored.block.header.height.0 != height as u64 {
        return Err(io::Error::other(format!(
            "blocks.jsonl line {height} holds the block of height {}",
            stored.block.header.height
        )));
    }
    Ok(stored.block.into())
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

/// Above this size the log begins anew at the next height.
const WAL_BYTES: u64 = 1024 * 1024;

/// The write-ahead log.
pub struct Wal {
    file: File,
    size: u64,
    /// While the log is replayed: the lines it holds, not to be written a second time.
    replaying: HashSet<Vec<u8>>,
}

impl Wal {
    /// Opens or creates the log; also gives the inputs of this height, in order, for replay.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a line of this height cannot be read.
    pub fn open(data: &Path, height: Height) -> io::Result<(Self, Vec<Input<Ctx>>)> {
        let path = data.join("wal.jsonl");
        let mut file = open_append(&path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let complete = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        file.set_len(complete as u64)?;
        let prefix = format!("{{\"height\":{height},");
        let mut inputs = Vec::new();
        let mut replaying = HashSet::new();
        for line in text[..complete].split_inclusive(|b| *b == b'\n') {
            if line.starts_with(prefix.as_bytes()) {
                let record: WalRecord =
                    serde_json::from_slice(line).map_err(|error| io::Error::other(format!("wal.jsonl: {error}")))?;
                inputs.push(record.into_input());
                replaying.insert(line.to_vec());
            }
        }
        let wal = Self {
            file,
            size: complete as u64,
            replaying,
        };
        Ok((wal, inputs))
    }

    /// Writes an input, unless inputs of its kind are not kept or the replay brought it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, height: Height, input: &Input<Ctx>) -> io::Result<()> {
        let Some(record) = WalRecord::from_input(height, input) else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        if !self.replaying.contains(&line) {
            self.file.write_all(&line)?;
            self.size += line.len() as u64;
        }
        Ok(())
    }

    /// Everything was replayed.
    pub fn replayed(&mut self) {
        self.replaying = HashSet::new();
    }

    /// A height is done: its inputs are not needed any more.
    ///
    /// # Errors
    /// When the file cannot be shortened.
    pub fn height_done(&mut self) -> io::Result<()> {
        if self.size > WAL_BYTES {
            self.file.set_len(0)?;
            self.size = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnode::types::{Header, Validator};
    use arc_malachitebft_core_types::{Round, Timeout};
    use arc_malachitebft_signing_ed25519::PrivateKey;

    fn validators() -> ValidatorSet {
        let key = PrivateKey::from([1; 32]).public_key();
        ValidatorSet::new(vec![Validator::new("a", key, 10)])
    }

    fn next(ledger: &Ledger, txs: &[&str]) -> (StoredBlock, Block) {
        let txs: Vec<Vec<u8>> = txs.iter().map(|tx| tx.as_bytes().to_vec()).collect();
        let height = Height(ledger.height().0 + 1);
        let header = Header {
            chain_id: "c".into(),
            height,
            time_ms: height.0,
            parent: ledger.last_hash(),
            app_hash: ledger.app().hash(),
            data_hash: Block::data_hash(&txs),
            validators_hash: ledger.app().validators(height).hash(),
            proposer: Hex::ZERO,
        };
        let block = Block::new(header, txs);
        let stored = StoredBlock {
            block: (&block).into(),
            round: 0,
            signers: Vec::new(),
        };
        (stored, block)
    }

    fn open(dir: &Path) -> Ledger {
        Ledger::open(dir, Hex([7; 32]), validators()).unwrap()
    }

    #[test]
    fn a_ledger_comes_back_after_a_restart_and_drops_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path());
        assert_eq!(ledger.height(), Height(0));
        for txs in [&[] as &[&str], &["a=1", "bad"], &[], &["b=1"], &[]] {
            let (stored, block) = next(&ledger, txs);
            ledger.commit(&stored, &block).unwrap();
        }
        let (hash, app_hash) = (ledger.last_hash(), ledger.app().hash());
        let mut file = open_append(&dir.path().join("blocks.jsonl")).unwrap();
        file.write_all(br#"{"block":{"txs":[],"header":{"cha"#).unwrap();

        let mut again = open(dir.path());
        assert_eq!(again.height(), Height(5));
        assert_eq!(again.app().height(), Height(5));
        assert_eq!(again.last_hash(), hash);
        assert_eq!(again.app().hash(), app_hash);
        assert_eq!(again.find_tx(&sha256(b"b=1")), Some((Height(4), 0)));
        assert_eq!(again.failure(Height(2), 1), Some(&TxError::Form));
        let third = again.block(Height(3)).unwrap().unwrap();
        assert_eq!(third.block.header.height, Height(3));
        assert_eq!(again.block(Height(6)).unwrap(), None);
        assert_eq!(again.lines(Height(2), Height(9), u64::MAX).unwrap().len(), 4);
        assert_eq!(again.lines(Height(2), Height(9), 1).unwrap().len(), 1);

        let (stored, block) = next(&again, &[]);
        again.commit(&stored, &block).unwrap();
        assert_eq!(open(dir.path()).height(), Height(6));
    }

    #[test]
    fn blocks_out_of_order_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path());
        let (stored, block) = next(&ledger, &[]);
        ledger.commit(&stored, &block).unwrap();
        ledger.commit(&stored, &block).unwrap();
        let error = Ledger::open(dir.path(), Hex([7; 32]), validators()).err().unwrap();
        assert!(
            error.to_string().contains("line 2 holds the block of height 1"),
            "{error}"
        );
    }

    #[test]
    fn the_log_gives_back_one_height_and_writes_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let timeout = |round| Input::TimeoutElapsed(Timeout::propose(Round::new(round)));
        let (mut wal, inputs) = Wal::open(dir.path(), Height(1)).unwrap();
        assert!(inputs.is_empty());
        wal.append(Height(1), &timeout(0)).unwrap();
        wal.append(Height(2), &timeout(0)).unwrap();
        wal.append(Height(2), &timeout(1)).unwrap();
        let path = dir.path().join("wal.jsonl");
        open_append(&path).unwrap().write_all(b"{\"height\":2,\"ent").unwrap();

        let (mut wal, inputs) = Wal::open(dir.path(), Height(2)).unwrap();
        assert_eq!(inputs, [timeout(0), timeout(1)]);
        wal.append(Height(2), &timeout(1)).unwrap();
        wal.append(Height(2), &timeout(2)).unwrap();
        wal.replayed();
        let (_, inputs) = Wal::open(dir.path(), Height(2)).unwrap();
        assert_eq!(inputs, [timeout(0), timeout(1), timeout(2)]);
        wal.height_done().unwrap();
        assert!(fs_err::metadata(&path).unwrap().len() > 0, "small logs stay");
    }
}
