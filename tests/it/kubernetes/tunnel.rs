//! Tunnels, the view of pods and the logs, against a real cluster: what comes through, and what is said when something is wrong.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use trialnet::backend::kubernetes::logs::{self, Logs};
use trialnet::backend::kubernetes::tunnel;
use trialnet::backend::kubernetes::watch::{Pods, State, View};
use trialnet::record::Silence;

/// For a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(90);
/// Within this time a fact has to be known.
const FACT: Duration = Duration::from_secs(15);
/// The image of the pods here: a static busybox.
const IMAGE: &str = "localhost/trialnet-test/busybox:1";

/// A namespace of its own on the cluster.
#[derive(Clone)]
struct Space {
    client: Client,
    config: Config,
    name: String,
}

/// Runs a test in a namespace that goes afterwards, also when the test fails.
async fn within<F: Future<Output = ()>>(purpose: &str, labels: Value, test: impl FnOnce(Space) -> F) {
    let Some((client, config)) = cluster().await else {
        return;
    };
    let name = format!("trialnet-it-{purpose}-{:08x}", rand::random::<u32>());
    let spaces: Api<Namespace> = Api::all(client.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap();
    spaces.create(&PostParams::default(), &made).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    eventually("the service account", || async {
        accounts.get("default").await.map_err(|error| error.to_string())
    })
    .await;
    let space = Space {
        client: client.clone(),
        config,
        name: name.clone(),
    };
    let result = std::panic::AssertUnwindSafe(test(space)).catch_unwind().await;
    let pods: Api<Pod> = Api::namespaced(client, &name);
    drop(spaces.delete(&name, &DeleteParams::default()).await);
    drop(
        pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
            .await,
    );
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// The cluster of the current context, if it is local.
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
async fn cluster() -> Option<(Client, Config)> {
    let found = async {
        let mut config = Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        config.default_retry = false;
        let host = config.cluster_url.host().unwrap_or_default().to_owned();
        if !["127.0.0.1", "localhost", "[::1]"].contains(&host.as_str()) {
            return Err(format!("the cluster is not local: {host}"));
        }
        let client = Client::try_from(config.clone()).map_err(|error| error.to_string())?;
        let nodes: Api<Node> = Api::all(client.clone());
        let nodes = timeout(Duration::from_secs(8), nodes.list(&ListParams::default()))
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|error| error.to_string())?;
        let nodes: Vec<String> = nodes.iter().map(|node| node.name_any()).collect();
        static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
        LOADED.get_or_init(|| load_image(&nodes)).clone()?;
        Ok((client, config))
    };
    match found.await {
        Ok(found) => Some(found),
        Err(why) => {
            let required =
                std::env::var("TRIALNET_REQUIRE").is_ok_and(|what| what.split(',').any(|one| one == "cluster"));
            assert!(!required, "{why}, and TRIALNET_REQUIRE asks for a cluster");
            eprintln!("passed over: {why}");
            None
        }
    }
}

/// Puts the image on every node of the kind cluster, made of the busybox that is on them.
fn load_image(nodes: &[String]) -> Result<(), String> {
    let docker = |args: &[&str], input: &[u8]| {
        let mut child = Command::new("docker")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("docker: {error}"))?;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input)
            .map_err(|error| format!("docker: {error}"))?;
        let output = child.wait_with_output().map_err(|error| format!("docker: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("docker {args:?}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    for node in nodes {
        let images = docker(&["exec", node, "ctr", "-n", "k8s.io", "images", "ls", "-q"], &[])?;
        if String::from_utf8_lossy(&images).lines().any(|image| image == IMAGE) {
            continue;
        }
        let busybox = docker(&["exec", node, "cat", "/bin/busybox"], &[])?;
        let archive = archive(&busybox);
        docker(
            &["exec", "-i", node, "ctr", "-n", "k8s.io", "images", "import", "-"],
            &archive,
        )?;
    }
    Ok(())
}

/// An image in the archive format of docker.
fn archive(busybox: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    let tar = |files: &[(&str, &[u8], u32)]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content, mode) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, *content).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let layer = tar(&[
        ("bin/sh", busybox, 0o755),
        ("bin/busybox", busybox, 0o755),
        ("data/none", b"", 0o666),
    ]);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(sha2::Sha256::digest(&layer)))] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    tar(&[
        ("config.json", config.to_string().as_bytes(), 0o644),
        ("layer.tar", &layer, 0o644),
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
    ])
}

impl Space {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    async fn make<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap();
    }

    /// A pod that runs a shell script; `more` goes over its spec.
    async fn pod(&self, name: &str, script: &str, more: Value) {
        self.make::<Pod>(json!({ "metadata": { "name": name }, "spec": spec(script, more) }))
            .await;
    }

    /// A StatefulSet of one replica with such a pod.
    async fn set(&self, name: &str, script: &str, more: Value) {
        let labels = json!({ "trialnet.dev/node": name });
        self.make::<StatefulSet>(json!({
            "metadata": { "name": name },
            "spec": { "replicas": 1, "serviceName": name, "podManagementPolicy": "Parallel",
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": spec(script, more) } },
        }))
        .await;
    }

    async fn delete(&self, pod: &str, grace: u32) {
        let how = DeleteParams::default().grace_period(grace);
        self.api::<Pod>().delete(pod, &how).await.unwrap();
    }

    /// The cluster by a way that can be broken.
    async fn by_relay(&self) -> (Client, Relay) {
        let to = (
            self.config.cluster_url.host().unwrap().to_owned(),
            self.config.cluster_url.port_u16().unwrap(),
        );
        let relay = Relay::start(to).await;
        let mut config = self.config.clone();
        config.cluster_url = format!("https://127.0.0.1:{}", relay.port).parse().unwrap();
        (Client::try_from(config).unwrap(), relay)
    }
}

fn spec(script: &str, more: Value) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "core", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
            "volumeMounts": [{ "name": "state", "mountPath": "/state" }],
        }],
        "volumes": [{ "name": "state", "emptyDir": {} }],
    });
    merge(&mut spec, more);
    spec
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(more)) if into.len() == more.len() => {
            into.iter_mut().zip(more).for_each(|(into, more)| merge(into, more));
        }
        (into, more) => *into = more,
    }
}

/// A way to the API server that can be held up or cut.
struct Relay {
    port: u16,
    mode: watch::Sender<Mode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are taken and carry nothing.
    Held,
    /// Connections are ended.
    Cut,
}

impl Relay {
    async fn start(to: (String, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (to, mut modes) = (to.clone(), modes.clone());
                tokio::spawn(async move {
                    let mut cut = modes.clone();
                    let pass = async {
                        modes.wait_for(|mode| *mode != Mode::Held).await.unwrap();
                        let Ok(far) = TcpStream::connect(to).await else { return };
                        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                        tokio::join!(
                            pump(near_in, far_out, modes.clone()),
                            pump(far_in, near_out, modes.clone())
                        );
                    };
                    tokio::select! {
                        () = pass => {}
                        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
                    }
                });
            }
        });
        Self { port, mode }
    }

    fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        modes.wait_for(|mode| *mode != Mode::Held).await.unwrap();
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

/// Asks until there is an answer.
async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, ask: impl Fn() -> F) -> T {
    let mut last = String::new();
    let asked = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(seen) => last = seen,
            }
        }
    };
    let answer = timeout(LIMIT, asked).await;
    answer.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}; last: {last}"))
}

/// Sends a text to an echo server and reads it back over a connection of its own.
async fn echo(address: SocketAddr, text: &str) -> Result<String, String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(Duration::from_secs(2), asked).await {
        Ok(Ok(answer)) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

const ECHO: &str = "nc -ll -p 7000 -e /bin/cat & nc -ll -p 7001 -e /bin/echo bye & wait";
/// What busybox calls itself decides what it does, so that the image needs no links.
const ECHO_SET_UP: &str = "busybox --install -s /state && export PATH=/state:$PATH && ";

fn echo_server() -> String {
    format!("{ECHO_SET_UP}{}", ECHO.replace("/bin/", "/state/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_address_leads_to_whatever_pod_has_the_name() {
    within("tunnel", json!({}), |space| async move {
        let pods = Pods::spawn(space.client.clone(), &space.name, None);
        let forward = tunnel::open(space.client.clone(), &space.name, "echo", 7000).unwrap();
        let at = forward.endpoint();
        let known = at.tunnel.clone().unwrap();
        assert!(echo(at.address, "x").await.is_err());
        let (cause, why) = known.last().unwrap();
        assert_eq!(cause, Silence::Refused, "{why}");
        assert!(why.contains("no pod"), "{why}");
        space.pod("echo", &echo_server(), json!({})).await;
        assert_eq!(eventually("an answer", || echo(at.address, "hello")).await, "hello");
        assert_eq!(known.last(), None);

        // Nobody listens at another port of the same pod.
        let closed = tunnel::open(space.client.clone(), &space.name, "echo", 7009)
            .unwrap()
            .endpoint_kept();
        let mut stream = TcpStream::connect(closed.1.address).await.unwrap();
        let read = timeout(LIMIT, stream.read(&mut [0; 8])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let (cause, why) = closed.1.tunnel.unwrap().last().unwrap();
        assert_eq!(cause, Silence::Refused, "{why}");
        assert!(why.contains("refused"), "{why}");

        // What the pod sends last comes through, and then its end.
        let other = tunnel::open(space.client.clone(), &space.name, "echo", 7001)
            .unwrap()
            .endpoint_kept();
        let mut stream = TcpStream::connect(other.1.address).await.unwrap();
        let mut text = String::new();
        timeout(LIMIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert_eq!(text, "bye\n");
        assert_eq!(other.1.tunnel.unwrap().last(), None);

        // A client that has ended its sending still reads.
        let mut stream = TcpStream::connect(at.address).await.unwrap();
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        timeout(LIMIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert_eq!(text, "last words");

        whole_and_in_order(at.address).await;

        let uid = pods.get("echo").unwrap().uid;
        space.delete("echo", 0).await;
        pods.until(LIMIT, |view| match view.pods.get("echo") {
            None => Ok(()),
            Some(pod) => Err(format!("{pod:?}")),
        })
        .await
        .unwrap();
        assert!(echo(at.address, "x").await.is_err());
        assert_eq!(known.last().unwrap().0, Silence::Refused);
        space.pod("echo", &echo_server(), json!({})).await;
        assert_eq!(
            eventually("an answer of the new pod", || echo(at.address, "again")).await,
            "again"
        );
        assert_ne!(pods.get("echo").unwrap().uid, uid);
        assert_eq!(known.last(), None);

        drop((closed.0, other.0));
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let many = (0..20).map(|_| eventually("an answer", || echo(at.address, "many")));
        futures::future::join_all(many).await;
        let mut open = TcpStream::connect(at.address).await.unwrap();
        open.write_all(b"x").await.unwrap();
        open.read_exact(&mut [0]).await.unwrap();
        drop(forward);
        eventually("no task of the tunnel left", || async {
            if tasks() < before {
                Ok(())
            } else {
                Err(format!("{} tasks, {before} before", tasks()))
            }
        })
        .await;
        let read = timeout(LIMIT, open.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        eventually("nobody listening", || async {
            TcpStream::connect(at.address)
                .await
                .map_or(Ok(()), |_| Err("it listens".to_owned()))
        })
        .await;
    })
    .await;
}

/// Keeps a forward and gives its endpoint.
trait Kept {
    fn endpoint_kept(self) -> (tunnel::Forward, trialnet::backend::Endpoint);
}

impl Kept for tunnel::Forward {
    fn endpoint_kept(self) -> (Self, trialnet::backend::Endpoint) {
        let endpoint = self.endpoint();
        (self, endpoint)
    }
}

/// Twenty megabytes there and back, to a reader that begins late: nothing is lost, and the sender is held up meanwhile.
async fn whole_and_in_order(address: SocketAddr) {
    const WORDS: u32 = 5_000_000;
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let (held, sent) = watch::channel(0);
    let sending = tokio::spawn(async move {
        for from in (0..WORDS).step_by(10_000) {
            let bytes: Vec<u8> = (from..from + 10_000).flat_map(u32::to_be_bytes).collect();
            write.write_all(&bytes).await.unwrap();
            held.send_replace(from + 10_000);
        }
        write
    });
    // Until nothing moves any more, since nobody reads.
    let mut before = (u32::MAX, Instant::now());
    while before.1.elapsed() < Duration::from_millis(700) {
        let now = *sent.borrow();
        if now != before.0 {
            before = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(before.0 < WORDS, "the sender was not held up");
    let mut buffer = vec![0; 40_000];
    for from in (0..WORDS).step_by(10_000) {
        timeout(LIMIT, read.read_exact(&mut buffer)).await.unwrap().unwrap();
        let expected: Vec<u8> = (from..from + 10_000).flat_map(u32::to_be_bytes).collect();
        assert!(buffer == expected, "bytes after {from} words");
    }
    drop(sending.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_way_is_not_a_silent_node() {
    within("way", json!({}), |space| async move {
        space.pod("echo", &echo_server(), json!({})).await;
        let (client, relay) = space.by_relay().await;
        let forward = tunnel::open(client, &space.name, "echo", 7000).unwrap();
        let at = forward.endpoint();
        let known = at.tunnel.clone().unwrap();
        eventually("an answer", || echo(at.address, "hello")).await;
        let mut open = TcpStream::connect(at.address).await.unwrap();
        open.write_all(b"x").await.unwrap();
        open.read_exact(&mut [0]).await.unwrap();
        assert_eq!(known.last(), None);

        relay.set(Mode::Cut);
        let read = timeout(Duration::from_secs(5), open.read(&mut [0; 8])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(known.last().unwrap().0, Silence::Tunnel, "{:?}", known.last());
        assert!(echo(at.address, "x").await.is_err());
        assert_eq!(known.last().unwrap().0, Silence::Tunnel, "{:?}", known.last());

        relay.set(Mode::Open);
        eventually("an answer", || echo(at.address, "hello")).await;
        assert_eq!(known.last(), None);

        relay.set(Mode::Held);
        assert!(echo(at.address, "x").await.is_err());
        assert_eq!(known.last().unwrap().0, Silence::Tunnel, "{:?}", known.last());
        relay.set(Mode::Open);
        eventually("an answer", || echo(at.address, "hello")).await;
        assert_eq!(known.last(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_connection_says_what_is_wrong() {
    within("connect", json!({}), |space| async move {
        let to = |pod: &'static str, port| {
            let (client, space) = (space.client.clone(), space.name.clone());
            async move { tunnel::connect(client, &space, pod, port).await }
        };
        let (cause, why) = to("echo", 7000).await.err().unwrap();
        assert_eq!(cause, Silence::Refused, "{why}");
        space
            .pod("waits", "true", json!({ "nodeSelector": { "none": "none" } }))
            .await;
        let (cause, why) = to("waits", 7000).await.err().unwrap();
        assert_eq!(cause, Silence::Refused, "{why}");
        assert!(why.contains("Pending"), "{why}");
        space.pod("echo", &echo_server(), json!({})).await;
        eventually("an echo", || async {
            let mut stream = to("echo", 7000).await.map_err(|(_, why)| why)?;
            stream.write_all(b"hi").await.map_err(|error| error.to_string())?;
            let mut answer = [0; 2];
            stream
                .read_exact(&mut answer)
                .await
                .map_err(|error| error.to_string())?;
            assert_eq!(&answer, b"hi");
            Ok(())
        })
        .await;
        let mut closed = to("echo", 7009).await.ok().unwrap();
        let error = timeout(LIMIT, closed.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_pods_from_running_is_known_in_seconds() {
    within("trouble", json!({}), |space| async move {
        let one = |more: Value| json!({ "containers": [more] });
        let never = |image: &str| one(json!({ "image": image }));
        let cases = [
            ("absent", "true", never("localhost/trialnet-test/none:1"), "infra/image", "ErrImageNeverPull"),
            ("pulled", "true", one(json!({ "image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always" })), "infra/image", "127.0.0.1:1"),
            ("named", "true", never("No Image"), "infra/image", "InvalidImageName"),
            ("crash", "echo the last words; exit 7", json!({}), "infra/crash-loop", "the last words"),
            ("program", "true", one(json!({ "command": ["/none"] })), "infra/container", "/none"),
            ("config", "true", one(json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "gone", "key": "a" } } }] })), "infra/container", "gone"),
            ("room", "true", one(json!({ "resources": { "requests": { "cpu": "4000" } } })), "infra/unschedulable", "Insufficient cpu"),
            ("nowhere", "true", json!({ "nodeSelector": { "none": "none" } }), "infra/unschedulable", "affinity"),
            // One allocation above its limit; nothing else of the machine is at risk.
            ("memory", "dd if=/dev/zero of=/dev/null bs=96M count=1; exit 1", json!({ "containers": [{ "resources": { "limits": { "memory": "24Mi" } } }] }), "infra/out-of-memory", "OOMKilled"),
            ("mount", "true", json!({ "volumes": [{ "name": "state", "secret": { "secretName": "gone" }, "emptyDir": null }] }), "infra/volume", "gone"),
        ];
        let pods = Pods::spawn(space.client.clone(), &space.name, Some("trialnet.dev/node"));
        for (name, script, more, ..) in &cases {
            space.set(name, script, more.clone()).await;
        }
        // Well, and to be left alone. When it runs the cluster has had the time that a busy machine takes for all of them.
        space.set("well", "exec sleep 1000", json!({})).await;
        pods.until(LIMIT, |view| {
            let pod = view.pod_of("well").ok_or("no pod")?;
            if pod.running() { Ok(()) } else { Err(format!("{pod:?}")) }
        })
        .await
        .unwrap();
        let begun = Instant::now();
        for (name, _, _, code, words) in &cases {
            let node = (*name).to_owned();
            let trouble = eventually(name, || async {
                pods.trouble(&space.client, [&node]).await.ok_or_else(|| format!("{:?}", pods.get(&format!("{node}-0"))))
            })
            .await;
            println!("{name}: {} after {:?}: {trouble}", trouble.code, begun.elapsed());
            assert_eq!(trouble.code, *code, "{trouble}");
            assert_eq!(trouble.node.as_deref(), Some(*name));
            assert!(trouble.seen.contains(words), "{name}: {trouble}");
            assert!(trouble.seen.contains(&format!("kubectl -n {} describe", space.name)), "{trouble}");
        }
        assert!(begun.elapsed() < FACT, "{:?}", begun.elapsed());
        assert_eq!(pods.trouble(&space.client, [&"well".to_owned()]).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_not_even_made_has_its_reason() {
    let restricted = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    within("refused", restricted, |space| async move {
        let pods = Pods::spawn(space.client.clone(), &space.name, None);
        let trouble = |node: &'static str| {
            let (pods, client) = (pods.clone(), space.client.clone());
            async move {
                // The fact is what the controller says; when it tries is its own affair.
                let said = |view: &View| view.events.iter().any(|event| event.name == node && event.warning);
                pods.until(LIMIT, |view| said(view).then_some(()).ok_or_else(|| "no event".to_owned()))
                    .await
                    .unwrap();
                let begun = Instant::now();
                let node = node.to_owned();
                let found = eventually("trouble", || async {
                    pods.trouble(&client, [&node]).await.ok_or_else(|| "none".to_owned())
                })
                .await;
                println!("{node}: {} after {:?}: {found}", found.code, begun.elapsed());
                assert!(begun.elapsed() < FACT, "{:?}", begun.elapsed());
                found
            }
        };
        space.set("insecure", "true", json!({})).await;
        assert_eq!(trouble("insecure").await.code, "infra/pod-refused");
        space
            .make::<ResourceQuota>(json!({ "metadata": { "name": "small" }, "spec": { "hard": { "pods": "0" } } }))
            .await;
        eventually("the quota", || async {
            let quota = space.api::<ResourceQuota>().get("small").await.map_err(|error| error.to_string())?;
            quota.status.and_then(|status| status.used).map(drop).ok_or_else(|| "no status".to_owned())
        })
        .await;
        let secure = json!({
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
        });
        space.set("big", "true", secure).await;
        let found = trouble("big").await;
        assert_eq!(found.code, "infra/quota");
        assert!(found.seen.contains("small"), "{found}");
    })
    .await;
}

/// Lines with a number, in four flavours of an end: the fifth container of the pod runs until it is told to end.
const COUNTING: &str = "cd /state; busybox --install -s /state; PATH=/state; \
    gen=$(cat gen 2>/dev/null || echo 0); gen=$((gen + 1)); echo $gen > gen; \
    trap 'echo $gen bye; exit 0' TERM; i=0; \
    while [ $gen -ge 3 ] || [ $i -lt 150 ]; do i=$((i + 1)); echo $gen $i; usleep 10000; done";

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_whole_across_restarts_pods_and_broken_streams() {
    within("logs", json!({}), |space| async move {
        let folder = tempfile::tempdir().unwrap();
        let (client, relay) = space.by_relay().await;
        let pods = Pods::spawn(client.clone(), &space.name, None);
        let logs = Logs::spawn(client, &space.name, pods.clone(), folder.path()).unwrap();
        let failing = json!([{ "name": "prepare", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", "echo preparing; [ -e /state/there ] || { echo > /state/there; echo not yet; exit 3; }"],
            "volumeMounts": [{ "name": "state", "mountPath": "/state" }] }]);
        space.set("a", COUNTING, json!({ "initContainers": failing })).await;
        space
            .make::<Secret>(json!({ "metadata": { "name": "keys" }, "stringData": { "f0": "a key that stays here" } }))
            .await;
        let path = folder.path().join("logs/a.core.log");
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        let has = |wanted: &'static str| {
            let text = &text;
            async move {
                eventually(wanted, || async {
                    let now = text();
                    if now.lines().any(|line| line == wanted) { Ok(()) } else { Err(now.lines().last().unwrap_or("nothing").to_owned()) }
                })
                .await;
            }
        };
        has("1 20").await;
        relay.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(200)).await;
        relay.set(Mode::Open);
        has("2 5").await;
        has("3 30").await;
        let pod = pods.get("a-0").unwrap();
        let core = pod.container("core").unwrap();
        assert!(core.restarts >= 2 && matches!(core.state, State::Running { .. }), "{pod:?}");
        // Comes and goes while nothing can be read.
        relay.set(Mode::Held);
        tokio::time::sleep(Duration::from_secs(1)).await;
        relay.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(100)).await;
        relay.set(Mode::Open);
        let now = text().lines().count();
        eventually("more lines", || async {
            if text().lines().count() > now + 100 { Ok(()) } else { Err(text().lines().last().unwrap_or_default().to_owned()) }
        })
        .await;
        // Another pod, gracefully: its last words come as well.
        space.delete("a-0", 2).await;
        has("3 bye").await;
        pods.until(LIMIT, |view| {
            let new = view.pods.get("a-0").filter(|new| new.uid != pod.uid && new.running());
            new.map(drop).ok_or_else(|| format!("{:?}", view.pods.get("a-0")))
        })
        .await
        .unwrap();
        eventually("lines of the new pod", || async {
            let last = text().lines().last().unwrap_or_default().to_owned();
            if last.starts_with("1 ") || last.starts_with("2 ") { Ok(()) } else { Err(last) }
        })
        .await;
        let missing = logs.finish(LIMIT).await;
        assert_eq!(missing, Vec::<String>::new());
        counts(&text());
        let prepared = std::fs::read_to_string(folder.path().join("logs/a.prepare.log")).unwrap();
        assert!(prepared.starts_with("preparing\nnot yet\n"), "{prepared}");
        let events = std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap();
        assert!(events.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
        assert!(events.contains("\"SuccessfulCreate\"") && events.contains("\"Killing\""), "{events}");
        assert_eq!(logs::dump(&space.client, &space.name, folder.path()).await, Vec::<String>::new());
        dumped(&folder.path().join("objects"));
    })
    .await;
}

/// Each container's lines count from 1 without a gap, and none stands there twice.
fn counts(text: &str) {
    let mut expected = (0, 0);
    let mut containers = 0;
    for (number, line) in text.lines().enumerate() {
        let (generation, count) = line.split_once(' ').unwrap_or_else(|| panic!("line {number}: {line}"));
        let generation: u32 = generation.parse().unwrap_or_else(|_| panic!("line {number}: {line}"));
        if generation != expected.0 {
            let next = [expected.0 + 1, 1].contains(&generation);
            assert!(next && count == "1", "line {number}: {line} after {expected:?}");
            containers += 1;
            expected = (generation, 0);
        }
        if count != "bye" {
            assert_eq!(
                count.parse(),
                Ok(expected.1 + 1),
                "line {number}: {line} after {expected:?}"
            );
            expected.1 += 1;
        }
    }
    assert!(containers >= 4, "{containers} containers");
}

fn dumped(folder: &Path) {
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("pod.a-0.yaml").contains("containerStatuses"));
    assert!(read("statefulset.a.yaml").contains("apiVersion: apps/v1"));
    let secret = read("secret.keys.yaml");
    assert!(
        secret.contains("f0: not shown") && !secret.contains("YSBrZXk"),
        "{secret}"
    );
}

/// What tunnels cost; for the books, not a judgement: `cargo test --test it kubernetes::tunnel::cost -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn cost_of_tunnels() {
    within("cost", json!({}), |space| async move {
        space.pod("echo", &echo_server(), json!({})).await;
        let forward = tunnel::open(space.client.clone(), &space.name, "echo", 7000).unwrap();
        let at = forward.endpoint().address;
        eventually("an answer", || echo(at, "x")).await;
        let mut first = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            echo(at, "hello").await.unwrap();
            first.push(begun.elapsed());
        }
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut again = Vec::new();
        for _ in 0..500 {
            let begun = Instant::now();
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            again.push(begun.elapsed());
        }
        let begun = Instant::now();
        let forwards: Vec<_> = (0..100)
            .map(|_| tunnel::open(space.client.clone(), &space.name, "echo", 7000).unwrap())
            .collect();
        let opened = begun.elapsed();
        let asked = forwards.iter().map(|forward| {
            let at = forward.endpoint().address;
            async move { eventually("an answer", || echo(at, "hello")).await }
        });
        futures::future::join_all(asked).await;
        for (what, mut times) in [("open and first request", first), ("request on an open stream", again)] {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100];
            println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
        }
        println!(
            "100 tunnels: made in {opened:?}, all answered after {:?}",
            begun.elapsed()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_outlives_a_broken_watch() {
    within("watch", json!({}), |space| async move {
        let (client, relay) = space.by_relay().await;
        let pods = Pods::spawn(client, &space.name, None);
        space.pod("one", "exec sleep 1000", json!({})).await;
        let runs = |name: &'static str| {
            let pods = pods.clone();
            async move {
                let there = pods.until(LIMIT, |view| {
                    let pod = view.pods.get(name).filter(|pod| pod.running());
                    pod.map(|pod| pod.uid.clone()).ok_or_else(|| format!("{:?}", view.pods))
                });
                there.await.unwrap()
            }
        };
        runs("one").await;
        relay.set(Mode::Cut);
        let broken = pods.until(LIMIT, |view| view.broken.clone().ok_or_else(|| "it works".to_owned()));
        broken.await.unwrap();
        let short = pods.until(Duration::from_millis(10), |_| Err::<(), _>("nothing".to_owned()));
        let words = short.await.unwrap_err();
        assert!(words.contains("the watch does not work"), "{words}");
        // What happens meanwhile is known afterwards.
        space.delete("one", 0).await;
        space.pod("two", "exec sleep 1000", json!({})).await;
        relay.set(Mode::Open);
        runs("two").await;
        assert_eq!(pods.get("one"), None);
        let works = pods.until(LIMIT, |view| view.broken.clone().map_or(Ok(()), Err));
        works.await.unwrap();
        // The pods that somebody else labels are known as nodes.
        let label = json!({ "metadata": { "labels": { "trialnet.dev/node": "b" } } });
        let patch = Patch::Merge(&label);
        space
            .api::<Pod>()
            .patch("two", &PatchParams::default(), &patch)
            .await
            .unwrap();
        let named = pods.until(LIMIT, |view| {
            view.pod_of("b").map(drop).ok_or_else(|| format!("{:?}", view.pods))
        });
        named.await.unwrap();
    })
    .await;
}
