//! Shares of what is limited: connections, calls, streams. Strangers, sidecars and operators have pools of their own, so
//! that no kind of peer can take the places of another; and within a pool nobody has more than a share.
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use pitwall_core::identity::Subject;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::Peer;

/// How many places there are at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub all: usize,
    /// For one address or one identity.
    pub each: usize,
}

/// Whom a place is counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Address(IpAddr),
    Subject(String),
}

/// One kind of thing, for all kinds of peers.
#[derive(Debug)]
pub struct Places {
    strangers: Pool,
    sidecars: Pool,
    operators: Pool,
    /// `--insecure` knows nobody.
    unnamed: Pool,
}

/// Nothing more for this peer: this is the limit that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Own(usize),
    All(usize),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(most) => write!(f, "{most} of this peer's, which is the limit for one"),
            Self::All(most) => write!(f, "{most} of all, which is the limit"),
        }
    }
}

impl Places {
    pub fn new(strangers: Room, sidecars: Room, operators: Room) -> Arc<Self> {
        let all = strangers.all + sidecars.all + operators.all;
        let rooms = [strangers, sidecars, operators, Room { all, each: all }];
        let [strangers, sidecars, operators, unnamed] = rooms.map(Pool::new);
        Arc::new(Self { strangers, sidecars, operators, unnamed })
    }

    /// A place until it is dropped.
    pub fn take(&self, peer: &Peer) -> Result<Place, Full> {
        let (pool, whose) = match peer.subject() {
            Some(subject @ Subject::Agent { .. }) => (&self.sidecars, Some(Whose::Subject(subject.to_string()))),
            Some(subject @ Subject::Operator { .. }) => (&self.operators, Some(Whose::Subject(subject.to_string()))),
            None if peer.is_plaintext() => (&self.unnamed, None),
            None => (&self.strangers, Some(Whose::Address(network(peer.address)))),
        };
        pool.take(whose)
    }
}

#[derive(Debug)]
pub struct Pool {
    room: Room,
    all: Arc<Semaphore>,
    taken: Taken,
}

/// How many places each holds; who holds none is not in it, so that it is no longer than there are places.
type Taken = Arc<Mutex<HashMap<Whose, usize>>>;

impl Pool {
    pub fn new(room: Room) -> Self {
        Self { room, all: Arc::new(Semaphore::new(room.all)), taken: Taken::default() }
    }

    /// For whoever comes from there.
    pub fn take_from(&self, address: IpAddr) -> Result<Place, Full> {
        self.take(Some(Whose::Address(network(address))))
    }

    fn take(&self, whose: Option<Whose>) -> Result<Place, Full> {
        let share = whose.map(|whose| Share::take(whose, &self.taken, self.room.each)).transpose()?;
        let one = self.all.clone().try_acquire_owned().map_err(|_| Full::All(self.room.all))?;
        Ok(Place { _share: share, _one: one })
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _share: Option<Share>,
    _one: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Share {
    whose: Whose,
    taken: Taken,
}

impl Share {
    fn take(whose: Whose, of: &Taken, most: usize) -> Result<Self, Full> {
        let mut taken = of.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.entry(whose.clone()).or_default();
        if *held >= most {
            return Err(Full::Own(most));
        }
        *held += 1;
        Ok(Self { whose, taken: of.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = taken.get_mut(&self.whose) {
            *held -= 1;
            if *held == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

/// One machine may have all addresses of an IPv6 network of the usual size.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_more_than_a_share_and_no_kind_the_places_of_another() {
        let places = Places::new(Room { all: 3, each: 2 }, Room { all: 1, each: 1 }, Room { all: 2, each: 1 });
        let stranger = |address: &str| Peer::nobody(address.parse().unwrap());
        let take = |peer: &Peer| places.take(peer);
        let [one, same, other] = ["2001:db8::1", "2001:db8::ffff:1", "192.0.2.1"].map(stranger);
        let first = take(&one).unwrap();
        let _second = take(&same).unwrap();
        assert_eq!(take(&one).unwrap_err(), Full::Own(2));
        let _third = take(&other).unwrap();
        assert_eq!(take(&other).unwrap_err(), Full::All(3));
        drop(first);
        let _again = take(&other).unwrap();
        // Those with and without identities do not meet.
        let plain = Peer::plaintext("127.0.0.1".parse().unwrap());
        let _held: Vec<Place> = (0..6).map(|_| take(&plain).unwrap()).collect();
        assert_eq!(take(&plain).unwrap_err(), Full::All(6));
    }

    #[test]
    fn who_holds_nothing_is_forgotten() {
        let pool = Pool::new(Room { all: 2, each: 1 });
        for n in 0..100 {
            let address = IpAddr::from([192, 0, 2, n]);
            let held = pool.take_from(address).unwrap();
            assert_eq!(pool.take_from(address).unwrap_err(), Full::Own(1));
            drop(held);
        }
        assert!(pool.taken.lock().unwrap().is_empty());
    }
}
