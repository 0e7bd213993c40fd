//! What happened over the rounds of each task, gathered while the audit reads the log: how often each pseudonym stood in
//! a roster by then, who dropped out, what was aborted.
//!
//! What is kept does not grow with the number of rounds: a task's rounds are cut into at most [`SPANS_MAX`] spans of equal
//! length, which doubles whenever they would become more.

use std::collections::HashMap;

use eranos_base::{Position, SessionId, TaskId, VerifyingKey};

use crate::{
    audit::{EntryRef, PSEUDONYMS_MAX, TASKS_MAX},
    entry::{Attempt, Entry, Outcome},
};

/// Most spans into which the rounds of a task are cut.
pub(crate) const SPANS_MAX: usize = 240;
/// Pseudonyms whose course over the rounds is kept for each task: those that came first.
pub(crate) const COURSES_MAX: usize = 32;
/// Aborted attempts that are kept one by one for each task: the first ones.
pub(crate) const ABORTED_MAX: usize = 100;

/// What happened in every task of a log.
#[derive(Default)]
pub(crate) struct History {
    tasks: HashMap<(TaskId, SessionId), TaskHistory>,
}

impl History {
    /// Takes in the next entry.
    pub(crate) fn take(&mut self, at: EntryRef, entry: &Entry) {
        match entry {
            Entry::TaskOpened(opened) if self.tasks.len() < TASKS_MAX => {
                self.tasks.entry((opened.task.clone(), opened.session)).or_default();
            }
            Entry::Attempt(attempt) => {
                if let Some(task) = self.tasks.get_mut(&(attempt.task.clone(), attempt.session)) {
                    task.take(at, attempt);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn task(&self, task: &TaskId, session: SessionId) -> Option<&TaskHistory> {
        self.tasks.get(&(task.clone(), session))
    }
}

/// What happened in the rounds of one task.
pub(crate) struct TaskHistory {
    /// Attempts taken in.
    pub(crate) n_attempts: u64,
    /// How many attempts a span holds; the last one may hold fewer.
    pub(crate) span_len: u64,
    pub(crate) spans: Vec<Span>,
    /// The first [`ABORTED_MAX`].
    pub(crate) aborted: Vec<Aborted>,
    /// How often each pseudonym stood and dropped out.
    pub(crate) parties: HashMap<VerifyingKey, Party>,
    /// How often the first [`COURSES_MAX`] pseudonyms had stood at the end of each span.
    pub(crate) courses: Vec<(VerifyingKey, Vec<u64>)>,
    most: u64,
}

impl Default for TaskHistory {
    fn default() -> Self {
        Self {
            n_attempts: 0,
            span_len: 1,
            spans: Vec::new(),
            aborted: Vec::new(),
            parties: HashMap::new(),
            courses: Vec::new(),
            most: 0,
        }
    }
}

/// Some consecutive attempts of a task.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) n_attempts: u64,
    pub(crate) aborted: u64,
    /// Members of all rosters together.
    pub(crate) stood: u64,
    /// Attempts whose survivors were announced.
    pub(crate) n_announced: u64,
    /// Members of the rosters of those, and how many of them survived.
    pub(crate) announced_stood: u64,
    pub(crate) survived: u64,
    /// How often the pseudonym that stood most had stood at the end.
    pub(crate) most: u64,
}

impl Span {
    fn add(&mut self, next: &Self) {
        self.n_attempts += next.n_attempts;
        self.aborted += next.aborted;
        self.stood += next.stood;
        self.n_announced += next.n_announced;
        self.announced_stood += next.announced_stood;
        self.survived += next.survived;
        self.most = next.most;
    }
}

/// One attempt that released nothing.
pub(crate) struct Aborted {
    /// The entry's index.
    pub(crate) entry: u64,
    pub(crate) round: u64,
    pub(crate) outcome: Outcome,
    /// The roster's size, where one was fixed.
    pub(crate) n1: Option<usize>,
    /// How many survived, where that was announced.
    pub(crate) survivors: Option<u32>,
}

/// One pseudonym of a task.
#[derive(Clone, Copy, Default)]
pub(crate) struct Party {
    pub(crate) stood: u64,
    /// Attempts whose survivors were announced without it.
    pub(crate) dropped: u64,
    course: Option<usize>,
}

impl TaskHistory {
    fn take(&mut self, at: EntryRef, attempt: &Attempt) {
        self.n_attempts += 1;
        let survivors = attempt.survivors();
        let roster = attempt.roster.as_ref();
        let mut span = Span { n_attempts: 1, ..Span::default() };
        if !matches!(attempt.outcome, Outcome::Released { .. }) {
            span.aborted = 1;
            if self.aborted.len() < ABORTED_MAX {
                let (round, outcome) = (attempt.round.0, attempt.outcome);
                let n1 = roster.map(|roster| roster.participants.len());
                let survivors = survivors.map(|survivors| survivors.n());
                self.aborted.push(Aborted { entry: at.index, round, outcome, n1, survivors });
            }
        }
        // Each course holds the counts at the end of every span that is closed; this attempt may still belong to the last.
        let goes_on = self.spans.last().is_some_and(|last| last.n_attempts < self.span_len);
        let n_closed = self.spans.len() - usize::from(goes_on);
        for (position, participant) in (0..).map(Position).zip(roster.iter().flat_map(|roster| &roster.participants)) {
            span.stood += 1;
            let is_known = self.parties.contains_key(&participant.pseudonym);
            if !is_known && self.parties.len() == PSEUDONYMS_MAX {
                continue;
            }
            let party = self.parties.entry(participant.pseudonym).or_default();
            if !is_known && self.courses.len() < COURSES_MAX {
                party.course = Some(self.courses.len());
                self.courses.push((participant.pseudonym, vec![0; n_closed]));
            }
            party.stood += 1;
            self.most = self.most.max(party.stood);
            if survivors.is_some_and(|survivors| !survivors.contains(position)) {
                party.dropped += 1;
            }
        }
        if let Some(survivors) = survivors {
            span.n_announced = 1;
            span.announced_stood = span.stood;
            span.survived = survivors.n().into();
        }
        span.most = self.most;
        match self.spans.last_mut().filter(|_| goes_on) {
            Some(last) => last.add(&span),
            None => self.spans.push(span),
        }
        for (pseudonym, counts) in &mut self.courses {
            counts.truncate(n_closed);
            counts.push(self.parties.get(pseudonym).map_or(0, |party| party.stood));
        }
        if self.spans.len() > SPANS_MAX {
            self.halve();
        }
    }

    /// Joins every two spans.
    fn halve(&mut self) {
        self.span_len *= 2;
        let joined = |pair: &[Span]| {
            let mut first = pair[0];
            pair[1..].iter().for_each(|next| first.add(next));
            first
        };
        self.spans = self.spans.chunks(2).map(joined).collect();
        for (_, counts) in &mut self.courses {
            *counts = counts.chunks(2).filter_map(|pair| pair.last().copied()).collect();
        }
    }

    /// The attempts up to the end of each span, from the first to the last.
    pub(crate) fn ends(&self) -> impl Iterator<Item = u64> {
        self.spans.iter().scan(0, |end, span| {
            *end += span.n_attempts;
            Some(*end)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use eranos_base::Digest;

    use super::*;
    use crate::{
        entry::{Participant, Survivors, attachment_of},
        tile::{Folder, Tile, TileSource, parse_entries},
    };

    /// The task and an attempt of the stored log, to be changed at will.
    pub(crate) fn stored() -> (Entry, Attempt) {
        let tile = Tile::parse("tile/entries/000.p/9").expect("a path");
        let bundle = include_bytes!("../../tests/vectors/log/tile/entries/000.p/9");
        let entries = parse_entries(&tile, bundle).expect("a bundle");
        let folder = Folder::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/log"));
        let attachment = attachment_of(entries[2]).map(|name| folder.read_attachment(&name).expect("an attachment"));
        let task = Entry::parse(entries[1], None).expect("an entry");
        match Entry::parse(entries[2], attachment.as_deref()).expect("an entry") {
            Entry::Attempt(attempt) => (task, *attempt),
            other => panic!("{} in the place of an attempt", other.kind()),
        }
    }

    pub(crate) fn at(index: u64) -> EntryRef {
        EntryRef { index, kind: None, round: None }
    }

    pub(crate) fn pseudonym(number: u32) -> VerifyingKey {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        VerifyingKey(key)
    }

    /// `template` with the parties `members` in its roster, of whom those at the positions in `dropped` did.
    pub(crate) fn attempt(template: &Attempt, round: u64, members: &[u32], dropped: &[usize]) -> Attempt {
        let mut attempt = template.clone();
        attempt.round.0 = round;
        attempt.outcome = match round % 10 {
            7 => Outcome::AbortedBeforeReveal,
            _ => Outcome::Released { weights_after: Digest::of(&round.to_le_bytes()) },
        };
        let roster = attempt.roster.as_mut().expect("a roster");
        roster.participants =
            members.iter().map(|number| Participant { pseudonym: pseudonym(*number), attempts: round }).collect();
        let mut bitmap = vec![0; members.len().div_ceil(8)];
        for place in (0..members.len()).filter(|place| !dropped.contains(place)) {
            bitmap[place / 8] |= 1 << (place % 8);
        }
        let survivors = (round % 10 != 7).then(|| Survivors { bitmap, signatures: Vec::new() });
        roster.sharers.as_mut().expect("sharers").survivors = survivors;
        attempt
    }

    #[test]
    fn spans_add_up_to_the_rounds_and_stay_few() {
        let (task, template) = stored();
        for n in [1, 2, 239, 240, 241, 480, 481, 5_000u64] {
            let mut history = History::default();
            history.take(at(1), &task);
            // The party i stands in every round whose number i divides.
            let mut counts = vec![0u64; 50];
            let (mut n_stood, mut n_dropped, mut n_unannounced) = (0, 0, 0);
            for round in 1..=n {
                let members: Vec<u32> = (1..50).filter(|i| round.is_multiple_of(u64::from(*i))).collect();
                members.iter().for_each(|i| counts[*i as usize] += 1);
                n_stood += members.len() as u64;
                if round % 10 == 7 {
                    n_unannounced += members.len() as u64
                } else {
                    n_dropped += 1
                }
                history.take(at(round), &Entry::Attempt(Box::new(attempt(&template, round, &members, &[0]))));
            }
            let kept = history.task(&template.task, template.session).expect("a task");
            assert!(kept.spans.len() <= SPANS_MAX && kept.spans.len() as u64 >= n.min(SPANS_MAX as u64 / 2), "{n}");
            assert_eq!(kept.ends().last(), Some(n));
            let sum = |part: fn(&Span) -> u64| kept.spans.iter().map(part).sum::<u64>();
            assert_eq!(sum(|span| span.n_attempts), n);
            assert_eq!((sum(|span| span.stood), sum(|span| span.aborted)), (n_stood, n / 10 + u64::from(n % 10 >= 7)));
            assert_eq!(sum(|span| span.stood - span.announced_stood), n_unannounced);
            assert_eq!(sum(|span| span.announced_stood - span.survived), n_dropped);
            assert!(kept.spans[..kept.spans.len() - 1].iter().all(|span| span.n_attempts == kept.span_len), "{n}");
            // Party 1 stands in all of them.
            assert!(kept.ends().eq(kept.spans.iter().map(|span| span.most)), "{n}");
            assert_eq!(kept.parties[&pseudonym(1)].dropped, n_dropped);
            assert_eq!(kept.courses.len() as u64, n.min(COURSES_MAX as u64));
            for (key, course) in &kept.courses {
                let number = (1..50).find(|i| pseudonym(*i) == *key).expect("one of them");
                let at_ends = kept.ends().map(|end| end / u64::from(number));
                assert!(course.iter().copied().eq(at_ends), "party {number} of {n} rounds: {course:?}");
                assert_eq!(course.last(), Some(&counts[number as usize]));
            }
            assert!(kept.aborted.len() <= ABORTED_MAX);
        }
    }

    #[test]
    fn what_belongs_to_no_opened_task_is_nobodys() {
        let (task, template) = stored();
        let mut history = History::default();
        history.take(at(2), &Entry::Attempt(Box::new(template.clone())));
        assert!(history.task(&template.task, template.session).is_none());
        history.take(at(1), &task);
        let mut foreign = template.clone();
        foreign.session = SessionId(Digest::of(b"another session"));
        history.take(at(2), &Entry::Attempt(Box::new(foreign)));
        assert_eq!(history.task(&template.task, template.session).expect("a task").n_attempts, 0);
    }
}
