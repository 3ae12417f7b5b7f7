//! Writes a container's output: splits it into lines, rotates the files.
//!
//! Runs in a process of its own (`swarm-logger`), so that output goes on while swarmd does not. Whatever happens to
//! the disk, the container's pipes are read on: output that cannot be kept is lost rather than the container
//! stopped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::{LogSource, files, record};

/// Longer lines are kept in pieces, as Docker does.
const LINE_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 32 << 10;

/// How much output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A file is rotated before it grows over this.
    pub max_bytes: u64,
    /// Files kept, the one being written included.
    pub max_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 3 }
    }
}

#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    file: File,
    bytes: u64,
    /// Locked for the life of the writer, so that readers know of its end.
    _lock: File,
}

impl Writer {
    pub fn open(directory: &Path, limits: Limits) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let lock = File::options().create(true).append(true).open(files::lock(directory))?;
        lock.lock()?;
        let file = append(&files::current(directory))?;
        let bytes = file.metadata()?.len();
        Ok(Self { directory: directory.to_owned(), limits, file, bytes, _lock: lock })
    }

    /// Appends whole records, as many to a file as fit.
    fn append(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let fit = fitting(records, self.limits.max_bytes.saturating_sub(self.bytes));
            if fit == 0 && self.bytes > 0 {
                self.rotate()?;
                continue;
            }
            // One that is larger than a file may be has a file of its own.
            let (now, later) = records.split_at(if fit > 0 { fit } else { first(records) });
            self.bytes += now.len() as u64;
            self.file.write_all(now)?;
            records = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (directory, current) = (&self.directory, files::current(&self.directory));
        for number in (1..self.limits.max_files.saturating_sub(1)).rev() {
            let from = files::rotated(directory, number);
            match std::fs::rename(from, files::rotated(directory, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.limits.max_files {
            0 | 1 => std::fs::remove_file(&current)?,
            _ => std::fs::rename(&current, files::rotated(directory, 1))?,
        }
        self.file = append(&current)?;
        self.bytes = 0;
        Ok(())
    }
}

/// Bytes of the records that fit into `room`.
fn fitting(records: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(records.len());
    records[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// Bytes of the first record.
fn first(records: &[u8]) -> usize {
    records.iter().position(|byte| *byte == b'\n').map_or(records.len(), |end| end + 1)
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Writes what comes from `input` until its end.
pub fn pump(source: LogSource, mut input: impl Read, writer: &Mutex<Writer>) {
    let (mut buffer, mut line, mut records) = (vec![0; READ_BYTES], Vec::new(), Vec::new());
    loop {
        let length = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let time = SystemTime::now();
        split(&buffer[..length], &mut line, |line| record::format(source, line, time, &mut records));
        write(writer, &mut records);
    }
    if !line.is_empty() {
        record::format(source, &line, SystemTime::now(), &mut records);
        write(writer, &mut records);
    }
}

fn write(writer: &Mutex<Writer>, records: &mut Vec<u8>) {
    if !records.is_empty() {
        // Lost if the disk does not take it: see the module's head.
        let _ = writer.lock().unwrap_or_else(PoisonError::into_inner).append(records);
        records.clear();
    }
}

/// Hands whole lines and full pieces to `emit`; keeps the rest in `line`.
fn split(mut data: &[u8], line: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    while !data.is_empty() {
        let room = LINE_BYTES - line.len();
        let newline = data.iter().take(room).position(|byte| *byte == b'\n');
        let length = newline.map_or(room.min(data.len()), |index| index + 1);
        let (taken, rest) = data.split_at(length);
        line.extend(taken);
        data = rest;
        if newline.is_some() || line.len() == LINE_BYTES {
            emit(line);
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::LogLine;

    fn lines(directory: &Path) -> Vec<LogLine> {
        let mut opened = files::open_all(directory).unwrap();
        opened.reverse();
        let mut text = Vec::new();
        for mut opened in opened {
            opened.file.read_to_end(&mut text).unwrap();
        }
        text.split(|byte| *byte == b'\n').filter_map(record::parse).collect()
    }

    fn written(output: &[u8], limits: Limits) -> (tempfile::TempDir, Vec<LogLine>) {
        let directory = tempfile::tempdir().unwrap();
        let writer = Mutex::new(Writer::open(directory.path(), limits).unwrap());
        pump(LogSource::Stdout, output, &writer);
        let lines = lines(directory.path());
        (directory, lines)
    }

    #[test]
    fn long_lines_come_in_pieces_and_nothing_is_lost() {
        let mut output = vec![b'x'; 3 * LINE_BYTES + 10];
        output.extend(b"\nshort\n\nno newline \xff");
        let (_directory, lines) = written(&output, Limits::default());
        let lengths: Vec<_> = lines.iter().map(|line| line.data.len()).collect();
        assert_eq!(lengths, [LINE_BYTES, LINE_BYTES, LINE_BYTES, 11, 6, 1, 12]);
        assert_eq!(lines.into_iter().flat_map(|line| line.data).collect::<Vec<_>>(), output);
    }

    #[test]
    fn rotation_keeps_the_newest() {
        let output: Vec<u8> = (0..1000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: 4000, max_files: 3 };
        let writer = Mutex::new(Writer::open(directory.path(), limits).unwrap());
        for line in output.split_inclusive(|byte| *byte == b'\n') {
            pump(LogSource::Stderr, line, &writer);
        }
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 4, "three files and the lock");
        let lines = lines(directory.path());
        assert!((80..200).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.last().unwrap().data, b"line 999\n");
        let first = &lines[0].data;
        assert_eq!(*first, format!("line {}\n", 1000 - lines.len()).into_bytes());
    }

    #[test]
    fn no_file_grows_over_its_limit_however_much_comes_at_once() {
        let output = b"x\n".repeat(READ_BYTES);
        let limits = Limits { max_bytes: 10_000, max_files: 3 };
        let (directory, lines) = written(&output, limits);
        let sizes =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.iter().all(|size| *size <= limits.max_bytes), "{sizes:?}");
        assert!(lines.len() > 200, "two files are full: {}", lines.len());
        // A record that is larger than a file may be.
        let (_directory, lines) = written(&[b'y'; 5000], Limits { max_bytes: 100, max_files: 3 });
        assert_eq!(lines[0].data.len(), 5000);
    }
}
