//! The process around the library: the hidden subcommands with which trialnet starts itself, signals, the runtime.
//!
//! Guard, shim, supervisor and devnode are the same executable as trialnet. A program of other people that embeds trialnet is that executable then, so it
//! has to ask [`answer`] before anything else; [`crate::libtest_main`] does.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::agent::registry::RunEntry;
use crate::agent::{self, AgentArgs, GuardArgs, InstallArgs, ShimArgs, StressArgs, SuperviseArgs, TestnodeArgs};
use crate::backend::kubernetes::{self, guard::GuardKubernetesArgs};
use crate::cli::{self, Cli};
use crate::devnode::{self, DevnodeArgs};
use crate::engine::Cancel;
use crate::observe::{self, pod::ObservePodArgs};
use crate::ui::Ui;
use crate::{env, exit};

/// What is logged unless `TRIALNET_LOG` says otherwise. kube calls every answer that trialnet expects (a 404, a server that is away) an error.
const DEFAULT_LOG: &str = "warn,kube_client=off";

/// What trialnet starts itself as.
#[derive(Debug, Parser)]
#[command(name = "trialnet", disable_help_subcommand = true)]
struct Hidden {
    #[command(subcommand)]
    command: HiddenCommand,
}

#[derive(Debug, Subcommand)]
enum HiddenCommand {
    Guard(GuardArgs),
    GuardKubernetes(GuardKubernetesArgs),
    Shim(ShimArgs),
    Devnode(DevnodeArgs),
    Testnode(TestnodeArgs),
    Supervise(SuperviseArgs),
    SuperviseInstall(InstallArgs),
    SuperviseProbe,
    Stress(StressArgs),
    ObservePod(ObservePodArgs),
    Agent(AgentArgs),
}

/// Carries out a hidden subcommand, if this process was started as one; the process ends with the code then.
#[must_use]
pub fn answer() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let texts: Vec<&str> = args
        .iter()
        .skip(1)
        .map(|arg| arg.to_str().unwrap_or_default())
        .collect();
    let hidden =
        agent::is_hidden_call(&texts) || matches!(texts.as_slice(), ["devnode", "--home", ..] | ["testnode", ..]);
    if !hidden {
        return None;
    }
    let Hidden { command } = match Hidden::try_parse_from(args) {
        Ok(hidden) => hidden,
        Err(error) => {
            Ui::new(crate::ui::Color::Never).err(&error.to_string());
            return Some(exit::USAGE.into());
        }
    };
    Some(match command {
        HiddenCommand::Guard(args) => agent::guard::run(args),
        HiddenCommand::GuardKubernetes(args) => kubernetes::guard::run(args),
        HiddenCommand::Shim(args) => agent::shim::run(args),
        HiddenCommand::Devnode(args) => match devnode::main(args) {
            Ok(()) => ExitCode::SUCCESS,
            // It has logged the error itself.
            Err(error) => error.exit_code().into(),
        },
        HiddenCommand::Testnode(args) => agent::testnode::run(args),
        HiddenCommand::Supervise(args) => agent::supervise::run(&args),
        HiddenCommand::SuperviseInstall(args) => agent::supervise::install(&args),
        HiddenCommand::SuperviseProbe => agent::supervise::probe::run(),
        HiddenCommand::Stress(args) => agent::stress::run(&args),
        HiddenCommand::ObservePod(args) => observe::pod::run(&args),
        HiddenCommand::Agent(args) => agent::packets::run(&args),
    })
}

/// Carries a command out, with signals.
#[must_use]
pub fn command_line(cli: Cli) -> ExitCode {
    let ui = Ui::new(cli.color);
    log(&env::log_filter().unwrap_or_else(|| DEFAULT_LOG.to_owned()));
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => {
            ui.error(&error, None);
            return exit::INTERNAL_ERROR.into();
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.error(&error, None);
            return exit::INTERNAL_ERROR.into();
        }
    };
    let cancel = Cancel::default();
    let ending = cli.command.ending();
    let code = runtime.block_on(async {
        // Before anything is begun that a signal should not just cut off.
        let streams = streams();
        tokio::select! {
            code = Box::pin(cli::run(cli, &ui, &exe, &cancel)) => code,
            // Only the third signal gets here; the guards go on to remove what they own.
            code = signals(streams, &ui, &cancel, ending) => code,
        }
    });
    runtime.shutdown_background();
    code.into()
}

/// Logs to stderr what the filter lets through, for example `warn,trialnet=debug`; a filter that cannot be read lets warnings through.
fn log(filter: &str) {
    let targets = filter
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(tracing::Level::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

/// A runtime for runs.
///
/// # Errors
/// When the system refuses threads.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // A probe of a large network opens hundreds of connections at once.
    agent::guard::raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// The signals that ask for an end, by name; from now on they no longer end the process.
fn streams() -> Vec<(&'static str, Signals)> {
    let kinds = [
        ("SIGINT", SignalKind::interrupt()),
        ("SIGTERM", SignalKind::terminate()),
        ("SIGHUP", SignalKind::hangup()),
    ];
    let mut streams = Vec::new();
    for (name, kind) in kinds {
        match signal(kind) {
            Ok(stream) => streams.push((name, stream)),
            Err(error) => tracing::warn!("{name} cannot be caught: {error}"),
        }
    }
    streams
}

/// The first signal reverts and tears down, the second kills, the third leaves at once.
async fn signals(mut streams: Vec<(&'static str, Signals)>, ui: &Ui, cancel: &Cancel, ending: &str) -> u8 {
    for count in 1.. {
        let received = streams.iter_mut().map(|(name, stream)| {
            Box::pin(async move {
                stream.recv().await;
                *name
            })
        });
        let (name, _, _) = futures::future::select_all(received).await;
        match count {
            1 => {
                ui.err(&format!("{name}: {ending}"));
                cancel.stop(name);
            }
            2 => {
                ui.err(&format!("{name} again: killing everything; once more leaves at once"));
                cancel.kill.cancel();
            }
            _ => break,
        }
    }
    ui.err(&leaving());
    exit::INTERRUPTED
}

/// What may be left of the runs of this process, in words.
fn leaving() -> String {
    let me = std::process::id();
    let ours = (agent::registry::list_runs().into_iter()).filter(|entry| entry.owner.pid == me);
    let runs: Vec<String> = ours
        .map(|entry| {
            let place = match &entry.cluster {
                Some(cluster) => match &cluster.created {
                    Some(name) => format!("the kind cluster {name}"),
                    None => format!("the namespace {} of {}", cluster.namespace, cluster.context),
                },
                None => format!("its processes and {}", entry.homes.display()),
            };
            let RunEntry {
                run, scenario, guard, ..
            } = entry;
            format!(
                "\n  run {run} of {scenario}: its guard, process {}, goes on removing {place}",
                guard.pid
            )
        })
        .collect();
    format!(
        "leaving at once; `trialnet ps` shows what may be left, `trialnet gc` removes it{}",
        runs.concat()
    )
}
