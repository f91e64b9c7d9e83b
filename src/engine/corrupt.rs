//! Damage to the files of nodes that are down: a declared loss, which nobody takes back.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest as _, Sha256};

use super::steps::{Failure, Network};
use crate::backend::{Damage, Digest};
use crate::model::Corrupt;
use crate::model::verdict::Class;
use crate::record::{NodeEvent, Record};

impl Network {
    /// Damages what a step says, and records what another than the injector sees of it.
    pub(super) async fn corrupt(&self, step: &Corrupt) -> Result<(), Failure> {
        for node in &step.nodes {
            self.damage(node, step).await.map_err(|seen| Failure::Step {
                code: "infra/fault-failed",
                class: Class::Infrastructure,
                expected: format!("damaged bytes of {} are seen on {node}", step.file),
                seen,
            })?;
        }
        Ok(())
    }

    async fn damage(&self, node: &str, Corrupt { id, file, bytes, .. }: &Corrupt) -> Result<(), String> {
        let look = || async {
            self.ops
                .digests(node, file)
                .await
                .map_err(|trouble| trouble.to_string())
        };
        let before = look().await?;
        let seed = |digest: &Digest| format!("{} {id} {node} {}", self.plan.seed, digest.file);
        let struck = before.iter().filter(|digest| digest.size > 0);
        let damages: Vec<Damage> = struck
            .map(|digest| Damage {
                file: digest.file.clone(),
                sha256: digest.sha256.clone(),
                offsets: offsets(&seed(digest), digest.size, *bytes),
            })
            .collect();
        if damages.is_empty() {
            return Err(match before.first() {
                Some(empty) => format!("{} is empty", empty.file),
                None => "there is no such file".to_owned(),
            });
        }
        let done = self.ops.corrupt(node, &damages).await;
        done.map_err(|trouble| trouble.to_string())?;
        let after = look().await?;
        for Damage { file, sha256, offsets } in damages {
            let now = after.iter().find(|digest| digest.file == file);
            let Some(now) = now.filter(|now| now.sha256 != sha256) else {
                return Err(format!("{file} is as it was before"));
            };
            self.desk.record(Record::Node {
                node: node.to_owned(),
                event: NodeEvent::Damaged {
                    file,
                    offsets,
                    before: sha256,
                    after: now.sha256.clone(),
                },
            });
        }
        Ok(())
    }
}

/// So many different bytes of a file, or all of a shorter one, in their order: the seed decides.
fn offsets(seed: &str, size: u64, bytes: u64) -> Vec<u64> {
    let key: [u8; 32] = Sha256::digest(seed).into();
    let mut random = ChaCha8Rng::from_seed(key);
    let wanted = usize::try_from(bytes.min(size)).unwrap_or(usize::MAX);
    let mut chosen = BTreeSet::new();
    while chosen.len() < wanted {
        chosen.insert(random.next_u64() % size);
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::offsets;

    #[test]
    fn the_seed_decides_which_bytes() {
        assert_eq!(offsets("1", 1000, 5), offsets("1", 1000, 5));
        assert_ne!(offsets("1", 1000, 5), offsets("2", 1000, 5));
        let chosen = offsets("1", 1000, 5);
        assert!(chosen.len() == 5 && chosen.is_sorted() && chosen.iter().all(|at| *at < 1000));
        assert_eq!(offsets("1", 3, 16), [0, 1, 2], "all of a short file");
    }
}
