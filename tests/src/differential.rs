//! Asking something and the oracle about the same random frames under the same random rules.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, Result};
use fastrand::Rng;

use crate::{
    oracle::{self, Policy, Rule},
    random,
};

/// What is compared with the oracle. It may judge in several ways, which must agree.
pub trait Subject {
    /// Takes these rules in place of all that it has.
    ///
    /// # Errors
    /// When it can't.
    fn replace(&mut self, rules: &[Rule], policy: Policy) -> Result<()>;

    /// Makes single changes of the rules that it has.
    ///
    /// # Errors
    /// When it can't.
    fn edit(&mut self, edits: &[Edit]) -> Result<()>;

    /// The name of the reason for which the frame passes or is dropped, once for each way of judging.
    ///
    /// # Errors
    /// When it can't say.
    fn judge(&mut self, frame: &[u8]) -> Result<Vec<&'static str>>;
}

/// One change of a list.
#[derive(Debug, Clone)]
pub enum Edit {
    Add(Rule),
    /// Of a rule that is there. Of several equal ones, one goes.
    Remove(Rule),
}

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub lists: u32,
    /// For each list, over its states before and after edits.
    pub frames: u32,
    /// Rules of the longest list.
    pub rules: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub lists: u64,
    pub edits: u64,
    pub frames: u64,
    /// Answers that were held against the oracle's.
    pub comparisons: u64,
    pub mismatches: u64,
    /// The first few mismatches, described.
    pub described: Vec<String>,
    /// Frames by the oracle's reason.
    pub reasons: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds what another run came to.
    pub fn add(&mut self, other: Self) {
        self.lists += other.lists;
        self.edits += other.edits;
        self.frames += other.frames;
        self.comparisons += other.comparisons;
        self.mismatches += other.mismatches;
        self.described.extend(other.described);
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lists, {} edits, {} frames, {} comparisons, {} mismatches; frames by reason:",
            self.lists, self.edits, self.frames, self.comparisons, self.mismatches
        )?;
        for (reason, count) in &self.reasons {
            write!(f, " {reason} {count}")?;
        }
        for description in &self.described {
            write!(f, "\n{description}")?;
        }
        Ok(())
    }
}

/// Mismatches that are described.
const DESCRIBED: usize = 5;
/// How often a list is edited; each time a tenth of its frames follow.
const ROUNDS: u32 = 4;
/// Edits at a time.
const EDITS: usize = 8;

/// Carries out the plan.
///
/// # Errors
/// When the subject can't do what it is asked. A mismatch is no error.
pub fn run(plan: Plan, subject: &mut dyn Subject) -> Result<Tally> {
    let mut random = Rng::with_seed(plan.seed);
    let policies: Vec<Policy> = Policy::all().collect();
    let mut tally = Tally::default();
    for _ in 0..plan.lists {
        let length = random.usize(..=plan.rules);
        let mut rules = random::list(&mut random, length);
        let policy = random.choice(&policies).copied().unwrap_or_default();
        subject
            .replace(&rules, policy)
            .with_context(|| format!("replace the list by {rules:?}"))?;
        tally.lists += 1;
        let part = plan.frames / 10;
        ask(
            &mut random,
            &rules,
            policy,
            plan.frames - ROUNDS * part,
            subject,
            &mut tally,
        )?;
        for _ in 0..ROUNDS {
            let edits = edits(&mut random, &mut rules);
            subject
                .edit(&edits)
                .with_context(|| format!("edit the list by {edits:?}"))?;
            tally.edits += edits.len() as u64;
            ask(&mut random, &rules, policy, part, subject, &mut tally)?;
        }
    }
    Ok(tally)
}

fn edits(random: &mut Rng, rules: &mut Vec<Rule>) -> Vec<Edit> {
    let mut edits = Vec::new();
    for _ in 0..random.usize(1..=EDITS) {
        if random.bool() && !rules.is_empty() {
            let rule = rules.swap_remove(random.usize(..rules.len()));
            edits.push(Edit::Remove(rule));
        } else if let Some(rule) = random::edit(random, rules) {
            rules.push(rule.clone());
            edits.push(Edit::Add(rule));
        }
    }
    edits
}

fn ask(
    random: &mut Rng,
    rules: &[Rule],
    policy: Policy,
    frames: u32,
    subject: &mut dyn Subject,
    tally: &mut Tally,
) -> Result<()> {
    for _ in 0..frames {
        let frame = random::frame(random, rules);
        let expected = oracle::judge(&frame, rules, policy).reason;
        tally.frames += 1;
        *tally.reasons.entry(expected).or_default() += 1;
        let judged = subject
            .judge(&frame)
            .with_context(|| format!("judge {frame:02x?}"))?;
        tally.comparisons += judged.len() as u64;
        if judged.iter().all(|reason| *reason == expected) {
            continue;
        }
        tally.mismatches += 1;
        if tally.described.len() < DESCRIBED {
            let headers = oracle::read(&frame, policy);
            let source = match &headers {
                Ok(oracle::Headers {
                    kind: oracle::Kind::Packet(packet),
                    ..
                }) => Some(packet.source),
                Ok(_) | Err(_) => None,
            };
            let covering: Vec<&Rule> = rules
                .iter()
                .filter(|rule| source.is_some_and(|source| rule.prefix.contains(&source)))
                .collect();
            tally.described.push(format!(
                "expected {expected}, was {judged:?}: {frame:02x?}, read as {headers:?}, under {policy:?} and {covering:?}"
            ));
        }
    }
    Ok(())
}
