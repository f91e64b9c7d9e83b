//! Addresses of a run on this machine.
//!
//! On Linux all of 127.0.0.0/8 is this machine, without any set-up. A run holds a slot S of 1 to 126; node i (from 0) is
//! 127.S.0.(i+1) with the chain's own port numbers, and its link to node j is reached at 127.S.(i+1).(j+1). Elsewhere
//! everything is at 127.0.0.1 with free ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::client::{Client, nonsense};
use super::{PROMPT, blocking};
use crate::agent::protocol::{Ask, Reply};
use crate::agent::{node_trouble, trouble};
use crate::backend::{Addresses, LinkId, NodeAddresses, SOCKETS, Trouble, Wanted};

/// How many nodes a slot has addresses for.
const NODES: usize = 254;
/// How many slots are tried with the chain's own port numbers before others are taken.
const SLOTS_TRIED: usize = 3;
/// Between the port numbers that are tried when one is taken.
const PORT_STEP: u16 = 1000;

/// Where a port of a node is.
pub(super) fn of_port(addresses: &Addresses, node: &str, port: &str) -> Result<SocketAddr, Trouble> {
    let unknown = |what: &str| {
        node_trouble(
            "infra/io",
            node,
            format!("{what} that was reserved"),
            format!("no address for {node} {port}"),
        )
    };
    let node = addresses.nodes.get(node).ok_or_else(|| unknown("a node"))?;
    let number = node.ports.get(port).ok_or_else(|| unknown("a port"))?;
    Ok(SocketAddr::new(node.ip, *number))
}

/// The address that other nodes of a slot see as a node's own when it dials them over a link. Nobody listens at it, so that an outgoing
/// connection never takes a port at which the node wants to listen.
pub(super) fn link_source(node: IpAddr) -> Option<IpAddr> {
    match node {
        IpAddr::V4(ip) if ip.octets()[1] != 0 => {
            let [_, slot, _, node] = ip.octets();
            Some(IpAddr::V4(Ipv4Addr::new(127, slot, 255, node)))
        }
        _ => None,
    }
}

/// Where probes of a slot come from, so that they are not taken for the nodes' own connections.
pub(super) fn probe_source(link: SocketAddr) -> Option<IpAddr> {
    match link.ip() {
        IpAddr::V4(ip) if ip.octets()[1] != 0 => Some(IpAddr::V4(Ipv4Addr::new(127, ip.octets()[1], 0, 255))),
        _ => None,
    }
}

/// Chooses addresses that are free.
pub(super) async fn choose(
    guard: &Client,
    homes: &Path,
    wanted: &[Wanted],
    links: &[LinkId],
) -> Result<Addresses, Trouble> {
    check(wanted, links)?;
    let mut except = Vec::new();
    loop {
        let ask = Ask::Claim { except: except.clone() };
        let slot = match guard.ask(ask, PROMPT).await? {
            Reply::Slot(slot) => slot,
            other => return Err(nonsense(&other)),
        };
        let Some(slot) = slot else {
            if cfg!(target_os = "linux") {
                return Err(trouble(
                    "infra/no-addresses",
                    "a free slot of loopback addresses",
                    format!(
                        "none of 126 is: too many runs side by side, or ports are taken in {} of them",
                        except.len()
                    ),
                ));
            }
            let (homes, wanted, links) = (homes.to_path_buf(), wanted.to_vec(), links.to_vec());
            return blocking(move || on_free_ports(&homes, &wanted, &links).map_err(|error| taken(&error))).await;
        };
        let may_shift = except.len() + 1 >= SLOTS_TRIED;
        let (home, want, over) = (homes.to_path_buf(), wanted.to_vec(), links.to_vec());
        let chosen = blocking(move || Ok(in_slot(slot, &home, &want, &over, may_shift))).await?;
        match chosen {
            Ok(chosen) => return Ok(chosen),
            Err(_) if except.len() < 125 => except.push(slot),
            Err(error) => return Err(taken(&error)),
        }
    }
}

fn taken(error: &io::Error) -> Trouble {
    trouble(
        "infra/address",
        "free ports on the loopback addresses",
        error.to_string(),
    )
}

fn check(wanted: &[Wanted], links: &[LinkId]) -> Result<(), Trouble> {
    if wanted.len() > NODES {
        return Err(trouble(
            "infra/too-many-nodes",
            format!("at most {NODES} nodes on one machine"),
            format!("{} nodes", wanted.len()),
        ));
    }
    let known = |node: &String, port: Option<&String>| {
        wanted
            .iter()
            .any(|wanted| wanted.node == *node && port.is_none_or(|port| wanted.ports.iter().any(|p| p.name == port)))
    };
    match links
        .iter()
        .find(|link| !known(&link.from, None) || !known(&link.to, Some(&link.port)))
    {
        None => Ok(()),
        Some(LinkId { from, to, port }) => Err(trouble(
            "infra/io",
            "links between the nodes of the plan, to one of their ports",
            format!("{from} -> {to} ({port})"),
        )),
    }
}

/// The addresses of a slot.
///
/// # Errors
/// When one is taken; with `may_shift`, when no other port number of that port is free either.
fn in_slot(slot: u8, homes: &Path, wanted: &[Wanted], links: &[LinkId], may_shift: bool) -> io::Result<Addresses> {
    let octet = |index: usize| u8::try_from(index + 1).map_err(io::Error::other);
    let ip = |third, fourth| IpAddr::V4(Ipv4Addr::new(127, slot, third, fourth));
    let mut index = BTreeMap::new();
    // Every address at which something will listen, by the chain's own port number.
    let mut listeners: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for (i, node) in wanted.iter().enumerate() {
        index.insert(node.node.as_str(), (octet(i)?, node));
        for port in &node.ports {
            listeners.entry(port.number).or_default().push(ip(0, octet(i)?));
        }
    }
    let mut link_ips = Vec::new();
    for link in links {
        let ((from, _), (to, node)) = (index[link.from.as_str()], index[link.to.as_str()]);
        let number = node
            .ports
            .iter()
            .find(|port| port.name == link.port)
            .map_or(0, |port| port.number);
        listeners.entry(number).or_default().push(ip(from, to));
        link_ips.push((link, ip(from, to), number));
    }
    let numbers = choose_numbers(&listeners, may_shift)?;
    let nodes = wanted.iter().enumerate().map(|(i, node)| {
        let ports = node
            .ports
            .iter()
            .map(|port| (port.name.to_owned(), numbers[&port.number]))
            .collect();
        Ok((
            node.node.clone(),
            NodeAddresses {
                ip: ip(0, octet(i)?),
                ports,
                volumes: volumes(homes, node),
            },
        ))
    });
    Ok(Addresses {
        nodes: nodes.collect::<io::Result<_>>()?,
        links: link_ips
            .into_iter()
            .map(|(link, ip, number)| (link.clone(), SocketAddr::new(ip, numbers[&number])))
            .collect(),
    })
}

/// The number to use for each of the chain's own numbers: the same, or, if some program has it on all addresses, another.
fn choose_numbers(listeners: &BTreeMap<u16, Vec<IpAddr>>, may_shift: bool) -> io::Result<BTreeMap<u16, u16>> {
    let mut used: BTreeSet<u16> = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for (&own, ips) in listeners {
        let mut candidate = own;
        loop {
            let free = if candidate != own && (used.contains(&candidate) || listeners.contains_key(&candidate)) {
                Err(io::Error::from(io::ErrorKind::AddrInUse))
            } else {
                ips.iter().try_for_each(|&ip| free(SocketAddr::new(ip, candidate)))
            };
            match free {
                Ok(()) => break,
                Err(error) if !may_shift => return Err(error),
                Err(error) => candidate = candidate.checked_add(PORT_STEP).ok_or(error)?,
            }
        }
        used.insert(candidate);
        numbers.insert(own, candidate);
    }
    Ok(numbers)
}

fn free(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

/// Addresses where there are no slots.
fn on_free_ports(homes: &Path, wanted: &[Wanted], links: &[LinkId]) -> io::Result<Addresses> {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // All are kept until the last is chosen, so that none is given twice.
    let mut kept = Vec::new();
    let mut port = || -> io::Result<u16> {
        let listener = TcpListener::bind((ip, 0))?;
        let number = listener.local_addr()?.port();
        kept.push(listener);
        Ok(number)
    };
    let mut addresses = Addresses::default();
    for node in wanted {
        let ports = node
            .ports
            .iter()
            .map(|own| Ok((own.name.to_owned(), port()?)))
            .collect::<io::Result<_>>()?;
        addresses.nodes.insert(
            node.node.clone(),
            NodeAddresses {
                ip,
                ports,
                volumes: volumes(homes, node),
            },
        );
    }
    for link in links {
        addresses.links.insert(link.clone(), SocketAddr::new(ip, port()?));
    }
    Ok(addresses)
}

fn volumes(homes: &Path, node: &Wanted) -> BTreeMap<String, PathBuf> {
    node.volumes
        .iter()
        .map(|volume| {
            let path = if volume == SOCKETS {
                // Relative to where processes start: the path of a run folder may be too long for a socket.
                PathBuf::from(volume)
            } else {
                homes.join(&node.node).join(volume)
            };
            (volume.clone(), path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Port;

    fn wanted(count: usize, number: u16) -> Vec<Wanted> {
        (0..count)
            .map(|i| Wanted {
                node: format!("n-{i}"),
                ports: vec![
                    Port { name: "p2p", number },
                    Port {
                        name: "rpc",
                        number: number + 1,
                    },
                ],
                volumes: vec!["data".to_owned()],
            })
            .collect()
    }

    fn link(from: usize, to: usize) -> LinkId {
        LinkId {
            from: format!("n-{from}"),
            to: format!("n-{to}"),
            port: "p2p".to_owned(),
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_slot_gives_each_node_and_link_its_own_address() {
        let links = [link(0, 1), link(1, 0)];
        let addresses = in_slot(126, Path::new("/h"), &wanted(2, 21_656), &links, false).unwrap();
        assert_eq!(addresses.nodes["n-1"].ip.to_string(), "127.126.0.2");
        assert_eq!(addresses.nodes["n-1"].ports["rpc"], 21_657);
        assert_eq!(addresses.nodes["n-1"].volumes["data"], Path::new("/h/n-1/data"));
        assert_eq!(addresses.links[&links[0]].to_string(), "127.126.1.2:21656");
        assert_eq!(addresses.links[&links[1]].to_string(), "127.126.2.1:21656");
        assert_eq!(
            link_source(addresses.nodes["n-0"].ip).unwrap().to_string(),
            "127.126.255.1"
        );
        assert_eq!(
            probe_source(addresses.links[&links[0]]).unwrap().to_string(),
            "127.126.0.255"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_that_a_program_has_everywhere_is_shifted() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let number = everywhere.local_addr().unwrap().port();
        let ips = vec![IpAddr::V4(Ipv4Addr::new(127, 126, 0, 1))];
        let listeners = BTreeMap::from([(number, ips)]);
        let error = choose_numbers(&listeners, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&number.to_string()), "{error}");
        if let Ok(numbers) = choose_numbers(&listeners, true) {
            assert_ne!(numbers[&number], number);
        } else {
            assert!(number > u16::MAX - PORT_STEP, "no other number was found");
        }
    }

    #[test]
    fn free_ports_are_all_different() {
        let links = [link(0, 1), link(1, 0)];
        let addresses = on_free_ports(Path::new("/h"), &wanted(2, 26_656), &links).unwrap();
        let mut all: Vec<u16> = addresses
            .nodes
            .values()
            .flat_map(|node| node.ports.values().copied())
            .collect();
        all.extend(addresses.links.values().map(SocketAddr::port));
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (6, 6));
    }

    #[test]
    fn unknown_links_and_too_many_nodes_are_refused() {
        assert_eq!(check(&wanted(2, 1), &[link(0, 7)]).unwrap_err().code, "infra/io");
        let other = LinkId {
            port: "grpc".to_owned(),
            ..link(0, 1)
        };
        assert_eq!(check(&wanted(2, 1), &[other]).unwrap_err().code, "infra/io");
        assert_eq!(check(&wanted(255, 1), &[]).unwrap_err().code, "infra/too-many-nodes");
        assert_eq!(check(&wanted(254, 1), &[link(0, 253)]), Ok(()));
    }
}
