//! A probe program for the tests of the backend: it behaves like a node as far as processes and sockets go, and is no chain.
//!
//! It greets whoever connects with a byte, sends a byte every few milliseconds over each connection from then on, and
//! keeps trying to reach those it is told to dial.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Arguments of the hidden subcommand `testnode`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestnodeArgs {
    /// Where it listens
    #[arg(long)]
    pub listen: Vec<SocketAddr>,
    /// Whom it dials, again whenever the connection ends
    #[arg(long)]
    pub dial: Vec<SocketAddr>,
    /// Bytes to write to standard output at the start
    #[arg(long, default_value_t = 0)]
    pub spam: usize,
    /// Milliseconds between the bytes that it sends
    #[arg(long, default_value_t = 10)]
    pub beat: u64,
    /// Takes no notice of SIGTERM
    #[arg(long)]
    pub stubborn: bool,
    /// Leaves a child in a session of its own behind
    #[arg(long)]
    pub escape: bool,
    /// Ends with this code after the start
    #[arg(long)]
    pub exit: Option<u8>,
    /// Becomes a session of its own; what `escape` starts
    #[arg(long)]
    pub session: bool,
}

/// Between two attempts to reach somebody.
const RETRY: Duration = Duration::from_millis(10);

/// Runs until it is ended.
#[must_use]
pub fn run(args: TestnodeArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(node(args))) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(io::stderr(), "testnode: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn node(args: TestnodeArgs) -> io::Result<ExitCode> {
    let TestnodeArgs {
        listen,
        dial,
        spam,
        beat,
        stubborn,
        escape,
        exit,
        session,
    } = args;
    let beat = Duration::from_millis(beat);
    if session {
        nix::unistd::setsid()?;
    }
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    if escape {
        drop(
            std::process::Command::new(std::env::current_exe()?)
                .args(["testnode", "--listen", "127.0.0.1:0", "--session", "--stubborn"])
                .spawn()?,
        );
    }
    write_lines(spam)?;
    if let Some(code) = exit {
        writeln!(io::stdout(), "last words")?;
        return Ok(ExitCode::from(code));
    }
    for address in listen {
        let listener = TcpListener::bind(address).await?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, beat));
            }
        });
    }
    for address in dial {
        tokio::spawn(async move {
            loop {
                if let Ok(stream) = TcpStream::connect(address).await {
                    talk(stream, beat).await;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }
    loop {
        term.recv().await;
        if !stubborn {
            writeln!(io::stdout(), "ended politely")?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn write_lines(bytes: usize) -> io::Result<()> {
    const LINE: &[u8; 64] = b"0123456789012345678901234567890123456789012345678901234567890ab\n";
    let mut out = io::BufWriter::new(io::stdout());
    for _ in 0..bytes / LINE.len() {
        out.write_all(LINE)?;
    }
    out.flush()
}

/// Sends a byte at each beat and reads what comes, until the connection ends.
async fn talk(mut stream: TcpStream, beat: Duration) {
    drop(stream.set_nodelay(true));
    let (mut from, mut to) = stream.split();
    let mut beat = tokio::time::interval(beat);
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            _ = beat.tick() => if to.write_all(b".").await.is_err() { return },
            read = from.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
        }
    }
}
