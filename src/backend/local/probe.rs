//! Looks at the links of a run on this machine.

use super::address::{link_source, of_port, probe_source};
use super::trouble;
use crate::agent::reach::{self, Way};
use crate::backend::{Addresses, LinkEvidence, LinkId, LinkLook, Trouble};

/// Looks at links from outside the injector.
///
/// # Errors
/// When a link was not reserved.
pub(super) async fn links(
    addresses: &Addresses,
    links: &[LinkId],
    look: LinkLook,
) -> Result<Vec<LinkEvidence>, Trouble> {
    let mut looks = Vec::with_capacity(links.len());
    for link in links {
        let Some(&address) = addresses.links.get(link) else {
            let LinkId { from, to, port } = link;
            let seen = format!("{from} -> {to} ({port}) was not reserved");
            return Err(trouble("infra/io", "a link of the plan", seen));
        };
        let listener = of_port(addresses, &link.to, &link.port)?;
        let from = addresses.nodes.get(&link.from).and_then(|from| link_source(from.ip));
        looks.push(Way {
            link: link.clone(),
            address,
            past: look.past.then(|| listener.to_string()),
            knock: look.knocks.get(&link.to).cloned().unwrap_or_default(),
            accepts: from.map(|from| (listener, from)),
        });
    }
    reach::links(looks, probe_source, look.limit).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::Ms;

    #[tokio::test]
    async fn a_link_that_was_not_reserved_is_named() {
        let link = LinkId {
            from: "a".to_owned(),
            to: "b".to_owned(),
            port: "p2p".to_owned(),
        };
        let trouble = links(&Addresses::default(), &[link], Ms(50).into()).await.unwrap_err();
        assert!(trouble.seen.contains("a -> b (p2p)"), "{trouble}");
    }

    #[test]
    fn probes_have_a_source_of_their_own_only_in_a_slot() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(probe_source(address("127.0.0.1:5")), None);
        assert_eq!(
            probe_source(address("127.9.3.1:5")),
            Some(std::net::IpAddr::from([127, 9, 0, 255]))
        );
    }
}
