//! The journal as one SQLite file: write-ahead log, `synchronous=FULL`, so that what was committed survives a
//! power cut. Rows are (sequence, time, the encoded event, checksum); the epoch is checked inside the transaction that
//! appends. A mark beside the file says how far it went, so that a log that ends too early is noticed.
use std::path::{Path, PathBuf};

use pitwall_core::{io::Millis, retention::Kept};
use pitwall_proto::journal::Event;
use prost::Message as _;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::{
    Ownership, PAGE_BYTES_MAX, Page, Problem, Read, Result, Snapshot, Store, StoreError, follows, load,
    mark::Mark,
    new_lineage, next_epoch,
    rows::{self, Owner},
    schema,
};

#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Option<Connection>,
    /// Of the file's tables.
    version: i64,
    mark: Mark,
    /// It is read as of one moment.
    still: bool,
}

impl SqliteStore {
    /// Opens the file, or makes it with an empty schema.
    pub fn open(path: &Path) -> Result<Self> {
        let told = |error: rusqlite::Error| translate(path, "open", &error);
        schema::make(path)?;
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(told)?;
        connection.busy_timeout(std::time::Duration::from_secs(2)).map_err(told)?;
        // Answers with a row, so it is no plain update.
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(told)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(told)?;
        connection.pragma_update(None, "foreign_keys", "ON").map_err(told)?;
        // The log is cut back after a checkpoint instead of staying as large as it ever was.
        connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(())).map_err(told)?;
        schema::bring_up(&mut connection, path)?;
        let mark = Mark::open(path, true);
        Ok(Self { path: path.into(), connection: Some(connection), version: schema::VERSION, mark, still: false })
    }

    /// Opens what is there, to read only: also while a server writes it, and what an earlier version wrote.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        let told = |error: rusqlite::Error| translate(path, "read", &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(told)?;
        connection.busy_timeout(std::time::Duration::from_secs(2)).map_err(told)?;
        let version = schema::found(&connection).map_err(told)?;
        if !(1..=schema::VERSION).contains(&version) {
            return Err(schema::unknown(path, "read", version));
        }
        let mark = Mark::open(path, false);
        Ok(Self { path: path.into(), connection: Some(connection), version, mark, still: false })
    }

    /// Opens a copy that nobody else has, without a log beside it: what is committed is in the file itself.
    pub fn open_alone(path: &Path) -> Result<Self> {
        let told = |error: rusqlite::Error| translate(path, "open", &error);
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(told)?;
        connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(told)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(told)?;
        schema::bring_up(&mut connection, path)?;
        let (mark, version) = (Mark::none(), schema::VERSION);
        Ok(Self { path: path.into(), connection: Some(connection), version, mark, still: false })
    }

    /// Everything that was committed goes from the log into the file.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.with("checkpoint", |connection| {
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            if busy == 0 { Ok(()) } else { Err(Failure::Rule(Problem::Busy)) }
        })
    }

    /// Every page of the file, against what the engine knows of its own format.
    pub fn check(&mut self) -> Result<()> {
        self.with("check", |connection| {
            let told: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            if told == "ok" { Ok(()) } else { Err(Failure::Told(Problem::Corrupt, told)) }
        })
    }

    /// What it holds as of one moment, into an empty file.
    pub fn copy_into(&mut self, to: &Path) -> Result<()> {
        let to = to.to_str().ok_or_else(|| self.problem("copy", Problem::Engine))?.to_owned();
        self.with("copy", |connection| {
            connection.execute("VACUUM INTO ?1", [to])?;
            Ok(())
        })
    }

    /// From here on it is read as of this moment, whatever a server writes and compacts meanwhile.
    pub fn hold_still(&mut self) -> Result<()> {
        // The mark goes on, so it is looked at before.
        for project in self.projects()? {
            self.reaches_its_mark(&project)?;
        }
        self.with("read", |connection| Ok(connection.execute_batch("BEGIN; SELECT count(*) FROM project")?))?;
        self.still = true;
        Ok(())
    }

    /// That nothing is missing at the end, as far as the mark knows.
    fn reaches_its_mark(&mut self, project: &str) -> Result<()> {
        let (id, lineage) = self.of("read", project, |_, _, owner| Ok((owner.id, owner.lineage)))?;
        // Before the events: a server may append meanwhile, and marks it afterwards.
        let noted = self.mark.get(id, &lineage);
        let last = self.of("read", project, |connection, version, owner| rows::last(connection, version, owner.id))?;
        if noted <= last {
            return Ok(());
        }
        let source = format!(
            "it ends with event {last}, and event {noted} was written: its log was damaged, or an older copy took its \
             place; `pitwall journal restore` of this very file goes on with what it has"
        );
        Err(self.corrupt("replay", source))
    }

    /// What is appended from now on is of another history, above the epoch of the one that it replaces.
    pub fn begin_another_history(&mut self, project: &str, replaced_epoch: u64, unix_seconds: u64) -> Result<()> {
        self.with("restore", |connection| {
            let owner = rows::owner(connection, schema::VERSION, project)?;
            let lineage = new_lineage().map_err(|e| Failure::Told(Problem::Engine, e.to_string()))?;
            let epoch = next_epoch(owner.epoch.max(replaced_epoch), unix_seconds);
            connection.execute(
                "UPDATE project SET lineage = ?2, epoch = ?3, crc = ?4 WHERE id = ?1",
                params![owner.id, lineage, to_sql(epoch)?, rows::owner_checksum(project, &lineage, epoch)],
            )?;
            Ok(())
        })
    }

    /// Those that are no use to anybody; whoever reads the journal then finds out whether the events do without them.
    pub fn forget_bad_snapshots(&mut self, project: &str) -> Result<()> {
        let owner = Store::ownership(self, project)?;
        let places = Store::kept(self, project)?.snapshots;
        let reads = Store::snapshots(self, project)?;
        for (place, read) in places.into_iter().zip(reads) {
            if let Err(load::Bad::Spoilt(why)) = load::decode(project, &owner, read) {
                tracing::warn!(project, why, "a snapshot is left out");
                self.of("restore", project, |connection, _, owner| {
                    let place = [owner.id, to_sql(place.sequence)?];
                    connection.execute("DELETE FROM snapshot WHERE project = ?1 AND sequence = ?2", place)?;
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, doing: &'static str, source: String) -> StoreError {
        StoreError { source, ..self.problem(doing, Problem::Corrupt) }
    }

    fn problem(&self, doing: &'static str, problem: Problem) -> StoreError {
        StoreError { problem, path: self.path.clone(), doing, source: String::new() }
    }

    /// One change by the owner, all or nothing: the epoch that is compared cannot change before the commit. Dropped without
    /// it, the transaction is rolled back.
    fn owned<T>(
        &mut self,
        doing: &'static str,
        project: &str,
        epoch: u64,
        work: impl FnOnce(&Connection, &Owner) -> Answer<T>,
    ) -> Result<T> {
        self.with(doing, |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let owner = rows::owner(&change, schema::VERSION, project)?;
            owner.is(epoch)?;
            let done = work(&change, &owner)?;
            change.commit()?;
            Ok(done)
        })
    }

    /// A look at one project, with the version of the file's tables.
    fn of<T>(
        &mut self,
        doing: &'static str,
        project: &str,
        work: impl FnOnce(&Connection, i64, Owner) -> Answer<T>,
    ) -> Result<T> {
        let version = self.version;
        self.with(doing, |connection| {
            let owner = rows::owner(connection, version, project)?;
            work(connection, version, owner)
        })
    }

    fn with<T>(&mut self, doing: &'static str, work: impl FnOnce(&mut Connection) -> Answer<T>) -> Result<T> {
        let Some(connection) = self.connection.as_mut() else { return Err(self.problem(doing, Problem::Closed)) };
        work(connection).map_err(|failure| match failure {
            Failure::Sql(error) => translate(&self.path, doing, &error),
            Failure::Rule(problem) => self.problem(doing, problem),
            Failure::Told(problem, source) => StoreError { source, ..self.problem(doing, problem) },
        })
    }
}

/// Inside one piece of work: the engine failed, or a rule of the journal did not hold.
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Rule(Problem),
    Told(Problem, String),
}

pub(super) type Answer<T> = std::result::Result<T, Failure>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Store for SqliteStore {
    fn path(&self) -> &Path {
        &self.path
    }

    fn acquire(&mut self, project: &str, unix_seconds: u64) -> Result<Ownership> {
        self.with("acquire", |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let owner = match rows::owner(&change, schema::VERSION, project) {
                Ok(known) => Ownership { epoch: next_epoch(known.epoch, unix_seconds), lineage: known.lineage },
                Err(Failure::Rule(Problem::NoSuchProject)) => {
                    let lineage = new_lineage().map_err(|e| Failure::Told(Problem::Engine, e.to_string()))?;
                    Ownership { lineage, epoch: next_epoch(0, unix_seconds) }
                }
                Err(failure) => return Err(failure),
            };
            change.execute(
                "INSERT INTO project (name, lineage, epoch, crc) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, crc = excluded.crc",
                params![
                    project,
                    owner.lineage,
                    to_sql(owner.epoch)?,
                    rows::owner_checksum(project, &owner.lineage, owner.epoch)
                ],
            )?;
            change.commit()?;
            Ok(owner)
        })
    }

    /// Only a look: nobody else can have the file while this process holds the directory's lock.
    fn renew(&mut self, project: &str, epoch: u64) -> Result<()> {
        self.of("renew", project, |_, _, owner| owner.is(epoch))
    }

    fn append(&mut self, project: &str, epoch: u64, events: &[Event]) -> Result<()> {
        let (id, lineage, last) = self.owned("append to", project, epoch, |change, owner| {
            let last = rows::last(change, schema::VERSION, owner.id)?;
            follows(last, events).map_err(Failure::Rule)?;
            let mut insert = change.prepare_cached(
                "INSERT INTO event (project, sequence, at_ms, body, crc) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for event in events {
                let body = event.encode_to_vec();
                let crc = crc32fast::hash(&body);
                insert.execute(params![owner.id, to_sql(event.sequence)?, event.at_ms, body, crc])?;
            }
            Ok((owner.id, owner.lineage.clone(), last + events.len() as u64))
        })?;
        self.mark.set(id, &lineage, last);
        Ok(())
    }

    fn snapshot(&mut self, project: &str, epoch: u64, snapshot: &Snapshot) -> Result<()> {
        self.owned("compact", project, epoch, |change, owner| rows::keep(change, owner.id, snapshot))
    }

    fn snapshots(&mut self, project: &str) -> Result<Vec<Read>> {
        self.of("read", project, |connection, version, owner| rows::snapshots(connection, version, owner.id))
    }

    fn forget(&mut self, project: &str, epoch: u64, up_to: u64, before: Millis) -> Result<u64> {
        self.owned("compact", project, epoch, |change, owner| rows::forget(change, owner.id, up_to, before))
    }

    fn kept(&mut self, project: &str) -> Result<Kept> {
        self.of("read", project, |connection, version, owner| rows::kept(connection, version, owner.id))
    }

    fn replay(&mut self, project: &str, after: u64, each: &mut dyn FnMut(Event) -> bool) -> Result<()> {
        if !self.still {
            self.reaches_its_mark(project)?;
        }
        self.of("replay", project, |connection, version, owner| {
            let crc = rows::checksum(version);
            let sql = format!(
                "SELECT sequence, body, {crc} FROM event WHERE project = ?1 AND sequence > ?2 ORDER BY sequence"
            );
            let mut found = connection.prepare_cached(&sql)?;
            let mut found = found.query(params![owner.id, to_sql(after)?])?;
            let mut expected = after + 1;
            while let Some(row) = found.next()? {
                let event = rows::event(row)?;
                if event.sequence != expected {
                    let told = format!("event {expected} is missing, {} is there", event.sequence);
                    return Err(Failure::Told(Problem::Corrupt, told));
                }
                expected += 1;
                if !each(event) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn read(&mut self, project: &str, page: Page) -> Result<Vec<Event>> {
        self.of("read", project, |connection, version, owner| {
            let crc = rows::checksum(version);
            let order = if page.newest { "DESC" } else { "ASC" };
            let mut found = connection.prepare_cached(&format!(
                "SELECT sequence, body, {crc} FROM event
                 WHERE project = ?1 AND sequence > ?2 AND sequence < ?3 ORDER BY sequence {order} LIMIT ?4"
            ))?;
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            let before = i64::try_from(page.before).unwrap_or(i64::MAX);
            let after = i64::try_from(page.after).unwrap_or(i64::MAX);
            let mut found = found.query(params![owner.id, after, before, limit])?;
            let mut events = Vec::new();
            let mut bytes = 0;
            while let Some(row) = found.next()? {
                let event = rows::event(row)?;
                bytes += event.encoded_len();
                if bytes > PAGE_BYTES_MAX && !events.is_empty() {
                    break;
                }
                events.push(event);
            }
            if page.newest {
                events.reverse();
            }
            Ok(events)
        })
    }

    fn ownership(&mut self, project: &str) -> Result<Ownership> {
        self.of("read", project, |_, _, Owner { lineage, epoch, .. }| Ok(Ownership { lineage, epoch }))
    }

    fn projects(&mut self) -> Result<Vec<String>> {
        self.with("read", |connection| {
            let mut rows = connection.prepare_cached("SELECT name FROM project ORDER BY name")?;
            let names = rows.query_map([], |row| row.get(0))?;
            Ok(names.collect::<rusqlite::Result<Vec<String>>>()?)
        })
    }

    fn close(&mut self) -> Result<()> {
        let Some(connection) = self.connection.take() else { return Ok(()) };
        // The last connection checkpoints the log into the file as it closes.
        connection.close().map_err(|(_, error)| translate(&self.path, "close", &error))
    }
}

pub(super) fn from_sql(number: i64) -> Answer<u64> {
    u64::try_from(number).map_err(|_| Failure::Told(Problem::Corrupt, format!("a negative count, {number}")))
}

pub(super) fn to_sql(number: u64) -> Answer<i64> {
    i64::try_from(number).map_err(|_| Failure::Told(Problem::Engine, format!("{number} is too large to be stored")))
}

pub(super) fn translate(path: &Path, doing: &'static str, error: &rusqlite::Error) -> StoreError {
    let problem = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            Problem::Unwritable
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Problem::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Problem::Corrupt,
        // The engine's codes are an open set; what is not known to pass by itself is not tried again.
        _ => Problem::Engine,
    };
    StoreError { problem, path: path.into(), doing, source: error.to_string() }
}
