//! The daemon is killed at any moment of pulls: what the next one shows is whole, nothing else is
//! left, and what is missing is pulled. `hack/powercut` does the same with the machine's power.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::chance::Chance;
use e2e::crash::Images;
use e2e::host;
use e2e::node::{Node, Settings};
use tempfile::TempDir;

const KILLS: u32 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn root_a_killed_pull_leaves_a_whole_image_or_none() -> Result<()> {
    let seed = Chance::seed();
    println!("seed {seed}");
    for (kills, more) in [(KILLS / 2, ""), (KILLS / 2, "[images]\nkeep_blobs = true\n")] {
        kill_and_look(seed, kills, more).await.with_context(|| format!("seed {seed}, {more:?}"))?;
    }
    Ok(())
}

async fn kill_and_look(seed: u64, kills: u32, more: &str) -> Result<()> {
    host::require_root()?;
    let mut chance = Chance::new(seed);
    let directory = TempDir::new()?;
    let images = Images::serve(4, &mut chance, directory.path())?;
    let settings = Settings { more: more.to_owned(), ..Settings::default() };
    let mut node = Node::start(settings).await?;
    let begun = Instant::now();
    images.pull(&node, &images.names())?;
    let whole_pull = begun.elapsed();
    for kill in 1..=kills {
        for name in images.check(&node).await?.images {
            if chance.percent(70) {
                node.orlop(&["image", "rm", &name])?;
            }
        }
        node.orlop(&["content", "gc"])?;
        let names = images.some(&mut chance);
        let pulls = images.begin(&node, &names)?;
        let span = u64::try_from(whole_pull.as_micros())? * 3 / 2;
        let after = Duration::from_micros(chance.below(span));
        sleep(after);
        node.kill()?;
        drop(pulls);
        node.begin().await?;
        let said = |what: &str| format!("kill {kill}, {after:?} after {names:?}: {what}");
        let whole = images.check(&node).await.with_context(|| said("the store"))?;
        println!("{}", said(&format!("{} images, {} layers", whole.images.len(), whole.layers)));
    }
    images.pull(&node, &images.names())?;
    let whole = images.check(&node).await?;
    ensure!(whole.images.len() == images.names().len(), "{:?}", whole.images);
    images.damage(&node)?;
    ensure!(images.check(&node).await.is_err(), "a damaged file is not seen");
    Ok(())
}
