//! Rows of the journal's file: projects, events and snapshots with their checksums, and what may go of them.
use pitwall_core::{
    io::Millis,
    retention::{Kept, Place},
};
use pitwall_proto::journal::Event;
use prost::Message as _;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};

use super::{
    Problem, Read, SNAPSHOTS_KEPT, Snapshot, may_forget, schema,
    sqlite::{Answer, Failure, from_sql, to_sql},
};

/// A project's row.
pub(super) struct Owner {
    pub id: i64,
    pub lineage: String,
    pub epoch: u64,
}

impl Owner {
    pub fn is(&self, held: u64) -> Answer<()> {
        if self.epoch == held { Ok(()) } else { Err(Failure::Rule(Problem::Fenced { held, stored: self.epoch })) }
    }
}

pub(super) fn owner(connection: &Connection, version: i64, project: &str) -> Answer<Owner> {
    let crc = if version < schema::WITH_OWNERS_CHECKED { "NULL" } else { "crc" };
    let sql = format!("SELECT id, lineage, epoch, {crc} FROM project WHERE name = ?1");
    let mut known = connection.prepare_cached(&sql)?;
    let known: Option<(i64, String, i64, Option<u32>)> =
        known.query_row([project], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).optional()?;
    let (id, lineage, epoch, crc) = known.ok_or(Failure::Rule(Problem::NoSuchProject))?;
    let epoch = from_sql(epoch)?;
    if crc.is_some_and(|crc| crc != owner_checksum(project, &lineage, epoch)) {
        return Err(Failure::Told(Problem::Corrupt, format!("the row of {project}: its checksum does not fit")));
    }
    Ok(Owner { id, lineage, epoch })
}

pub(super) fn owner_checksum(project: &str, lineage: &str, epoch: u64) -> u32 {
    crc32fast::hash(format!("{project}\0{lineage}\0{epoch}").as_bytes())
}

pub(super) fn event(row: &Row<'_>) -> Answer<Event> {
    let sequence: i64 = row.get(0)?;
    let body = row.get_ref(1)?.as_blob().map_err(|e| Failure::Told(Problem::Corrupt, e.to_string()))?;
    // The engine knows its own pages, not whether a disk gives back what was written.
    let crc: Option<u32> = row.get(2)?;
    if crc.is_some_and(|crc| crc != crc32fast::hash(body)) {
        return Err(Failure::Told(Problem::Corrupt, format!("event {sequence}: its checksum does not fit")));
    }
    let event = Event::decode(body).map_err(|e| Failure::Told(Problem::Corrupt, format!("event {sequence}: {e}")))?;
    if i64::try_from(event.sequence) != Ok(sequence) {
        let told = format!("event {sequence} says that it is event {}", event.sequence);
        return Err(Failure::Told(Problem::Corrupt, told));
    }
    Ok(event)
}

/// The column of an event's checksum, in a file of this version.
pub(super) fn checksum(version: i64) -> &'static str {
    if version < schema::WITH_CHECKSUMS { "NULL" } else { "crc" }
}

/// The last event that ever was, also when it is in a snapshot only.
pub(super) fn last(connection: &Connection, version: i64, id: i64) -> Answer<u64> {
    let of = |table: &str| -> Answer<u64> {
        let sql = format!("SELECT coalesce(max(sequence), 0) FROM {table} WHERE project = ?1");
        from_sql(connection.prepare_cached(&sql)?.query_row([id], |row| row.get(0))?)
    };
    let event = of("event")?;
    Ok(if version < schema::WITH_SNAPSHOTS { event } else { event.max(of("snapshot")?) })
}

pub(super) fn kept(connection: &Connection, version: i64, id: i64) -> Answer<Kept> {
    let first = connection
        .query_row("SELECT sequence, at_ms FROM event WHERE project = ?1 ORDER BY sequence LIMIT 1", [id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let place = |(sequence, at): (i64, i64)| Ok(Place { sequence: from_sql(sequence)?, at });
    let snapshots = places(connection, version, id)?.into_iter().map(place).collect::<Answer<_>>()?;
    Ok(Kept { first: first.map(place).transpose()?, last: last(connection, version, id)?, snapshots })
}

fn places(connection: &Connection, version: i64, id: i64) -> Answer<Vec<(i64, Millis)>> {
    if version < schema::WITH_SNAPSHOTS {
        return Ok(Vec::new());
    }
    let mut rows =
        connection.prepare_cached("SELECT sequence, at_ms FROM snapshot WHERE project = ?1 ORDER BY sequence DESC")?;
    let places = rows.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(places.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn snapshots(connection: &Connection, version: i64, id: i64) -> Answer<Vec<Read>> {
    places(connection, version, id)?.into_iter().map(|place| snapshot(connection, id, place)).collect()
}

/// One that cannot be read is not the end of the others.
fn snapshot(connection: &Connection, id: i64, (sequence, at): (i64, Millis)) -> Answer<Read> {
    let bad = |why: &str| Ok(Err(format!("the snapshot at event {sequence}: {why}")));
    let read: rusqlite::Result<(Vec<u8>, u32)> = connection.query_row(
        "SELECT body, crc FROM snapshot WHERE project = ?1 AND sequence = ?2",
        params![id, sequence],
        |row| Ok((row.get(0)?, row.get(1)?)),
    );
    match read {
        Ok((body, crc)) if crc == crc32fast::hash(&body) => {
            Ok(Ok(Snapshot { sequence: from_sql(sequence)?, at, body }))
        }
        Ok(_) => bad("its checksum does not fit"),
        Err(error) if is_damage(&error) => bad(&error.to_string()),
        Err(error) => Err(error.into()),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
        || matches!(
            error,
            E::InvalidColumnType(..)
                | E::FromSqlConversionFailure(..)
                | E::IntegralValueOutOfRange(..)
                | E::QueryReturnedNoRows
        )
}

/// Inside a transaction.
pub(super) fn keep(connection: &Connection, id: i64, snapshot: &Snapshot) -> Answer<()> {
    let last = last(connection, schema::VERSION, id)?;
    let newest = places(connection, schema::VERSION, id)?.first().map_or(0, |(sequence, _)| *sequence);
    let sequence = to_sql(snapshot.sequence)?;
    if sequence <= newest || snapshot.sequence > last {
        let told = format!("a snapshot at event {sequence} of {last}, after one at {newest}");
        return Err(Failure::Told(Problem::Refused, told));
    }
    connection.execute(
        "INSERT INTO snapshot (project, sequence, at_ms, body, crc) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, sequence, snapshot.at, snapshot.body, crc32fast::hash(&snapshot.body)],
    )?;
    connection.execute(
        "DELETE FROM snapshot WHERE project = ?1 AND sequence NOT IN
         (SELECT sequence FROM snapshot WHERE project = ?1 ORDER BY sequence DESC LIMIT ?2)",
        params![id, SNAPSHOTS_KEPT as i64],
    )?;
    Ok(())
}

/// Inside a transaction.
pub(super) fn forget(connection: &Connection, id: i64, up_to: u64, before: Millis) -> Answer<u64> {
    let snapshots = snapshots(connection, schema::VERSION, id)?;
    may_forget(&snapshots, up_to).map_err(|told| Failure::Told(Problem::Refused, told))?;
    // Only from the beginning on: what stays has no gap, whatever a clock did.
    let gone = connection.execute(
        "DELETE FROM event WHERE project = ?1 AND sequence <= ?2 AND sequence < coalesce(
             (SELECT min(sequence) FROM event WHERE project = ?1 AND sequence <= ?2 AND at_ms >= ?3), ?2 + 1)",
        params![id, to_sql(up_to)?, before],
    )?;
    Ok(gone as u64)
}
