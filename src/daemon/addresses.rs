//! The network as this machine has it now: its addresses, for a peer that listens on all interfaces,
//! and the names of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use async_trait::async_trait;

use super::error::DaemonError;
use crate::base::task::spawn;
use crate::base::time::timeout;
use crate::node::Machine;

/// Most addresses that a peer advertises of itself.
const ADDRS_MAX: usize = 8;

/// How long a name may take to be looked up.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The interfaces of this machine and its resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interfaces;

#[async_trait]
impl Machine for Interfaces {
    fn addrs(&self, listen: SocketAddr) -> Vec<SocketAddr> {
        reachable(listen)
    }

    async fn resolve(&self, host: &str) -> Vec<SocketAddr> {
        look_up(host).await.unwrap_or_default()
    }
}

/// Looks host names up side by side; returns all their addresses, and why there is none for a name.
pub(super) async fn resolve(hosts: &[String]) -> (Vec<SocketAddr>, Option<DaemonError>) {
    let lookups: Vec<_> = hosts
        .iter()
        .map(|host| {
            let host = host.clone();
            spawn(async move { (look_up(&host).await, host) })
        })
        .collect();
    let (mut addrs, mut failure) = (Vec::new(), None);
    for lookup in lookups {
        match lookup.await {
            Ok((Ok(found), _)) => addrs.extend(found),
            Ok((Err(source), host)) => {
                let error = DaemonError::Resolve { host, source };
                tracing::warn!("{error}");
                failure = Some(error);
            }
            // The lookup was aborted, with the runtime.
            Err(_) => {}
        }
    }
    (addrs, failure)
}

async fn look_up(host: &str) -> std::io::Result<Vec<SocketAddr>> {
    let looking = async {
        let found: Vec<SocketAddr> = match scoped(host) {
            Some(scoped) => tokio::net::lookup_host(scoped).await?.collect(),
            None => tokio::net::lookup_host(host).await?.collect(),
        };
        Ok(found)
    };
    let found: std::io::Result<Vec<SocketAddr>> = timeout(RESOLVE_MAX, looking)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?;
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in found? {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok(addrs)
}

/// Splits an address of one link, like `[fe80::1%eth0]:4750`, where the interface has a name: the resolver
/// knows it without brackets alone.
fn scoped(host: &str) -> Option<(&str, u16)> {
    let (ip, port) = host.strip_prefix('[')?.rsplit_once("]:")?;
    ip.contains('%').then_some((ip, port.parse().ok()?))
}

/// Returns where others may reach a socket bound to `listen`: itself where it names an interface,
/// else this machine's addresses but loopback, those that lead to the world first.
fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = v4_of(&read("/proc/net/fib_trie"));
    let v6 = if listen.is_ipv6() {
        v6_of(&read("/proc/net/if_inet6"))
    } else {
        Vec::new()
    };
    let ips = v4.into_iter().map(IpAddr::V4);
    let ips = ips.chain(v6.into_iter().map(IpAddr::V6)).collect();
    ordered(ips, &towards_the_world())
        .into_iter()
        .map(|ip| SocketAddr::new(ip, listen.port()))
        .collect()
}

/// Orders addresses: those of the default routes first, so that many bridges do not push them out.
fn ordered(mut ips: Vec<IpAddr>, first: &[IpAddr]) -> Vec<IpAddr> {
    ips.retain(|ip| !ip.is_loopback());
    ips.sort_by_key(|ip| (!first.contains(ip), *ip));
    ips.dedup();
    ips.truncate(ADDRS_MAX);
    ips
}

/// Returns the addresses that this machine would speak to distant ones from. A UDP socket that
/// connects only looks the route up: nothing is sent.
fn towards_the_world() -> Vec<IpAddr> {
    let distant: [(IpAddr, IpAddr); 2] = [
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    ];
    let source = |(any, to)| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    distant.into_iter().filter_map(source).collect()
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

/// Returns the IPv6 addresses of global scope that are in use: proc(5), `net/if_inet6`. Private
/// networks (fd00::/8) count as global there.
fn v6_of(if_inet6: &str) -> Vec<Ipv6Addr> {
    const GLOBAL: &str = "00";
    /// Failed or tentative: another machine has the address, or may have; deprecated: about to go.
    const NOT_IN_USE: u32 = 0x08 | 0x20 | 0x40;
    if_inet6
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
            let scope = fields.nth(2)?;
            let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
            (scope == GLOBAL && flags & NOT_IN_USE == 0).then(|| Ipv6Addr::from_bits(bits))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_of_one_link_is_found_by_the_name_of_its_interface() {
        let found = look_up("[fe80::7%lo]:4750").await.unwrap();
        let ip: Ipv6Addr = "fe80::7".parse().unwrap();
        // The loopback is always the first interface.
        let on_lo = std::net::SocketAddrV6::new(ip, 4750, 0, 1);
        assert_eq!(found, [SocketAddr::V6(on_lo)]);
        assert_eq!(crate::transport::canonical(found[0]), found[0]);
        let plain = look_up("[2001:db8::7]:9").await.unwrap();
        assert_eq!(plain, ["[2001:db8::7]:9".parse().unwrap()]);
        assert!(look_up("[fe80::7%lo]:port").await.is_err());
    }

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
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     20010db8000000000000000000000008 02 40 00 20     eth0\n\
                     20010db8000000000000000000000009 02 40 00 48     eth0\n";
        assert_eq!(v6_of(inet6), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
        assert!(v4_of("nonsense").is_empty() && v6_of("nonsense").is_empty());
    }

    #[test]
    fn a_named_interface_stands_for_itself() {
        let listen: SocketAddr = "127.0.0.1:4750".parse().unwrap();
        assert_eq!(reachable(listen), [listen]);
        let all = reachable("0.0.0.0:4750".parse().unwrap());
        assert!(all.iter().all(|addr| {
            addr.port() == 4750 && !addr.ip().is_unspecified() && !addr.ip().is_loopback()
        }));
    }

    #[test]
    fn the_way_to_the_world_is_named_before_many_bridges() {
        let mut ips: Vec<IpAddr> = (0..20).map(|n| [172, 17, n, 1].into()).collect();
        let way: IpAddr = [192, 168, 1, 7].into();
        ips.extend([way, Ipv4Addr::LOCALHOST.into()]);
        let named = ordered(ips, &[way]);
        assert_eq!((named.len(), named[0]), (ADDRS_MAX, way));
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_keeps_no_other_from_being_found() {
        let hosts = ["127.0.0.1:7", "127.0.0.1:port", "[::1]:7"].map(str::to_owned);
        let (addrs, failure) = resolve(&hosts).await;
        assert_eq!(addrs.len(), 2);
        assert!(matches!(failure, Some(DaemonError::Resolve { .. })));
    }
}
