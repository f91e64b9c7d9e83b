//! The agent: on each machine of a cluster where a run needs it, it makes packets on their way into a pod be lost, and leave it no faster
//! than they may. A proxy of a link sees a stream and cannot do that to packets; the kernel of the pod's machine can.
//!
//! It keeps nothing: whoever asks says all rules of a run's pods on this machine, again and again, and the kernel ends what is not renewed
//! (see `nft`). So neither its end, nor trialnet's, nor that of both leaves a fault on. Mounts of containers that it makes read-only (`mounts`) the supervisors
//! in them hold under their leases. It is reached through a port-forward to a loopback
//! port of its pod, with a token of the run; at the pod's own address it refuses whoever comes, and writes down who it was.

#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
mod pods;
pub mod protocol;
#[cfg(target_os = "linux")]
mod tc;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of the hidden subcommand `agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// The file with the key of this cluster's agents
    #[arg(long)]
    pub key: PathBuf,
    /// The pod's own address
    #[arg(long)]
    pub address: IpAddr,
}

/// Runs as the agent, until SIGTERM.
#[must_use]
pub fn run(args: &AgentArgs) -> ExitCode {
    #[cfg(target_os = "linux")]
    return server::run(args);
    #[cfg(not(target_os = "linux"))]
    {
        let _: &AgentArgs = args;
        ExitCode::FAILURE
    }
}

#[cfg(target_os = "linux")]
mod server {
    use std::io::{self, Write};
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::time::Duration;

    use sha2::{Digest, Sha256};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Builder;
    use tokio::signal::unix::{SignalKind, signal};

    use super::protocol::{Answer, Ask, PORT, PROTOCOL, PodRules, Reply, token};
    use super::{AgentArgs, mounts, nft, pods, tc};
    use crate::agent::tamper::Tamper;
    use crate::agent::trouble;
    use crate::model::Ms;
    use crate::record::json_line;

    /// How long a connection may take to say who it is.
    const GREETING: Duration = Duration::from_secs(5);
    /// How long, and for how many bytes, the end of a connection that was refused is waited for.
    const LINGER: Duration = Duration::from_millis(200);
    const LAST_WORDS: u64 = 64 << 10;
    /// The longest first line of one that has not said who it is yet, in bytes.
    const FIRST_LINE: u64 = 4096;

    pub(super) fn run(args: &AgentArgs) -> ExitCode {
        let runtime = Builder::new_current_thread().enable_all().build();
        match runtime.and_then(|runtime| runtime.block_on(Box::pin(serve(args)))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log(&error);
                ExitCode::FAILURE
            }
        }
    }

    /// Writes a line to the container's log.
    fn log(what: impl std::fmt::Display) {
        // Nothing can be done about a log that cannot be written.
        drop(writeln!(io::stderr(), "trialnet agent: {what}"));
    }

    async fn serve(args: &AgentArgs) -> io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let key = fs_err::read(&args.key)?;
        let able = tokio::task::spawn_blocking(Able::probe).await?;
        let inner = TcpListener::bind(("127.0.0.1", PORT)).await?;
        let outer = TcpListener::bind((args.address, PORT)).await?;
        log(format_args!(
            "at 127.0.0.1:{PORT}; {}",
            able.cannot
                .as_deref()
                .or(able.unbound.as_deref())
                .unwrap_or("packets can be lost and bound here")
        ));
        loop {
            tokio::select! {
                accepted = inner.accept() => if let Ok((stream, peer)) = accepted {
                    let (key, able) = (key.clone(), able.clone());
                    tokio::spawn(async move { converse(stream, peer, &key, able).await });
                },
                accepted = outer.accept() => if let Ok((stream, peer)) = accepted {
                    let why = "it came from another pod or machine; the agent is reached through a port-forward only";
                    tokio::spawn(refuse(stream, peer, why.to_owned()));
                },
                _ = term.recv() => return Ok(()),
            }
        }
    }

    /// Why this machine cannot do what an agent is for; found by trying.
    #[derive(Clone, Debug, Default)]
    struct Able {
        cannot: Option<String>,
        unbound: Option<String>,
    }

    impl Able {
        fn probe() -> Self {
            let failed = |what: &str, act: fn() -> io::Result<()>| {
                let error = pods::apart(act).err()?;
                Some(format!("{what} in a network namespace: {error}"))
            };
            Self {
                cannot: failed("nf_tables", nft::probe),
                unbound: failed("classes of nf_tables", nft::probe_classes)
                    .or_else(|| failed("the queueing discipline HTB", tc::probe)),
            }
        }
    }

    /// Says no, and writes down to whom.
    async fn refuse(mut stream: TcpStream, peer: SocketAddr, why: String) {
        log(format_args!("refused {peer}: {why}"));
        let no = Err(trouble(
            "infra/agent-refused",
            "a run of this cluster, with its token",
            why,
        ));
        drop(say(&mut stream, &no).await);
        drop(stream.shutdown().await);
        // A connection that is closed with words of the other end unread takes ours with it.
        let rest = async { tokio::io::copy(&mut stream.take(LAST_WORDS), &mut tokio::io::sink()).await };
        drop(tokio::time::timeout(LINGER, rest).await);
    }

    async fn say(to: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
        to.write_all(&json_line(answer)?).await
    }

    async fn converse(mut stream: TcpStream, peer: SocketAddr, key: &[u8], able: Able) {
        let greeting = tokio::time::timeout(GREETING, greeting(&mut stream, key)).await;
        match greeting.unwrap_or_else(|_| Err("it did not say who it is".to_owned())) {
            Ok(()) => {
                // The other end is gone if this fails, which is its own business.
                drop(answer_all(stream, able).await);
            }
            Err(why) => refuse(stream, peer, why).await,
        }
    }

    /// The first line of a connection, byte by byte: what follows it is read by somebody else.
    async fn greeting(stream: &mut TcpStream, key: &[u8]) -> Result<(), String> {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await {
                Ok(b'\n') => break,
                Ok(byte) if (line.len() as u64) < FIRST_LINE => line.push(byte),
                Ok(_) => return Err("its first line is too long".to_owned()),
                Err(error) => return Err(format!("it said nothing: {error}")),
            }
        }
        match serde_json::from_slice(&line) {
            Ok(Ask::Hello { protocol, .. }) if protocol != PROTOCOL => Err(format!(
                "it speaks version {protocol}, this agent version {PROTOCOL}; wait until the runs that share it are over"
            )),
            // The digests are compared, so that the time that it takes says nothing of the token.
            Ok(Ask::Hello { run, token: shown, .. }) => {
                if Sha256::digest(&shown) == Sha256::digest(token(key, &run)) {
                    Ok(())
                } else {
                    Err(format!("its token is not that of run {run:?}"))
                }
            }
            Ok(_) | Err(_) => Err("it did not begin with a run and its token".to_owned()),
        }
    }

    async fn answer_all(stream: TcpStream, able: Able) -> io::Result<()> {
        drop(stream.set_nodelay(true));
        let (reader, mut writer) = stream.into_split();
        let hello = Ok(Reply::Hello {
            protocol: PROTOCOL,
            cannot: able.cannot,
            unbound: able.unbound,
        });
        say(&mut writer, &hello).await?;
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await? {
            let answer = match serde_json::from_str(&line) {
                Ok(Ask::Hold { lease, pods, tamper }) => hold(lease, pods, tamper).await,
                Ok(Ask::Mount {
                    pod,
                    path,
                    read_only,
                    tamper,
                }) => remount((pod, path), read_only, tamper).await,
                other => Err(trouble("infra/agent-refused", "an order", format!("{other:?}"))),
            };
            say(&mut writer, &answer).await?;
        }
        Ok(())
    }

    async fn hold(lease: Ms, pods: Vec<PodRules>, tamper: Option<Tamper>) -> Answer {
        if tamper == Some(Tamper::CutNothing) {
            return Ok(Reply::Held { absent: Vec::new() });
        }
        let held = tokio::task::spawn_blocking(move || set(lease, pods)).await;
        held.map_err(io::Error::other)
            .flatten()
            .map(|absent| Reply::Held { absent })
            .map_err(|error| {
                log(format_args!("rules were not taken: {error}"));
                trouble(
                    "infra/agent-failed",
                    "rules in the network namespaces of pods",
                    error.to_string(),
                )
            })
    }

    async fn remount((pod, path): (String, PathBuf), read_only: bool, tamper: Option<Tamper>) -> Answer {
        if tamper == Some(Tamper::CutNothing) {
            return Ok(Reply::Held { absent: Vec::new() });
        }
        let expected = format!("{} of pod {pod} remounted", path.display());
        let done = tokio::task::spawn_blocking(move || {
            let there = mounts::set(&pod, &path, read_only)?;
            Ok(if there { Vec::new() } else { vec![pod] })
        });
        (done.await.map_err(io::Error::other).flatten())
            .map(|absent| Reply::Held { absent })
            .map_err(|error: io::Error| {
                log(format_args!("{expected}: {error}"));
                trouble("infra/agent-failed", expected, error.to_string())
            })
    }

    /// Sets the rules; returns the pods that are not there.
    fn set(lease: Ms, pods: Vec<PodRules>) -> io::Result<Vec<String>> {
        let uids: Vec<&str> = pods.iter().map(|pod| pod.pod.as_str()).collect();
        let found = pods::processes(&uids)?;
        let mut absent = Vec::new();
        for PodRules { pod, rules } in &pods {
            let pids = found.get(pod.as_str()).map(Vec::as_slice).unwrap_or_default();
            let rules = rules.clone();
            let act = move || {
                let rates: Vec<u64> = rules.bounds.iter().map(|bound| bound.rate).collect();
                // The classes are there before a packet is in one, and until none is.
                if !rates.is_empty() {
                    tc::set(&rates)?;
                }
                nft::set(&rules, lease)?;
                if rates.is_empty() { tc::set(&[]) } else { Ok(()) }
            };
            if !pods::inside(pod, pids, act)? {
                absent.push(pod.clone());
            }
        }
        Ok(absent)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// What a connection is told that begins with this.
        async fn told(first: &str) -> Answer {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, peer) = listener.accept().await.unwrap();
            client.write_all(first.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            converse(server, peer, b"key", Able::default()).await;
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            serde_json::from_str(text.lines().next().unwrap()).unwrap()
        }

        fn hello(protocol: u32, token: &str) -> String {
            let ask = Ask::Hello {
                protocol,
                run: "cafe".to_owned(),
                token: token.to_owned(),
            };
            serde_json::to_string(&ask).unwrap() + "\n"
        }

        #[tokio::test]
        async fn only_a_run_with_its_token_is_heard() {
            let good = told(&hello(PROTOCOL, &token(b"key", "cafe"))).await;
            assert!(matches!(good, Ok(Reply::Hello { .. })), "{good:?}");
            let order = "{\"Hold\":{\"lease\":1,\"pods\":[]}}\n".to_owned();
            let other = hello(PROTOCOL, &token(b"key", "beef"));
            let later = hello(PROTOCOL + 1, &token(b"key", "cafe"));
            for bad in [order, other, later, String::new(), "\n".to_owned(), "x".repeat(5000)] {
                let told = told(&bad).await.unwrap_err();
                assert_eq!(told.code, "infra/agent-refused", "{bad}");
            }
        }
    }
}
