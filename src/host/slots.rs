//! The slots for connections: how many there are, how many of them one address may have, and which
//! connection is closed when a new connection arrives and all slots are taken.
//!
//! A connection may be closed while no authorized request is carried out on the connection: the
//! connection is idle, or the client sends the head of a request, or a body without permission. A
//! connection whose client takes or sends hardly any bytes may be closed too. The connection that
//! has been in this state for longest is closed first. So an active client finds a slot, however
//! many silent connections there are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::Progress;

/// How long a connection without a request keeps its slot in any case.
const KEEP_TIME: Duration = Duration::from_secs(1);
/// How often a connection that waits for a slot checks whether another connection may be closed.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The bits of an IPv6 address that name the network: one customer has a network of 64 bits.
const IPV6_NETWORK: u128 = !0 << 64;

/// All slots for connections.
pub(super) struct Slots {
    state: Mutex<State>,
    freed: Notify,
    most: usize,
    most_of_address: usize,
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, Arc<Connection>>,
    of_address: HashMap<IpAddr, usize>,
    next: u64,
}

/// The state of a connection, shared by its slot and its streams.
pub(super) struct Connection {
    /// The client's address; `None` where connections are not counted by address.
    address: Option<IpAddr>,
    activity: Mutex<Activity>,
    close: Notify,
}

struct Activity {
    state: Phase,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// No request, or a request that is not carried out yet, since this time.
    Waiting(Instant),
    /// The server is sending an answer.
    Answering,
    /// The client has sent or taken hardly any bytes, since this time.
    Slow(Instant),
}

/// A slot for one connection, which is freed when this value is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

/// Why a new connection gets no slot.
#[derive(Debug, PartialEq)]
enum Full {
    /// All slots are taken; one may be free later.
    All,
    /// The address has all the slots that it may have.
    Address,
}

impl Slots {
    pub(super) fn new(most: usize, most_of_address: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), freed: Notify::new(), most, most_of_address })
    }

    /// Waits for a slot, and closes another connection if that frees a slot. Returns `None` when
    /// `address` has as many connections as it may have and none of them may be closed. `address`
    /// is `None` where connections are not counted by address.
    pub(super) async fn acquire(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Slot> {
        loop {
            match self.try_acquire(address, Instant::now()) {
                Ok(slot) => return Some(slot),
                Err(Full::Address) => return None,
                // Look again after `RETRY_INTERVAL` at the latest: by then another connection may be
                // closed for this one.
                Err(Full::All) => _ = tokio::time::timeout(RETRY_INTERVAL, self.freed.notified()).await,
            }
        }
    }

    fn try_acquire(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Slot, Full> {
        let address = address.map(network);
        let mut state = self.state();
        let of_address = address.and_then(|address| state.of_address.get(&address)).copied().unwrap_or_default();
        if of_address >= self.most_of_address {
            // Connections of one address share its slots, so a new connection may replace a silent
            // one even within the first `KEEP_TIME` of the silent one.
            let keep_until = now + KEEP_TIME;
            state.close_longest_idle(keep_until, |connection| connection.address == address).ok_or(Full::Address)?;
        } else if state.connections.len() >= self.most {
            state.close_longest_idle(now, |_| true).ok_or(Full::All)?;
        }
        let connection = Arc::new(Connection {
            address,
            activity: Mutex::new(Activity { state: Phase::Waiting(now), progress: Progress::default() }),
            close: Notify::new(),
        });
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, connection.clone());
        address.into_iter().for_each(|address| *state.of_address.entry(address).or_default() += 1);
        drop(state);
        Ok(Slot { slots: self.clone(), number, connection })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the connection that may be closed for longest by `now`, among those that `may_close`
    /// accepts. Its slot is free at once. Returns `None` when no connection may be closed yet.
    fn close_longest_idle(&mut self, now: Instant, may_close: impl Fn(&Connection) -> bool) -> Option<()> {
        let closable = self.connections.iter().filter(|(_, connection)| may_close(connection));
        let closable = closable.filter_map(|(number, connection)| Some((connection.may_close_from()?, *number)));
        let (from, number) = closable.min()?;
        if from > now {
            return None;
        }
        self.remove(number)?.close.notify_one();
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
    /// Waits until the connection has to be closed.
    pub(super) async fn wait_for_close(&self) {
        self.close.notified().await;
    }

    /// Notes that a request has arrived; `progress` says whether the request is being carried out.
    pub(super) fn begin(&self, progress: Progress) {
        *self.activity() = Activity { state: Phase::Waiting(Instant::now()), progress };
    }

    /// Notes that the answer is ready to be sent.
    pub(super) fn answer(&self) {
        self.activity().state = Phase::Answering;
    }

    /// Notes that the answer is sent, or that hyper has its last bytes.
    pub(super) fn end(&self) {
        *self.activity() = Activity { state: Phase::Waiting(Instant::now()), progress: Progress::default() };
    }

    /// Notes that the client has become slow, or has recovered.
    pub(super) fn slow(&self, is_slow: bool) {
        let mut activity = self.activity();
        activity.state = match (activity.state, is_slow) {
            (Phase::Answering, true) => Phase::Slow(Instant::now()),
            (Phase::Waiting(_), true) if activity.progress.is_carried_out() => Phase::Slow(Instant::now()),
            (Phase::Slow(_), false) if activity.progress.is_carried_out() => Phase::Waiting(Instant::now()),
            (Phase::Slow(_), false) => Phase::Answering,
            (state, _) => state,
        }
    }

    /// The time from which the connection may be closed; `None` while it may not.
    fn may_close_from(&self) -> Option<Instant> {
        let activity = self.activity();
        match activity.state {
            Phase::Waiting(since) => (!activity.progress.is_carried_out()).then(|| since + KEEP_TIME),
            Phase::Answering => None,
            Phase::Slow(since) => Some(since),
        }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.state().remove(self.number);
        self.slots.freed.notify_one();
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

    fn authorized() -> Progress {
        let (mut extensions, progress) = (http::Extensions::new(), Progress::default());
        extensions.insert(progress.clone());
        std::mem::forget(Progress::begin(&extensions));
        progress
    }

    #[test]
    fn connections_that_say_nothing_make_slot_for_others() {
        let (slots, start) = (Slots::new(3, 3), Instant::now());
        let idle: Vec<_> = (0..3).map(|_| slots.try_acquire(None, start).unwrap()).collect();
        assert_eq!(slots.try_acquire(None, start).err(), Some(Full::All));
        idle[0].connection.begin(authorized());
        idle[1].connection.begin(authorized());
        idle[1].connection.answer();
        let later = start + KEEP_TIME * 2;
        let new = slots.try_acquire(None, later).unwrap();
        // The first two have a request under way.
        assert_eq!(slots.try_acquire(None, later).err(), Some(Full::All));
        drop(new);
        let new = slots.try_acquire(None, later).unwrap();
        new.connection.begin(authorized());
        assert_eq!(slots.try_acquire(None, later + KEEP_TIME).err(), Some(Full::All));
        // A slow client loses its connection even with a request under way; a client that recovered
        // does not.
        idle[1].connection.slow(true);
        idle[1].connection.slow(false);
        assert_eq!(slots.try_acquire(None, later + KEEP_TIME).err(), Some(Full::All));
        idle[0].connection.slow(true);
        slots.try_acquire(None, later + KEEP_TIME).unwrap();
        // Dropping the slot of a closed connection must not free a slot twice.
        drop(idle);
        assert_eq!(slots.state().connections.len(), 1);
    }

    #[test]
    fn an_address_has_so_many_slots_and_no_more() {
        let (slots, start) = (Slots::new(100, 2), Instant::now());
        let hold = |text| {
            let slot = slots.try_acquire(address(text), start).unwrap();
            slot.connection.begin(authorized());
            slot
        };
        let held = [hold("192.0.2.1"), hold("::ffff:192.0.2.1"), hold("2001:db8::1"), hold("2001:db8::ffff:0:0:1")];
        for full in ["192.0.2.1", "2001:db8::2"] {
            assert_eq!(slots.try_acquire(address(full), start).err(), Some(Full::Address), "{full}");
        }
        let others = [hold("192.0.2.2"), hold("2001:db8:0:1::1")];
        assert!(slots.try_acquire(None, start).is_ok());
        held[0].connection.end();
        // The new connection takes the slot of the idle one, and other addresses lose no slot.
        let new = slots.try_acquire(address("192.0.2.1"), start + KEEP_TIME).unwrap();
        assert_eq!(slots.state().of_address.values().sum::<usize>(), 6);
        drop((held, others, new));
        assert!(slots.state().of_address.is_empty());
    }
}
