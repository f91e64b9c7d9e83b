//! Linux: how fast packets leave a network namespace, by the queueing discipline HTB with a class for each receiver, spoken over rtnetlink
//! (`linux/rtnetlink.h`, `linux/pkt_sched.h`).
//!
//! A packet is in a class by its priority (`man tc-htb`), which `nft` sets as long as a lease lasts; all others leave as if there were no classes. So
//! what is left of these when nobody is there any more does nothing. An interface that has a queueing discipline of somebody else is left alone.

use std::io;

use nix::net::if_::if_nameindex;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, Attributes, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use crate::backend::{rate_burst, rate_queue};

/// Our queueing discipline's handle: one that nobody takes by chance. The low half is for classes.
const HANDLE: u32 = 0x7417_0000;
/// `TC_H_ROOT`.
const ROOT: u32 = u32::MAX;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTCLASS: u16 = 40;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
/// `HTB_VER >> 16`; the kernel takes no other.
const HTB_VERSION: u32 = 3;
/// `TC_LINKLAYER_ETHERNET`: so the kernel reckons itself, without tables of ours.
const ETHERNET: u8 = 1;
/// How much a class may send at its turn, in bytes: more than any packet, and less than the kernel warns of.
const QUANTUM: u32 = 100_000;

/// The class of the bound with this index.
pub(super) const fn class(index: u32) -> u32 {
    HANDLE | (index + 1)
}

/// Makes the classes of these rates in the network namespace of this thread, on all its interfaces but loopback, the first with [`class`]`(0)`.
/// Without a rate nothing of ours is left. What waits in a class that stays is not lost.
///
/// # Errors
/// When the kernel does not take them: it lacks HTB, or this program the right, or the interface has a queueing discipline already.
pub(super) fn set(rates: &[u64]) -> io::Result<()> {
    for interface in &if_nameindex()? {
        if interface.name().to_bytes() == b"lo" {
            continue;
        }
        set_on(interface.index().cast_signed(), rates)?;
    }
    Ok(())
}

fn set_on(interface: i32, rates: &[u64]) -> io::Result<()> {
    if rates.is_empty() {
        // There may be none of ours, or none at all.
        drop(ask(RTM_DELQDISC, 0, (interface, HANDLE, ROOT), |_| ()));
        return Ok(());
    }
    let made = ask(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        (interface, HANDLE, ROOT),
        |body| {
            body.text(TCA_KIND, "htb");
            body.nest(TCA_OPTIONS, |options| {
                options.bytes(TCA_HTB_INIT, &words(&[HTB_VERSION, 10, 0, 0, 0]))
            });
        },
    );
    match made {
        // Ours; if it is not, there can be no class of it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    for (index, rate) in (0..).zip(rates) {
        ask(RTM_NEWTCLASS, NLM_F_CREATE, (interface, class(index), HANDLE), |body| {
            body.text(TCA_KIND, "htb");
            body.nest(TCA_OPTIONS, |options| options.bytes(TCA_HTB_PARMS, &parameters(*rate)));
        })?;
        let queue = (interface, HANDLE + ((index + 1) << 16), class(index));
        ask(RTM_NEWQDISC, NLM_F_CREATE, queue, |body| {
            body.text(TCA_KIND, "pfifo");
            // `struct tc_fifo_qopt`: packets.
            body.bytes(
                TCA_OPTIONS,
                &words(&[u32::try_from(rate_queue(*rate)).unwrap_or(u32::MAX)]),
            );
        })?;
    }
    Ok(())
}

/// `struct tc_htb_opt`.
fn parameters(rate: u64) -> Vec<u8> {
    let bytes = rate / 8;
    // Sixty-four nanoseconds each (`PSCHED_SHIFT`).
    let ticks = rate_burst(rate) * 1_000_000_000 / bytes.max(1) / 64;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    // `struct tc_ratespec`.
    let spec = [
        &[0, ETHERNET, 0, 0, 0, 0, 0, 0][..],
        &words(&[u32::try_from(bytes).unwrap_or(u32::MAX)]),
    ]
    .concat();
    [&spec, &spec, &words(&[ticks, ticks, QUANTUM, 0, 0])[..]].concat()
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// One message with a `struct tcmsg`, and the answer to it.
fn ask(
    kind: u16,
    flags: u16,
    (interface, handle, parent): (i32, u32, u32),
    body: impl FnOnce(&mut Attributes),
) -> io::Result<()> {
    let mut attributes = Attributes::default();
    body(&mut attributes);
    let head = words(&[0, interface.cast_unsigned(), handle, parent, 0]);
    let message = netlink::message(kind, flags | NLM_F_ACK, 1, &[head, attributes.0].concat());
    netlink::say(SockProtocol::NetlinkRoute, &message, 1)
}

/// Tries whatever [`set`] uses on the loopback interface of this thread's network namespace, and leaves nothing.
///
/// # Errors
/// As [`set`].
pub(super) fn probe() -> io::Result<()> {
    set_on(1, &[1_000_000, 2_000_000])?;
    set_on(1, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::packets::pods;

    #[test]
    fn the_kernel_takes_the_classes_again_and_again() {
        let done = pods::apart(|| {
            for rates in [
                &[100_000, 100_000_000][..],
                &[200_000],
                &[100_000, 5_000_000, 1_000_000],
            ] {
                set_on(1, rates)?;
            }
            set_on(1, &[])?;
            // There is nothing of ours any more: a foreign one is not touched, and none of ours made.
            ask(RTM_NEWQDISC, NLM_F_CREATE, (1, 0x1_0000, ROOT), |body| {
                body.text(TCA_KIND, "pfifo")
            })?;
            assert!(set_on(1, &[1_000_000]).is_err());
            set_on(1, &[])?;
            let again = ask(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, (1, 0x1_0000, ROOT), |body| {
                body.text(TCA_KIND, "pfifo");
            });
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            Ok(())
        });
        match done {
            // Not everybody may have a network namespace.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done.unwrap(),
        }
    }
}
