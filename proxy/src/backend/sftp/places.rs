//! Which SSH connections a pool has and how many channels each carries. It opens and closes nothing itself.

use std::time::Duration;

use tokio::time::Instant;

/// How many SSH connections there are to an account of a server. Both numbers are 1 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    pub connections: usize,
    /// Channels of each, one for a session and mount. OpenSSH takes ten (`MaxSessions`).
    pub channels: usize,
    /// How long a connection without a channel waits for the next.
    pub idle: Duration,
}

/// How long a connection whose server refused a channel is left alone.
pub(super) const REFUSAL: Duration = Duration::from_secs(1);

/// Tells a connection from those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlaceId(u64);

/// The connections; a `C` is one that is open.
#[derive(Debug)]
pub(super) struct Places<C> {
    limits: PoolLimits,
    next: u64,
    places: Vec<Place<C>>,
}

#[derive(Debug)]
struct Place<C> {
    id: PlaceId,
    stage: Stage<C>,
    channels: usize,
    /// Until then it is not asked for another channel, since the server has refused one.
    full_until: Instant,
    /// When the last channel ended.
    idle_since: Instant,
}

#[derive(Debug)]
enum Stage<C> {
    Connecting,
    Open(C),
    /// Its channels go on, but it gets no others.
    Doubtful(C),
}

/// Where the next channel goes. It is counted already.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice<C> {
    Join(PlaceId, C),
    Connect(PlaceId),
    /// All connections are full, or not open yet.
    Wait,
}

impl<C> Place<C> {
    fn has_room(&self, most: usize, now: Instant) -> bool {
        matches!(self.stage, Stage::Open(_)) && self.channels < most && self.full_until <= now
    }

    fn is_idle(&self) -> bool {
        self.channels == 0 && !matches!(self.stage, Stage::Connecting)
    }

    fn connection(&self) -> Option<&C> {
        match &self.stage {
            Stage::Connecting => None,
            Stage::Open(connection) | Stage::Doubtful(connection) => Some(connection),
        }
    }
}

impl<C: Clone> Places<C> {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            next: 0,
            places: Vec::new(),
        }
    }

    /// An idle connection that is near first. Then a new one, since all channels of a connection wait for the one task that
    /// encrypts for it. Beyond the limit of connections, the one with the fewest channels.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        is_alive: impl Fn(&C) -> bool,
        is_near: impl Fn(&C) -> bool,
    ) -> Choice<C> {
        self.places
            .retain(|place| place.connection().is_none_or(&is_alive));
        let is_below_limit = self.places.len() < self.limits.connections;
        let most = self.limits.channels;
        let with_room = || {
            let places = self.places.iter();
            places.filter(|place| place.has_room(most, now))
        };
        let is_near = |place: &Place<C>| place.connection().is_some_and(&is_near);
        let idle = with_room()
            .filter(|place| place.is_idle() && is_near(place))
            // The others grow old meanwhile, and are closed.
            .max_by_key(|place| place.idle_since);
        let chosen = match idle {
            None if is_below_limit => None,
            None => with_room().min_by_key(|place| (place.channels, !is_near(place))),
            idle => idle,
        };
        if let Some(id) = chosen.map(|place| place.id)
            && let Some(place) = self.place(id)
            && let Some(connection) = place.connection().cloned()
        {
            place.channels += 1;
            return Choice::Join(id, connection);
        }
        if !is_below_limit {
            return Choice::Wait;
        }
        let id = PlaceId(self.next);
        self.next += 1;
        self.places.push(Place {
            id,
            stage: Stage::Connecting,
            channels: 1,
            full_until: now,
            idle_since: now,
        });
        Choice::Connect(id)
    }

    fn place(&mut self, id: PlaceId) -> Option<&mut Place<C>> {
        self.places.iter_mut().find(|place| place.id == id)
    }

    pub(super) fn connected(&mut self, id: PlaceId, connection: C) {
        if let Some(place) = self.place(id) {
            place.stage = Stage::Open(connection);
        }
    }

    /// The server takes no more channels on this connection for the time being: it has a limit of its own, or has not yet
    /// ended one that is gone here.
    pub(super) fn refused(&mut self, id: PlaceId, now: Instant) {
        if let Some(place) = self.place(id) {
            place.full_until = now + REFUSAL;
        }
    }

    /// From here on no connection is kept idle.
    pub(super) fn retire(&mut self) {
        self.limits.idle = Duration::ZERO;
    }

    /// Whether the connection gets more channels.
    pub(super) fn set_doubtful(&mut self, id: PlaceId, is_doubtful: bool) {
        if let Some(place) = self.place(id)
            && let Some(connection) = place.connection().cloned()
        {
            place.stage = if is_doubtful {
                Stage::Doubtful(connection)
            } else {
                Stage::Open(connection)
            };
        }
    }

    /// True if this channel has the connection for itself.
    pub(super) fn is_alone(&mut self, id: PlaceId) -> bool {
        self.place(id).is_none_or(|place| place.channels == 1)
    }

    /// Ends a channel, or an attempt to connect.
    pub(super) fn release(&mut self, id: PlaceId, now: Instant) {
        if let Some(place) = self.place(id) {
            place.channels = place.channels.saturating_sub(1);
            place.idle_since = now;
        }
        self.places
            .retain(|place| place.channels > 0 || matches!(place.stage, Stage::Open(_)));
    }

    /// Takes out the connections that have been idle for long enough; also says when the next one will have been.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<C>, Option<Instant>) {
        let idle = self.limits.idle;
        let expired = self
            .places
            .extract_if(.., |place| {
                place.is_idle() && place.idle_since + idle <= now
            })
            .filter_map(|place| place.connection().cloned())
            .collect();
        let next = self
            .places
            .iter()
            .filter(|place| place.is_idle())
            .map(|place| place.idle_since + idle)
            .min();
        (expired, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, channels: usize) -> Places<u8> {
        Places::new(PoolLimits {
            connections,
            channels,
            idle: Duration::from_secs(60),
        })
    }

    fn choose(places: &mut Places<u8>) -> Choice<u8> {
        places.choose(Instant::now(), |_| true, |_| true)
    }

    /// Opens a connection and gives its place.
    fn connect(places: &mut Places<u8>, name: u8) -> PlaceId {
        let Choice::Connect(id) = choose(places) else {
            panic!("no room for connection {name}: {places:?}");
        };
        places.connected(id, name);
        id
    }

    #[test]
    fn connections_come_before_shared_ones_and_the_least_used_one_is_shared() {
        let mut places = places(2, 3);
        let first = connect(&mut places, 1);
        let second = connect(&mut places, 2);
        assert!(matches!(choose(&mut places), Choice::Join(..)));
        assert!(matches!(choose(&mut places), Choice::Join(..)));
        places.release(first, Instant::now());
        assert_eq!(choose(&mut places), Choice::Join(first, 1));
        for _ in 0..2 {
            assert!(matches!(choose(&mut places), Choice::Join(..)));
        }
        assert_eq!(choose(&mut places), Choice::Wait);
        places.release(second, Instant::now());
        assert_eq!(choose(&mut places), Choice::Join(second, 2));
    }

    #[test]
    fn an_idle_connection_is_used_again_and_closed_after_its_time() {
        let mut places = places(5, 3);
        let (one, two) = (connect(&mut places, 1), connect(&mut places, 2));
        let begun = Instant::now();
        places.release(one, begun);
        places.release(two, begun + Duration::from_secs(10));
        let (expired, next) = places.expire(begun + Duration::from_secs(59));
        assert_eq!(
            (expired, next),
            (vec![], Some(begun + Duration::from_secs(60)))
        );
        assert_eq!(
            choose(&mut places),
            Choice::Join(two, 2),
            "the one used last"
        );
        let (expired, next) = places.expire(begun + Duration::from_secs(90));
        assert_eq!((expired, next), (vec![1], None));
        places.release(two, begun + Duration::from_secs(90));
        let (expired, _) = places.expire(begun + Duration::from_secs(150));
        assert_eq!(expired, [2]);
    }

    #[test]
    fn a_distant_connection_is_used_only_when_no_other_may_be_opened_and_a_near_one_is_no_emptier()
    {
        let mut places = places(3, 3);
        let far = connect(&mut places, 1);
        let near = connect(&mut places, 2);
        let now = Instant::now();
        places.release(far, now);
        let mut choose_near = |name| places.choose(now, |_| true, |&connection| connection == name);
        assert!(matches!(choose_near(2), Choice::Connect(_)));
        assert_eq!(choose_near(2), Choice::Join(far, 1), "idle, though far");
        assert_eq!(
            choose_near(2),
            Choice::Join(near, 2),
            "as full as the other"
        );
        assert_eq!(choose_near(2), Choice::Join(far, 1));
    }

    #[test]
    fn a_connection_that_is_being_opened_takes_its_place_and_a_failed_one_gives_it_back() {
        let mut places = places(1, 3);
        let Choice::Connect(id) = choose(&mut places) else {
            panic!("the first one connects");
        };
        assert_eq!(choose(&mut places), Choice::Wait);
        assert_eq!(
            places.expire(Instant::now() + Duration::from_secs(600)),
            (vec![], None)
        );
        places.release(id, Instant::now());
        assert!(matches!(choose(&mut places), Choice::Connect(_)));
    }

    #[test]
    fn a_connection_whose_server_refused_a_channel_is_left_alone_for_a_while() {
        let mut places = places(2, 10);
        let (one, two) = (connect(&mut places, 1), connect(&mut places, 2));
        let now = Instant::now();
        assert_eq!(choose(&mut places), Choice::Join(one, 1));
        places.refused(one, now);
        places.release(one, now);
        assert_eq!(choose(&mut places), Choice::Join(two, 2));
        places.refused(two, now);
        assert_eq!(choose(&mut places), Choice::Wait);
        let chosen = places.choose(now + REFUSAL, |_| true, |_| true);
        assert_eq!(chosen, Choice::Join(one, 1));
    }

    #[test]
    fn what_is_retired_keeps_nothing_idle() {
        let mut places = places(2, 10);
        let (one, two) = (connect(&mut places, 1), connect(&mut places, 2));
        let now = Instant::now();
        places.release(one, now);
        places.retire();
        assert_eq!(places.expire(now), (vec![1], None));
        places.release(two, now);
        assert_eq!(places.expire(now), (vec![2], None));
    }

    #[test]
    fn a_dead_connection_makes_room_and_a_doubtful_one_gets_no_channels_until_it_has_answered() {
        let mut places = places(1, 10);
        let id = connect(&mut places, 1);
        places.set_doubtful(id, true);
        assert_eq!(choose(&mut places), Choice::Wait);
        places.set_doubtful(id, false);
        assert_eq!(choose(&mut places), Choice::Join(id, 1));
        places.set_doubtful(id, true);
        let chosen = places.choose(Instant::now(), |_| false, |_| true);
        assert!(matches!(chosen, Choice::Connect(_)));
        // Those that still had a channel on the dead one are no longer counted anywhere.
        places.release(id, Instant::now());
        assert_eq!(places.places.len(), 1);
    }
}
