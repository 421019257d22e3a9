//! The power goes while images are pulled, again and again, on one disk.
//!
//! Each round is a boot: the disk of the last cut, a daemon with the volatile directory of a fresh
//! boot, a look at everything it serves, then pulls, and the next cut at any moment of them. Damage
//! that one round leaves is there for the next.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use e2e::chance::Chance;
use e2e::crash::{Images, Whole};
use e2e::disk::{Cut, Disk, Platter};
use e2e::host;
use e2e::node::{Node, Settings};
use serde_json::{Value, json};

const DISK_BYTES: u64 = 512 << 20;
const IMAGES: usize = 6;
/// How long a cut that waits for writes does so.
const BURST: Duration = Duration::from_millis(500);

/// Options of `rig powercut`.
#[derive(Args)]
pub(crate) struct Options {
    /// How often the power goes.
    #[arg(long, default_value_t = 100)]
    cuts: u32,
    /// Gives the same images and the same choices again; moments differ all the same.
    #[arg(long)]
    seed: Option<u64>,
}

/// What came of all rounds.
#[derive(Default)]
struct Tally {
    images: usize,
    layers: usize,
    unflushed: usize,
    lost: usize,
    /// Images that were being pulled at a cut, and were there and not there after it.
    whole: usize,
    absent: usize,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    host::require_root()?;
    let seed = options.seed.unwrap_or_else(Chance::seed);
    println!("seed {seed}, a disk of {} MiB with ext4", DISK_BYTES >> 20);
    let mut chance = Chance::new(seed);
    let directory = tempfile::Builder::new().prefix("orlop-powercut-").tempdir()?;
    let images = Images::serve(IMAGES, &mut chance, &directory.path().join("registry"))?;
    let power = directory.path().join("power");
    fs::create_dir(&power)?;
    let mut platter = formatted(&power, &mut chance)?;
    // One pull that nobody disturbs, to know from how long a time a moment is taken.
    let mut span = Duration::from_secs(1);
    let (mut tally, mut pulled) = (Tally::default(), Vec::new());
    for round in 0..=options.cuts {
        let boot = directory.path().join(format!("boot{round}"));
        let last = round == options.cuts;
        let disk = Disk::start(platter, DISK_BYTES, &power)?;
        fs::create_dir_all(boot.join("root"))?;
        let mounted = disk.mount(&boot.join("root"))?;
        let mut node = booted(&boot, &mut chance).await.with_context(|| format!("boot {round}"))?;
        let whole =
            images.check(&node).await.with_context(|| format!("CORRUPT at boot {round}"))?;
        tally.look(&whole, &pulled);
        if round == 0 || last {
            let begun = Instant::now();
            images.pull(&node, &images.names())?;
            span = if last { span } else { begun.elapsed() };
            let all = images.check(&node).await?;
            ensure!(all.images.len() == IMAGES, "pulled all, and there are {:?}", all.images);
        }
        if last {
            images.damage(&node)?;
            ensure!(images.check(&node).await.is_err(), "a damaged file is not seen");
            node.stop()?;
            mounted.unmount()?;
            disk.check().context("the file system")?;
            break;
        }
        for name in images.check(&node).await?.images {
            if chance.percent(70) {
                node.orlop(&["image", "rm", &name])?;
            }
        }
        let names = images.some(&mut chance);
        pulled = names.iter().map(|&name| name.to_owned()).collect();
        let pulls = images.begin(&node, &names)?;
        let after = Duration::from_micros(chance.below(u64::try_from(span.as_micros())? * 3 / 2));
        sleep(after);
        // Writes come in bursts; half of the cuts wait for the next one.
        let burst = Instant::now() + BURST;
        let wait = chance.percent(50);
        while wait && disk.unflushed() == 0 && Instant::now() < burst {
            sleep(Duration::from_micros(200));
        }
        let (left, cut) = disk.cut(&mut chance);
        node.kill()?;
        drop(pulls);
        mounted.unmount()?;
        drop((node, disk));
        fs::remove_dir_all(&boot)?;
        platter = left;
        tally.cut(cut);
        println!(
            "cut {}: boot served {} images of {} layers; {} pulls, cut after {} ms with {} blocks unflushed, {} of them kept",
            round + 1,
            whole.images.len(),
            whole.layers,
            names.len(),
            after.as_millis(),
            cut.unflushed,
            cut.kept
        );
    }
    tally.judge(options.cuts)
}

impl Tally {
    fn look(&mut self, whole: &Whole, pulled: &[String]) {
        self.images += whole.images.len();
        self.layers += whole.layers;
        let there = pulled.iter().filter(|name| whole.images.contains(name)).count();
        self.whole += there;
        self.absent += pulled.len() - there;
    }

    fn cut(&mut self, cut: Cut) {
        self.unflushed += cut.unflushed;
        self.lost += cut.unflushed - cut.kept;
    }

    fn judge(&self, cuts: u32) -> Result<ExitCode> {
        let Self { images, layers, unflushed, lost, whole, absent } = self;
        println!("{unflushed} blocks were not flushed at a cut, {lost} of them lost");
        println!(
            "of the images that were pulled at a cut {whole} were there after it, {absent} not"
        );
        println!("{images} images with {layers} layers were served after a cut and looked through");
        println!("{cuts} cuts, 0 corrupt images served");
        if *lost == 0 || *whole == 0 || *absent == 0 {
            bail!("that proves nothing: the cuts never met a pull, or never took anything");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A new file system, all of it on the platter.
fn formatted(power: &Path, chance: &mut Chance) -> Result<Platter> {
    let disk = Disk::start(Platter::default(), DISK_BYTES, power)?;
    disk.format()?;
    fs::File::open(disk.file())?.sync_all()?;
    Ok(disk.cut(chance).0)
}

/// A daemon on what a cut left, in a machine that was started anew.
async fn booted(boot: &Path, chance: &mut Chance) -> Result<Node> {
    let keep = if chance.percent(50) { "[images]\nkeep_blobs = true\n" } else { "" };
    let settings = Settings { more: keep.to_owned(), ..Settings::default() };
    let mut node = Node::at(boot, settings)?;
    // The kernel makes the id of a boot; another one stands for another boot.
    let settled = node.root().join("settled");
    if let Ok(mut mark) = serde_json::from_slice::<Value>(&fs::read(&settled).unwrap_or_default()) {
        mark["boot_id"] = json!("of an earlier boot");
        fs::write(&settled, mark.to_string())?;
    }
    node.begin().await?;
    Ok(node)
}
