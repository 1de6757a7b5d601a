//! The named scenarios and fault mixes.

use super::Scenario;
use super::faults;

/// Random mixes.
pub const MIXES: [Scenario; 5] = [
    Scenario { name: "ordinary_3", brokers: 3, voters: 3, script: faults::ordinary },
    Scenario { name: "ordinary_5", brokers: 5, voters: 3, script: faults::ordinary },
    Scenario { name: "election_storm_3", brokers: 3, voters: 3, script: faults::election_storm },
    Scenario { name: "election_storm_5", brokers: 5, voters: 5, script: faults::election_storm },
    Scenario { name: "replication_storm", brokers: 3, voters: 3, script: faults::replication_storm },
];

/// Returns the scenario of a name.
pub fn named(name: &str) -> Option<Scenario> {
    MIXES.iter().find(|scenario| scenario.name == name).copied()
}
