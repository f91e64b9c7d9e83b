//! `trialnet render`: the objects of a network, without a cluster.

use std::path::Path;

use super::{RenderArgs, validate};
use crate::agent::trouble;
use crate::backend::Trouble;
use crate::backend::kubernetes::credentials::Credentials;
use crate::backend::kubernetes::objects::images::Images;
use crate::backend::kubernetes::objects::{self, Object, Options};
use crate::chain::{adapter, stand_ins};
use crate::model::{BackendKind, Ms, Plan, Provider};
use crate::scenario::Loaded;
use crate::ui::Ui;
use crate::{engine, exit, run};

/// Prints the objects of a scenario's network, in the order of applying. `exe` is trialnet itself.
#[must_use]
pub fn run(args: &RenderArgs, ui: &Ui, exe: &Path) -> u8 {
    let plan = match run::load(&args.file, BackendKind::Kubernetes, args.seed) {
        Ok(Loaded { plan, .. }) => plan,
        Err(diagnostics) => {
            ui.err(&diagnostics.render(validate::LOOK));
            return exit::SCENARIO_INVALID;
        }
    };
    let show = |object: Object| if args.show_secrets { object } else { object.redacted() };
    let stream = objects_of(&plan, args.namespace.as_deref(), exe).and_then(|objects| {
        objects
            .into_iter()
            .map(|object| show(object).yaml())
            .collect::<Result<String, _>>()
    });
    match stream {
        Ok(stream) => {
            ui.out(&stream);
            exit::PASSED
        }
        Err(trouble) => {
            ui.error(&trouble, None);
            exit::INFRASTRUCTURE
        }
    }
}

/// The objects of a plan as a run of it would apply them, except that nobody owns the namespace and it never expires.
fn objects_of(plan: &Plan, namespace: Option<&str>, exe: &Path) -> Result<Vec<Object>, Trouble> {
    let adapter = adapter(plan.network.chain);
    let links = engine::all_links(plan);
    let addresses = objects::addresses(&engine::wanted(plan, adapter), &links)?;
    let rendered = adapter
        // What jobs would make is there only in a run.
        .render(plan, &addresses, &stand_ins(plan))
        .map_err(|error| trouble("infra/render", "the network can be rendered", error.to_string()))?;
    // A run draws its id; here the same file and seed give the same text.
    let run = format!("{:08x}", plan.seed & 0xffff_ffff);
    let namespace = namespace.map_or_else(|| objects::namespace_name(&plan.scenario, &run), str::to_owned);
    let settings = &plan.kubernetes;
    let made = Images::of(
        &rendered.nodes,
        settings,
        settings.provider != Some(Provider::Existing),
        exe,
    )?;
    let (voting, min_available) = run::min_available(plan).unzip();
    let options = Options {
        run,
        scenario: plan.scenario.clone(),
        owner: None,
        namespace,
        settings: settings.clone(),
        persistence: plan.network.persistence,
        lease: Ms::secs(10),
        own: made.own.command.clone(),
        own_image: made.own_image,
        images: made.images,
        // No cluster is asked.
        credentials: Credentials::new(),
        voting: voting.unwrap_or_default(),
        min_available,
        alone: plan.alone(),
        kept: Vec::new(),
        shapes: Vec::new(),
        expires: None,
    };
    let mut objects = objects::network(&rendered.nodes, &addresses, &links, &options)?;
    if let Some(observer) = engine::observer(plan, adapter, &rendered) {
        objects.extend(objects::observer::objects(&observer, &addresses, &options)?);
    }
    Ok(objects)
}
