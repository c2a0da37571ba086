//! Journaled events for people, read page by page: bounded in number, in bytes, and in how far a search goes.
use pitwall_core::retention::Place;
use pitwall_proto::{journal::Event, v1};
use prost::Message as _;
use tonic::Status;

use super::mailbox::ProjectHandle;
use crate::store::Page;

const DEFAULT: u32 = 200;
const MAX: u32 = 2_000;
const PAGE: usize = 2_000;
/// A search for one agent's events gives up after so many pages, and says where.
const PAGES_MAX: usize = 200;
/// An answer ends early rather than becoming larger.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What was asked for, in order.
#[derive(Debug, Default)]
pub struct Found {
    pub events: Vec<Event>,
    /// The last event that was looked at, where the search gave up with the journal not at its end.
    pub gave_up_at: Option<u64>,
    /// The oldest event that is kept, where older ones were asked for.
    pub kept_from: Option<Place>,
}

pub async fn events(project: &ProjectHandle, request: &v1::ListEventsRequest) -> Result<Found, Status> {
    let mut search = Search::new(request);
    while let Some(page) = search.next_page() {
        search.take(project.events(page).await?);
    }
    let first = project.kept().await?.first;
    Ok(search.found(first))
}

struct Search<'a> {
    request: &'a v1::ListEventsRequest,
    limit: usize,
    page: Page,
    pages: usize,
    bytes: usize,
    events: Vec<Event>,
    done: bool,
    /// There is nothing more in that direction.
    at_the_end: bool,
    looked_at: Option<u64>,
}

impl<'a> Search<'a> {
    fn new(request: &'a v1::ListEventsRequest) -> Self {
        let limit = if request.limit == 0 { DEFAULT } else { request.limit.min(MAX) } as usize;
        let per_page = if request.agent.is_empty() { limit } else { PAGE };
        let page = Page { after: request.after_sequence, before: u64::MAX, limit: per_page, newest: request.newest };
        Self {
            request,
            limit,
            page,
            pages: 0,
            bytes: 0,
            events: Vec::new(),
            done: false,
            at_the_end: false,
            looked_at: None,
        }
    }

    fn next_page(&mut self) -> Option<Page> {
        (!self.done && self.pages < PAGES_MAX).then_some(self.page)
    }

    fn take(&mut self, mut read: Vec<Event>) {
        self.pages += 1;
        let (Some(first), Some(last)) = (read.first(), read.last()) else {
            (self.done, self.at_the_end) = (true, true);
            return;
        };
        if self.request.newest {
            self.page.before = first.sequence;
            read.reverse();
        } else {
            self.page.after = last.sequence;
        }
        for event in read {
            if is_about(&event, &self.request.agent) {
                self.bytes += event.encoded_len();
                if self.bytes > BYTES_MAX && !self.events.is_empty() {
                    self.done = true;
                    return;
                }
                self.events.push(event);
                if self.events.len() == self.limit {
                    self.done = true;
                    return;
                }
            } else {
                self.looked_at = Some(event.sequence);
            }
        }
    }

    fn found(mut self, first: Option<Place>) -> Found {
        if self.request.newest {
            self.events.reverse();
        }
        // From the oldest on, a search begins where the kept journal does; from the newest on, it may end there.
        let reached = !self.request.newest || self.at_the_end;
        let compacted = |first: &Place| {
            let shown = self.events.first().is_some_and(|event| event.sequence < first.sequence);
            reached && !shown && first.sequence > self.request.after_sequence.saturating_add(1)
        };
        let kept_from = first.filter(compacted);
        Found { events: self.events, gave_up_at: self.looked_at.filter(|_| !self.done), kept_from }
    }
}

fn is_about(event: &Event, agent: &str) -> bool {
    if agent.is_empty() {
        return true;
    }
    let subject = pitwall_core::tell::event(event).subject;
    subject.strip_prefix(agent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use pitwall_proto::journal::{FindingOpened, event::Body};

    use super::*;

    /// Every tenth event is about `rare`.
    fn journal(page: Page, last: u64) -> Vec<Event> {
        let event = |sequence: u64| {
            let subject = if sequence.is_multiple_of(10) { "rare/page".into() } else { "busy".into() };
            let body = Some(Body::FindingOpened(FindingOpened { subject, ..Default::default() }));
            Event { sequence, body, ..Default::default() }
        };
        let (from, to) = (page.after.saturating_add(1), page.before.min(last + 1));
        let sequences: Vec<u64> = if page.newest {
            (from..to).rev().take(page.limit).collect::<Vec<_>>().into_iter().rev().collect()
        } else {
            (from..to).take(page.limit).collect()
        };
        sequences.into_iter().map(event).collect()
    }

    fn search(request: &v1::ListEventsRequest, last: u64) -> (Vec<u64>, Option<u64>) {
        let mut search = Search::new(request);
        while let Some(page) = search.next_page() {
            search.take(journal(page, last));
        }
        let found = search.found(Some(Place { sequence: 1, at: 0 }));
        assert_eq!(found.kept_from, None);
        (found.events.iter().map(|e| e.sequence).collect(), found.gave_up_at)
    }

    fn of(agent: &str, after_sequence: u64, limit: u32, newest: bool) -> v1::ListEventsRequest {
        v1::ListEventsRequest { agent: agent.into(), after_sequence, limit, newest, ..Default::default() }
    }

    #[test]
    fn the_oldest_or_the_newest_that_fit_in_order() {
        assert_eq!(search(&of("", 5, 3, false), 100), (vec![6, 7, 8], None));
        assert_eq!(search(&of("", 5, 3, true), 100), (vec![98, 99, 100], None));
        assert_eq!(search(&of("rare", 5, 2, false), 100), (vec![10, 20], None));
        assert_eq!(search(&of("rare", 5, 2, true), 100), (vec![90, 100], None));
        assert_eq!(search(&of("rare", 95, 9, true), 100), (vec![100], None));
        assert_eq!(search(&of("none", 0, 9, false), 100), (vec![], None));
    }

    #[test]
    fn a_search_that_gives_up_says_where() {
        let looked_at = (PAGES_MAX * PAGE) as u64;
        assert_eq!(search(&of("none", 0, 1, false), looked_at * 2), (vec![], Some(looked_at)));
        assert_eq!(search(&of("none", 0, 1, true), looked_at * 2), (vec![], Some(looked_at + 1)));
        assert_eq!(search(&of("none", looked_at, 1, false), looked_at + 5), (vec![], None));
    }

    #[test]
    fn a_search_that_reaches_before_what_is_kept_says_where_that_begins() {
        let kept_from = |request: &v1::ListEventsRequest| {
            let mut search = Search::new(request);
            while let Some(page) = search.next_page() {
                search.take(journal(Page { after: page.after.max(49), ..page }, 100));
            }
            search.found(Some(Place { sequence: 50, at: 7 })).kept_from.map(|first| first.sequence)
        };
        let table = [
            (of("", 0, 3, false), Some(50)),
            (of("", 48, 3, false), Some(50)),
            (of("", 49, 3, false), None),
            (of("", u64::MAX, 3, false), None),
            (of("", 0, 3, true), None),
            (of("", 0, 1_000, true), Some(50)),
            (of("", 49, 1_000, true), None),
            (of("rare", 0, 9, true), Some(50)),
            (of("rare", 0, 2, true), None),
        ];
        for (request, expected) in table {
            assert_eq!(kept_from(&request), expected, "{request:?}");
        }
    }
}
