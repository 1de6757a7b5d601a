//! Error codes of the client API and the status that each has.
