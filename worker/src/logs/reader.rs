//! Reads a container's output back, through rotations, one step at a time.
//!
//! Blocking; it is called from a thread that may block. A file that was rotated is read to its end before the next
//! one: its writer has turned to the next before it was renamed.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::files::{self, Opened};
use super::{LogLine, LogQuery, record};

/// What one step reads at most.
const STEP_BYTES: usize = 256 << 10;

pub(super) struct Reader {
    directory: PathBuf,
    query: LogQuery,
    /// Files yet to be read, the oldest first; the first one is being read.
    files: VecDeque<Opened>,
    /// The beginning of a record whose end is not written yet.
    partial: Vec<u8>,
    begun: bool,
    /// The writer had ended before the files were last read: what is read now is all.
    ended: bool,
}

pub(super) enum Step {
    Lines(Vec<LogLine>),
    /// Nothing new yet.
    Idle,
    /// There has been no writer so far.
    Absent,
    End,
}

impl Reader {
    pub(super) fn new(directory: PathBuf, query: LogQuery) -> Self {
        Self { directory, query, files: VecDeque::new(), partial: Vec::new(), begun: false, ended: false }
    }

    pub(super) fn step(&mut self) -> io::Result<Step> {
        if !self.begun && !self.begin()? {
            return Ok(Step::Absent);
        }
        let Some(current) = self.files.front_mut() else {
            return Ok(Step::End);
        };
        let mut text = Vec::new();
        current.file.by_ref().take(STEP_BYTES as u64).read_to_end(&mut text)?;
        if !text.is_empty() {
            return Ok(Step::Lines(self.lines(text)));
        }
        if self.files.len() > 1 {
            self.files.pop_front();
            self.partial.clear();
            return self.step();
        }
        if !self.query.follow || self.ended {
            return Ok(Step::End);
        }
        self.look_for_more()
    }

    /// Opens what is there. False if there is nothing.
    fn begin(&mut self) -> io::Result<bool> {
        let ended = files::ended(&self.directory)?;
        self.files = files::open_all(&self.directory)?.into();
        if self.files.is_empty() {
            // A writer that has ended without output, or just begins.
            self.begun = ended == Some(true);
            return Ok(self.begun);
        }
        if let Some(lines) = self.query.tail {
            seek_tail(&mut self.files, lines)?;
        }
        self.files.make_contiguous().reverse();
        (self.begun, self.ended) = (true, ended == Some(true));
        Ok(true)
    }

    /// At the end of the newest file known: has it been rotated, or has the writer ended?
    fn look_for_more(&mut self) -> io::Result<Step> {
        // In this order: what is written before the end is seen after it.
        let ended = files::ended(&self.directory)? != Some(false);
        let known = self.files.front().map(|opened| opened.id);
        let found = files::open_all(&self.directory)?;
        let newer = found.into_iter().take_while(|opened| Some(opened.id) != known);
        let mut newer: Vec<Opened> = newer.collect();
        newer.reverse();
        self.files.extend(newer);
        self.ended = ended;
        // The known file is read once more, since it may have grown before it was rotated.
        if ended || self.files.len() > 1 { self.step() } else { Ok(Step::Idle) }
    }

    fn lines(&mut self, text: Vec<u8>) -> Vec<LogLine> {
        self.partial.extend(text);
        let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let rest = self.partial.split_off(whole);
        let text = std::mem::replace(&mut self.partial, rest);
        let lines = text.split(|byte| *byte == b'\n').filter_map(record::parse);
        lines.filter(|line| self.query.wants(line)).collect()
    }
}

/// Leaves of `files`, the newest first, those that have the last `lines` records, and sets the oldest to the first
/// of them.
fn seek_tail(files: &mut VecDeque<Opened>, lines: u64) -> io::Result<()> {
    let mut missing = lines;
    for index in 0..files.len() {
        let file = &mut files[index].file;
        if let Some(offset) = tail_offset(file, &mut missing)? {
            file.seek(SeekFrom::Start(offset))?;
            files.truncate(index + 1);
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(())
}

/// Where the last `missing` records begin; `None`, with fewer missing, if the file has not so many.
fn tail_offset(file: &mut std::fs::File, missing: &mut u64) -> io::Result<Option<u64>> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if *missing == 0 {
        return Ok(Some(end));
    }
    let mut buffer = vec![0; STEP_BYTES];
    let mut last = true;
    while end > 0 {
        let begin = end.saturating_sub(STEP_BYTES as u64);
        let block = &mut buffer[..(end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The newline that ends the file begins no record.
            if std::mem::take(&mut last) {
                continue;
            }
            *missing -= 1;
            if *missing == 0 {
                return Ok(Some(begin + index as u64 + 1));
            }
        }
        end = begin;
    }
    // The first record has no newline before it.
    *missing -= u64::from(!last);
    Ok((*missing == 0).then_some(0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::logs::LogSource;
    use crate::logs::writer::{Limits, Writer, pump};

    const LIMITS: Limits = Limits { max_bytes: 4000, max_files: 3 };

    fn writer(directory: &Path) -> Mutex<Writer> {
        Mutex::new(Writer::open(directory, LIMITS).unwrap())
    }

    fn write(writer: &Mutex<Writer>, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let source = if number % 2 == 0 { LogSource::Stdout } else { LogSource::Stderr };
            pump(source, format!("{number}\n").as_bytes(), writer);
        }
    }

    /// Steps until there is nothing new; true if that was the end.
    fn drain(reader: &mut Reader, numbers: &mut Vec<u32>) -> bool {
        loop {
            match reader.step().unwrap() {
                Step::Lines(lines) => numbers.extend(
                    lines
                        .iter()
                        .map(|line| String::from_utf8_lossy(&line.data).trim().parse::<u32>().unwrap()),
                ),
                Step::Idle | Step::Absent => return false,
                Step::End => return true,
            }
        }
    }

    fn read(directory: &Path, query: LogQuery) -> Vec<u32> {
        let mut numbers = Vec::new();
        assert!(drain(&mut Reader::new(directory.to_owned(), query), &mut numbers));
        numbers
    }

    #[test]
    fn tail_and_streams() {
        let directory = tempfile::tempdir().unwrap();
        write(&writer(directory.path()), 0..100);
        for tail in [0, 1, 10, 60] {
            let query = LogQuery { tail: Some(tail), ..LogQuery::default() };
            let expected: Vec<u32> = (100 - u32::try_from(tail).unwrap()..100).collect();
            assert_eq!(read(directory.path(), query), expected, "{tail}");
        }
        let all = read(directory.path(), LogQuery { tail: Some(1000), ..LogQuery::default() });
        assert_eq!(all, read(directory.path(), LogQuery::default()));
        let errors = read(directory.path(), LogQuery { stdout: false, tail: Some(4), ..LogQuery::default() });
        assert_eq!(errors, [97, 99]);
    }

    #[test]
    fn follows_through_rotations_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut reader =
            Reader::new(directory.path().to_owned(), LogQuery { follow: true, ..LogQuery::default() });
        let mut numbers = Vec::new();
        assert!(matches!(reader.step().unwrap(), Step::Absent));
        let writer = writer(directory.path());
        // Fewer at a time than the files keep.
        for first in (0..1000).step_by(50) {
            write(&writer, first..first + 50);
            assert!(!drain(&mut reader, &mut numbers));
        }
        write(&writer, 1000..1010);
        drop(writer);
        assert!(drain(&mut reader, &mut numbers));
        assert_eq!(numbers, (0..1010).collect::<Vec<_>>());
    }

    #[test]
    fn a_follower_that_lags_misses_only_what_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut reader =
            Reader::new(directory.path().to_owned(), LogQuery { follow: true, ..LogQuery::default() });
        let (mut numbers, writer) = (Vec::new(), writer(directory.path()));
        write(&writer, 0..10);
        drain(&mut reader, &mut numbers);
        write(&writer, 10..1000);
        drop(writer);
        assert!(drain(&mut reader, &mut numbers));
        assert!(numbers.is_sorted() && numbers.last() == Some(&999) && numbers.len() > 80);
    }
}
