//! `configure`: the round becomes an attempt. Its plan is made and signed; round, plan and the debit of every selected
//! client are durable before the plan leaves.

use std::{collections::BTreeMap, sync::Arc};

use eranos_base::{ClientId, Entropy, Timestamp};
use eranos_wire::{
    RoundPlan,
    messages::configure::{Configure, Debit},
};

use super::{Action, AdvertiseKeys, Common, Note, Peer, Phase, Record, Round, RoundSpec, abort};

/// Plans the round for `cohort` and goes on to `advertise_keys`.
pub(super) fn configure(
    spec: Arc<RoundSpec>,
    cohort: BTreeMap<ClientId, Peer>,
    now: Timestamp,
    entropy: &mut dyn Entropy,
    mut actions: Vec<Action>,
) -> (Round, Vec<Action>) {
    let mut rotation_seed = [0; 32];
    entropy.fill(&mut rotation_seed);
    let plan = RoundPlan {
        trust_domain: spec.trust_domain.clone(),
        ledger_origin: spec.ledger_origin.clone(),
        task: spec.task.clone(),
        session_nonce: spec.session_nonce,
        session: spec.round_ref().session,
        round: spec.round,
        model_spec: spec.model_spec.clone(),
        data_spec: spec.data_spec.clone(),
        checkpoint: spec.checkpoint_digest,
        mechanism: spec.mechanism.clone(),
        graph: spec.graph,
        rotation_seed,
        ready_slot_ms: spec.ready_slot_ms,
        phase_timeout_ms: spec.phase_timeout_ms,
    };
    let Ok(terms) = plan.terms().map(Arc::new) else {
        let reason = "the task's parameters make no secure sum".to_owned();
        return abort::before_plan(&spec, cohort.keys(), reason, actions);
    };
    let signed = plan.sign(&spec.key);
    let deadline = now + spec.wait(Phase::AdvertiseKeys);
    let plan_signature = signed.signature();
    let common = Common { spec, plan, plan_signature, terms, phase: Phase::AdvertiseKeys, began: now, deadline };
    actions.push(Action::Persist(Record::Open {
        attempt: Box::new(common.attempt()),
        cohort: cohort.keys().cloned().collect(),
    }));
    let context = common.plan.context();
    for id in cohort.keys() {
        let vectors = common.spec.received.get(id).copied().unwrap_or_default();
        let debit = Debit::sign(&common.spec.key, &context, id, vectors);
        // What witnesses have cosigned is added by whoever has the ledger.
        let answer = Configure { plan: signed.clone(), debit, cosigned: Vec::new() }.into();
        actions.push(Action::Answer { to: id.clone(), answer, body: common.spec.checkpoint.clone() });
    }
    actions.push(Action::Note(Note::Phase { phase: Phase::AdvertiseKeys, n_clients: cohort.len() }));
    actions.push(Action::WakeAt(deadline));
    (Round::AdvertiseKeys(AdvertiseKeys::new(common, cohort)), actions)
}
