//! The command line: clap structs here, one function a command in the modules below.
//!
//! A command takes its arguments and the printer and gives an exit code of [`crate::exit`].

pub mod cluster;
pub mod completions;
pub mod desk;
pub mod doctor;
pub mod faults;
pub mod files;
pub mod image;
pub mod judge;
pub mod list;
pub mod machine;
pub mod plan;
pub mod ps;
pub mod rbac;
pub mod render;
pub mod report;
pub mod run;
pub mod shrink;
pub mod texts;
pub mod validate;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::backend::kubernetes::provider::Flags;
use crate::engine::Cancel;
use crate::model::{BackendKind, ChainKind, Provider, PullSecret};
use crate::ui::{Color, Ui};
use crate::{env, exit};

/// Trialnet: a declarative test-network harness for blockchains.
///
/// One scenario file brings a network up, makes it suffer, watches every node, and says with evidence whether the chain kept height,
/// liveness and safety. Nothing is left behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "trialnet", version, after_help = exit::help(), after_long_help = format!("{}\n\n{}", exit::help(), env::help()))]
#[command(
    max_term_width = 100,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// When to use colour.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: Color,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Carries a command out; the exit code is one of [`crate::exit`]. `exe` answers the hidden subcommands, `cancel` ends runs early.
pub async fn run(cli: Cli, ui: &Ui, exe: &Path, cancel: &Cancel) -> u8 {
    match cli.command {
        Command::Run(args) => Box::pin(run::run(&args, ui, exe, cancel)).await,
        Command::Validate(args) => validate::run(&args, ui),
        Command::Plan(args) => validate::plan(&args, ui),
        Command::Render(args) => render::run(&args, ui, exe),
        Command::List(args) => list::run(&args, ui),
        Command::Faults(args) => faults::run(&args, ui),
        Command::Up(args) => Box::pin(desk::up(&args, ui, exe, cancel)).await,
        Command::Status(args) => Box::pin(desk::status(&args, ui, exe)).await,
        Command::Logs(args) => Box::pin(desk::logs(&args, ui, cancel)).await,
        Command::Inject(args) => Box::pin(desk::inject(&args, ui, exe, cancel)).await,
        Command::Heal(args) => Box::pin(desk::heal(&args, ui, exe)).await,
        Command::Down(args) => Box::pin(desk::down(&args, ui, exe)).await,
        Command::Ps(args) => Box::pin(machine::ps(&args, ui)).await,
        Command::Schema => texts::schema(ui),
        Command::Explain(args) => texts::explain(&args, ui),
        Command::Judge(args) => judge::run(&args, ui),
        Command::Report(args) => report::run(&args, ui),
        Command::Shrink(args) => Box::pin(shrink::run(&args, ui, exe, cancel)).await,
        Command::Doctor(args) => Box::pin(machine::doctor(&args, ui)).await,
        Command::Rbac(args) => rbac::run(&args, ui),
        Command::Image(args) => image::run(&args, ui, exe),
        Command::Gc(args) => Box::pin(machine::gc(&args, ui)).await,
        Command::Init(args) => texts::init(&args, ui),
        Command::Completions(args) => completions::run(&args, ui),
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run scenarios, and say with evidence what became of each.
    Run(RunArgs),
    /// Check scenario files without starting anything.
    Validate(ValidateArgs),
    /// Show what a scenario would make and do: nodes, targets, sums.
    Plan(PlanArgs),
    /// Print the Kubernetes objects that a scenario's network would be, as YAML; needs no cluster.
    Render(RenderArgs),
    /// List the scenarios in files and folders.
    List(ListArgs),
    /// List what can be done to a network, by which mechanism, and what shows it.
    Faults(FaultsArgs),
    /// Bring a scenario's network up, and leave it for you to work at.
    Up(desk::UpArgs),
    /// Show the nodes of a network that stays up, and the faults that are on.
    Status(desk::StatusArgs),
    /// Print what a node of it has written.
    Logs(desk::LogsArgs),
    /// Inject a fault into it, start a node or send a transaction, and verify the effect.
    Inject(desk::InjectArgs),
    /// End faults of it, and verify that they are gone.
    Heal(desk::HealArgs),
    /// Remove it.
    Down(desk::DownArgs),
    /// Show the runs that are up on this machine and in its cluster, and what is left of dead ones.
    Ps(PsArgs),
    /// Print the JSON schema of scenario files.
    Schema,
    /// Explain the code of a problem or a finding; without a code, list all.
    Explain(ExplainArgs),
    /// Judge a run again from its folder alone.
    Judge(JudgeArgs),
    /// Write the page of a run, or put several runs side by side, from their folders alone.
    Report(ReportArgs),
    /// Find the smallest rehearsal that fails as a run did, and write it as a scenario.
    Shrink(ShrinkArgs),
    /// Check whether this machine, or a cluster, has what runs need.
    Doctor(DoctorArgs),
    /// Print the smallest role that runs on a Kubernetes cluster need, as YAML.
    Rbac(RbacArgs),
    /// Write the image of trialnet itself, or of a program, as a file for a registry.
    Image(ImageArgs),
    /// Remove what dead runs have left on this machine and in its cluster.
    Gc(GcArgs),
    /// Write a commented scenario file to start from.
    Init(InitArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

impl Command {
    /// What the first signal does, in words.
    #[must_use]
    pub const fn ending(&self) -> &'static str {
        match self {
            Self::Inject(_) => "reverting the fault; twice more leaves at once",
            Self::Logs(_) => "ending",
            Self::Status(_) | Self::Heal(_) | Self::Down(_) => {
                "going on to the end of this command; twice more leaves at once"
            }
            _ => "reverting faults and removing everything; once more kills",
        }
    }
}

/// `trialnet run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Scenario files; of a folder, every *.toml below it.
    #[arg(required = true, value_name = "FILES", value_hint = ValueHint::AnyPath)]
    pub files: Vec<PathBuf>,

    /// How many scenarios run at the same time.
    #[arg(long, short, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,

    /// Where the networks run.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,

    /// Where every random choice comes from; the same seed gives the same targets [default: the file's, else a random one].
    #[arg(long, value_name = "N", env = env::SEED)]
    pub seed: Option<u64>,

    /// The run folder, which must not exist or be empty; of several runs, the folder of their folders [default: below .trialnet/runs].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,

    /// Whether the nodes' data stay in the run folder after the run. Logs always do.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub keep: Keep,

    /// Start no further scenario once one has not passed.
    #[arg(long)]
    pub fail_fast: bool,

    /// Make a kind cluster for this run, and delete it at the end.
    #[arg(long, conflicts_with_all = ["context", "allow_remote"], help_heading = "Cluster")]
    pub create: bool,

    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Whether the nodes' data stay after a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// They go.
    #[default]
    Never,
    /// They stay unless the run passed, or was interrupted.
    OnFailure,
    /// They stay.
    Always,
}

/// A backend that can be chosen on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Plain processes on this machine.
    #[default]
    Local,
    /// Pods in a namespace of a Kubernetes cluster.
    Kubernetes,
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Local => Self::Local,
            Backend::Kubernetes => Self::Kubernetes,
        }
    }
}

/// Which cluster a command means. Says nothing of a backend that needs none.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The context of the kubeconfig [default: the file's, else the current one if it is local].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The name of the kind cluster or minikube profile.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,

    /// What kind of cluster it is [default: as the context shows].
    #[arg(long, value_enum, value_name = "PROVIDER")]
    pub provider: Option<ProviderName>,

    /// The kubeconfig [default: those that KUBECONFIG names, else ~/.kube/config].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,

    /// The context that --context names may be that of a cluster elsewhere.
    #[arg(long, requires = "context")]
    pub allow_remote: bool,
}

impl ClusterArgs {
    /// The same for the backend.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let Self {
            context,
            cluster,
            provider,
            kubeconfig,
            allow_remote,
        } = self.clone();
        Flags {
            context,
            cluster,
            provider: provider.map(Into::into),
            kubeconfig,
            allow_remote,
            create: false,
        }
    }
}

/// A kind of cluster that can be chosen on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProviderName {
    /// Kubernetes in docker: images are loaded into its nodes.
    Kind,
    /// Images are loaded by minikube's own program.
    Minikube,
    /// Any other cluster: it pulls its images.
    Existing,
}

impl From<ProviderName> for Provider {
    fn from(name: ProviderName) -> Self {
        match name {
            ProviderName::Kind => Self::Kind,
            ProviderName::Minikube => Self::Minikube,
            ProviderName::Existing => Self::Existing,
        }
    }
}

/// `trialnet doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// A scenario file: whether there is room for its network.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// The backend that is to be looked at.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,

    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `trialnet rbac`.
#[derive(Clone, Debug, Args)]
pub struct RbacArgs {
    /// The name of the role and of its binding.
    #[arg(long, value_name = "NAME", default_value = "trialnet")]
    pub name: String,

    /// Give the role to a user.
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub user: Option<String>,

    /// Give it to a group.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// Give it to a service account.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "default/trialnet", value_parser = rbac::service_account, conflicts_with_all = ["user", "group"])]
    pub service_account: (String, String),

    /// Let it also make the privileged agents that plans need in which packets are lost or volumes are read-only.
    #[arg(long)]
    pub packets: bool,

    /// Let it also look at and mark machines, which plans need that drain them or make them fail.
    #[arg(long)]
    pub machines: bool,

    /// For runs on pods of this namespace that somebody else made (`attach`), instead of runs in namespaces of their own.
    #[arg(long, value_name = "NAMESPACE")]
    pub attach: Option<String>,

    /// A Secret that scenarios name as `pull_secrets`, by default of the namespace default; may be given several times.
    #[arg(long = "pull-secret", value_name = "[NAMESPACE/]NAME", value_parser = rbac::pull_secret)]
    pub pull_secrets: Vec<PullSecret>,
}

/// `trialnet image`.
#[derive(Clone, Debug, Args)]
pub struct ImageArgs {
    /// A program of this machine, a path or a name on PATH, with the libraries that it links [default: trialnet itself].
    #[arg(value_hint = ValueHint::AnyPath)]
    pub program: Option<PathBuf>,

    /// What the program is called in the image [default: as its file].
    #[arg(long = "as", value_name = "NAME", requires = "program")]
    pub called: Option<String>,

    /// What the image is called [default: trialnet.local/PROGRAM with the sum of its content].
    #[arg(long, value_name = "REGISTRY/NAME:TAG", value_parser = image::name)]
    pub name: Option<String>,

    /// The archive to write, as `docker load`, `skopeo` and `kind load image-archive` take it.
    #[arg(long, short, value_name = "FILE.tar", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// `trialnet faults`.
#[derive(Clone, Debug, Args)]
pub struct FaultsArgs {
    /// Where the network would be.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,

    /// As JSON: an array of `step` with `by` and `seen`, or with `refused`.
    #[arg(long)]
    pub json: bool,
}

/// `trialnet validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// Scenario files; of a folder, every *.toml below it.
    #[arg(required = true, value_name = "FILES", value_hint = ValueHint::AnyPath)]
    pub files: Vec<PathBuf>,

    /// The backend that has to offer what the files use.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,
}

/// `trialnet plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// The scenario file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Where every random choice comes from.
    #[arg(long, value_name = "N", env = env::SEED)]
    pub seed: Option<u64>,

    /// The backend that would run it.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,

    /// As JSON, the plan.json of a run folder.
    #[arg(long)]
    pub json: bool,
}

/// `trialnet render`.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// The scenario file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Where every random choice comes from, keys included.
    #[arg(long, value_name = "N", env = env::SEED)]
    pub seed: Option<u64>,

    /// The namespace [default: trialnet-SCENARIO-SEED].
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Print keys too, instead of the word REDACTED in their place.
    #[arg(long)]
    pub show_secrets: bool,
}

/// `trialnet list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Files and folders.
    #[arg(value_name = "PATHS", default_value = ".", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
}

/// `trialnet ps`.
#[derive(Clone, Debug, Args)]
pub struct PsArgs {
    /// For CI: exit with 96 when a run of this machine is up or left over, or one is left over in the cluster.
    ///
    /// Left over in the cluster is what has expired, since nobody renews it, and what belongs to a run of this machine whose processes are gone.
    /// Runs there that are in use are somebody else's, or stay until their time is over (`up`), and do not count.
    #[arg(long)]
    pub check: bool,

    /// Which cluster is looked at; one that nobody names and that does not answer is passed over.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// Which cluster a command looks at that was not asked for one.
#[derive(Clone, Debug, Default, Args)]
pub struct LookArgs {
    /// The cluster's context [default: the current one if it is local; a cluster that does not answer is passed over].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The kubeconfig [default: those that KUBECONFIG names, else ~/.kube/config].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
}

impl From<&LookArgs> for Flags {
    fn from(LookArgs { context, kubeconfig }: &LookArgs) -> Self {
        Self {
            context: context.clone(),
            kubeconfig: kubeconfig.clone(),
            // Nothing is made there, and only what trialnet made is removed.
            allow_remote: context.is_some(),
            ..Self::default()
        }
    }
}

/// `trialnet explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// For example safety/fork.
    pub code: Option<String>,
}

/// `trialnet judge`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// The folder of a run.
    #[arg(value_name = "RUN_FOLDER", value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,

    /// As JSON, the verdict.json of a run folder.
    #[arg(long)]
    pub json: bool,
}

/// `trialnet report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// The folder of a run, also of one that was cut off: its page is written. Of several a table is printed as Markdown, with changes against the first.
    #[arg(value_name = "RUN_FOLDER", value_hint = ValueHint::DirPath, required = true)]
    pub folders: Vec<PathBuf>,

    /// The file to write [default of one run: RUN_FOLDER/report.html]; of several runs a page if it ends in .html.
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}

/// `trialnet gc`.
#[derive(Clone, Debug, Args)]
pub struct GcArgs {
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,

    /// In clusters, remove only what expired at least so long ago.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub older_than: Duration,

    /// Only forget this left over run, whose cluster is gone for good.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["dry_run", "older_than"])]
    pub forget: Option<String>,

    /// Which cluster is looked at; one that nobody names and that does not answer is passed over.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// `trialnet shrink`.
#[derive(Clone, Debug, Args)]
pub struct ShrinkArgs {
    /// The run folder of a rehearsal (a scenario with `[chaos]`) that failed.
    #[arg(value_name = "RUN_FOLDER", value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,

    /// The file to write; one that exists is left alone [default: SCENARIO-smallest.toml].
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// The code of the finding that has to come again [default: that of the worst one].
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,

    /// The most runs.
    #[arg(long, value_name = "N", default_value = "200")]
    pub tries: NonZeroUsize,

    /// How often a candidate is run before it counts as one that does not fail.
    #[arg(long, value_name = "N", default_value = "2")]
    pub repeat: NonZeroUsize,

    /// How many run at the same time.
    #[arg(long, short, value_name = "N", default_value = "2")]
    pub jobs: NonZeroUsize,

    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `trialnet init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The file to write; one that exists is left alone.
    #[arg(default_value = "scenario.toml", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// The chain.
    #[arg(long, value_enum, value_name = "CHAIN", default_value_t)]
    pub chain: Chain,
}

/// A chain that can be chosen on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Chain {
    /// Trialnet's own small BFT chain: needs nothing installed.
    #[default]
    Devnode,
    /// CometBFT.
    Cometbft,
    /// Ethereum: geth with Clique.
    Ethereum,
}

impl From<Chain> for ChainKind {
    fn from(chain: Chain) -> Self {
        match chain {
            Chain::Devnode => Self::Devnode,
            Chain::Cometbft => Self::Cometbft,
            Chain::Ethereum => Self::Ethereum,
        }
    }
}

/// `trialnet completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_as_documented() {
        let cli = Cli::try_parse_from([
            "trialnet",
            "run",
            "a.toml",
            "scenarios",
            "-j",
            "4",
            "--keep",
            "on-failure",
            "--seed",
            "7",
            "--fail-fast",
            "--color",
            "never",
        ])
        .unwrap();
        assert_eq!(cli.color, Color::Never);
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        assert_eq!(args.files, ["a.toml", "scenarios"].map(PathBuf::from));
        assert_eq!((args.jobs.get(), args.seed, args.keep), (4, Some(7), Keep::OnFailure));
        assert!(args.fail_fast && args.run_dir.is_none());
    }

    #[test]
    fn what_gc_takes() {
        let cli = Cli::try_parse_from(["trialnet", "gc", "--older-than", "1h", "--context", "kind-x"]).unwrap();
        let Command::Gc(args) = cli.command else {
            panic!("not gc")
        };
        assert_eq!((args.older_than, args.dry_run), (Duration::from_secs(3600), false));
        let flags = Flags::from(&args.cluster);
        assert_eq!((flags.context.as_deref(), flags.allow_remote), (Some("kind-x"), true));
        assert!(!Flags::from(&LookArgs::default()).allow_remote);
    }

    #[test]
    fn a_bad_command_line_gives_the_documented_code() {
        for line in [
            &["trialnet", "run"][..],
            &["trialnet", "run", "a", "--jobs", "0"],
            &["trialnet", "fly"],
            &["trialnet"],
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{line:?}");
        }
    }

    #[test]
    fn help_names_exit_codes_and_variables() {
        insta::assert_snapshot!(Cli::command().render_long_help());
    }
}
