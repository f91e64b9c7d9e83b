//! Programs of this machine that trialnet calls: kind, docker, minikube. Each call has a limit, ends when it is given up, and its words stand in the trouble.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::agent::{RUN_VARIABLE, trouble};
use crate::backend::Trouble;

/// So much of what a program says of its failure is shown.
const SHOWN: usize = 2000;

/// A call of a program.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    /// The code of the trouble that its failure is.
    pub code: &'static str,
    /// A name on PATH.
    pub program: &'a str,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
    /// The run that it belongs to, by which it is found when trialnet is gone.
    pub run: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub(super) fn new(code: &'static str, program: &'a str, args: &[&str], limit: Duration) -> Self {
        Self {
            code,
            program,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            limit,
            run: None,
        }
    }

    /// The same, as a process of a run: whoever ends that ends it and what it has started.
    pub(super) fn of_run(self, run: &'a str) -> Self {
        Self { run: Some(run), ..self }
    }

    /// Its standard output.
    pub(super) async fn output(self) -> Result<String, Trouble> {
        self.run(Stdio::null(), |_| None).await
    }

    /// Its standard output; `write` is what it reads.
    pub(super) async fn feed(
        self,
        write: impl FnOnce(File) -> io::Result<()> + Send + 'static,
    ) -> Result<String, Trouble> {
        self.run(Stdio::piped(), |child| {
            let stdin = child.stdin.take()?.into_owned_fd();
            Some(tokio::task::spawn_blocking(move || write(File::from(stdin?))))
        })
        .await
    }

    async fn run(
        self,
        stdin: Stdio,
        feeder: impl FnOnce(&mut Child) -> Option<tokio::task::JoinHandle<io::Result<()>>>,
    ) -> Result<String, Trouble> {
        let Self {
            code,
            program,
            args,
            limit,
            run,
        } = self;
        let expected = format!("`{program} {}` ends well", args.join(" "));
        let failed = |seen: String| trouble(code, expected.clone(), seen);
        let mut child = Command::new(program)
            .args(&args)
            .envs(run.map(|run| (RUN_VARIABLE, run)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C is for trialnet to act upon.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => failed(format!("{program} is not on PATH; install it")),
                _ => failed(error.to_string()),
            })?;
        let feeder = feeder(&mut child);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let ended = tokio::time::timeout(limit, async {
            let read_out = async {
                if let Some(stdout) = &mut stdout {
                    stdout.read_to_end(&mut out).await.ok();
                }
            };
            let read_err = async {
                if let Some(stderr) = &mut stderr {
                    stderr.read_to_end(&mut err).await.ok();
                }
            };
            let ((), (), status) = futures::join!(read_out, read_err, child.wait());
            let fed = match feeder {
                Some(feeder) => feeder.await.unwrap_or_else(|panic| Err(io::Error::other(panic))),
                None => Ok(()),
            };
            (status, fed)
        })
        .await;
        let words = |prefix: String| {
            let said = String::from_utf8_lossy(&err);
            let said = said.trim();
            let cut = said.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
            if said.is_empty() {
                prefix
            } else {
                format!("{prefix}: {}", &said[cut..])
            }
        };
        match ended {
            Err(_) => Err(failed(words(format!("it did not end within {}s", limit.as_secs())))),
            Ok((Err(error), _)) => Err(failed(error.to_string())),
            Ok((Ok(status), _)) if !status.success() => Err(failed(words(status.to_string()))),
            Ok((_, Err(error))) => Err(failed(words(format!("its input failed: {error}")))),
            Ok(_) => Ok(String::from_utf8_lossy(&out).into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Call<'static> {
        Call::new("infra/image-load", "sh", &["-c", script], limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_a_program_says_is_kept() {
        assert_eq!(sh("echo here; echo aside >&2", LONG).output().await.unwrap(), "here\n");
        let trouble = sh("echo why >&2; exit 3", LONG).output().await.unwrap_err();
        assert_eq!(trouble.code, "infra/image-load");
        assert_eq!(trouble.seen, "exit status: 3: why");
        assert!(trouble.expected.starts_with("`sh -c echo why"), "{trouble}");
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let call = Call::new("infra/image-load", "no-such-program-anywhere", &[], LONG);
        let trouble = call.output().await.unwrap_err();
        assert_eq!(trouble.seen, "no-such-program-anywhere is not on PATH; install it");
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("echo $$ > {}; echo waiting >&2; exec sleep 600", pid.display());
        let trouble = sh(&script, Duration::from_secs(1)).output().await.unwrap_err();
        assert_eq!(trouble.seen, "it did not end within 1s: waiting");
        let process = std::path::Path::new("/proc").join(std::fs::read_to_string(pid).unwrap().trim());
        let gone = async {
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            // As a zombie at most, until the runtime has asked for its end.
            while std::fs::read_to_string(process.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
                looks.tick().await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("the process is gone");
    }

    #[tokio::test]
    async fn a_program_is_fed() {
        use std::io::Write as _;
        let counted = sh("wc -c", LONG)
            .feed(|mut out| out.write_all(&[7; 1 << 20]))
            .await
            .unwrap();
        assert_eq!(counted.trim(), "1048576");
        let trouble = sh("exec <&-; echo full >&2; exit 1", LONG)
            .feed(|mut out| out.write_all(&[7; 1 << 20]))
            .await;
        assert!(
            trouble.unwrap_err().seen.ends_with("full"),
            "the program's words go before those of the pipe"
        );
        let trouble = sh("cat > /dev/null", LONG)
            .feed(|_| Err(io::Error::other("changed")))
            .await
            .unwrap_err();
        assert_eq!(trouble.seen, "its input failed: changed");
    }
}
