//! The classic Bully algorithm with metadata where the higher version wins: without epochs and majorities.
//!
//! The world is friendly: failures are noticed at once and rightly, nothing is lost, and the only fault is one clean cut
//! that isolates the highest id and heals. It must be refuted all the same. Source: Garcia-Molina 1982.

use stateright::{Model, Property};

const BROKERS: usize = 3;
const HIGHEST: usize = BROKERS - 1;
const TOPICS: u8 = 3;

/// What every broker believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct State {
    pub cut: bool,
    pub was_cut: bool,
    pub controller: [usize; BROKERS],
    pub version: [u8; BROKERS],
    /// Topics that each knows, one bit each.
    pub topics: [u8; BROKERS],
    /// Topics whose creation was confirmed.
    pub confirmed: u8,
    pub created: u8,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    Cut,
    Heal,
    Elect(usize),
    Create(usize),
    Gossip(usize, usize),
}

/// The classic rules.
#[derive(Clone, Debug)]
pub struct Bully;

fn reaches(state: &State, one: usize, other: usize) -> bool {
    !state.cut || (one == HIGHEST) == (other == HIGHEST)
}

/// The highest id within reach tells everybody within reach that it is controller.
fn elect(state: &mut State, by: usize) {
    let highest = (0..BROKERS).rev().find(|other| reaches(state, by, *other)).unwrap_or(by);
    for other in 0..=highest {
        if reaches(state, highest, other) {
            state.controller[other] = highest;
        }
    }
}

fn same_version_means_same_metadata(state: &State) -> bool {
    let differ = |one: usize, other: usize| {
        state.version[one] == state.version[other] && state.topics[one] != state.topics[other]
    };
    (0..BROKERS).all(|one| (0..BROKERS).all(|other| !differ(one, other)))
}

fn confirmed_topics_exist(state: &State) -> bool {
    let known = state.topics.iter().fold(0, |all, topics| all | topics);
    known & state.confirmed == state.confirmed
}

fn one_controller_when_healed(state: &State) -> bool {
    let controllers = (0..BROKERS).filter(|broker| state.controller[*broker] == *broker).count();
    state.cut || !state.was_cut || controllers <= 1
}

impl Model for Bully {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            cut: false,
            was_cut: false,
            controller: [HIGHEST; BROKERS],
            version: [0; BROKERS],
            topics: [0; BROKERS],
            confirmed: 0,
            created: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.cut {
            steps.push(Step::Heal);
        } else if !state.was_cut {
            steps.push(Step::Cut);
        }
        for broker in 0..BROKERS {
            if !reaches(state, broker, state.controller[broker]) {
                steps.push(Step::Elect(broker));
            }
            if state.controller[broker] == broker && state.created < TOPICS {
                steps.push(Step::Create(broker));
            }
            let behind =
                |to: &usize| reaches(state, broker, *to) && state.version[broker] > state.version[*to];
            steps.extend((0..BROKERS).filter(behind).map(|to| Step::Gossip(broker, to)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Cut => (state.cut, state.was_cut) = (true, true),
            Step::Heal => state.cut = false,
            Step::Elect(by) => elect(&mut state, by),
            Step::Create(controller) => {
                state.version[controller] += 1;
                state.topics[controller] |= 1 << state.created;
                state.confirmed |= 1 << state.created;
                state.created += 1;
            }
            Step::Gossip(from, to) => {
                state.version[to] = state.version[from];
                state.topics[to] = state.topics[from];
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one version, one content", |_: &Self, state: &State| {
                same_version_means_same_metadata(state)
            }),
            Property::always("a confirmed topic exists", |_: &Self, state: &State| {
                confirmed_topics_exist(state)
            }),
            Property::always("one controller when healed", |_: &Self, state: &State| {
                one_controller_when_healed(state)
            }),
        ]
    }
}
