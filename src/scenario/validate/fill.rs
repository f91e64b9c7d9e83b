//! `fill`: how full the volumes of nodes are, and whether they have a size of their own. `read_only`: whether nobody can write to them.

use super::faults::plain;
use super::kubernetes::quantity;
use super::stress::bytes;
use super::{Check, Here};
use crate::model::{Action, Fault, FaultKind, Fill, MEMORY_STORAGE, OnRestart, Persistence, Targets};
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At};

/// How large a volume of memory may be that is filled, where the containers have no limit: 256 MiB.
const UNBOUND: f64 = 268_435_456.0;

impl Check<'_> {
    pub(super) fn fill(&mut self, here: &Here, fill: &At<raw::Fill>) -> Option<Action> {
        let raw::Fill {
            nodes,
            pick,
            percent,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &fill.value;
        self.offered("fill", &here.key)?;
        let lasts = self.until(lasts.as_ref());
        let percent = self.number(percent.as_ref(), "percent", 1, 100)?;
        let message = "whose volume is full has to be known beforehand";
        let targets = self.known_targets(here, nodes.as_ref(), pick.as_ref(), (code::FILL, message))?;
        let size = self.bounded(here, &targets)?;
        let fill = Fill {
            percent: u8::try_from(percent).unwrap_or(100),
            size,
        };
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, FaultKind::Fill(fill), targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    pub(super) fn read_only(&mut self, here: &Here, fault: &At<raw::Lasting>) -> Option<Action> {
        let raw::Lasting {
            nodes,
            pick,
            r#for: lasts,
            every,
            times,
            on_restart,
            table: _,
        } = &fault.value;
        self.offered("read-only", &here.key)?;
        let lasts = self.until(lasts.as_ref());
        if let Some(said) = on_restart.as_ref().filter(|said| said.0 == OnRestart::Reapply) {
            let message = "a volume is mounted anew for another container, and can be written to there";
            let help = "leave `on_restart` out, or say \"drop\"";
            return self.odd(code::ON_RESTART, &said.at, message, "not of a volume", help);
        }
        let on_restart = self.at_restart(on_restart.as_ref())?;
        let message = "whose volume is read-only has to be known beforehand";
        let targets = self.known_targets(here, nodes.as_ref(), pick.as_ref(), (code::READ_ONLY, message))?;
        let fault = Fault {
            on_restart,
            ..plain(here, FaultKind::ReadOnly, targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    /// The size of the nodes' volumes, where that is theirs alone and the memory of their containers does for it.
    fn bounded(&mut self, here: &Here, targets: &Targets) -> Option<u64> {
        if self.plan.network.persistence != Persistence::Memory {
            let message = "a volume may be a folder of the machine's own disk, which would be full for everybody";
            let help = "use `persistence = \"memory\"`: then each volume is of memory, and of the size `storage` of `[backend.kubernetes]`";
            return self.odd(
                code::FILL,
                &here.key,
                message,
                "not a volume of a size of its own",
                help,
            );
        }
        let size = quantity(self.plan.kubernetes.storage.as_deref().unwrap_or(MEMORY_STORAGE))?;
        let unbound = |node: &crate::model::Node| node.resources.memory_limit.is_none();
        if size > UNBOUND && self.plan.network.nodes.iter().any(unbound) {
            let message = "so much memory of the machine could be used up, and with it everybody's";
            let help = "give the nodes a `memory_limit` above `storage`, or a `storage` of at most 256Mi";
            return self.odd(code::FILL, &here.key, message, "memory of the whole machine", help);
        }
        let nodes = &self.plan.network.nodes;
        let small = nodes.iter().find_map(|node| {
            let limit = node.resources.memory_limit.as_deref()?;
            let struck = targets.nodes().contains(&node.name);
            (struck && quantity(limit)? <= size).then(|| (node.name.clone(), limit.to_owned()))
        });
        if let Some((name, limit)) = small {
            let message = format!(
                "what is in the volume counts for the memory of the container, and {name} has a `memory_limit` of {limit}"
            );
            let help = "raise `memory_limit` well above `storage`";
            return self.odd(code::FILL, &here.key, &message, "would end for want of memory", help);
        }
        Some(bytes(size))
    }
}
