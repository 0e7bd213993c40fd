//! `configure`: the plan is held against the client's own policy, its own budget and its own arithmetic. Only then does
//! training start and do the first keys leave.

use std::sync::Arc;

use bytes::Bytes;
use eranos_base::{Digest, Entropy, Timestamp};
use eranos_ledger::{
    SignedCheckpoint,
    witnessed::{COSIGNED_MAX, Cosigned, DemandError},
};
use eranos_nn::{DataSpec, ModelSpec};
use eranos_privacy::{Mechanism, Promise, RotationSeed, budget::UnitOfPrivacy};
use eranos_secagg::{Advertised, GraphKind};
use eranos_wire::{
    RoundPlan,
    messages::{
        RoundRef,
        advertise_keys::Advertise,
        configure::{self, Configure},
    },
};

use super::{
    Action, AdvertiseKeys, Common, Member, Memory, Phase, Refusal, RefusalKind, Round, Step, TrainingJob, abort, send,
};

/// Accepts the plan and sends the client's keys, or refuses it.
pub(super) fn configure(
    member: Arc<Member>,
    mut memory: Memory,
    configure: &Configure,
    checkpoint: Bytes,
    now: Timestamp,
    entropy: &mut dyn Entropy,
) -> (Round, Vec<Action>) {
    let plan = match configure.plan.verify(member.ledger_key.key()) {
        Ok(plan) => plan,
        Err(error) => return abort::refuse(None, RefusalKind::Plan(error).into(), false),
    };
    let round_ref = RoundRef { session: plan.session, round: plan.round };
    if configure.debit.verify(member.ledger_key.key(), &plan.context(), &member.identity.id).is_err() {
        return abort::refuse(Some(round_ref), RefusalKind::NotSigned { what: "debit" }.into(), true);
    }
    let (model, data) = match check(&member, &memory, &plan, configure.debit.vectors, &checkpoint) {
        Ok(accepted) => accepted,
        Err(refusal) => return abort::refuse(Some(round_ref), refusal, true),
    };
    let terms = match plan.terms() {
        Ok(terms) => Arc::new(terms),
        Err(error) => return abort::refuse(Some(round_ref), RefusalKind::Plan(error).into(), true),
    };
    let mut actions = Vec::new();
    match cosigned(&member, &memory, &plan, &configure.cosigned) {
        Ok(None) => {}
        // From here on the ledger must continue what the witnesses have seen, too.
        Ok(Some(newer)) => {
            memory.checkpoint = Some(newer.checkpoint().clone());
            actions.push(Action::KeepCheckpoint(newer.note().encode().into()));
        }
        Err(error @ DemandError::TooFew { .. }) => {
            return abort::refuse(Some(round_ref), RefusalKind::Witnesses(error).into(), true);
        }
        Err(error) => {
            let (round, mut actions) =
                abort::refuse(Some(round_ref), RefusalKind::Ledger(error.to_string()).into(), true);
            // What no key of the ledger signed proves nothing: anybody may have written it.
            if let DemandError::Fork { note, .. } = error
                && memory.ledger_keys.iter().any(|key| SignedCheckpoint::open(&note, key).is_ok())
            {
                actions.insert(0, Action::KeepEvidence(note));
            }
            return (round, actions);
        }
    }
    let job = TrainingJob {
        model,
        data,
        checkpoint,
        mechanism: plan.mechanism.clone(),
        rotation_seed: RotationSeed(plan.rotation_seed),
    };
    let begin = Step::Begin {
        task: plan.task.clone(),
        mechanism: Box::new(plan.mechanism.clone()),
        allow_no_noise: member.policy.allow_no_noise,
    };
    let possession = member.identity.possession(&terms);
    let advertised = Advertised::begin(terms, member.identity.clone(), entropy);
    let advert = advertised.advert().to_bytes().to_vec();
    let common = Common { member, memory, plan_digest: plan.digest(), plan, configured: now };
    actions.extend([
        Action::Persist(begin),
        Action::Train(Box::new(job)),
        send(Advertise { round: round_ref, advert, possession }),
        Action::Note(Phase::AdvertiseKeys),
    ]);
    (Round::AdvertiseKeys(AdvertiseKeys::new(common, advertised)), actions)
}

/// Whether enough of the witnesses that the policy names have cosigned the history that this client knows. Gives the
/// checkpoint to keep, if they have seen more of it.
fn cosigned(
    member: &Member,
    memory: &Memory,
    plan: &RoundPlan,
    shown: &[configure::Cosigned],
) -> Result<Option<SignedCheckpoint>, DemandError> {
    let shown: Vec<Cosigned> = shown
        .iter()
        .take(COSIGNED_MAX + 1)
        .map(|one| Cosigned { note: one.note.0.clone(), consistency: one.consistency.clone() })
        .collect();
    // Two entries open a ledger, and each attempt before this one has left one.
    let size = plan.round.0.saturating_add(1);
    member.policy.demand().check(&shown, &member.ledger_key, memory.checkpoint.as_ref(), size)
}

/// Everything that this client demands of a plan; `received` is how many of its vectors the coordinator says it has.
fn check(
    member: &Member,
    memory: &Memory,
    plan: &RoundPlan,
    received: u64,
    checkpoint: &[u8],
) -> Result<(ModelSpec, DataSpec), Refusal> {
    let policy = &member.policy;
    let refuse = |kind: RefusalKind| Err(Refusal::from(kind));
    if plan.trust_domain != member.trust_domain {
        return refuse(RefusalKind::Other { what: "trust domain", found: plan.trust_domain.to_string().into() });
    }
    if plan.ledger_origin != member.ledger_key.name().as_str() {
        return refuse(RefusalKind::Other { what: "ledger", found: plan.ledger_origin.clone().into() });
    }
    if plan.task != member.task {
        return refuse(RefusalKind::Other { what: "task", found: plan.task.to_string().into() });
    }
    // A vector leaves after its charge is durable: whoever charged fewer than were received is not who sent them.
    let charged = memory.budget.n_charged_in(plan.session);
    if received > charged {
        return refuse(RefusalKind::OlderBudget { received, charged });
    }
    let mechanism = &plan.mechanism;
    let parameters = mechanism.common();
    let below = |what, found: f64, least: f64| match found < least {
        true => Err(RefusalKind::TooLittle { what, found, least }),
        false => Ok(()),
    };
    let above = |what, found: f64, most: f64| match found > most {
        true => Err(RefusalKind::TooMuch { what, found, most }),
        false => Ok(()),
    };
    above("delta", parameters.delta, policy.delta_max)?;
    let unit = memory.budget.terms().unit;
    if (unit, mechanism.unit()) == (UnitOfPrivacy::Client, UnitOfPrivacy::Record) {
        return refuse(RefusalKind::Unit);
    }
    if mechanism.has_noise() {
        // Recomputed here from the raw parameters: the coordinator's own figure is not even in the plan.
        above("epsilon of the task", mechanism.epsilon_for(unit), policy.task_epsilon_max)?;
    } else if !policy.allow_no_noise {
        return refuse(RefusalKind::NoNoise);
    }
    below("least number of survivors", f64::from(parameters.u_min), f64::from(policy.survivors_min))?;
    below("number of colluders tolerated", f64::from(parameters.max_colluders), f64::from(policy.max_colluders))?;
    if plan.graph == GraphKind::Sparse {
        let Some(sparse) = &policy.sparse_graph else { return refuse(RefusalKind::SparseGraph) };
        let share = |n: u16| f64::from(n) / f64::from(parameters.n_max);
        below("share of colluders tolerated", share(parameters.max_colluders), sparse.corrupt_share_min)?;
        above("share of drop-outs", share(parameters.n_max - parameters.u_min), sparse.dropped_share_max)?;
    }
    if mechanism.has_noise() {
        let multiplier = |shares| mechanism.noise_multiplier_for(unit, shares);
        below("noise multiplier", multiplier(mechanism.promised_shares()), policy.noise_multiplier_min)?;
        below("noise multiplier of one's own noise", multiplier(1), policy.own_noise_multiplier_min)?;
    }
    match mechanism {
        Mechanism::Record(mechanism) => {
            let bound = mechanism.parameters().record_bound;
            below("bound on a client's records", f64::from(bound), f64::from(policy.records_max))?;
            if let Some(training) = mechanism.parameters().local {
                let work = f64::from(training.steps) * f64::from(mechanism.parameters().records_per_round);
                above("work of local training in records", work, f64::from(policy.local_records_max))?;
                above("learning rate of local training", training.learning_rate, policy.local_learning_rate_max)?;
            }
        }
        Mechanism::Client(mechanism) => {
            let training = mechanism.parameters().training;
            let work = f64::from(training.steps) * f64::from(training.batch_size);
            above("work of local training in records", work, f64::from(policy.local_records_max))?;
            above("learning rate of local training", training.learning_rate, policy.local_learning_rate_max)?;
        }
    }
    above("time of a phase in ms", f64::from(plan.phase_timeout_ms), f64::from(policy.phase_timeout_ms_max))?;
    above("number of parameters", f64::from(parameters.n_parameters), f64::from(policy.parameters_max))?;
    below("slot of READY in ms", f64::from(plan.ready_slot_ms), f64::from(policy.ready_slot_ms_min))?;
    // Whoever waits for its slot hears nothing meanwhile.
    above("slot of READY in ms", f64::from(plan.ready_slot_ms), f64::from(plan.phase_timeout_ms))?;
    below("attempt", plan.round.0 as f64, 1.0)?;
    above("attempt", plan.round.0 as f64, f64::from(parameters.max_attempts))?;
    let unreceipted = memory.budget.n_charged() - memory.budget.n_receipts();
    let most = policy.charged_without_receipt_max;
    above("number of charged attempts without a receipt", unreceipted as f64, f64::from(most))?;
    // A round begun before, another mechanism, or too dear: the coordinator hears a refusal, not the silence of a broken
    // client.
    let begins = memory.budget.begin(plan.session, plan.round, &plan.task, mechanism, policy.allow_no_noise);
    let _begins = begins.map_err(RefusalKind::Budget)?;
    let model = ModelSpec::from_canonical(&plan.model_spec).map_err(|error| RefusalKind::Model(error.to_string()))?;
    let n_parameters = model.n_parameters();
    if n_parameters != parameters.n_parameters as usize || checkpoint.len() != 4 * n_parameters {
        let what = format!("{} bytes of checkpoint for {n_parameters} parameters", checkpoint.len());
        return refuse(RefusalKind::Model(what));
    }
    if Digest::of(checkpoint) != plan.checkpoint {
        return refuse(RefusalKind::Model("the checkpoint is not the one that the plan names".to_owned()));
    }
    let data = DataSpec::from_canonical(&plan.data_spec).map_err(|error| RefusalKind::Data(error.to_string()))?;
    data.check(&member.form).map_err(|error| RefusalKind::Data(error.to_string()))?;
    // By the public bound: training that failed for more records than a limit allows would tell how many there are.
    data.check_bound(policy.records_max).map_err(|error| RefusalKind::Data(error.to_string()))?;
    if data.n_classes() != member.n_classes {
        let what = format!("the plan has {} classes, client.toml {}", data.n_classes(), member.n_classes);
        return refuse(RefusalKind::Data(what));
    }
    model.check_data(&data).map_err(|error| RefusalKind::Model(error.to_string()))?;
    Ok((model, data))
}
