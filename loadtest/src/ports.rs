//! Ports for servers that can't choose one themselves.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below it stand the services that machines usually have.
const FIRST: u32 = 10_000;
/// Where Linux begins with the ports of outgoing connections, unless it is told otherwise.
const USUAL_END: u32 = 32_768;

/// How many were given out.
static GIVEN: AtomicU32 = AtomicU32::new(0);

/// A port of loopback on which nobody listens, another one each time. It is none that the system gives to outgoing
/// connections: one of those could take it before the server does.
///
/// # Errors
/// All are taken.
pub fn free() -> io::Result<u16> {
    let span = end().max(FIRST + 1) - FIRST;
    // Other processes look for ports at the same time.
    let start = std::process::id().wrapping_mul(977);
    for _ in 0..span {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(given) % span;
        let port = u16::try_from(port).map_err(io::Error::other)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::from(io::ErrorKind::AddrInUse))
}

/// The first port of outgoing connections.
fn end() -> u32 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range.ok().and_then(|range| {
        let first = range.split_whitespace().next()?;
        first.parse::<u32>().ok()
    });
    first
        .filter(|first| (FIRST..=65_536).contains(first))
        .unwrap_or(USUAL_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_or_is_one_of_outgoing_connections() {
        let mut ports: Vec<_> = (0..50).map(|_| free().unwrap()).collect();
        let below = end();
        assert!(ports.iter().all(|port| u32::from(*port) < below));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
