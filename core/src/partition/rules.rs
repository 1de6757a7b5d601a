//! Rules that tests may switch off.

use crate::control::Weakening;

/// The switched-off rules; always empty without the feature `weakened`.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    weakened: Vec<Weakening>,
}

impl Rules {
    pub(super) fn new(weakened: Vec<Weakening>) -> Self {
        Self { weakened }
    }

    pub(super) fn without(&self, rule: Weakening) -> bool {
        cfg!(feature = "weakened") && self.weakened.contains(&rule)
    }
}
