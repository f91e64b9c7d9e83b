//! The command line: clap structs here, one function a command in the modules below.
//!
//! A command takes its arguments and the printer and gives an exit code of [`crate::exit`].

pub mod completions;
pub mod doctor;
pub mod files;
pub mod judge;
pub mod list;
pub mod machine;
pub mod plan;
pub mod ps;
pub mod run;
pub mod texts;
pub mod validate;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::engine::Cancel;
use crate::model::{BackendKind, ChainKind};
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
        Command::List(args) => list::run(&args, ui),
        Command::Ps(args) => machine::ps(&args, ui),
        Command::Schema => texts::schema(ui),
        Command::Explain(args) => texts::explain(&args, ui),
        Command::Judge(args) => judge::run(&args, ui),
        Command::Doctor => machine::doctor(ui),
        Command::Gc(args) => machine::gc(&args, ui),
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
    /// List the scenarios in files and folders.
    List(ListArgs),
    /// Show the runs that are up on this machine, and what is left of dead ones.
    Ps(PsArgs),
    /// Print the JSON schema of scenario files.
    Schema,
    /// Explain the code of a problem or a finding; without a code, list all.
    Explain(ExplainArgs),
    /// Judge a run again from its folder alone.
    Judge(JudgeArgs),
    /// Check whether this machine has what runs need.
    Doctor,
    /// Remove what dead runs have left on this machine.
    Gc(GcArgs),
    /// Write a commented scenario file to start from.
    Init(InitArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
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
}

/// Whether the nodes' data stay after a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// They go.
    #[default]
    Never,
    /// They stay unless the run passed.
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
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Local => Self::Local,
        }
    }
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

/// `trialnet list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Files and folders.
    #[arg(value_name = "PATHS", default_value = ".", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
}

/// `trialnet ps`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PsArgs {
    /// For CI: exit with 96 when anything is up or left over.
    #[arg(long)]
    pub check: bool,
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

/// `trialnet gc`.
#[derive(Clone, Debug, Args)]
pub struct GcArgs {
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
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
}

impl From<Chain> for ChainKind {
    fn from(chain: Chain) -> Self {
        match chain {
            Chain::Devnode => Self::Devnode,
            Chain::Cometbft => Self::Cometbft,
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
