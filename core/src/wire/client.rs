//! Bodies of the client API: publish, poll, subscribe, commit.
