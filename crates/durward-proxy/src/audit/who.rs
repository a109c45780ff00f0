//! Finds the client that used an egress address and port at a time: the answer to an abuse report.
//!
//! Where no end is recorded, the answer says so.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use memchr::memmem;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::chain;
use super::index::{Cursor, Entry, Index, Progress, key_of};
use super::lines::Lines;
use crate::json_line::scan;

/// Bytes searched after an opening for a closing record that is not on the same address, and bytes read for that in all.
const NEAR: u64 = 32 * 1024 * 1024;
const EFFORT: u64 = 256 * 1024 * 1024;

/// Query.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The tenant's address and port, as the far end saw them.
    pub egress: SocketAddr,
    /// First moment in question, in microseconds since 1970.
    pub from: i64,
    /// Last moment in question, in microseconds since 1970.
    pub to: i64,
}

/// Request or tunnel that used the address and port at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// Time of the opening record in microseconds since 1970; `None` if that record is not in the files. RFC 3339 where it is serialised.
    #[serde(serialize_with = "as_time")]
    pub opened: Option<i64>,
    /// Time of the closing record; `None` if there is none: the use continues, or ended with its process.
    #[serde(serialize_with = "as_time")]
    pub closed: Option<i64>,
    /// The fields of its last record.
    pub record: Map<String, Value>,
    /// The file the record is in.
    pub file: PathBuf,
    /// Byte offset of the record's line.
    pub byte: u64,
    /// True if the record's hash does not match.
    pub altered: bool,
    /// True if the clock was set while it was open: the times of its records and its duration do not fit together.
    pub clock_set: bool,
}

fn as_time<S: Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    let time = at.and_then(|at| Timestamp::from_microsecond(at).ok());
    time.map(|time| format!("{time:.6}")).serialize(serializer)
}

/// Searches files for who used an address. Indexes are made or brought up to date where that pays and they can be kept.
///
/// # Errors
/// Fails if a file cannot be read; the path is in the error.
pub fn who(paths: &[PathBuf], question: &Question, progress: Progress<'_>) -> io::Result<Vec<Use>> {
    let key = key_of(question.egress.to_string().as_bytes());
    let mut sources = Vec::new();
    let unique: BTreeSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    for path in unique {
        let source = Source::open(path, key, progress).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        sources.push(source);
    }
    let found = match search(&sources, key, question) {
        // A damaged index is rebuilt once; the records themselves are the truth.
        Err(error) if is_damage(&error) => {
            for source in &mut sources {
                source.renew(key, progress)?;
            }
            search(&sources, key, question)?
        }
        found => found?,
    };
    let mut uses = Vec::new();
    let mut effort = EFFORT;
    for mut found in found {
        if found.closed.is_none() {
            found.closed = found.moved_away(&sources, &mut effort)?;
        }
        uses.extend(found.tell(&sources, question)?);
    }
    uses.sort_by_key(|used| (used.closed.is_none(), used.opened, used.closed));
    Ok(uses)
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Audit file and the index entries of one key.
struct Source {
    path: PathBuf,
    index: Index,
    loose: Vec<Entry>,
}

impl Source {
    fn open(path: &Path, key: u64, progress: Progress<'_>) -> io::Result<Self> {
        let mut index = Index::load(path)?;
        index.extend(progress)?;
        let loose = index.loose(key)?;
        Ok(Self { path: path.to_path_buf(), index, loose })
    }

    fn renew(&mut self, key: u64, progress: Progress<'_>) -> io::Result<()> {
        self.index.discard();
        self.index.extend(progress)?;
        self.loose = self.index.loose(key)?;
        Ok(())
    }

    /// Reads the line at `place`.
    fn line(&self, place: u64) -> io::Result<Vec<u8>> {
        line_at(&self.index.file, place)
    }
}

fn line_at(file: &File, place: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = file.read_at(&mut chunk, place + line.len() as u64)?;
        match memchr::memchr(b'\n', &chunk[..read]) {
            Some(end) => {
                line.extend(&chunk[..end]);
                return Ok(line);
            }
            None if read == 0 => return Ok(line),
            None => line.extend(&chunk[..read]),
        }
    }
}

/// Index entry with the number of its source.
type Placed = (Entry, usize);

/// Use as the index knows it.
struct Matched {
    opened: Option<Placed>,
    closed: Option<Placed>,
}

/// Goes through all entries of the key, request by request. Memory is bounded by the number of segments, and by the records of one request at this
/// address.
fn search(sources: &[Source], key: u64, question: &Question) -> io::Result<Vec<Matched>> {
    let mut merged = Merge::new(sources, key)?;
    let mut found = Vec::new();
    let mut request: Vec<Placed> = Vec::new();
    while let Some((entry, source)) = merged.advance()? {
        if request.first().is_some_and(|(first, _)| first.id != entry.id) {
            found.extend(pair(std::mem::take(&mut request)));
        }
        request.push((entry, source));
    }
    found.extend(pair(request));
    found.retain(|one| one.may_overlap(question));
    Ok(found)
}

/// Pairs opening and closing records of one request by time. If the clock was set back in between, a closing record is dated before its opening one:
/// what is left over of both is paired by the id alone.
fn pair(entries: Vec<Placed>) -> Vec<Matched> {
    let mut found = Vec::new();
    let mut open: VecDeque<Placed> = VecDeque::new();
    let mut ended: VecDeque<Placed> = VecDeque::new();
    for placed in entries {
        if !placed.0.is_close() {
            open.push_back(placed);
        } else if let Some(opened) = open.pop_front() {
            found.push(Matched { opened: Some(opened), closed: Some(placed) });
        } else {
            ended.push_back(placed);
        }
    }
    while !(open.is_empty() && ended.is_empty()) {
        found.push(Matched { opened: open.pop_front(), closed: ended.pop_front() });
    }
    found
}

/// Microseconds by which the time between two records may exceed the recorded duration before the clock counts as set forward.
const FORWARD: i64 = 2_000_000;
/// Microseconds by which the recorded duration may exceed the time between two records before the clock counts as set back: the duration includes the
/// lookup and the connect before the first record.
const BACK: i64 = 30_000_000;

/// Returns first and last moment of a use in microseconds, and whether the clock was set meanwhile; `total` is the recorded duration. If the clock
/// was set back, the moment of that is unknown: the use covers all the time from either record.
fn span(opened: Option<i64>, closed: Option<i64>, total: Option<i64>) -> (i64, i64, bool) {
    let (opened, closed) = match (opened, closed) {
        (Some(opened), Some(closed)) => (opened, closed),
        // Without the opening record, the use began at its end less the recorded duration.
        (None, Some(closed)) => {
            return (total.map_or(i64::MIN, |total| closed.saturating_sub(total)), closed, false);
        }
        (Some(opened), None) => return (opened, i64::MAX, false),
        (None, None) => return (i64::MAX, i64::MIN, false),
    };
    let total = total.unwrap_or(0);
    let between = closed.saturating_sub(opened);
    if between < 0 || total.saturating_sub(between) > BACK {
        let (from, to) = (closed.saturating_sub(total), opened.saturating_add(total));
        return (from.min(opened), to.max(closed), true);
    }
    (opened, closed, total > 0 && between.saturating_sub(total) > FORWARD)
}

impl Matched {
    /// Returns true unless the times in the index rule the use out.
    fn may_overlap(&self, question: &Question) -> bool {
        let times =
            (self.opened.map(|(entry, _)| entry.at), self.closed.map(|(entry, _)| entry.at));
        match times {
            // The recorded duration decides this, and is in the record only.
            (Some(opened), Some(closed)) if closed < opened => true,
            (opened, closed) => {
                let (from, to, _) = span(opened, closed, None);
                from <= question.to && to >= question.from
            }
        }
    }

    /// Finds the closing record of a request that began on a stale pooled connection and was sent again over another, which has another port.
    fn moved_away(&self, sources: &[Source], effort: &mut u64) -> io::Result<Option<Placed>> {
        let Some((opened, number)) = self.opened else { return Ok(None) };
        let source = &sources[number];
        let from = opened.place();
        let to = source.index.size.min(from.saturating_add(NEAR.min(*effort)));
        *effort -= to.saturating_sub(from).min(*effort);
        let line = source.line(from)?;
        let Some(id) = scan::text(&line, b",\"id\":\"") else { return Ok(None) };
        let mut lines = Lines::between(source.index.file.try_clone()?, from, to)?;
        while let Some((at, line)) = lines.next()? {
            if memmem::find(line, id).is_some()
                && let Some(entry) = Entry::of(line, at)
                && entry.is_close()
                && entry.id == opened.id
            {
                return Ok(Some((entry, number)));
            }
        }
        Ok(None)
    }

    /// Reads the record; `None` if it belongs to another address after all, or began too late.
    fn tell(&self, sources: &[Source], question: &Question) -> io::Result<Option<Use>> {
        let key = key_of(question.egress.to_string().as_bytes());
        let ended_here = self.closed.filter(|(entry, _)| entry.key == key);
        let Some((entry, source)) = ended_here.or(self.opened) else { return Ok(None) };
        let source = &sources[source];
        let line = source.line(entry.place())?;
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(&line) else {
            return Ok(None);
        };
        if record.get("egress").and_then(Value::as_str) != Some(&question.egress.to_string()) {
            return Ok(None);
        }
        let closed = self.closed.map(|(entry, _)| entry.at);
        let opened = self.opened.map(|(entry, _)| entry.at);
        let total = record.get("total_ms").and_then(Value::as_f64);
        let total = total.filter(|_| ended_here.is_some()).map(|total| (total * 1_000.0) as i64);
        let (from, to, clock_set) = span(opened, closed, total);
        if from > question.to || to < question.from {
            return Ok(None);
        }
        Ok(Some(Use {
            opened,
            closed,
            clock_set,
            altered: record.contains_key("hash") && chain::read(&line).is_none(),
            record,
            file: source.path.clone(),
            byte: entry.place(),
        }))
    }
}

/// Merges the entries of one key from all segments and files, in order.
struct Merge<'a> {
    ways: Vec<(Way<'a>, usize)>,
    next: BinaryHeap<Reverse<(Entry, usize)>>,
}

enum Way<'a> {
    Segment(Cursor<'a>),
    Loose(std::slice::Iter<'a, Entry>),
}

impl<'a> Merge<'a> {
    fn new(sources: &'a [Source], key: u64) -> io::Result<Self> {
        let mut ways = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            for segment in &source.index.segments {
                ways.push((Way::Segment(segment.find(key)?), number));
            }
            ways.push((Way::Loose(source.loose.iter()), number));
        }
        let mut merge = Self { ways, next: BinaryHeap::new() };
        for way in 0..merge.ways.len() {
            merge.refill(way)?;
        }
        Ok(merge)
    }

    fn advance(&mut self) -> io::Result<Option<Placed>> {
        let Some(Reverse((entry, way))) = self.next.pop() else { return Ok(None) };
        self.refill(way)?;
        Ok(Some((entry, self.ways[way].1)))
    }

    fn refill(&mut self, way: usize) -> io::Result<()> {
        let entry = match &mut self.ways[way].0 {
            Way::Segment(cursor) => cursor.advance()?,
            Way::Loose(entries) => entries.next().copied(),
        };
        self.next.extend(entry.map(|entry| Reverse((entry, way))));
        Ok(())
    }
}
