//! A disk that is really full: a small file system in memory, where the tests may mount one.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::*;

/// The size of the disk, as `mount` takes it.
const DISK: &str = "size=8m";

/// A small disk, unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    /// `None`, and said aloud, where it may not be mounted.
    fn mount() -> Option<Self> {
        let at = tempfile::tempdir().expect("a directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at.path()).output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(at)),
            other => {
                eprintln!("SKIPPED: no disk of 8 MiB can be mounted here ({other:?})");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes up all the room that is left.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).expect("a file");
        for size in [1 << 16, 1 << 10, 1] {
            let block = vec![0x5a; size];
            while filler.write_all(&block).is_ok() {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("the filler goes");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
fn on_a_full_disk_closes_go_on_in_the_ballasts_room_until_there_is_more() {
    let Some(disk) = Disk::mount() else { return };
    let mut rig = Rig::start_in(disk.path().to_owned(), |_| {});
    answer(rig.note(Lane::Open, "there")).expect("a note");
    disk.fill();
    // What the log has room for is still taken.
    let opened =
        (0..10_000).take_while(|at| answer(rig.note(Lane::Open, &format!("open {at}"))).is_ok()).count();
    assert!(opened < 10_000, "the disk was not full");
    assert_eq!(rig.ballast(), None);
    for at in 0..200 {
        answer(rig.note(Lane::Close, &format!("close {at}"))).expect("a note");
    }
    assert!(is_unavailable(&answer(rig.note(Lane::Open, "refused"))));
    assert!(rig.counts().disk_full);
    assert_eq!(rig.ballast(), None, "no part of a ballast takes what closes need");
    disk.empty();
    answer(rig.note(Lane::Open, "again")).expect("a note");
    assert_eq!(rig.ballast(), Some(SMALL_BALLAST));
    assert!(!rig.notes().contains(&"refused".to_owned()));
    assert_eq!(rig.notes().len(), 1 + opened + 200 + 1);
    rig.stop();
}

#[test]
fn closes_that_do_not_even_fit_in_the_ballasts_room_wait_for_more() {
    let Some(disk) = Disk::mount() else { return };
    let mut rig = Rig::start_in(disk.path().to_owned(), |_| {});
    answer(rig.note(Lane::Open, "there")).expect("a note");
    disk.fill();
    let mut large = rig.submit(Lane::Close, |conn| Ok(note(conn, "large", 4 << 20)?));
    until(|| rig.counts().failed_batches >= 3);
    assert!(waits(&mut large));
    disk.empty();
    answer(large).expect("a note");
    answer(rig.note(Lane::Open, "again")).expect("a note");
    assert_eq!(rig.notes(), ["again", "large", "there"]);
    rig.stop();
}

#[test]
fn a_start_on_a_full_disk_uses_the_room_of_the_ballast() {
    let Some(disk) = Disk::mount() else { return };
    let mut rig = Rig::start_in(disk.path().to_owned(), |_| {});
    answer(rig.note(Lane::Open, "there")).expect("a note");
    rig.stop();
    disk.fill();
    assert_eq!(rig.ballast(), Some(SMALL_BALLAST));
    let mut rig = Rig::start_in(disk.path().to_owned(), |_| {});
    answer(rig.note(Lane::Close, "recovered")).expect("a note");
    assert!(is_unavailable(&answer(rig.note(Lane::Open, "refused"))));
    disk.empty();
    answer(rig.note(Lane::Open, "again")).expect("a note");
    assert_eq!(rig.notes(), ["again", "recovered", "there"]);
    rig.stop();
}
