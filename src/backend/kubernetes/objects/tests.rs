use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::agent::supervise::protocol::Spec;
use crate::backend::{File, Port, Write};
use crate::model::Resources;

/// A component that is trialnet itself.
pub(super) fn component(name: &str) -> Component {
    Component {
        name: name.into(),
        program: Program::Trialnet,
        version: "1".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        ports: Vec::new(),
        files: Vec::new(),
        user: None,
        resources: Resources::default(),
    }
}

/// A node with one volume.
pub(super) fn node(name: &str, components: Vec<Component>) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        place: crate::backend::Place::default(),
        components,
        volumes: vec!["home".into()],
        started: true,
    }
}

fn file(path: &str, content: &[u8], secret: bool, write: Write) -> File {
    File {
        volume: "home".into(),
        path: path.into(),
        content: content.into(),
        secret,
        write,
    }
}

/// A node of two components: the chain's own program, which has the ports, and trialnet itself.
fn two(name: &str) -> NodeSpec {
    let core = Component {
        program: Program::Chain {
            binary: Some("chaind".into()),
            program: "chaind".into(),
            image: Some("chain/chaind:1".into()),
            hint: String::new(),
        },
        args: vec!["start".into(), "--home".into(), "/data/home".into()],
        env: BTreeMap::from([("LEVEL".into(), "yes".into())]),
        ports: vec!["p2p".into(), "rpc".into()],
        files: vec![
            file("config/config.toml", b"a = 1\n\nb = \"yes\"  \n", false, Write::Always),
            file("config/key.json", b"{\"private_key\":\"the key\"}", true, Write::Always),
            file("data/state", &[0xff, 0], false, Write::Once),
        ],
        ..component("core")
    };
    let app = Component {
        args: vec!["devnode".into()],
        user: Some(2000),
        resources: Resources {
            cpu: Some("0.5".into()),
            memory: None,
            cpu_limit: None,
            memory_limit: Some("32Mi".into()),
        },
        ..component("app")
    };
    node(name, vec![core, app])
}

fn wanted(specs: &[NodeSpec]) -> Vec<Wanted> {
    let port = |name, number| Port { name, number };
    let of = |spec: &NodeSpec| Wanted {
        node: spec.name.clone(),
        ports: vec![port("p2p", 26656), port("rpc", 26657)],
        volumes: spec.volumes.clone(),
    };
    specs.iter().map(of).collect()
}

fn link(from: &str, to: &str) -> LinkId {
    LinkId {
        from: from.into(),
        to: to.into(),
        port: "p2p".into(),
    }
}

pub(super) fn options(specs: &[NodeSpec]) -> Options {
    let image = |name: &str, program: Option<&str>| Image {
        name: name.into(),
        program: program.map(str::to_owned),
        pull: PullPolicy::Never,
    };
    let core = |spec: &NodeSpec| {
        let image = image("trialnet.local/chaind:0123456789abcdef", Some("/usr/local/bin/chaind"));
        ((spec.name.clone(), "core".to_owned()), image)
    };
    Options {
        run: "0badcafe".into(),
        scenario: "kill-one".into(),
        owner: Some("somebody@somewhere 7".into()),
        namespace: namespace_name("kill-one", "0badcafe"),
        settings: Kubernetes {
            storage_class: Some("fast".into()),
            pull_secrets: vec![PullSecret::of("registry"), PullSecret::of("ci/other")],
            quota: BTreeMap::from([("requests.cpu".into(), "8".into()), ("services".into(), "9".into())]),
            ..Kubernetes::default()
        },
        persistence: Persistence::Volume,
        lease: Ms::secs(10),
        own: [
            "/trialnet/bin/ld.so",
            "--library-path",
            "/trialnet/bin/lib",
            "/trialnet/bin/trialnet",
        ]
        .map(str::to_owned)
        .into(),
        own_image: image("trialnet.local/trialnet:fedcba9876543210", None),
        images: specs.iter().map(core).collect(),
        credentials: BTreeMap::from([(
            PullSecret::of("ci/other"),
            ByteString(b"{\"auths\":{\"x\":{}}}".to_vec()),
        )]),
        voting: vec!["validator-0".into()],
        min_available: Some(1),
        alone: BTreeSet::new(),
        kept: Vec::new(),
        shapes: Vec::new(),
        expires: Some("2026-11-22T10:00:00Z".into()),
    }
}

/// A network of two such nodes that dial each other.
fn network_of(specs: &[NodeSpec], options: &Options) -> Result<Vec<Object>, Trouble> {
    let links = [link("validator-0", "full-0"), link("full-0", "validator-0")];
    let addresses = addresses(&wanted(specs), &links)?;
    network(specs, &addresses, &links, options)
}

fn specs() -> Vec<NodeSpec> {
    vec![
        two("validator-0"),
        NodeSpec {
            started: false,
            ..two("full-0")
        },
    ]
}

/// The trouble with a node that was changed.
fn refused(change: impl FnOnce(&mut NodeSpec)) -> Trouble {
    let mut specs = specs();
    let options = options(&specs);
    change(&mut specs[0]);
    let addresses = addresses(&wanted(&specs), &[]).unwrap();
    network(&specs, &addresses, &[], &options).unwrap_err()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Object {
    let found = objects
        .iter()
        .find(|object| object.kind() == kind && object.name() == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn pod_of(objects: &[Object], name: &str) -> Value {
    find(objects, "StatefulSet", name).value()["spec"]["template"]["spec"].clone()
}

#[test]
fn a_whole_network() {
    let specs = specs();
    let objects = network_of(&specs, &options(&specs)).unwrap();
    let again = network_of(&specs, &options(&specs)).unwrap();
    assert_eq!(objects, again, "the same specs are the same objects");
    let stream: String = objects
        .into_iter()
        .map(|object| object.redacted().yaml().unwrap())
        .collect();
    insta::assert_snapshot!(stream);
}

#[test]
fn a_node_of_six_services_is_one_pod() {
    // A CITA-Cloud node: each service is a program of its own with a gRPC port.
    let services = ["network", "consensus", "executor", "storage", "controller", "crypto"];
    let six = |name: &str| {
        let service = |service: &&str| Component {
            ports: vec![(*service).to_owned()],
            ..component(service)
        };
        node(name, services.iter().map(service).collect())
    };
    let specs = [six("node-0"), six("node-1")];
    let wanted = specs.each_ref().map(|spec| Wanted {
        node: spec.name.clone(),
        ports: (50_000..)
            .zip(services)
            .map(|(number, name)| Port { name, number })
            .collect(),
        volumes: spec.volumes.clone(),
    });
    let objects = network(&specs, &addresses(&wanted, &[]).unwrap(), &[], &options(&specs)).unwrap();
    let pod = pod_of(&objects, "node-1");
    let containers = pod["containers"].as_array().unwrap();
    let ports = |container: &Value| container["ports"][0]["containerPort"].as_u64();
    let seen: Vec<_> = containers
        .iter()
        .map(|container| (container["name"].as_str().unwrap(), ports(container).unwrap()))
        .collect();
    assert_eq!(seen, Vec::from_iter(services.into_iter().zip(50_000..)));
    let service = find(&objects, "Service", "node-1").value();
    let offered = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["port"].as_u64().unwrap());
    assert_eq!(offered.collect::<BTreeSet<_>>(), (50_000..50_006).collect());
}

#[test]
fn yaml_says_what_the_api_is_told() {
    let specs = specs();
    for object in network_of(&specs, &options(&specs)).unwrap() {
        let read: Vec<Value> = serde_saphyr::from_multiple(&object.yaml().unwrap()).unwrap();
        assert_eq!(read, [object.value()]);
        assert_eq!(object.value()["kind"], object.kind());
        assert_eq!(object.value()["apiVersion"], object.resource().api_version);
    }
}

#[test]
fn texts_of_any_kind_survive_yaml() {
    let texts = [
        "yes",
        "012",
        "1e3",
        "~",
        "",
        " ",
        "# no",
        "a: b",
        "- a",
        "\ttab\n",
        "two\nlines",
        "two\nlines\n\n\n",
        "\n first",
        "  in\nout",
        "trailing  \nblanks \n",
        "\r\nwindows\r\n",
        "a \u{85} b\u{2028}c",
        "---\n",
        "'\"\\",
        "\u{7}",
        "2025-01-01",
    ];
    for text in texts
        .iter()
        .map(|text| (*text).to_owned())
        .chain([format!("{} b", "long ".repeat(60))])
    {
        let object = Object::ConfigMap(ConfigMap {
            data: Some(BTreeMap::from([("f0".to_owned(), text.clone())])),
            ..ConfigMap::default()
        });
        let yaml = object.yaml().unwrap();
        let read: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        assert_eq!(read[0]["data"]["f0"], text.as_str(), "{yaml}");
    }
}

#[test]
fn a_node_reaches_another_one_inside_its_own_pod() {
    let nodes: Vec<NodeSpec> = (0..252).map(|index| node(&format!("n-{index}"), Vec::new())).collect();
    let links = [
        link("n-0", "n-1"),
        link("n-1", "n-249"),
        link("n-1", "n-250"),
        link("n-1", "n-251"),
    ];
    let reserved = addresses(&wanted(&nodes), &links).unwrap();
    let at = |link: &LinkId| reserved.links[link].to_string();
    assert_eq!(
        links.each_ref().map(at),
        [
            "127.77.0.2:36656",
            "127.77.0.250:36656",
            "127.77.1.1:36656",
            "127.77.1.2:36656"
        ]
    );
    let own = &reserved.nodes["n-7"];
    assert!(own.ip.is_unspecified());
    assert_eq!(own.ports["rpc"], 26657);
    assert_eq!(own.volumes["home"], PathBuf::from("/data/home"));
}

#[test]
fn ports_that_are_in_each_others_way_are_refused() {
    let with = |ports: &[(&'static str, u16)]| {
        let mut wanted = wanted(&[node("a-0", Vec::new()), node("b-0", Vec::new())]);
        for node in &mut wanted {
            let ports = ports.iter();
            node.ports = ports.map(|&(name, number)| Port { name, number }).collect();
        }
        addresses(&wanted, &[link("a-0", "b-0")]).map_err(|trouble| trouble.seen)
    };
    assert!(with(&[("p2p", 26656)]).is_ok());
    assert!(with(&[("p2p", 60_000)]).unwrap_err().contains("60000"));
    assert!(with(&[("p2p", 26656), ("grpc", 36656)]).unwrap_err().contains("`grpc`"));
    assert!(with(&[("rpc", 26657)]).unwrap_err().contains("a-0 -> b-0 (p2p)"));
}

#[test]
fn credentials_are_copied_and_never_shown() {
    let specs = specs();
    let objects = network_of(&specs, &options(&specs)).unwrap();
    let held = |object: &Object| {
        let value = object.value();
        assert_eq!(value["type"], "kubernetes.io/dockerconfigjson");
        value["data"][".dockerconfigjson"].clone()
    };
    let text = |bytes: &[u8]| serde_json::to_value(ByteString(bytes.to_vec())).unwrap();
    let read = find(&objects, "Secret", "pull.other");
    assert_eq!(held(read), text(b"{\"auths\":{\"x\":{}}}"));
    assert_eq!(held(&read.clone().redacted()), text(b"{\"auths\":{}}"));
    assert_eq!(held(find(&objects, "Secret", "pull.registry")), text(b"{\"auths\":{}}"));
    assert_eq!(
        pod_of(&objects, "validator-0")["imagePullSecrets"],
        json!([{ "name": "pull.registry" }, { "name": "pull.other" }])
    );
}

#[test]
fn supervisors_are_told_apart() {
    let specs = specs();
    let objects = network_of(&specs, &options(&specs)).unwrap();
    let data = find(&objects, "ConfigMap", "full-0").value()["data"].clone();
    let told = |name: &str| serde_json::from_str::<Spec>(data[name].as_str().unwrap()).unwrap();
    let (core, app) = (told("core.json"), told("app.json"));
    assert_eq!((core.control, app.control), (20_000, 20_001));
    assert_ne!(core.state, app.state);
    assert_eq!(
        (core.program, app.program),
        (Some("/usr/local/bin/chaind".into()), None)
    );
    assert!(!core.started);
    assert_eq!(core.links.len(), 1, "the component with the port has the links");
    assert_eq!(
        (core.links[0].host.as_str(), core.links[0].port),
        ("validator-0", 26656)
    );
    assert!(app.links.is_empty());
    assert_eq!(core.env["LEVEL"], "yes");
    let from: Vec<_> = core.files.iter().map(|file| file.from.to_str().unwrap()).collect();
    assert_eq!(
        from,
        ["/trialnet/files/f0", "/trialnet/secrets/f1", "/trialnet/files/f2"]
    );
    assert_eq!(core.files[1].to, PathBuf::from("/data/home/config/key.json"));
}

#[test]
fn trialnet_is_brought_where_an_image_lacks_it() {
    let mut specs = specs();
    let mut options = options(&specs);
    let pod = pod_of(&network_of(&specs, &options).unwrap(), "validator-0");
    assert_eq!(pod["initContainers"][0]["command"][4], "supervise-install");
    let mounts = |index: usize| {
        let mounts = pod["containers"][index]["volumeMounts"].as_array().unwrap();
        mounts.iter().any(|mount| mount["mountPath"] == "/trialnet/bin")
    };
    assert!(mounts(0), "the chain's image has no trialnet");
    assert!(!mounts(1), "its own image has it there already");
    for spec in &mut specs {
        spec.components.remove(0);
        spec.components[0].ports = vec!["p2p".into()];
    }
    options.persistence = Persistence::Ephemeral;
    let objects = network_of(&specs, &options).unwrap();
    let pod = pod_of(&objects, "validator-0");
    assert_eq!(pod["initContainers"], Value::Null);
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(
        volumes.contains(&json!({ "name": "home", "emptyDir": {} })),
        "{volumes:?}"
    );
    assert!(!volumes.iter().any(|volume| volume["name"] == "trialnet-bin"));
    let set = find(&objects, "StatefulSet", "validator-0").value();
    assert_eq!(set["spec"]["volumeClaimTemplates"], Value::Null);
    assert!(
        !(objects.iter()).any(|object| object.kind() == "Secret" && !object.name().starts_with("pull.")),
        "no keys, no Secret"
    );
}

#[test]
fn the_quota_fits_the_plan_exactly() {
    let specs = specs();
    let mut options = options(&specs);
    let hard = |options: &Options| quota(&specs, options).unwrap().value()["spec"]["hard"].clone();
    assert_eq!(
        hard(&options),
        json!({
            // Two nodes and a spare pod; an app asks for half a cpu and 32 MiB, which its limit allows, a core for the usual.
            "pods": "3",
            "requests.memory": "256Mi",
            "persistentvolumeclaims": "2",
            "requests.storage": "2048Mi",
            // The file's.
            "requests.cpu": "8",
            "services": "9",
        })
    );
    options.settings.quota.clear();
    options.settings.storage = Some("10Gi".into());
    assert_eq!(hard(&options)["requests.cpu"], "1060m");
    assert_eq!(hard(&options)["requests.storage"], "20480Mi");
    options.settings.storage = Some("much".into());
    assert!(quota(&specs, &options).unwrap_err().seen.contains("much"));
}

#[test]
fn requests_stay_below_limits() {
    let specs = specs();
    let pod = pod_of(&network_of(&specs, &options(&specs)).unwrap(), "validator-0");
    let resources = |index: usize| pod["containers"][index]["resources"].clone();
    assert_eq!(resources(0), json!({ "requests": { "cpu": "20m", "memory": "64Mi" } }));
    assert_eq!(
        resources(1),
        json!({ "requests": { "cpu": "0.5", "memory": "32Mi" }, "limits": { "memory": "32Mi" } })
    );
    let trouble = refused(|spec| spec.components[0].resources.cpu = Some("lots".into()));
    assert_eq!(trouble.node.as_deref(), Some("validator-0"));
    assert!(trouble.to_string().contains("lots"), "{trouble}");
}

#[test]
fn files_that_are_too_large_are_refused() {
    let large = |secret| file("big", &vec![b'x'; 1024 * 1024 + 1], secret, Write::Always);
    for (secret, kind) in [(false, "ConfigMap"), (true, "Secret")] {
        let trouble = refused(|spec| spec.components[0].files.push(large(secret)));
        assert_eq!(trouble.code, "infra/object-too-large");
        assert!(trouble.expected.contains(kind), "{trouble}");
    }
}

#[test]
fn what_cannot_be_a_pod_is_refused() {
    for (change, part) in [
        ((|spec| spec.name = "Not-0".into()) as fn(&mut NodeSpec), "name"),
        (|spec| spec.name = format!("n{}", "x".repeat(60)), "name"),
        (|spec| spec.components.clear(), "component"),
        (|spec| spec.components[1].name = "core".into(), "core"),
        (|spec| spec.components[1].name = "install".into(), "install"),
        (|spec| spec.components[1].user = Some(0), "root"),
        (|spec| spec.components[1].ports.push("grpc".into()), "grpc"),
        (|spec| spec.volumes.push("trialnet-bin".into()), "trialnet-bin"),
        (
            |spec| spec.components[0].files[0].path = "../../etc/passwd".into(),
            "leads out",
        ),
        (|spec| spec.components[0].files[0].volume = "other".into(), "leads out"),
        (|spec| spec.components[0].name = "other".into(), "an image"),
    ] {
        let trouble = refused(change);
        assert!(trouble.to_string().contains(part), "{part}: {trouble}");
    }
}

#[test]
fn names_and_labels_are_valid_for_every_scenario() {
    assert_eq!(namespace_name("kill-one", "0badcafe"), "trialnet-kill-one-0badcafe");
    let longest = "a".repeat(40);
    for (scenario, run) in [
        (longest.as_str(), "0badcafe"),
        ("Ä b_c.", "r-1_2"),
        ("", ""),
        (&"-x".repeat(90), &"f".repeat(90)),
    ] {
        let name = namespace_name(scenario, run);
        assert!(is_label(&name, 63), "{name}");
        for value in [label_value(scenario), label_value(run)] {
            let end = |char: Option<char>| char.is_none_or(|char| char.is_ascii_alphanumeric());
            assert!(
                value.len() <= 63 && end(value.chars().next()) && end(value.chars().last()),
                "{value}"
            );
        }
    }
    assert!(
        namespace_name(&longest, "0badcafe").ends_with("-0badcafe"),
        "runs stay apart"
    );
    assert_eq!(label_value("kill-one"), "kill-one");
    assert_eq!(port_name("a_very.long-port-name"), "a-very-long-por");
    assert_eq!(pod_name("validator-0"), "validator-0-0");
}

#[test]
fn secrets_are_not_shown_unless_asked_for() {
    let specs = specs();
    let objects = network_of(&specs, &options(&specs)).unwrap();
    let secret = find(&objects, "Secret", "validator-0");
    let ByteString(kept) = match secret {
        Object::Secret(secret) => secret.data.as_ref().unwrap()["f1"].clone(),
        _ => unreachable!(),
    };
    assert_eq!(kept, b"{\"private_key\":\"the key\"}");
    let shown = secret.clone().redacted().value();
    // The word REDACTED in base64.
    assert_eq!(shown["data"], json!({ "f1": "UkVEQUNURUQ=" }));
    for object in objects.into_iter().filter(|object| object.kind() != "Secret") {
        assert!(!object.yaml().unwrap().contains("the key"), "{object:?}");
    }
}
