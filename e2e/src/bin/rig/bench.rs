//! The benchmark: contestants are started, measured in turns and compared.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use e2e::bench::contestant::{Contestant, Kind, Programs, versions};
use e2e::bench::modes::{Amounts, Bench, Mode};
use e2e::bench::{images, plot, report};
use e2e::host;
use e2e::registry::Registry;

/// Options of `rig bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// What to measure; all of it if nothing is named.
    #[arg(value_name = "MODE")]
    modes: Vec<Mode>,
    /// Who takes part: all, if nobody is named.
    #[arg(long, value_delimiter = ',', value_name = "WHO")]
    who: Vec<Kind>,
    /// How often each has its turn.
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// How many pods are many.
    #[arg(long, default_value_t = 100)]
    pods: u32,
    /// How often each pulls each large image.
    #[arg(long, default_value_t = 3)]
    pulls: u32,
    /// Which large images: 600m, 2g; both, if none is named.
    #[arg(long, value_delimiter = ',', value_name = "SIZE", value_parser = ["600m", "2g"])]
    large: Vec<String>,
    /// ExecSync calls of a soak.
    #[arg(long, default_value_t = 100_000)]
    soak_execs: u32,
    /// Pods of a soak.
    #[arg(long, default_value_t = 10_000)]
    soak_pods: u32,
    /// Write what was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the drawing of `growth` to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where the peers' programs are.
    #[arg(long, hide = true)]
    programs: PathBuf,
    /// Where built things are kept.
    #[arg(long, hide = true)]
    cache: PathBuf,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    host::require_root()?;
    let everyone = [Kind::Orlop, Kind::Builtin, Kind::Containerd, Kind::Crio];
    let kinds = if options.who.is_empty() { everyone.to_vec() } else { options.who };
    let modes = if options.modes.is_empty() { Mode::ALL.to_vec() } else { options.modes };
    let programs = Programs { folder: options.programs };
    let versions = versions(&kinds, &programs)?;
    let directory = tempfile::Builder::new().prefix("orlop-bench-").tempdir()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    images::push_small(&mut registry, &options.cache)?;
    let mut contestants = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        // Short: what a daemon makes below it are sockets, too.
        let place = directory.path().join(number.to_string());
        match Contestant::start(*kind, &place, &programs, &registry).await {
            Ok(contestant) => contestants.push(contestant),
            // Some machines cannot run it; what others do is worth knowing even so.
            Err(error) if *kind == Kind::Crio => eprintln!("without CRI-O: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    let names: Vec<_> = contestants.iter().map(|contestant| contestant.name()).collect();
    let mut large = images::LARGE.to_vec();
    large.retain(|one| {
        options.large.is_empty() || options.large.iter().any(|name| name == one.name)
    });
    let amounts = Amounts {
        large,
        rounds: options.rounds,
        pods: options.pods,
        pulls: options.pulls,
        soak: (options.soak_execs, options.soak_pods),
    };
    let mut bench = Bench::new(contestants, amounts).await?;
    let measured = bench.measure(&modes, &mut registry, &options.cache).await;
    // What was measured until then is worth seeing.
    println!("{}\n", versions.join("\n"));
    println!("{}", report::table(&bench.series, &names));
    if let Some(path) = &options.json {
        let document = report::document(&bench.series, &names, &versions)?;
        fs::write(path, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        let drawing = plot::svg("Until a pod is ready, by the pods there are", &bench.growth);
        fs::write(path, drawing).with_context(|| format!("write {}", path.display()))?;
    }
    measured?;
    Ok(ExitCode::SUCCESS)
}
