//! Bodies of the admin API: topics, brokers, groups.
