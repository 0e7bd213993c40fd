//! `settle`: the client verifies that the ledger holds the round as it saw it, and that the ledger it saw last is the
//! beginning of this one.

use eranos_base::Digest;
use eranos_ledger::{Attempt, Entry, Outcome, Receipt};
use eranos_secagg::PositionSet;

use super::{Action, Common, End, RefusalKind, Round, Step};

/// Verifies the receipt and ends the round.
pub(super) fn settle(common: &Common, survivors: &PositionSet, receipt: &[u8]) -> (Round, Vec<Action>) {
    let receipt = match Receipt::decode(receipt) {
        Ok(receipt) => receipt,
        Err(error) => return common.refuse(RefusalKind::Decode(error)),
    };
    let verified = match receipt.verify(&common.member.ledger_key, common.memory.checkpoint.as_ref()) {
        Ok(verified) => verified,
        Err(error) => return common.refuse(RefusalKind::Ledger(error.to_string())),
    };
    let Entry::Attempt(entry) = verified.entry else {
        return common.refuse(RefusalKind::Ledger("the entry is not an attempt".to_owned()));
    };
    if let Err(what) = is_this_round(common, survivors, &entry) {
        return common.refuse(RefusalKind::Ledger(format!("the entry has another {what} than this round")));
    }
    let actions = vec![
        Action::Persist(Step::Receipt { entry: Digest::of(&receipt.entry) }),
        Action::KeepCheckpoint(receipt.checkpoint),
        Action::Over(End::Settled { round: common.plan.round }),
    ];
    (Round::Over, actions)
}

/// Whether the entry says what this client saw; else, what differs.
fn is_this_round(common: &Common, survivors: &PositionSet, entry: &Attempt) -> Result<(), &'static str> {
    let plan = &common.plan;
    let same = |same: bool, what| if same { Ok(()) } else { Err(what) };
    same(entry.session == plan.session && entry.task == plan.task, "session")?;
    same(entry.round == plan.round, "round number")?;
    same(entry.plan == common.plan_digest, "plan")?;
    same(entry.mechanism == plan.mechanism, "mechanism")?;
    same(entry.rotation_seed.0 == plan.rotation_seed, "rotation seed")?;
    same(entry.weights_before == plan.checkpoint, "checkpoint")?;
    same(matches!(entry.outcome, Outcome::Released { .. }), "outcome")?;
    let roster = entry.roster.as_ref().ok_or("roster")?;
    let own = common.member.identity.statement_key.verifying_key();
    same(roster.participants.iter().any(|participant| participant.pseudonym == own), "list of participants")?;
    let entered = roster.sharers.as_ref().and_then(|sharers| sharers.survivors.as_ref()).ok_or("set of survivors")?;
    same(entered.bitmap == survivors.as_bytes(), "set of survivors")
}
