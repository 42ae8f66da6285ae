//! The kernel's counters of how connections end, and what they say per minute.

use std::collections::VecDeque;
use std::time::Duration;

/// Events per minute in one network namespace. A counter that the kernel does not have is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Over how many seconds.
    pub seconds: u32,
    /// `TCPTimeWaitOverflow`: a connection skipped TIME_WAIT because tcp_max_tw_buckets was reached.
    pub overflows: Option<u64>,
    /// `TCPAbortOnMemory`: an orphan was reset because of tcp_max_orphans or tcp_mem.
    pub aborts_on_memory: Option<u64>,
    /// `TCPAbortOnTimeout`: given up without an answer from the peer, orphans among them; no reset is sent.
    pub aborts_on_timeout: Option<u64>,
    /// `TCPAbortOnClose`: closed with unread data, so reset.
    pub aborts_on_close: Option<u64>,
    /// `TCPAbortOnData`: data came after close(), or SO_LINGER 0; reset.
    pub aborts_on_data: Option<u64>,
    /// `TCPAbortOnLinger`: closed with a negative TCP_LINGER2.
    pub aborts_on_linger: Option<u64>,
    /// `TCPAbortFailed`: a reset that should have been sent was not.
    pub aborts_failed: Option<u64>,
    /// `OutRsts`: resets sent.
    pub resets_sent: Option<u64>,
    /// `EstabResets`: connections that a reset ended.
    pub established_resets: Option<u64>,
    /// `TWRecycled`: connect() took over a port in TIME_WAIT (tcp_tw_reuse; not tcp_tw_recycle).
    pub reused: Option<u64>,
    /// Segments that PAWS rejected: every counter of it that this kernel has, added up.
    pub paws_rejected: Option<u64>,
    /// `ActiveOpens`: connect().
    pub connects: Option<u64>,
    /// `PassiveOpens`: connections that came in.
    pub accepts: Option<u64>,
    /// `AttemptFails`: connections that did not come about.
    pub failed_connects: Option<u64>,
    /// `RetransSegs`: segments sent again.
    pub retransmissions: Option<u64>,
}

/// Something that happens to connections, and where the kernel counts it.
struct Event {
    table: Table,
    /// The columns that are added up; not every kernel has each.
    columns: &'static [&'static str],
    rate: fn(&mut Rates) -> &mut Option<u64>,
}

/// One of the kernel's tables: a line of names and one of numbers, both behind the same prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// `/proc/net/snmp`
    Snmp,
    /// `/proc/net/netstat`
    Netstat,
}

impl Table {
    fn prefix(self) -> &'static str {
        match self {
            Self::Snmp => "Tcp: ",
            Self::Netstat => "TcpExt: ",
        }
    }
}

const fn snmp(columns: &'static [&'static str], rate: fn(&mut Rates) -> &mut Option<u64>) -> Event {
    Event { table: Table::Snmp, columns, rate }
}

const fn netstat(columns: &'static [&'static str], rate: fn(&mut Rates) -> &mut Option<u64>) -> Event {
    Event { table: Table::Netstat, columns, rate }
}

/// PAWS has as many counters as the kernel's version tells apart: PAWSPassive only where tcp_tw_recycle is, PAWSTimewait and
/// PAWSOldAck since they were split off PAWSEstab (read in 6.17).
const PAWS: &[&str] = &["PAWSPassive", "PAWSActive", "PAWSEstab", "PAWSTimewait", "PAWSOldAck"];

const EVENTS: [Event; 15] = [
    netstat(&["TCPTimeWaitOverflow"], |rates| &mut rates.overflows),
    netstat(&["TCPAbortOnMemory"], |rates| &mut rates.aborts_on_memory),
    netstat(&["TCPAbortOnTimeout"], |rates| &mut rates.aborts_on_timeout),
    netstat(&["TCPAbortOnClose"], |rates| &mut rates.aborts_on_close),
    netstat(&["TCPAbortOnData"], |rates| &mut rates.aborts_on_data),
    netstat(&["TCPAbortOnLinger"], |rates| &mut rates.aborts_on_linger),
    netstat(&["TCPAbortFailed"], |rates| &mut rates.aborts_failed),
    snmp(&["OutRsts"], |rates| &mut rates.resets_sent),
    snmp(&["EstabResets"], |rates| &mut rates.established_resets),
    netstat(&["TWRecycled"], |rates| &mut rates.reused),
    netstat(PAWS, |rates| &mut rates.paws_rejected),
    snmp(&["ActiveOpens"], |rates| &mut rates.connects),
    snmp(&["PassiveOpens"], |rates| &mut rates.accepts),
    snmp(&["AttemptFails"], |rates| &mut rates.failed_connects),
    snmp(&["RetransSegs"], |rates| &mut rates.retransmissions),
];

/// The counters of one network namespace since it was made, in the order of [`EVENTS`]. What the kernel does not have is
/// absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([Option<u64>; EVENTS.len()]);

/// Reads the kernel's two tables time and again: where a column is, it finds out once.
#[derive(Debug)]
pub struct CounterReader {
    snmp: Columns,
    netstat: Columns,
}

impl Default for CounterReader {
    fn default() -> Self {
        Self { snmp: Columns::of(Table::Snmp), netstat: Columns::of(Table::Netstat) }
    }
}

impl CounterReader {
    /// The counters in the texts of `/proc/net/snmp` and `/proc/net/netstat`.
    pub fn read(&mut self, snmp: &str, netstat: &str) -> Counters {
        let mut counters = Counters::default();
        self.snmp.read(snmp, &mut counters);
        self.netstat.read(netstat, &mut counters);
        counters
    }
}

/// Where the columns of a table are.
#[derive(Debug)]
struct Columns {
    table: Table,
    /// The line of names that this was found out from.
    names: String,
    /// From left to right: which column, and which of [`EVENTS`] it counts.
    wanted: Vec<(usize, usize)>,
}

impl Columns {
    fn of(table: Table) -> Self {
        Self { table, names: String::new(), wanted: Vec::new() }
    }

    fn read(&mut self, text: &str, counters: &mut Counters) {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(self.table.prefix()));
        let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return };
        if self.names != names {
            self.find(names);
        }
        let mut numbers = numbers.split(' ').enumerate();
        let mut unreadable = [false; EVENTS.len()];
        for &(column, event) in &self.wanted {
            let number = numbers.find(|(position, _)| *position == column);
            let sum = &mut counters.0[event];
            match number.and_then(|(_, number)| number.parse::<u64>().ok()) {
                Some(number) => *sum = Some(sum.unwrap_or(0).saturating_add(number)),
                None => unreadable[event] = true,
            }
        }
        // A sum of which a part is unknown is unknown.
        for (sum, _) in counters.0.iter_mut().zip(unreadable).filter(|(_, unreadable)| *unreadable) {
            *sum = None;
        }
    }

    fn find(&mut self, names: &str) {
        let counts = |name| EVENTS.iter().position(|it| it.table == self.table && it.columns.contains(&name));
        let columns = names.split(' ').enumerate();
        self.wanted = columns.filter_map(|(column, name)| Some((column, counts(name)?))).collect();
        names.clone_into(&mut self.names);
    }
}

/// Rates are taken over about this long.
const WINDOW: Duration = Duration::from_secs(60);
/// What was watched for less says nothing of a minute.
const WINDOW_MIN: Duration = Duration::from_secs(10);
/// Readings closer to each other than this are not kept apart.
const SPACING: Duration = Duration::from_secs(5);

/// Watches the counters of one network namespace, in bounded memory. Time comes in as what has passed since some moment.
#[derive(Clone, Debug, Default)]
pub struct RateWatch {
    /// The first reading of all.
    start: Option<Reading>,
    /// From the start of the window to the last one.
    readings: VecDeque<Reading>,
}

type Reading = (Duration, Counters);

impl RateWatch {
    /// The counters are this now. Where one has gone back or is gone, this is another namespace or another life of it: what
    /// was before says nothing.
    pub fn note(&mut self, counters: Counters, now: Duration) {
        if self.readings.back().is_some_and(|(at, last)| *at > now || counters.began_anew_since(last)) {
            *self = Self::default();
        }
        self.start.get_or_insert((now, counters));
        let before_last = self.readings.len().checked_sub(2).and_then(|position| self.readings.get(position));
        if before_last.is_some_and(|(at, _)| now.saturating_sub(*at) < SPACING) {
            self.readings.pop_back();
        }
        self.readings.push_back((now, counters));
        // The first one stays until the second is old enough to be the start.
        while self.readings.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.readings.pop_front();
        }
    }

    /// The same, and from here on things are different: what was before is forgotten.
    pub fn note_as_start(&mut self, counters: Counters, now: Duration) {
        *self = Self::default();
        self.note(counters, now);
    }

    /// How often each event happened per minute; unknown until it has been watched for ten seconds. Rounded up, so that what
    /// happened is never 0.
    pub fn rates(&self) -> Option<Rates> {
        rates_between(self.readings.front()?, self.readings.back()?)
    }

    /// The same over the whole time since the start.
    pub fn rates_since_start(&self) -> Option<Rates> {
        rates_between(self.start.as_ref()?, self.readings.back()?)
    }
}

fn rates_between((start, first): &Reading, (end, last): &Reading) -> Option<Rates> {
    let watched = end.saturating_sub(*start);
    if watched < WINDOW_MIN {
        return None;
    }
    let mut rates =
        Rates { seconds: u32::try_from(watched.as_secs()).unwrap_or(u32::MAX), ..Rates::default() };
    for ((event, first), last) in EVENTS.iter().zip(first.0).zip(last.0) {
        let happened = first.zip(last).map(|(first, last)| last.saturating_sub(first));
        *(event.rate)(&mut rates) = happened.map(|happened| per_minute(happened, watched));
    }
    Some(rates)
}

impl Counters {
    fn began_anew_since(&self, earlier: &Self) -> bool {
        let fell = |(earlier, now): (&Option<u64>, &Option<u64>)| earlier.is_some() && now < earlier;
        earlier.0.iter().zip(&self.0).any(fell)
    }
}

fn per_minute(events: u64, watched: Duration) -> u64 {
    let per_minute = (u128::from(events) * 60_000).div_ceil(watched.as_millis().max(1));
    u64::try_from(per_minute).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
        Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs \
        RetransSegs InErrs OutRsts InCsumErrors\n\
        Tcp: 1 200 120000 -1 11 12 13 14 9 9 9 15 9 16 9\n";

    fn netstat(columns: &[(&str, &str)]) -> String {
        let line = |part: fn(&(&str, &str)) -> String| columns.iter().map(part).collect::<String>();
        let (names, numbers) =
            (line(|(name, _)| format!(" {name}")), line(|(_, number)| format!(" {number}")));
        format!("TcpExt:{names}\nTcpExt:{numbers}\nIpExt: InNoRoutes\nIpExt: 77\n")
    }

    fn rates_after(reader: &mut CounterReader, before: &str, after: &str) -> Rates {
        let mut watch = RateWatch::default();
        watch.note(reader.read(SNMP, before), Duration::ZERO);
        watch.note(reader.read(SNMP, after), WINDOW);
        watch.rates().unwrap()
    }

    /// A watch that has seen these counts of overflows, each at its second.
    fn watched(seen: &[(u64, u64)]) -> RateWatch {
        let (mut watch, mut reader) = (RateWatch::default(), CounterReader::default());
        for (second, count) in seen {
            let text = netstat(&[("TCPTimeWaitOverflow", &count.to_string())]);
            watch.note(reader.read("", &text), Duration::from_secs(*second));
        }
        watch
    }

    fn overflows(seen: &[(u64, u64)]) -> Option<(u32, Option<u64>)> {
        watched(seen).rates().map(|rates| (rates.seconds, rates.overflows))
    }

    #[test]
    fn every_counter_is_found_by_its_name() {
        let (mut watch, mut reader) = (RateWatch::default(), CounterReader::default());
        let before = SNMP.replace("11 12 13 14 9 9 9 15 9 16 9", "0 0 0 0 0 0 0 0 0 0 0");
        watch.note(reader.read(&before, ""), Duration::ZERO);
        watch.note(reader.read(SNMP, ""), WINDOW);
        let expected = Rates {
            seconds: 60,
            connects: Some(11),
            accepts: Some(12),
            failed_connects: Some(13),
            established_resets: Some(14),
            retransmissions: Some(15),
            resets_sent: Some(16),
            ..Rates::default()
        };
        assert_eq!(watch.rates(), Some(expected), "and what netstat would say is unknown");
    }

    #[test]
    fn every_counter_of_paws_that_the_kernel_has_is_added_up() {
        let before =
            netstat(&[("PAWSActive", "1"), ("PAWSEstab", "10"), ("X", "5"), ("PAWSTimewait", "100")]);
        let after = netstat(&[("PAWSActive", "2"), ("PAWSEstab", "12"), ("X", "6"), ("PAWSTimewait", "104")]);
        assert_eq!(rates_after(&mut CounterReader::default(), &before, &after).paws_rejected, Some(7));
    }

    #[test]
    fn a_sum_of_which_a_part_cannot_be_read_is_unknown() {
        for broken in ["", "x", "-1", "99999999999999999999"] {
            let text = netstat(&[("PAWSActive", "1"), ("PAWSEstab", broken)]);
            let rates = rates_after(&mut CounterReader::default(), &text, &text);
            assert_eq!(rates.paws_rejected, None, "{broken:?}");
        }
    }

    #[test]
    fn a_table_whose_columns_move_is_read_by_its_new_header() {
        let mut reader = CounterReader::default();
        let before = netstat(&[("TCPAbortOnData", "5"), ("TCPAbortOnClose", "700")]);
        let after = netstat(&[("New", "1"), ("TCPAbortOnClose", "703"), ("TCPAbortOnData", "7")]);
        let rates = rates_after(&mut reader, &before, &after);
        assert_eq!((rates.aborts_on_data, rates.aborts_on_close), (Some(2), Some(3)));
    }

    #[test]
    fn a_line_that_is_cut_short_or_missing_gives_no_numbers() {
        for text in ["", "TcpExt: TWRecycled", "TcpExt: TWRecycled\n", "TcpExt: X TWRecycled\nTcpExt: 1\n"] {
            assert_eq!(CounterReader::default().read("", text), Counters::default(), "{text:?}");
        }
    }

    #[test]
    fn a_rate_is_said_after_ten_seconds_and_over_about_a_minute() {
        assert_eq!(overflows(&[(0, 0)]), None);
        assert_eq!(overflows(&[(0, 0), (9, 90)]), None);
        assert_eq!(overflows(&[(0, 0), (10, 90)]), Some((10, Some(540))));
        let (mut seen, busy) = (vec![(0, 1000)], 1000);
        seen.extend((1..=30).map(|tick| (tick * 5, busy)));
        assert_eq!(overflows(&seen), Some((60, Some(0))));
    }

    #[test]
    fn a_single_event_in_a_long_window_is_not_rounded_away() {
        assert_eq!(overflows(&[(0, 0), (400, 1)]), Some((400, Some(1))));
    }

    #[test]
    fn a_counter_that_went_back_gives_no_rate_until_it_was_watched_anew() {
        assert_eq!(overflows(&[(0, 500), (20, 501), (40, 3)]), None);
        assert_eq!(overflows(&[(0, 500), (20, 501), (40, 3), (52, 4)]), Some((12, Some(5))));
    }

    #[test]
    fn the_whole_time_since_the_start_is_longer_than_the_window() {
        let watch = watched(&[(0, 0), (60, 600), (120, 600), (180, 600)]);
        assert_eq!(watch.rates().map(|rates| (rates.seconds, rates.overflows)), Some((60, Some(0))));
        let since = watch.rates_since_start().map(|rates| (rates.seconds, rates.overflows));
        assert_eq!(since, Some((180, Some(200))));
    }

    #[test]
    fn what_was_before_a_start_is_in_no_rate() {
        let mut watch = watched(&[(0, 0), (60, 600)]);
        let at = |second, count: u64| {
            let text = netstat(&[("TCPTimeWaitOverflow", &count.to_string())]);
            (CounterReader::default().read("", &text), Duration::from_secs(second))
        };
        let (counters, now) = at(61, 610);
        watch.note_as_start(counters, now);
        assert_eq!((watch.rates(), watch.rates_since_start()), (None, None));
        let (counters, now) = at(71, 611);
        watch.note(counters, now);
        let expected = Some(Rates { seconds: 10, overflows: Some(6), ..Rates::default() });
        assert_eq!((watch.rates(), watch.rates_since_start()), (expected, expected));
    }

    #[test]
    fn a_counter_that_is_gone_begins_a_new_window() {
        let mut watch = watched(&[(0, 5), (20, 6)]);
        watch.note(Counters::default(), Duration::from_secs(40));
        assert_eq!(watch.rates(), None);
    }

    #[test]
    fn a_watch_that_is_fed_each_second_keeps_few_readings_and_the_same_window() {
        let seen: Vec<(u64, u64)> = (0..=600).map(|second| (second, 3 * second)).collect();
        let watch = watched(&seen);
        assert!(watch.readings.len() <= 18, "{}", watch.readings.len());
        let rates = watch.rates().unwrap();
        assert!((60..=65).contains(&rates.seconds), "{rates:?}");
        assert_eq!(rates.overflows, Some(180));
    }
}
