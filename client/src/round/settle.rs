//! `settle`: the client verifies that the ledger holds the round as it saw it, and that the ledger it saw last is the
//! beginning of this one.

use eranos_base::Digest;
use eranos_ledger::{Attempt, Entry, Epsilons, Outcome, Receipt};
use eranos_secagg::Quorum;

use super::{Action, End, RefusalKind, Round, Step, Unmask};

/// Verifies the receipt and the attachment of its entry, and ends the round.
pub(super) fn settle(phase: &Unmask, receipt: &[u8], attachment: &[u8]) -> (Round, Vec<Action>) {
    let common = &phase.common;
    let receipt = match Receipt::decode(receipt) {
        Ok(receipt) => receipt,
        Err(error) => return common.refuse(RefusalKind::Decode(error)),
    };
    let attachment = (!attachment.is_empty()).then_some(attachment);
    let verified = match receipt.verify(attachment, &common.member.ledger_key, common.memory.checkpoint.as_ref()) {
        Ok(verified) => verified,
        Err(error) => {
            let (round, mut actions) = common.refuse(RefusalKind::Ledger(error.to_string()));
            if error.is_of_two_histories() {
                // With the checkpoint kept so far it may prove a fork to anybody.
                actions.insert(0, Action::KeepEvidence(receipt.checkpoint));
            }
            return (round, actions);
        }
    };
    let Entry::Attempt(entry) = verified.entry else {
        return common.refuse(RefusalKind::Ledger("the entry is not an attempt".to_owned()));
    };
    if let Err(what) = is_this_round(phase, &entry) {
        return common.refuse(RefusalKind::Ledger(format!("the entry has another {what} than this round")));
    }
    let actions = vec![
        Action::Persist(Step::Receipt { entry: Digest::of(&receipt.entry), survivors: phase.survivors.len() as u32 }),
        Action::KeepCheckpoint(receipt.checkpoint),
        Action::Over(End::Settled { round: common.plan.round }),
    ];
    (Round::Over, actions)
}

/// Whether the entry says what this client saw; else, what differs. Every member checks the whole roster: an attempt
/// that was charged to somebody cannot be left out of the ledger, or be entered under another pseudonym.
fn is_this_round(phase: &Unmask, entry: &Attempt) -> Result<(), &'static str> {
    let (common, plan) = (&phase.common, &phase.common.plan);
    let same = |same: bool, what| if same { Ok(()) } else { Err(what) };
    same(entry.session == plan.session && entry.task == plan.task, "session")?;
    same(entry.round == plan.round, "round number")?;
    same(entry.plan == common.plan_digest, "plan")?;
    same(entry.mechanism == plan.mechanism, "mechanism")?;
    same(entry.graph == plan.graph, "graph")?;
    let times = (entry.ready_slot_ms, entry.phase_timeout_ms);
    same(times == (plan.ready_slot_ms, plan.phase_timeout_ms), "time of a phase")?;
    same(entry.rotation_seed.0 == plan.rotation_seed, "rotation seed")?;
    same(entry.weights_before == plan.checkpoint, "checkpoint")?;
    same(matches!(entry.outcome, Outcome::Released { .. }), "outcome")?;
    // Rounds are counted from 1 and each is an attempt, released or not: were one of them left out of the ledger, or
    // counted twice, the two numbers would part.
    same(entry.attempts == plan.round.0, "number of attempts")?;
    let promised = Epsilons::promised(&plan.mechanism, entry.attempts);
    // Without noise both are infinite.
    let close = |a: f64, b: f64| a == b || (a - b).abs() <= EPSILON_TOLERANCE * b.abs();
    let declared = &entry.epsilons;
    same(close(declared.coordinator, promised.coordinator) && close(declared.outsider, promised.outsider), "epsilon")?;
    let roster = entry.roster.as_ref().ok_or("roster")?;
    same(roster.digest == phase.roster.digest(), "roster")?;
    let seen = phase.roster.members().iter().map(|member| member.credential.statement_key);
    same(roster.participants.iter().map(|participant| participant.pseudonym).eq(seen), "list of participants")?;
    // The budget is that of the round's beginning: this attempt comes on top.
    let charged = common.memory.budget.n_charged_in(plan.session) + 1;
    let own = common.member.identity.statement_key.verifying_key();
    let entered = roster.participants.iter().find(|participant| participant.pseudonym == own);
    same(entered.is_some_and(|participant| participant.attempts >= charged), "count of this client's attempts")?;
    let sharers = roster.sharers.as_ref().ok_or("set of sharers")?;
    same(sharers.root == phase.context.sharers, "set of sharers")?;
    let survivors = sharers.survivors.as_ref().ok_or("set of survivors")?;
    same(survivors.bitmap == phase.survivors.as_bytes(), "set of survivors")?;
    let quorum = Quorum::new(survivors.signatures.clone());
    quorum.verify(&phase.roster, &phase.context, &phase.survivors).map_err(|_| "quorum")
}

/// Relative difference up to which a declared epsilon is the recomputed one: the last digits of logarithms differ from
/// machine to machine.
const EPSILON_TOLERANCE: f64 = 1e-9;
