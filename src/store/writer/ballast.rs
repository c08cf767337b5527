//! Room on the disk that is kept for closing what is open.
//!
//! A file of [`LEN`] bytes lies beside the database. Where the disk turns out to be full, it is deleted: from
//! then on nothing new is opened, and what is open is closed in the room that it leaves. It is made again as
//! soon as there is room for it, and with that new work is taken again.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The size of the ballast: some thousands of settled turns.
pub const LEN: u64 = 16 << 20;
/// How often, at most, it is tried whether a full disk has room again.
pub const PROBE_EVERY: Duration = Duration::from_secs(3);
/// What a start may have to write before it can serve: migrations, and closing what an earlier run left open.
const START_ROOM: u64 = 4 << 20;
/// What is written at once. Random, because some file systems store what repeats in less room.
const BLOCK: usize = 1 << 20;

/// The file, where the database is one.
struct Ballast {
    file: Option<PathBuf>,
    len: u64,
}

impl Ballast {
    /// Makes the file, unless it lies there whole.
    fn make(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        match file.metadata() {
            Ok(found) if found.len() == self.len => Ok(()),
            _ => fill(file, self.len),
        }
    }

    fn give_up(&self) {
        let Some(file) = &self.file else { return };
        match std::fs::remove_file(file) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                tracing::error!(%cause, "the ballast file could not be deleted");
            }
            _ => {}
        }
    }
}

/// Writes `len` bytes to `file`, or nothing.
///
/// They are not synced: nobody reads them, and a file system takes the room when it takes the bytes.
fn fill(file: &Path, len: u64) -> io::Result<()> {
    let written = || {
        let mut block = vec![0; BLOCK];
        getrandom::fill(&mut block).map_err(io::Error::other)?;
        let mut out = File::create(file)?;
        let mut left = len;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            out.write_all(&block[..part])?;
            left -= part as u64;
        }
        Ok(())
    };
    written().inspect_err(|_| drop(std::fs::remove_file(file)))
}

fn is_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn file_beside(database: &Path) -> PathBuf {
    database.with_file_name("ballast")
}

/// Before the database is opened: gives up the ballast of an earlier run where a start would not find room.
pub fn make_room_for_start(database: &Path) {
    let probe = database.with_file_name("room");
    let room = fill(&probe, START_ROOM);
    // Left behind by nobody: `fill` deletes what it could not finish.
    let _ = std::fs::remove_file(&probe);
    if room.is_err_and(|cause| is_full(&cause)) {
        tracing::error!("the disk is full; the ballast is given up for the start");
        Ballast { file: Some(file_beside(database)), len: LEN }.give_up();
    }
}

/// Whether there is room for new work.
pub struct Room {
    ballast: Ballast,
    there: bool,
    probed: Instant,
    probe_every: Duration,
}

impl Room {
    /// For the database in that file; `None` for one in memory, which has no ballast.
    pub fn beside(database: Option<&Path>, len: u64, probe_every: Duration) -> Self {
        let ballast = Ballast { file: database.map(file_beside), len };
        let mut room = Self { ballast, there: true, probed: Instant::now(), probe_every };
        match room.ballast.make() {
            Ok(()) => {}
            Err(cause) if is_full(&cause) => room.run_out(),
            Err(cause) => tracing::warn!(%cause, "no ballast file could be made; a full disk will be harder"),
        }
        room
    }

    pub fn is_there(&self) -> bool {
        self.there
    }

    /// The disk is full: gives up the ballast.
    pub fn run_out(&mut self) {
        self.probed = Instant::now();
        if self.there {
            tracing::error!("the disk is full; nothing new is opened until there is room again");
        }
        self.there = false;
        self.ballast.give_up();
    }

    /// Whether there is room, looking again if the last look was long enough ago.
    pub fn look_again(&mut self) -> bool {
        if !self.there && self.probed.elapsed() >= self.probe_every {
            self.probed = Instant::now();
            match self.ballast.make() {
                Ok(()) => {
                    tracing::info!("there is room on the disk again; new work is taken");
                    self.there = true;
                }
                Err(cause) => tracing::warn!(%cause, "there is still no room on the disk"),
            }
        }
        self.there
    }
}
