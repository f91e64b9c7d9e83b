//! Trialnet's end of a guard: how it is asked, and how its end is seen, the same on every backend.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::table;
use super::trouble;
use crate::backend::Trouble;
use crate::model::Ms;

/// Questions on their way to a guard, each with where the answer goes.
pub(crate) type Questions<Ask, Reply> = mpsc::UnboundedSender<(Ask, oneshot::Sender<Result<Reply, Trouble>>)>;

/// Asks the guard that is process `pid`, and waits for the answer at most `limit`. `gone` is what it means that the guard is no more.
///
/// # Errors
/// `infra/guard-died`, `infra/guard-silent`, and what the guard answers.
pub(crate) async fn ask<Ask, Reply>(
    questions: &Questions<Ask, Reply>,
    ask: Ask,
    pid: u32,
    limit: Duration,
    gone: &str,
) -> Result<Reply, Trouble> {
    let dead = || trouble("infra/guard-died", "a guard that lives as long as the run", gone);
    let (answer, answered) = oneshot::channel();
    if questions.send((ask, answer)).is_err() {
        return Err(dead());
    }
    match tokio::time::timeout(limit, answered).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(dead())),
        Err(_) => Err(trouble(
            "infra/guard-silent",
            format!("an answer of the guard within {}", Ms::from(limit)),
            format!(
                "none came; its process {pid} is {:?}",
                table::look(pid).map(|seen| seen.run)
            ),
        )),
    }
}

/// Waits until the guard is gone. It is ended when that takes longer than `patience`; at once where there is none.
pub(crate) async fn see_end(pid: u32, gone: &watch::Receiver<bool>, patience: Option<Duration>) {
    let mut gone = gone.clone();
    let is_gone = |flag: &bool| *flag;
    if let Some(patience) = patience
        && tokio::time::timeout(patience, gone.wait_for(is_gone)).await.is_ok()
    {
        return;
    }
    // Its process id is ours to use until the task has waited for it.
    if !*gone.borrow() {
        table::signal(pid, Signal::SIGKILL);
    }
    drop(gone.wait_for(is_gone).await);
}
