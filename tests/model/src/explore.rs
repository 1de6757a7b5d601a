//! Ways through a model: every state, breadth first, or long random walks whose finds are cut to the steps that matter.

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Longest search, in seconds. What is not finished by then does not count as checked.
const SEARCH_SECONDS_MAX: u64 = 100;

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// How much was looked at.
    pub explored: String,
    /// A broken property, and the steps that break it.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// Everything that was to be looked at was.
    pub finished: bool,
    /// The model did what it must be able to do.
    pub reached: bool,
}

/// Looks at every state. With one thread, a trace is a shortest one.
pub fn every_state<M>(model: M, threads: usize) -> Outcome
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Debug + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let limit = Duration::from_secs(SEARCH_SECONDS_MAX);
    let goals: Vec<_> = goals(&model).map(|goal| goal.name).collect();
    let search = model.checker().threads(threads).timeout(limit).finish_when(HasDiscoveries::AnyFailures);
    let done = search.spawn_bfs().join();
    let found = done.discoveries();
    let reached = goals.iter().all(|goal| found.contains_key(goal));
    let broken = found.into_iter().filter(|(name, _)| !goals.contains(name)).map(|(name, path)| {
        (name, path.into_actions().iter().map(|step| format!("{step:?}")).collect::<Vec<_>>())
    });
    Outcome {
        explored: format!("{} states", done.unique_state_count()),
        broken: broken.min_by_key(|(_, steps)| steps.len()),
        finished: began.elapsed() < limit,
        reached,
    }
}

fn goals<M: Model>(model: &M) -> impl Iterator<Item = Property<M>> {
    model.properties().into_iter().filter(|property| property.expectation == Expectation::Sometimes)
}

fn laws<M: Model>(model: &M) -> Vec<Property<M>> {
    let always = |property: &Property<M>| property.expectation == Expectation::Always;
    model.properties().into_iter().filter(always).collect()
}

/// Walks at random, always the same way: so many steps in all, so many at most from the first state.
///
/// stateright's own random search can't rebuild the paths that it finds in these models.
pub fn walks<M>(model: &M, steps_max: u64, depth: u32) -> Outcome
where
    M: Model,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let (laws, goals) = (laws(model), goals(model).collect::<Vec<_>>());
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut count, mut steps, mut reached) = (0_u64, 0_u64, false);
    while steps < steps_max {
        count += 1;
        let Some(mut state) = model.init_states().pop() else { break };
        let mut trace = Vec::new();
        for _ in 0..depth {
            steps += 1;
            let Some((step, next)) = any_step(model, &state, &mut random) else { continue };
            state = next;
            trace.push(step);
            reached = reached || goals.iter().any(|goal| (goal.condition)(model, &state));
            if let Some(law) = laws.iter().find(|law| !(law.condition)(model, &state)) {
                let trace = shorten(model, trace, law).iter().map(|step| format!("{step:?}")).collect();
                let explored = format!("{count} walks, {steps} steps");
                return Outcome { explored, broken: Some((law.name, trace)), finished: true, reached };
            }
        }
    }
    Outcome { explored: format!("{count} walks, {steps} steps"), broken: None, finished: true, reached }
}

fn any_step<M: Model>(model: &M, state: &M::State, random: &mut u64) -> Option<(M::Action, M::State)>
where
    M::Action: Clone,
{
    let mut steps = Vec::new();
    model.actions(state, &mut steps);
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let count = u64::try_from(steps.len()).ok().filter(|count| *count > 0)?;
    let step = steps.swap_remove(usize::try_from(*random % count).ok()?);
    Some((step.clone(), model.next_state(state, step)?))
}

/// Leaves out steps while the law is still broken.
fn shorten<M>(model: &M, mut trace: Vec<M::Action>, law: &Property<M>) -> Vec<M::Action>
where
    M: Model,
    M::Action: PartialEq + Clone,
{
    loop {
        let before = trace.len();
        let mut at = 0;
        while at < trace.len() {
            let mut shorter = trace.clone();
            shorter.remove(at);
            match replay(model, &shorter, law) {
                Some(found) => trace = found,
                None => at += 1,
            }
        }
        if trace.len() == before {
            return trace;
        }
    }
}

/// Does the steps that are still possible; returns those up to the one that breaks the law.
fn replay<M>(model: &M, trace: &[M::Action], law: &Property<M>) -> Option<Vec<M::Action>>
where
    M: Model,
    M::Action: PartialEq + Clone,
{
    let mut state = model.init_states().pop()?;
    let (mut possible, mut done) = (Vec::new(), Vec::new());
    for step in trace {
        possible.clear();
        model.actions(&state, &mut possible);
        let next = possible.contains(step).then(|| model.next_state(&state, step.clone())).flatten();
        let Some(next) = next else { continue };
        state = next;
        done.push(step.clone());
        if !(law.condition)(model, &state) {
            return Some(done);
        }
    }
    None
}
