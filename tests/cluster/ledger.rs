//! The external ledger: records the acknowledged events of all publishers and the received events of all subscribers, and
//! compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The marker of the last event of a test.
pub(crate) const END: &str = "end-0";

/// A received event: position and marker.
pub(crate) type Received = (u64, String);

/// The acknowledgements of the publishers. A marker is `PUBLISHER-NUMBER`; each publisher sends one request after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promised {
    acknowledged: BTreeMap<String, u64>,
    /// Published without an acknowledgement: may be stored, at most once.
    uncertain: BTreeSet<String>,
    wrong: Vec<String>,
    answers: Pauses,
}

/// The longest time between two events of the same kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pauses {
    last: Option<Instant>,
    pub(crate) longest: Duration,
}

impl Pauses {
    pub(crate) fn note(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}

impl Promised {
    pub(crate) fn acknowledged(&mut self, marker: &str, position: u64, now: Instant) {
        self.answers.note(now);
        let before = self.acknowledged.insert(marker.to_owned(), position);
        if before.is_some_and(|before| before != position) {
            self.wrong.push(format!("{marker} was acknowledged at {before:?} and at {position}"));
        }
    }

    pub(crate) fn uncertain(&mut self, marker: &str) {
        self.uncertain.insert(marker.to_owned());
    }

    /// The number of acknowledged events.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.len()
    }

    /// The number of publishes without an acknowledgement.
    pub(crate) fn uncertain_count(&self) -> usize {
        self.uncertain.len()
    }

    /// The longest time without an acknowledgement.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.answers.longest
    }
}

/// The events that a subscriber has subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// The events of one publisher.
    Publisher(&'static str),
    /// Every third event of each publisher.
    Third(u64),
}

impl Part {
    /// The topic of the event.
    pub(crate) fn topic(marker: &str) -> String {
        let (name, number) = split(marker);
        format!("load.{name}.{}", number % 3)
    }

    pub(crate) fn patterns(self) -> Vec<String> {
        let end = Self::topic(END);
        match self {
            Self::All => vec!["load.>".into()],
            Self::Publisher(name) => vec![format!("load.{name}.*"), end],
            Self::Third(third) => vec![format!("load.*.{third}"), end],
        }
    }

    fn holds(self, marker: &str) -> bool {
        let (name, number) = split(marker);
        marker == END
            || match self {
                Self::All => true,
                Self::Publisher(one) => name == one,
                Self::Third(third) => number % 3 == third,
            }
    }
}

fn split(marker: &str) -> (&str, u64) {
    let parts = marker.split_once('-').and_then(|(name, number)| Some((name, number.parse().ok()?)));
    parts.unwrap_or_else(|| panic!("not a marker: {marker}"))
}

/// The events that one subscriber received.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) received: Vec<Received>,
}

/// Checks that every acknowledged event is delivered exactly once, at its position, in order; that other events are only those
/// without an acknowledgement, at most once; and that all subscribers agree.
pub(crate) fn judge(promised: &Promised, accounts: &[Account]) -> Result<(), String> {
    if let Some(wrong) = promised.wrong.first() {
        return Err(wrong.clone());
    }
    let whole = accounts.iter().find(|account| account.part == Part::All).ok_or("no subscriber has everything")?;
    judge_log(promised, whole)?;
    accounts.iter().try_for_each(|account| agrees(account, whole))
}

fn judge_log(promised: &Promised, Account { name, received, .. }: &Account) -> Result<(), String> {
    let mut found = BTreeMap::new();
    let mut last = 0;
    for (position, marker) in received {
        if *position <= last {
            return Err(format!("{name}: {marker} at {position} came after {last}"));
        }
        last = *position;
        if let Some(first) = found.insert(marker.as_str(), *position) {
            return Err(format!("{name}: {marker} came twice, at {first} and at {position}"));
        }
        if !promised.acknowledged.contains_key(marker) && !promised.uncertain.contains(marker) {
            return Err(format!("{name}: {marker} at {position} was never published"));
        }
    }
    for (marker, position) in &promised.acknowledged {
        match found.get(marker.as_str()) {
            None => return Err(format!("{name}: {marker} was acknowledged at {position}, and never came")),
            Some(there) if there != position => {
                return Err(format!("{name}: {marker} was acknowledged at {position}, and came at {there}"));
            }
            Some(_) => {}
        }
    }
    in_the_requested_order(promised)
}

/// A publisher's event that was acknowledged before the next request precedes that request's event.
fn in_the_requested_order(promised: &Promised) -> Result<(), String> {
    let mut of_each: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
    for (marker, position) in &promised.acknowledged {
        let (name, number) = split(marker);
        of_each.entry(name).or_default().insert(number, *position);
    }
    for (name, positions) in of_each {
        let mut last = 0;
        for (number, position) in positions {
            if position <= last {
                return Err(format!("{name}-{number} is at {position}, and the one before it at {last}"));
            }
            last = position;
        }
    }
    Ok(())
}

fn agrees(account: &Account, whole: &Account) -> Result<(), String> {
    let Account { name, part, received } = account;
    let expected: Vec<&Received> = whole.received.iter().filter(|(_, marker)| part.holds(marker)).collect();
    let same = received.iter().zip(&expected).take_while(|(received, expected)| received == *expected).count();
    if same == received.len() && same == expected.len() {
        return Ok(());
    }
    Err(format!(
        "{name} received {:?} as number {same} where {} received {:?} ({} and {} in all)",
        received.get(same),
        whole.name,
        expected.get(same),
        received.len(),
        expected.len(),
    ))
}

/// Tests of the ledger itself: each of these histories violates one promise.
mod tests {
    use super::*;

    /// Two publishers alternate, from position 11 on; the last event but one was not acknowledged and is stored.
    fn good() -> (Promised, Vec<Account>) {
        let mut promised = Promised::default();
        let mut received = Vec::new();
        for number in 0..10 {
            for (turn, name) in ["a", "b"].iter().enumerate() {
                let (marker, position) = (format!("{name}-{number}"), 11 + number * 2 + turn as u64);
                if marker == "b-9" {
                    promised.uncertain(&marker);
                } else {
                    promised.acknowledged(&marker, position, Instant::now());
                }
                received.push((position, marker));
            }
        }
        promised.uncertain("a-10");
        promised.acknowledged(END, 40, Instant::now());
        received.push((40, END.to_owned()));
        let account = |name: &str, part: Part| {
            let received = received.iter().filter(|(_, marker)| part.holds(marker)).cloned().collect();
            Account { name: name.to_owned(), part, received }
        };
        let accounts =
            vec![account("all", Part::All), account("b", Part::Publisher("b")), account("third", Part::Third(1))];
        (promised, accounts)
    }

    #[test]
    fn a_good_history_is_good() {
        let (promised, accounts) = good();
        assert_eq!(judge(&promised, &accounts), Ok(()));
        assert_eq!((promised.count(), accounts[1].received.len(), accounts[2].received.len()), (20, 11, 7));
    }

    /// Applies a fault to one account or to all; the ledger has to report it.
    fn is_detected(fault: impl Fn(&mut Vec<Received>)) {
        for which in [Some(0), Some(1), Some(2), None] {
            let (promised, mut accounts) = good();
            for (index, account) in accounts.iter_mut().enumerate() {
                if which.is_none_or(|which| which == index) {
                    fault(&mut account.received);
                }
            }
            assert!(judge(&promised, &accounts).is_err(), "{which:?}: {accounts:?}");
        }
    }

    #[test]
    fn a_lost_event_is_detected() {
        is_detected(|received| drop(received.remove(3)));
        is_detected(|received| received.truncate(4));
        is_detected(Vec::clear);
    }

    #[test]
    fn a_repeated_event_is_detected() {
        is_detected(|received| received.insert(4, received[3].clone()));
        is_detected(|received| received.insert(5, received[2].clone()));
        // An event that is stored twice counts as repeated, too.
        is_detected(|received| received.push((50, received[2].1.clone())));
    }

    #[test]
    fn a_wrong_order_is_detected() {
        is_detected(|received| received.swap(2, 3));
        is_detected(|received| {
            let (first, second) = (received[2].1.clone(), received[3].1.clone());
            (received[2].1, received[3].1) = (second, first);
        });
    }

    #[test]
    fn an_event_without_a_subscription_is_detected() {
        is_detected(|received| received.push((50, "c-1".into())));
        is_detected(|received| received[2].0 += 1);
    }

    #[test]
    fn an_unanswered_event_is_stored_at_most_once() {
        let (promised, mut accounts) = good();
        accounts.truncate(1);
        let last = accounts[0].received.len() - 1;
        accounts[0].received.insert(last, (31, "a-10".into()));
        assert_eq!(judge(&promised, &accounts), Ok(()));
        accounts[0].received.insert(last + 1, (32, "a-10".into()));
        assert!(judge(&promised, &accounts).is_err());
        accounts[0].received.drain(last..last + 2);
        accounts[0].received.remove(last - 1);
        assert_eq!(judge(&promised, &accounts), Ok(()), "b-9 need not be stored");
    }

    #[test]
    fn two_positions_of_one_event_are_detected() {
        let (mut promised, accounts) = good();
        promised.acknowledged("a-3", 18, Instant::now());
        assert!(judge(&promised, &accounts).is_err());
    }

    #[test]
    fn an_order_of_another_publisher_is_detected() {
        let (mut promised, mut accounts) = good();
        accounts.truncate(1);
        for (marker, position) in [("d-1", 51), ("d-2", 50)] {
            promised.acknowledged(marker, position, Instant::now());
        }
        accounts[0].received.extend([(50, "d-2".into()), (51, "d-1".into())]);
        assert!(judge(&promised, &accounts).is_err());
    }
}
