//! The places for connections: how many there are, how many of them one address may have, and which
//! connection is closed when a new connection arrives and all places are taken.
//!
//! A connection may be closed when it has no admitted request (a request that passed access
//! control): the connection is idle, sends the head of a request, or sends a body that was not
//! admitted. A connection whose client takes or sends hardly any bytes may be closed too. The
//! connection that has been in this state for longest is closed first. So an active client finds a
//! place, however many silent connections there are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::Progress;

/// How long a connection without a request is sure to keep its place.
const SETTLED: Duration = Duration::from_secs(1);
/// How often a connection that waits for a place checks whether another connection may be closed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The bits of an IPv6 address that name the network: one customer has a network of 64 bits.
const IPV6_NETWORK: u128 = !0 << 64;

/// All places for connections.
pub(super) struct Places {
    state: Mutex<State>,
    left: Notify,
    most: usize,
    most_of_address: usize,
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, Arc<Connection>>,
    of_address: HashMap<IpAddr, usize>,
    next: u64,
}

/// The state of a connection, shared by its place and its streams.
pub(super) struct Connection {
    /// The client's address; `None` where connections are not counted by address.
    address: Option<IpAddr>,
    activity: Mutex<Activity>,
    leave: Notify,
}

struct Activity {
    state: Engagement,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq)]
enum Engagement {
    /// No request, or a request that may not have been admitted, since this time.
    Waiting(Instant),
    /// The server is sending an answer.
    Answering,
    /// The client has sent or taken hardly any bytes, since this time.
    Slow(Instant),
}

/// A place for one connection, which is freed when this value is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

/// Why a new connection gets no place.
#[derive(Debug, PartialEq)]
enum Full {
    /// All places are taken; one may be free later.
    All,
    /// The address has all the places that it may have.
    Address,
}

impl Places {
    pub(super) fn new(most: usize, most_of_address: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), left: Notify::new(), most, most_of_address })
    }

    /// Waits for a place, and closes another connection if that frees a place. Returns `None` when
    /// `address` has as many connections as it may have and none of them may be closed. `address`
    /// is `None` where connections are not counted by address.
    pub(super) async fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        loop {
            match self.try_enter(address, Instant::now()) {
                Ok(place) => return Some(place),
                Err(Full::Address) => return None,
                // Look again after `LOOK_AGAIN` at the latest: by then another connection may be
                // closed for this one.
                Err(Full::All) => _ = tokio::time::timeout(LOOK_AGAIN, self.left.notified()).await,
            }
        }
    }

    fn try_enter(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Place, Full> {
        let address = address.map(network);
        let mut state = self.state();
        let of_address = address.and_then(|address| state.of_address.get(&address)).copied().unwrap_or_default();
        if of_address >= self.most_of_address {
            // Connections of one address share its places, so a new connection may replace a silent
            // one even within the first `SETTLED` of the silent one.
            let settled = now + SETTLED;
            state.send_away(settled, |connection| connection.address == address).ok_or(Full::Address)?;
        } else if state.connections.len() >= self.most {
            state.send_away(now, |_| true).ok_or(Full::All)?;
        }
        let connection = Arc::new(Connection {
            address,
            activity: Mutex::new(Activity { state: Engagement::Waiting(now), progress: Progress::default() }),
            leave: Notify::new(),
        });
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, connection.clone());
        address.into_iter().for_each(|address| *state.of_address.entry(address).or_default() += 1);
        drop(state);
        Ok(Place { places: self.clone(), number, connection })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the connection that may be closed for longest by `now`, among those that `may_leave`
    /// accepts. Its place is free at once. Returns `None` when no connection may be closed yet.
    fn send_away(&mut self, now: Instant, may_leave: impl Fn(&Connection) -> bool) -> Option<()> {
        let leaving = self.connections.iter().filter(|(_, connection)| may_leave(connection));
        let leaving = leaving.filter_map(|(number, connection)| Some((connection.leaves_from()?, *number)));
        let (from, number) = leaving.min()?;
        if from > now {
            return None;
        }
        self.remove(number)?.leave.notify_one();
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Connection>> {
        let connection = self.connections.remove(&number)?;
        if let Some(address) = connection.address
            && let Some(count) = self.of_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
        Some(connection)
    }
}

impl Connection {
    /// Returns when the connection has to be closed.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Notes that a request has arrived; `progress` says whether the request is being carried out.
    pub(super) fn begin(&self, progress: Progress) {
        *self.activity() = Activity { state: Engagement::Waiting(Instant::now()), progress };
    }

    /// Notes that the answer is ready to be sent.
    pub(super) fn answer(&self) {
        self.activity().state = Engagement::Answering;
    }

    /// Notes that the answer is sent, or that hyper has its last bytes.
    pub(super) fn end(&self) {
        *self.activity() = Activity { state: Engagement::Waiting(Instant::now()), progress: Progress::default() };
    }

    /// Notes that the client has become slow, or has recovered.
    pub(super) fn slow(&self, is_slow: bool) {
        let mut activity = self.activity();
        activity.state = match (activity.state, is_slow) {
            (Engagement::Answering, true) => Engagement::Slow(Instant::now()),
            (Engagement::Waiting(_), true) if activity.progress.is_carried_out() => Engagement::Slow(Instant::now()),
            (Engagement::Slow(_), false) if activity.progress.is_carried_out() => Engagement::Waiting(Instant::now()),
            (Engagement::Slow(_), false) => Engagement::Answering,
            (state, _) => state,
        }
    }

    /// The time from which the connection may be closed; `None` while it may not.
    fn leaves_from(&self) -> Option<Instant> {
        let activity = self.activity();
        match activity.state {
            Engagement::Waiting(since) => (!activity.progress.is_carried_out()).then(|| since + SETTLED),
            Engagement::Answering => None,
            Engagement::Slow(since) => Some(since),
        }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().remove(self.number);
        self.places.left.notify_one();
    }
}

/// The address under which connections are counted: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn let_in() -> Progress {
        let (mut extensions, progress) = (http::Extensions::new(), Progress::default());
        extensions.insert(progress.clone());
        std::mem::forget(Progress::begin(&extensions));
        progress
    }

    #[test]
    fn connections_that_say_nothing_make_place_for_others() {
        let (places, start) = (Places::new(3, 3), Instant::now());
        let idle: Vec<_> = (0..3).map(|_| places.try_enter(None, start).unwrap()).collect();
        assert_eq!(places.try_enter(None, start).err(), Some(Full::All));
        idle[0].connection.begin(let_in());
        idle[1].connection.begin(let_in());
        idle[1].connection.answer();
        let later = start + SETTLED * 2;
        let new = places.try_enter(None, later).unwrap();
        // The first two have a request under way.
        assert_eq!(places.try_enter(None, later).err(), Some(Full::All));
        drop(new);
        let new = places.try_enter(None, later).unwrap();
        new.connection.begin(let_in());
        assert_eq!(places.try_enter(None, later + SETTLED).err(), Some(Full::All));
        // A slow client loses its connection even with a request under way; a client that recovered
        // does not.
        idle[1].connection.slow(true);
        idle[1].connection.slow(false);
        assert_eq!(places.try_enter(None, later + SETTLED).err(), Some(Full::All));
        idle[0].connection.slow(true);
        places.try_enter(None, later + SETTLED).unwrap();
        // Dropping the place of a closed connection must not free a place twice.
        drop(idle);
        assert_eq!(places.state().connections.len(), 1);
    }

    #[test]
    fn an_address_has_so_many_places_and_no_more() {
        let (places, start) = (Places::new(100, 2), Instant::now());
        let hold = |text| {
            let place = places.try_enter(address(text), start).unwrap();
            place.connection.begin(let_in());
            place
        };
        let held = [hold("192.0.2.1"), hold("::ffff:192.0.2.1"), hold("2001:db8::1"), hold("2001:db8::ffff:0:0:1")];
        for full in ["192.0.2.1", "2001:db8::2"] {
            assert_eq!(places.try_enter(address(full), start).err(), Some(Full::Address), "{full}");
        }
        let others = [hold("192.0.2.2"), hold("2001:db8:0:1::1")];
        assert!(places.try_enter(None, start).is_ok());
        held[0].connection.end();
        // The new connection takes the place of the idle one, and other addresses lose no place.
        let new = places.try_enter(address("192.0.2.1"), start + SETTLED).unwrap();
        assert_eq!(places.state().of_address.values().sum::<usize>(), 6);
        drop((held, others, new));
        assert!(places.state().of_address.is_empty());
    }
}
