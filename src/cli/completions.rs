//! `trialnet completions`.

use clap::CommandFactory;

use super::{Cli, CompletionsArgs};
use crate::exit;
use crate::ui::Ui;

/// Prints the completion script of a shell.
#[must_use]
pub fn run(args: &CompletionsArgs, ui: &Ui) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "trialnet", &mut script);
    ui.out(&String::from_utf8_lossy(&script));
    exit::PASSED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_commands() {
        use clap::ValueEnum;

        for shell in clap_complete::Shell::value_variants() {
            let (ui, captured) = Ui::memory();
            assert_eq!(run(&CompletionsArgs { shell: *shell }, &ui), exit::PASSED);
            assert!(captured.out().contains("fail-fast"), "{shell}");
        }
    }
}
