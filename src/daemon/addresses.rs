//! The addresses of this machine, for a peer that listens on all interfaces: what an invite names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most addresses that a peer advertises of itself.
const ADDRS_MAX: usize = 8;

/// Returns where others may reach a socket bound to `listen`: itself where it names an interface,
/// else this machine's addresses, those that reach furthest first and loopback last.
pub(super) fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut ips: Vec<IpAddr> = v4_of(&read("/proc/net/fib_trie"))
        .into_iter()
        .map(IpAddr::V4)
        .collect();
    if listen.is_ipv6() {
        ips.extend(
            v6_of(&read("/proc/net/if_inet6"))
                .into_iter()
                .map(IpAddr::V6),
        );
    }
    ips.sort_by_key(|ip| (ip.is_loopback(), *ip));
    ips.dedup();
    ips.into_iter()
        .take(ADDRS_MAX)
        .map(|ip| SocketAddr::new(ip, listen.port()))
        .collect()
}

/// Returns the local IPv4 addresses of the kernel's routing table: each `/32 host LOCAL` leaf.
fn v4_of(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("|-- ") {
            leaf = rest.parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(ip) = leaf
        {
            found.push(ip);
        }
    }
    found
}

/// Returns the IPv6 addresses of global scope and the loopback: proc(5), `net/if_inet6`.
fn v6_of(if_inet6: &str) -> Vec<Ipv6Addr> {
    const GLOBAL: &str = "00";
    const HOST: &str = "10";
    if_inet6
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
            let scope = fields.nth(2)?;
            [GLOBAL, HOST]
                .contains(&scope)
                .then(|| Ipv6Addr::from_bits(bits))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.7.0.0\n        /24 link UNICAST\n     \
                    |-- 10.7.0.2\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(
            v4_of(trie),
            [Ipv4Addr::new(10, 7, 0, 2), Ipv4Addr::LOCALHOST]
        );
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000505400fffe123456 02 40 20 80     eth0\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(
            v6_of(inet6),
            [
                Ipv6Addr::LOCALHOST,
                "2001:db8::7".parse::<Ipv6Addr>().unwrap()
            ]
        );
        assert!(v4_of("nonsense").is_empty() && v6_of("nonsense").is_empty());
    }

    #[test]
    fn a_named_interface_stands_for_itself() {
        let listen: SocketAddr = "127.0.0.1:4750".parse().unwrap();
        assert_eq!(reachable(listen), [listen]);
        let all = reachable("0.0.0.0:4750".parse().unwrap());
        assert!(
            all.iter()
                .all(|addr| addr.port() == 4750 && !addr.ip().is_unspecified())
        );
    }
}
