//! A disk that keeps after a power cut what was made durable, and of the rest whatever it likes.
//!
//! A write that was not synced may be there in any part, in pieces of `PIECE` bytes; names change in order, as with a
//! journal, up to any point. The power may go in the middle of every operation, and there may be no space.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{lock, world};

const PIECE: usize = 512;

#[derive(Debug)]
pub(crate) struct Disk {
    machine: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    off: bool,
    full: bool,
    /// So many operations until that.
    dies: Option<(u32, Death, Option<bool>)>,
    files: BTreeMap<u64, Contents>,
    created: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    undurable: Vec<Naming>,
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    undurable: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

#[derive(Debug)]
enum Naming {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

/// What is left of what was not durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Everything,
    Parts,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    /// What it wrote is there, and as little durable as before.
    Process,
    Power,
}

impl Disk {
    pub(super) fn new(machine: usize) -> Self {
        Self { machine, inner: Mutex::default() }
    }

    pub(super) fn is_full(&self) -> bool {
        lock(&self.inner).full
    }

    pub(super) fn power_on(&self) {
        let mut inner = lock(&self.inner);
        (inner.off, inner.dies) = (false, None);
    }

    /// By another one, with nothing on it.
    pub(super) fn replace(&self) {
        *lock(&self.inner) = Inner::default();
    }

    /// In the middle of the operation after `operations` others.
    pub(super) fn die_in(&self, operations: u32, death: Death) {
        lock(&self.inner).dies = Some((operations, death, None));
    }

    /// The same, and whether that operation is done.
    pub(super) fn die_in_or_after(&self, operations: u32, death: Death, done: bool) {
        lock(&self.inner).dies = Some((operations, death, Some(done)));
    }

    pub(super) fn set_full(&self, full: bool) {
        lock(&self.inner).full = full;
    }

    pub(super) fn power_off(&self, loss: Loss) {
        let world = world().expect("a simulated disk is part of a simulation");
        world.draw(|chance| lock(&self.inner).power_off(loss, chance));
        world.note(format_args!("m{} has no power: {loss:?}", self.machine));
        world.machines[self.machine].kill();
    }

    /// The operation at which everything ends: perhaps it is done.
    fn die(&self, death: Death) {
        let world = world().expect("a simulated disk is part of a simulation");
        match death {
            Death::Process => {
                lock(&self.inner).off = true;
                world.machines[self.machine].kill();
            }
            Death::Power => self.power_off(if world.happens(0.2) { Loss::Everything } else { Loss::Parts }),
        }
    }

    /// Does the work, unless the power is off or goes at this moment: then perhaps.
    fn operate<T>(&self, grows: bool, work: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let no_power = || io::Error::other("the power is off");
        let mut inner = lock(&self.inner);
        if inner.off {
            return Err(no_power());
        }
        let world = world().expect("a simulated disk is part of a simulation");
        match inner.dies {
            Some((0, death, done)) => {
                if done.unwrap_or_else(|| world.happens(0.5)) {
                    let _ = work(&mut inner);
                }
                drop(inner);
                self.die(death);
                return Err(no_power());
            }
            Some((left, death, done)) => inner.dies = Some((left - 1, death, done)),
            None => {}
        }
        if inner.full && grows {
            return Err(ErrorKind::StorageFull.into());
        }
        work(&mut inner)
    }

    fn note(&self, event: std::fmt::Arguments<'_>) {
        if let Some(world) = world() {
            world.note(format_args!("m{} disk: {event}", self.machine));
        }
    }

    pub(super) fn write(&self, number: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.note(format_args!(
            "write {} at {offset} of {number}: {:08x}",
            bytes.len(),
            crc32fast::hash(bytes)
        ));
        self.operate(true, |inner| inner.change(number, Change::Write(place(offset), bytes.to_vec())))
    }

    pub(super) fn set_len(&self, number: u64, bytes: u64) -> io::Result<()> {
        self.note(format_args!("resize {number} to {bytes}"));
        self.operate(false, |inner| inner.change(number, Change::Resize(place(bytes))))
    }

    pub(super) fn sync(&self, number: u64) -> io::Result<()> {
        self.note(format_args!("sync {number}"));
        self.operate(false, |inner| {
            let contents = inner.contents(number)?;
            let Contents { durable, undurable, .. } = contents;
            undurable.drain(..).for_each(|change| change.apply(durable));
            Ok(())
        })
    }

    pub(super) fn read(&self, number: u64, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.operate(false, |inner| {
            let start = place(offset);
            let found = inner.contents(number)?.now.get(start..start + bytes.len());
            bytes.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    pub(super) fn len(&self, number: u64) -> io::Result<u64> {
        self.operate(false, |inner| Ok(inner.contents(number)?.now.len() as u64))
    }

    pub(super) fn create(&self, path: &Path) -> io::Result<u64> {
        self.note(format_args!("create {}", path.display()));
        self.operate(true, |inner| {
            if let Some(&number) = inner.names.get(path) {
                inner.change(number, Change::Resize(0))?;
                return Ok(number);
            }
            inner.created += 1;
            let number = inner.created;
            inner.files.insert(number, Contents::default());
            inner.rename(Naming::Link(path.into(), number));
            Ok(number)
        })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<u64> {
        self.operate(false, |inner| inner.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into()))
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.operate(false, |inner| {
            Ok(inner.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
        })
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.note(format_args!("remove {}", path.display()));
        self.operate(false, |inner| {
            if !inner.names.contains_key(path) {
                return Err(ErrorKind::NotFound.into());
            }
            inner.rename(Naming::Unlink(path.into()));
            Ok(())
        })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(format_args!("rename {} to {}", from.display(), to.display()));
        self.operate(false, |inner| {
            if !inner.names.contains_key(from) {
                return Err(ErrorKind::NotFound.into());
            }
            inner.rename(Naming::Rename(from.into(), to.into()));
            Ok(())
        })
    }

    pub(super) fn sync_dir(&self) -> io::Result<()> {
        self.note(format_args!("sync names"));
        self.operate(false, |inner| {
            let Inner { durable_names, undurable, .. } = inner;
            undurable.drain(..).for_each(|naming| naming.apply(durable_names));
            Ok(())
        })
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

impl Inner {
    fn contents(&mut self, number: u64) -> io::Result<&mut Contents> {
        self.files.get_mut(&number).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn change(&mut self, number: u64, change: Change) -> io::Result<()> {
        let contents = self.contents(number)?;
        change.apply(&mut contents.now);
        contents.undurable.push(change);
        Ok(())
    }

    fn rename(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.undurable.push(naming);
    }

    fn power_off(&mut self, loss: Loss, chance: &mut SmallRng) {
        self.off = true;
        let mut survives = |of: usize| match loss {
            Loss::Everything => 0,
            Loss::Parts => chance.random_range(0..=of),
        };
        let kept = survives(self.undurable.len());
        self.undurable.drain(..).take(kept).for_each(|naming| naming.apply(&mut self.durable_names));
        self.names = self.durable_names.clone();
        for contents in self.files.values_mut() {
            contents.power_off(loss, chance);
        }
        let named: std::collections::BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
    }
}

impl Contents {
    fn power_off(&mut self, loss: Loss, chance: &mut SmallRng) {
        let lost = |chance: &mut SmallRng| match loss {
            Loss::Everything => true,
            Loss::Parts => chance.random_bool(0.5),
        };
        for change in self.undurable.drain(..) {
            match change {
                Change::Write(offset, bytes) => {
                    for (number, piece) in bytes.chunks(PIECE).enumerate() {
                        if !lost(chance) {
                            // A piece may itself be torn.
                            let torn = matches!(loss, Loss::Parts) && chance.random_bool(0.1);
                            let length =
                                if torn { chance.random_range(0..=piece.len()) } else { piece.len() };
                            let piece = piece[..length].to_vec();
                            Change::Write(offset + number * PIECE, piece).apply(&mut self.durable);
                        }
                    }
                }
                resize if !lost(chance) => resize.apply(&mut self.durable),
                Change::Resize(_) => {}
            }
        }
        self.now = self.durable.clone();
    }
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[*offset..end].copy_from_slice(bytes);
            }
            Self::Resize(bytes) => contents.resize(*bytes, 0),
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, number) => {
                names.insert(path.clone(), *number);
            }
            Self::Rename(from, to) => {
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }
}
