//! Disks that are full, and disks that do not keep what they are given: under load, on both engines.
//!
//! What was told stays told, what cannot be kept is answered with 503, and the server goes on by itself once the disk does
//! (invariants 1, 2, 4, 5). `COUNTERSIGN_DISK_FAULTS` sets how often each is done (3).

use crate::book::{Book, Load, Sum, rows_of, times};
use crate::postgres::{Instance, Programs, give};
use crate::server::{Caller, Place, Sink};
use crate::tools::{self, Folder, find, until};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a test may wait for a node to notice, or to be well again.
const NOTICES_WITHIN: Duration = Duration::from_secs(30);

/// What can be wrong with a disk, and mended.
trait Trouble {
    fn begin(&self);
    fn end(&self);

    /// Whether nothing can be written meanwhile, or only nothing that takes more room.
    fn stops_every_write(&self) -> bool {
        true
    }
}

/// Puts load on the place, and has the disk fail and mend in the middle of it, so often.
async fn ride_out(place: &Place, sink: &Arc<Sink>, trouble: &dyn Trouble, rows: impl Fn() -> Vec<Value>) -> (usize, Sum) {
    let rounds = times("COUNTERSIGN_DISK_FAULTS", 3);
    let book = Arc::new(Book::default());
    let mut server = place.start();
    place.becomes_ready(0, NOTICES_WITHIN);
    for round in 0..rounds {
        let nodes = [Caller::new(place).await];
        let load = Load::start(&nodes, sink, &book);
        tokio::time::sleep(Duration::from_millis(150 + (round as u64 * 53) % 200)).await;
        let before = book.refused();
        trouble.begin();
        let told = until(NOTICES_WITHIN, || (book.refused() > before + 10).then_some(()));
        assert!(told.is_some(), "nobody is told that the disk fails, in round {round}:\n{}", place.log());
        if trouble.stops_every_write() {
            let noticed = until(NOTICES_WITHIN, || (place.probe(0, "/readyz").status() == Some(503)).then_some(()));
            assert!(noticed.is_some(), "it says that it is ready: {}", place.probe(0, "/readyz").text());
        }
        assert_eq!(place.probe(0, "/healthz").status(), Some(200), "it lives");
        trouble.end();
        place.becomes_ready(0, NOTICES_WITHIN);
        let before = book.acknowledged();
        let works = until(NOTICES_WITHIN, || (book.acknowledged() > before + 50).then_some(()));
        assert!(works.is_some(), "callers are not served again:\n{}", place.log());
        load.stop().await;
        if round % 2 == 1 {
            // What it remembers may be more than what it wrote.
            server.kill();
            server = place.start();
            place.becomes_ready(0, NOTICES_WITHIN);
        }
        book.reckon(&nodes, sink).await;
    }
    let nodes = [Caller::new(place).await];
    let sum = book.close(&nodes, sink, rows).await;
    drop(server);
    (rounds, sum)
}

// --------------------------------------------------------------------------------------------------------- flushes that fail

/// Flushes that fail while a file is there.
struct FailingFlush {
    library: PathBuf,
    broken: PathBuf,
    _folder: Folder,
}

impl FailingFlush {
    fn new(test: &str) -> Option<Self> {
        let (compiler, folder) = (find(test, "gcc")?, Folder::new("flush"));
        let source = folder.write("failing_flush.c", include_str!("failing_flush.c"));
        let (library, broken) = (folder.0.join("failing_flush.so"), folder.0.join("broken"));
        tools::run(Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl"));
        Some(Self { library, broken, _folder: folder })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("LD_PRELOAD", self.library.display().to_string()), ("FAILING_FLUSH", self.broken.display().to_string())]
    }
}

impl Trouble for FailingFlush {
    fn begin(&self) {
        fs::write(&self.broken, "").expect("a file");
    }

    fn end(&self) {
        fs::remove_file(&self.broken).expect("it is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_flush_that_fails_is_told_and_nothing_that_was_told_before_is_lost() {
    let Some(flush) = FailingFlush::new("disk::flush") else { return };
    let sink = Arc::new(Sink::start().await);
    let place = Place::with("flush", &sink.url, 1, flush.environment());
    let (rounds, sum) = ride_out(&place, &sink, &flush, || rows_of(&place, Path::new("countersign.db"))).await;
    println!("proof: failing_flush engine=sqlite rounds={rounds} {sum}");
}

/// A database that is started again when it ended, as a service is.
struct Served<T> {
    database: Mutex<Instance>,
    trouble: T,
    stops_every_write: bool,
}

impl<T: Trouble> Trouble for Served<T> {
    fn begin(&self) {
        self.trouble.begin();
    }

    fn stops_every_write(&self) -> bool {
        self.stops_every_write
    }

    fn end(&self) {
        self.trouble.end();
        let mut database = self.database.lock().unwrap();
        // It may be up, on its way, or ended because even recovery could not write.
        if !database.answers(Duration::from_secs(15)) {
            database.kill();
            database.start();
        }
    }
}

impl<T> Served<T> {
    fn rows(&self) -> Vec<Value> {
        self.database.lock().unwrap().rows_of_deliveries("countersign")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_database_whose_flush_fails_loses_nothing_that_was_told() {
    let test = "disk::flush_postgresql";
    let (Some(flush), Some(programs)) = (FailingFlush::new(test), Programs::find(test)) else { return };
    let mut database = Instance::empty(&programs);
    database.make(&[]);
    database.environment = flush.environment();
    database.start();
    database.create_role();
    database.create_database("countersign");
    let sink = Arc::new(Sink::start().await);
    let place = Place::on("flush-postgresql", &sink.url, 1, &database.url("countersign"));
    let served = Served { database: Mutex::new(database), trouble: flush, stops_every_write: true };
    let (rounds, sum) = ride_out(&place, &sink, &served, || served.rows()).await;
    println!("proof: failing_flush engine=postgresql rounds={rounds} {sum}");
}

// ---------------------------------------------------------------------------------------------------------- disks that are full

/// A disk of a few megabytes.
struct SmallDisk {
    mounted: PathBuf,
    // Dropped after it is taken from its place.
    _folder: Folder,
}

impl SmallDisk {
    /// Makes one. Only root can.
    fn new(test: &str, megabytes: u64) -> Option<Self> {
        for left in tools::folders_of_the_dead("disk") {
            unmount(&left.join("mounted"));
            let _ = fs::remove_dir_all(left);
        }
        let folder = Folder::new("disk");
        let (image, mounted) = (folder.0.join("image"), folder.0.join("mounted"));
        fs::create_dir(&mounted).expect("a folder");
        fs::File::create(&image).and_then(|it| it.set_len(megabytes << 20)).expect("a file");
        let make = find(test, "mkfs.ext4")?;
        tools::run(Command::new(make).args(["-q", "-F", "-m", "0"]).arg(&image));
        let mount = Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]).stderr(Stdio::null()).status();
        if !mount.is_ok_and(|it| it.success()) {
            tools::missing(test, "a disk cannot be mounted here (root can, on most machines)");
            return None;
        }
        Some(Self { mounted, _folder: folder })
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }
}

impl Trouble for SmallDisk {
    /// Fills it to the last block.
    fn begin(&self) {
        let mut filler = fs::File::options().create(true).append(true).open(self.filler()).expect("a file");
        for size in [1 << 20, 4096, 512] {
            let bytes = vec![0; size];
            while filler.write_all(&bytes).is_ok() {}
        }
    }

    fn end(&self) {
        fs::remove_file(self.filler()).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.mounted);
    }
}

fn unmount(disk: &Path) {
    let _ = Command::new("umount").arg("--lazy").arg(disk).stderr(Stdio::null()).status();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_full_disk_is_told_and_nothing_that_was_told_before_is_lost() {
    // More than the write-ahead log may take, which is 64 MiB, and than all rounds write.
    let Some(disk) = SmallDisk::new("disk::full", 256) else { return };
    let sink = Arc::new(Sink::start().await);
    let file = disk.mounted.join("countersign.db");
    let place = Place::with("full", &sink.url, 1, vec![("COUNTERSIGN_STORAGE_PATH", file.display().to_string())]);
    let (rounds, sum) = ride_out(&place, &sink, &disk, || rows_of(&place, &file)).await;
    println!("proof: disk_full engine=sqlite rounds={rounds} {sum}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_database_whose_disk_is_full_loses_nothing_that_was_told() {
    let test = "disk::full_postgresql";
    let (Some(programs), Some(disk)) = (Programs::find(test), SmallDisk::new(test, 200)) else { return };
    let data = disk.mounted.join("data");
    fs::create_dir(&data).expect("a folder");
    give(&data);
    let mut database = Instance::at(&programs, Folder::new("postgres"), data);
    // Small segments, so that the log asks for room often.
    database.make(&["--wal-segsize=1"]);
    database.configure("min_wal_size = 2MB\nmax_wal_size = 16MB\nwal_keep_size = 0\nwal_recycle = off");
    database.start();
    database.create_role();
    database.create_database("countersign");
    let sink = Arc::new(Sink::start().await);
    let place = Place::on("full-postgresql", &sink.url, 1, &database.url("countersign"));
    // A row that is replaced on its page needs no room: some writes work still, and new challenges do not.
    let served = Served { database: Mutex::new(database), trouble: disk, stops_every_write: false };
    let (rounds, sum) = ride_out(&place, &sink, &served, || served.rows()).await;
    println!("proof: disk_full engine=postgresql rounds={rounds} {sum}");
    // The database goes before its disk.
    drop(served.database);
}
