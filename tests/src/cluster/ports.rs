//! Free ports for processes that must find the same port free again after a restart.

use rand::RngExt;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below the ports that the system gives to outgoing connections: one of those must not take a stopped broker's place.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;

/// Returns a loopback address that nobody listens on, never the same one twice in one process.
///
/// # Panics
/// When none can be found.
pub fn free() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1_000 {
        let port = rand::rng().random_range(FIRST..=LAST);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let new = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if new && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}
