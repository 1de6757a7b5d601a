//! Anti-entropy of hints between brokers (push-pull, newest entry per broker wins). Decides nothing (D1).

use serde::{Deserialize, Serialize};

/// A digest or the entries that the other side lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipMessage {}
