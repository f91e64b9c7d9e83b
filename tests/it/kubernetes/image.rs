//! Images that are made from programs and loaded into a real cluster, permissions, and what `doctor` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::json;
use trialnet::backend::kubernetes::access::{self, NEEDS, Scope, Who};
use trialnet::backend::kubernetes::image::{self, Made};
use trialnet::backend::kubernetes::provider::{self, Cluster, Flags};
use trialnet::env;
use trialnet::model::{Kubernetes, Provider};

use super::cluster::found;

/// For a machine that is busy with other tests; what is waited for takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// A namespace that goes when the test ends, also when it fails.
struct Space {
    client: Client,
    name: String,
}

impl Space {
    async fn new(client: &Client, purpose: &str) -> Self {
        let name = format!("images-it-{purpose}-{:08x}", rand::random::<u32>());
        let made: Namespace = serde_json::from_value(json!({ "metadata": { "name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
        } } }))
        .unwrap();
        Api::all(client.clone())
            .create(&PostParams::default(), &made)
            .await
            .unwrap();
        Self {
            client: client.clone(),
            name,
        }
    }

    /// Runs a command in an image to its end, as the user 1000; its exit code and output.
    async fn run(&self, name: &str, made: &Made, command: &[String]) -> (i32, String) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "main", "image": made.tag, "imagePullPolicy": "Never", "command": command,
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                }],
            },
        }))
        .unwrap();
        // The namespace's service account comes a moment after the namespace.
        let created = wait("the pod is taken", || async {
            pods.create(&PostParams::default(), &pod)
                .await
                .map_err(|error| error.to_string())
        });
        created.await;
        let code = wait("the pod has ended", || async {
            let pod = pods.get(name).await.map_err(|error| error.to_string())?;
            let status = pod
                .status
                .and_then(|status| status.container_statuses)
                .unwrap_or_default();
            let ended = status.first().and_then(|one| one.state.as_ref()?.terminated.as_ref());
            ended.map(|ended| ended.exit_code).ok_or_else(|| format!("{status:?}"))
        })
        .await;
        (code, pods.logs(name, &LogParams::default()).await.unwrap())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let name = self.name.clone();
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                namespaces.delete(&name, &DeleteParams::default()).await.ok();
            });
        });
    }
}

/// Asks until there is an answer.
async fn wait<T, F: Future<Output = Result<T, String>>>(what: &str, ask: impl Fn() -> F) -> T {
    let mut last = String::new();
    let asked = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(seen) => last = seen,
            }
        }
    };
    let answer = tokio::time::timeout(LIMIT, asked).await;
    answer.unwrap_or_else(|_| panic!("waited {LIMIT:?} until {what}; last: {last}"))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A program of these tests' own, with something in it that no node has seen yet.
fn fresh(folder: &Path, name: &str, args: &[&str]) -> PathBuf {
    let (code, out) = (folder.join("code.c"), folder.join(name));
    let source = format!(
        "#include <stdio.h>\n#include <unistd.h>\n#include <math.h>\nint main(int n, char **v) {{ volatile double x = n; \
         printf(\"%d {:08x} %g\\n\", (int)getuid(), pow(x, 3)); return 3; }}",
        rand::random::<u32>()
    );
    std::fs::write(&code, source).unwrap();
    let built = Command::new("cc")
        .arg(&code)
        .arg("-o")
        .arg(&out)
        .args(args)
        .arg("-lm")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_in_pods_from_images_made_of_them() {
    let Some((cluster, client)) = found().await else {
        return;
    };
    let begin = Instant::now();
    let own = image::of_self(Path::new(env!("CARGO_BIN_EXE_trialnet"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let linked = image::of_program(&fresh(folder.path(), "linked", &[])).unwrap();
    let single = image::of_program(&fresh(folder.path(), "single", &["-static"])).unwrap();
    let made = begin.elapsed();
    let all = [own.made.clone(), linked.clone(), single.clone()];
    image::load(&cluster, &all).await.unwrap();
    let loaded = begin.elapsed() - made;
    image::load(&cluster, &all).await.unwrap();
    let again = begin.elapsed() - made - loaded;
    println!("three images made in {made:?}, loaded in {loaded:?}, found there in {again:?}");
    let space = Space::new(&client, "run").await;
    let own_command = [own.command.clone(), words(&["--version"])].concat();
    let (linked_command, single_command) = (words(&[&linked.program, "a"]), words(&[&single.program, "a", "b"]));
    let (own, linked, single) = tokio::join!(
        space.run("own", &own.made, &own_command),
        space.run("linked", &linked, &linked_command),
        space.run("single", &single, &single_command),
    );
    assert_eq!(own, (0, format!("trialnet {}\n", env!("CARGO_PKG_VERSION"))));
    assert!(
        linked.0 == 3 && linked.1.starts_with("1000 ") && linked.1.ends_with(" 8\n"),
        "{linked:?}"
    );
    assert!(
        single.0 == 3 && single.1.starts_with("1000 ") && single.1.ends_with(" 27\n"),
        "{single:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_the_machine_runs_in_a_pod() {
    let Some((cluster, client)) = found().await else {
        return;
    };
    let made = match image::of_program(Path::new("cometbft-0.38.17")) {
        Ok(made) => made,
        Err(trouble) => {
            assert!(!env::requires("chains"), "{trouble}");
            return;
        }
    };
    image::load(&cluster, std::slice::from_ref(&made)).await.unwrap();
    let space = Space::new(&client, "chain").await;
    let (code, said) = space.run("chain", &made, &words(&[&made.program, "version"])).await;
    assert!(code == 0 && said.starts_with("0.38.17"), "{code}: {said}");
}

/// Begins to load an image into a node.
fn import(node: &str, made: &Made) -> std::process::Child {
    let args = [
        "exec",
        "-i",
        node,
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "import",
        "--all-platforms",
        "--digests",
        "-",
    ];
    let piped = std::process::Stdio::piped;
    let mut child = Command::new("docker")
        .args(args)
        .stdin(piped())
        .stdout(piped())
        .stderr(piped())
        .spawn()
        .unwrap();
    let (made, stdin) = (made.clone(), child.stdin.take().unwrap());
    std::thread::spawn(move || made.write(stdin).ok());
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_load_the_same_image_at_once() {
    let Some((cluster, client)) = found().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let made = image::of_program(&fresh(folder.path(), "twice", &["-static"])).unwrap();
    let images = [made.clone()];
    try_join_all((0..4).map(|_| image::load(&cluster, &images)))
        .await
        .unwrap();
    if cluster.provider == Provider::Kind {
        // Past the lock, as trialnets of several users do.
        let other = image::of_program(&fresh(folder.path(), "unlocked", &["-static"])).unwrap();
        let node = format!("{}-control-plane", cluster.name);
        let imports: Vec<_> = (0..4).map(|_| import(&node, &other)).collect();
        for import in imports {
            let output = import.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // containerd may refuse all but one; that is what a load tries again after.
            assert!(output.status.success() || said.contains("already exists"), "{said}");
        }
        image::load(&cluster, &[other]).await.unwrap();
    }
    let space = Space::new(&client, "twice").await;
    assert_eq!(space.run("twice", &made, &words(&[&made.program])).await.0, 3);
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told_with_the_programs_words() {
    if Command::new("docker").arg("ps").output().is_err() {
        return;
    }
    let cluster = Cluster {
        provider: Provider::Kind,
        context: "kind-no-such".into(),
        name: "no-such-cluster".into(),
        server: String::new(),
        kubeconfig: None,
        created: false,
        node_image: None,
    };
    let made = image::of_self(Path::new(env!("CARGO_BIN_EXE_trialnet"))).unwrap().made;
    let trouble = image::load(&cluster, std::slice::from_ref(&made)).await.unwrap_err();
    assert_eq!(trouble.code, "infra/image-load");
    assert!(trouble.seen.contains("no-such-cluster"), "{trouble}");
    let existing = Cluster {
        provider: Provider::Existing,
        ..cluster
    };
    let trouble = image::load(&existing, &[made]).await.unwrap_err();
    assert!(trouble.seen.contains("`image`"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trialnet_makes_a_cluster_of_its_own_and_removes_it() {
    let Some((existing, _)) = found().await else { return };
    if existing.provider != Provider::Kind {
        return;
    }
    let flags = Flags {
        create: true,
        ..Flags::default()
    };
    let cluster = provider::choose(&Kubernetes::default(), &flags).unwrap();
    let kubeconfig = cluster.kubeconfig.clone().unwrap();
    let before = std::env::var_os("KUBECONFIG").map(std::fs::read);
    let used = async {
        cluster.make("it-created").await?;
        let client = cluster.client().await?;
        provider::answers(&client, provider::ANSWER_LIMIT).await?;
        access::require(&client, "trialnet-any").await?;
        assert!(provider::created().await.iter().any(|(name, _)| *name == cluster.name));
        let abandoned = provider::abandoned("app.kubernetes.io/managed-by=trialnet", &BTreeSet::new(), |_| true).await;
        assert!(
            !abandoned.contains(&cluster.name),
            "it is young: a run may be about to use it"
        );
        image::reaches(&cluster).await
    };
    let used = used.await;
    cluster.delete().await.unwrap();
    assert!(used.unwrap().contains(&format!("{}-control-plane", cluster.name)));
    assert!(!provider::created().await.iter().any(|(name, _)| *name == cluster.name));
    assert!(!kubeconfig.exists(), "{}", kubeconfig.display());
    let after = std::env::var_os("KUBECONFIG").map(std::fs::read);
    assert!(
        before.map(Result::unwrap) == after.map(Result::unwrap),
        "the user's own kubeconfig is left alone"
    );
    cluster.delete().await.unwrap();
}

#[test]
fn doctor_says_what_a_cluster_has_and_that_one_is_not_there() {
    let doctor = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_trialnet"))
            .args(["doctor", "--backend", "kubernetes"])
            .args(args)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kind-gone", "users": [],
        "clusters": [{ "name": "gone", "cluster": { "server": "http://127.0.0.1:1" } }],
        "contexts": [{ "name": "kind-gone", "context": { "cluster": "gone", "user": "" } }],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let begin = Instant::now();
    let (code, said) = doctor(&["--kubeconfig", path.to_str().unwrap()]);
    assert_eq!(code, 96, "{said}");
    assert!(
        said.contains("infra/cluster-unreachable") && said.contains("onnection refused"),
        "{said}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    if tokio::runtime::Runtime::new().unwrap().block_on(found()).is_some() {
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/quickstart.toml");
        let (code, said) = doctor(&[scenario.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        for part in [
            "Kubernetes version",
            "permissions",
            "capacity",
            "the plan wants",
            "storage class",
            "Pod Security",
            "images",
        ] {
            assert!(said.contains(part), "{part} in\n{said}");
        }
    }
}

/// A client with the rights of `trialnet rbac`, less what `without` names.
async fn limited(client: &Client, space: &Space, without: Option<(&str, &str)>) -> Client {
    let name = space.name.clone();
    let apply = PatchParams::apply("trialnet-tests").force();
    let account: ServiceAccount =
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } }))
            .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    accounts.patch(&name, &apply, &Patch::Apply(&account)).await.unwrap();
    let mut objects = access::role(
        &name,
        &Who::ServiceAccount(name.clone(), name.clone()),
        access::Runs::default(),
    );
    if let Some((resource, verb)) = without {
        let rules = objects[0]["rules"].as_array_mut().unwrap();
        for rule in rules.iter_mut().filter(|rule| rule["resources"][0] == resource) {
            rule["verbs"].as_array_mut().unwrap().retain(|one| one != verb);
        }
        rules.retain(|rule| !rule["verbs"].as_array().unwrap().is_empty());
    }
    // They go with the namespace.
    let owner = Api::<Namespace>::all(client.clone()).get(&name).await.unwrap();
    for object in &mut objects {
        object["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "v1", "kind": "Namespace", "name": name, "uid": owner.metadata.uid }]);
    }
    Api::<ClusterRole>::all(client.clone())
        .patch(&name, &apply, &Patch::Apply(&objects[0]))
        .await
        .unwrap();
    Api::<ClusterRoleBinding>::all(client.clone())
        .patch(&name, &apply, &Patch::Apply(&objects[1]))
        .await
        .unwrap();
    let token = accounts
        .create_token_request(
            &name,
            &PostParams::default(),
            &serde_json::from_value(json!({ "spec": { "audiences": [], "expirationSeconds": 600 } })).unwrap(),
        )
        .await
        .unwrap();
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    config.proxy_url = None;
    config.auth_info = kube::config::AuthInfo {
        token: Some(token.status.unwrap().token.into()),
        ..kube::config::AuthInfo::default()
    };
    Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_needed_verb_is_named_before_anything_is_made() {
    let Some((_, client)) = found().await else { return };
    assert_eq!(
        access::check(&client, None).await.unwrap(),
        [],
        "the administrator may do everything"
    );
    let (whole, less, extra) = tokio::join!(
        Space::new(&client, "whole"),
        Space::new(&client, "less"),
        Space::new(&client, "extra"),
    );
    let enough = limited(&client, &whole, None).await;
    let short = limited(&client, &less, Some(("statefulsets", "patch"))).await;
    let extra_missing = limited(&client, &extra, Some(("nodes", "list"))).await;
    // The API server takes a new role into account within moments.
    let seen = wait("the roles count", || async {
        access::require(&enough, "trialnet-not-there-yet")
            .await
            .map_err(|trouble| trouble.seen)?;
        let short = access::require(&short, "trialnet-not-there-yet")
            .await
            .err()
            .ok_or("everything is allowed")?;
        if short.seen.contains("pods") {
            Err(short.seen)
        } else {
            Ok(short)
        }
    })
    .await;
    assert_eq!(seen.code, "infra/cluster-forbidden");
    assert!(seen.seen.contains("patch statefulsets.apps"), "{seen}");
    let missing = wait("the last role counts", || async {
        let missing = access::check(&extra_missing, None)
            .await
            .map_err(|trouble| trouble.seen)?;
        if missing.len() == 1 {
            Ok(missing)
        } else {
            Err(format!("{missing:?}"))
        }
    })
    .await;
    assert_eq!((missing[0].need.scope, missing[0].verb), (Scope::Extra, "list"));
    access::require(&extra_missing, "trialnet-not-there-yet").await.unwrap();
}

#[test]
fn the_printed_role_is_the_table() {
    let printed = Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(["rbac", "--service-account", "ci/trialnet"])
        .output()
        .unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    let resources: BTreeMap<_, _> = NEEDS.iter().map(|need| (need.resource, need)).collect();
    for resource in resources.keys() {
        assert!(text.contains(resource), "{resource} in\n{text}");
    }
    assert!(
        text.contains("kind: ClusterRole\n") && text.contains("namespace: ci"),
        "{text}"
    );
}
