//! Linux: what becomes of packets on their way into a network namespace, by nf_tables, spoken over netlink.
//!
//! One table, replaced as a whole: a packet sees either what was or what is to be. A rule looks for the sender in a set whose elements have a
//! time to live, so the kernel itself ends a rule that nobody renews; no program has to live for that. The messages are those of
//! `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`; nothing of the machine but its kernel is needed.

use std::io;
use std::net::Ipv4Addr;

use nix::sys::socket::SockProtocol;

use super::netlink::{self, Attributes, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use super::protocol::{Bound, Rule, Rules};
use super::tc;
use crate::model::Ms;

/// The table's name, and those of its chains.
const TABLE: &str = "trialnet";
const IN: &str = "in";
const OUT: &str = "out";
/// Before connection tracking, so that no state of a connection lets a packet pass.
const PRIORITY: i32 = -300;
/// A loss is counted in parts of this many.
const PARTS: u32 = 1_000_000;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_SET_ELEMENTS: u16 = 12;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NF_INET_LOCAL_IN`, and where in a packet's IP header the sender is; `NF_INET_LOCAL_OUT`, and where the receiver is.
const LOCAL_IN: (u32, u32) = (1, 12);
const LOCAL_OUT: (u32, u32) = (3, 16);
/// `NFT_META_PRIORITY`.
const META_PRIORITY: u32 = 2;
/// `NFT_REG_1`, and the register of verdicts.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const NF_DROP: u32 = 0;
/// `NFT_SET_TIMEOUT`.
const SET_TIMEOUT: u32 = 0x10;
/// What `nft` calls the type `ipv4_addr`; the kernel only keeps it.
const TYPE_IPV4: u32 = 7;

/// Makes these rules the only ones of ours in the network namespace of this thread, for as long as `lease`; without a rule nothing of ours is left.
///
/// # Errors
/// When the kernel does not take them: it lacks a part of nf_tables, or this program the right. Then everything is as it was before.
pub(super) fn set(rules: &Rules, lease: Ms) -> io::Result<()> {
    let batch = batch(rules, lease);
    netlink::say(SockProtocol::NetlinkNetFilter, &batch.bytes, batch.acknowledged)
}

/// All messages of one transaction.
fn batch(rules: &Rules, lease: Ms) -> Batch {
    let mut batch = Batch::default();
    batch.edge(BATCH_BEGIN);
    // Removing what is not there would be an error.
    batch.message(NEW_TABLE, NLM_F_CREATE, |table| table.text(1, TABLE));
    // The answer to the last message is that to all.
    let ack = |last: bool| if last { NLM_F_ACK } else { 0 };
    batch.message(DELETE_TABLE, ack(rules.is_empty()), |table| table.text(1, TABLE));
    if !rules.is_empty() {
        batch.message(NEW_TABLE, NLM_F_CREATE, |table| table.text(1, TABLE));
        batch.chain(IN, LOCAL_IN.0);
        batch.chain(OUT, LOCAL_OUT.0);
    }
    let Rules { lost, bounds } = rules;
    for (index, rule) in (1..).zip(lost) {
        let set = batch.set(&rule.from, lease);
        let last = bounds.is_empty() && index == lost.len();
        batch.rule(IN, ack(last), |list| {
            of_set(list, LOCAL_IN.1, &set);
            losing(list, rule);
        });
    }
    for (index, bound) in (0..).zip(bounds) {
        let set = batch.set(&bound.to, lease);
        batch.rule(OUT, ack(index as usize + 1 == bounds.len()), |list| {
            of_set(list, LOCAL_OUT.1, &set);
            classified(list, tc::class(index));
        });
    }
    batch.edge(BATCH_END);
    batch
}

/// `ip saddr @set` or `ip daddr @set`, as `nft --debug=netlink` shows it.
fn of_set(list: &mut Attributes, offset: u32, (name, id): &(String, u32)) {
    expression(list, "payload", |payload| {
        payload.number(1, REGISTER);
        // The network header, and in it the address.
        payload.number(2, 1);
        payload.number(3, offset);
        payload.number(4, 4);
    });
    expression(list, "lookup", |lookup| {
        lookup.text(1, name);
        lookup.number(2, REGISTER);
        lookup.number(5, 0);
        lookup.number(4, *id);
    });
}

/// `meta priority set class`: it leaves through that class.
fn classified(list: &mut Attributes, class: u32) {
    expression(list, "immediate", |value| {
        value.number(1, REGISTER);
        // As the machine has it, other than all else here.
        value.nest(2, |data| data.bytes(1, &class.to_ne_bytes()));
    });
    expression(list, "meta", |meta| {
        meta.number(2, META_PRIORITY);
        meta.number(3, REGISTER);
    });
}

/// An expression of a rule: its name and what only it has.
fn expression(list: &mut Attributes, name: &str, body: impl FnOnce(&mut Attributes)) {
    list.nest(1, |expression| {
        expression.text(1, name);
        expression.nest(2, body);
    });
}

/// `[numgen random mod PARTS < n] drop`.
fn losing(list: &mut Attributes, rule: &Rule) {
    let lost = parts(rule.loss);
    if lost < PARTS {
        expression(list, "numgen", |numgen| {
            numgen.number(1, REGISTER);
            numgen.number(2, PARTS);
            // `NFT_NG_RANDOM`.
            numgen.number(3, 1);
        });
        // Comparisons go byte by byte.
        expression(list, "byteorder", |order| {
            order.number(1, REGISTER);
            order.number(2, REGISTER);
            order.number(3, 1);
            order.number(4, 4);
            order.number(5, 4);
        });
        expression(list, "cmp", |compare| {
            compare.number(1, REGISTER);
            // `NFT_CMP_LT`.
            compare.number(2, 2);
            compare.nest(3, |data| data.number(1, lost));
        });
    }
    expression(list, "immediate", |drop| {
        drop.number(1, VERDICT);
        drop.nest(2, |data| data.nest(2, |verdict| verdict.number(1, NF_DROP)));
    });
}

/// A share in parts of [`PARTS`].
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1 of a million"
)]
fn parts(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32
}

/// The messages of a transaction.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    next: u32,
    /// The number of the message whose answer ends the transaction.
    acknowledged: u32,
}

impl Batch {
    /// The begin or the end.
    fn edge(&mut self, kind: u16) {
        self.put(kind, 0, 0, SUBSYSTEM.to_be_bytes(), &[]);
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Attributes)) {
        let mut attributes = Attributes::default();
        body(&mut attributes);
        if flags & NLM_F_ACK != 0 {
            self.acknowledged = self.next;
        }
        self.put(SUBSYSTEM << 8 | kind, flags, IPV4, [0; 2], &attributes.0);
    }

    /// A chain at this hook.
    fn chain(&mut self, name: &str, hook: u32) {
        self.message(NEW_CHAIN, NLM_F_CREATE, |chain| {
            chain.text(1, TABLE);
            chain.text(3, name);
            chain.nest(4, |at| {
                at.number(1, hook);
                at.bytes(2, &PRIORITY.to_be_bytes());
            });
            chain.text(7, "filter");
        });
    }

    /// A set of addresses that the kernel forgets after the lease; its name and its number.
    fn set(&mut self, addresses: &[Ipv4Addr], lease: Ms) -> (String, u32) {
        // No other set has the number of this message.
        let id = self.next;
        let name = format!("set{id}");
        self.message(NEW_SET, NLM_F_CREATE, |set| {
            set.text(1, TABLE);
            set.text(2, &name);
            set.number(3, SET_TIMEOUT);
            set.number(4, TYPE_IPV4);
            set.number(5, 4);
            set.number(10, id);
            set.bytes(11, &lease.0.to_be_bytes());
        });
        self.message(NEW_SET_ELEMENTS, NLM_F_CREATE, |elements| {
            elements.text(1, TABLE);
            elements.text(2, &name);
            elements.number(4, id);
            elements.nest(3, |list| {
                for address in addresses {
                    list.nest(1, |element| element.nest(1, |key| key.bytes(1, &address.octets())));
                }
            });
        });
        (name, id)
    }

    fn rule(&mut self, chain: &str, answer: u16, body: impl FnOnce(&mut Attributes)) {
        self.message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND | answer, |message| {
            message.text(1, TABLE);
            message.text(2, chain);
            message.nest(4, body);
        });
    }

    /// `struct nlmsghdr` and `struct nfgenmsg`.
    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: [u8; 2], body: &[u8]) {
        let header = [&[family, 0], &resource[..], body].concat();
        self.bytes.extend(netlink::message(kind, flags, self.next, &header));
        self.next += 1;
    }
}

/// Tries in this thread's network namespace whatever loses packets, and leaves nothing.
///
/// # Errors
/// As [`set`].
pub(super) fn probe() -> io::Result<()> {
    let rule = |loss| Rule {
        from: vec![NOBODY],
        loss,
    };
    tried(&Rules {
        lost: [0.5, 1.0].map(rule).to_vec(),
        bounds: Vec::new(),
    })
}

/// The same of what has packets leave through a class.
///
/// # Errors
/// As [`set`].
pub(super) fn probe_classes() -> io::Result<()> {
    let bound = Bound {
        to: vec![NOBODY],
        rate: 1_000_000,
    };
    tried(&Rules {
        lost: Vec::new(),
        bounds: vec![bound],
    })
}

fn tried(rules: &Rules) -> io::Result<()> {
    set(rules, Ms::secs(1))?;
    set(&Rules::default(), Ms::secs(1))
}

/// An address of documentation (RFC 5737).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens in a network namespace of its own; `None` where this machine does not let us have one.
    fn apart<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let thread = std::thread::spawn(|| {
            let alone = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            alone.ok().map(|()| act())
        });
        thread.join().unwrap()
    }

    #[test]
    fn the_kernel_takes_the_rules_and_forgets_them() {
        let Some(taken) = apart(|| (probe(), set(&Rules::default(), Ms(1)))) else {
            return;
        };
        taken.0.unwrap();
        taken.1.unwrap();
    }

    #[test]
    fn packets_of_a_sender_are_lost_until_the_lease_is_over() {
        use std::net::UdpSocket;
        use std::time::Duration;
        // Loopback is down in a new namespace and needs the right to be raised: without a packet nothing is shown.
        let Some(heard) = apart(|| {
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            if !up.is_ok_and(|status| status.success()) {
                return None;
            }
            let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
            ear.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let to = ear.local_addr().unwrap();
            let mouth = UdpSocket::bind("127.0.0.2:0").unwrap();
            let heard = |count: usize| {
                (0..count)
                    .filter(|_| {
                        mouth.send_to(b"x", to).unwrap();
                        ear.recv(&mut [0; 8]).is_ok()
                    })
                    .count()
            };
            let rules = |loss| Rules {
                lost: vec![Rule {
                    from: vec!["127.0.0.2".parse().unwrap()],
                    loss,
                }],
                bounds: Vec::new(),
            };
            let clear = heard(3);
            set(&rules(1.0), Ms(60_000)).unwrap();
            let cut = heard(3);
            set(&rules(0.5), Ms(60_000)).unwrap();
            let half = heard(60);
            set(&rules(1.0), Ms(300)).unwrap();
            let held = heard(2);
            std::thread::sleep(Duration::from_millis(400));
            Some((clear, cut, half, held, heard(3)))
        }) else {
            return;
        };
        let Some((clear, cut, half, held, after)) = heard else {
            return;
        };
        assert_eq!((clear, cut, held, after), (3, 0, 0, 3));
        // Outside of this with a probability below 1e-8.
        assert!((8..=52).contains(&half), "{half} of 60");
    }

    #[test]
    fn shares_are_counted_in_parts() {
        assert_eq!([0.0, 0.3, 1.0, 7.0].map(parts), [0, 300_000, PARTS, PARTS]);
    }
}
