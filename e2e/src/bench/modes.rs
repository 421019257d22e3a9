//! What is measured, and how.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::contestant::{Contestant, Kind};
use super::images::{self, Large, TOOLS, WORKLOAD};
use super::meter::{self, Peak};
use super::series::{Metric, Series};
use crate::client::{Cri, Pod, container};
use crate::registry::Registry;

/// How many pods are made at once when throughput is measured.
const WORKERS: u64 = 8;
/// How long a node is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);
/// How long a node may settle before it is watched.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a pull of a large image may take.
const PULL: Duration = Duration::from_secs(600);
/// What a daemon that rests may use of a processor in half a second, in ms.
const REST_MS: f64 = 10.0;
/// How much a container writes to its log, in MiB.
const LOG_MIB: u64 = 128;

/// A thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Each call in the life of a pod, in the host's network and in one of its own.
    Latency,
    /// Whole lives of pods, eight at once.
    Throughput,
    /// ExecSync of `true`.
    Exec,
    /// Memory and idle processor time with many pods.
    Density,
    /// Lists with many pods.
    Lists,
    /// A daemon that is killed and started again, with many pods.
    Restart,
    /// Pulls of large images.
    Pull,
    /// The log of a container that writes as fast as it can.
    Logs,
    /// Latency by the number of pods there are.
    Growth,
    /// The daemon's memory over very many calls; takes minutes, and is not in `all`.
    Soak,
}

impl Mode {
    /// Those that a plain run goes through.
    pub const ALL: [Self; 9] = [
        Self::Latency,
        Self::Throughput,
        Self::Exec,
        Self::Density,
        Self::Lists,
        Self::Restart,
        Self::Pull,
        Self::Logs,
        Self::Growth,
    ];
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Amounts {
    /// How often each contestant gets its turn.
    pub rounds: u32,
    /// How many pods are many.
    pub pods: u32,
    /// How often a large image is pulled by each.
    pub pulls: u32,
    /// Which large images.
    pub large: Vec<Large>,
    /// How many ExecSync and how many pods a soak has.
    pub soak: (u32, u32),
}

/// Which network a pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    Host,
    Own,
}

impl Net {
    fn words(self) -> &'static str {
        match self {
            Self::Host => "host network",
            Self::Own => "pod network",
        }
    }
}

/// Those who take part, and what was measured so far.
#[derive(Debug)]
pub struct Bench {
    contestants: Vec<Contestant>,
    /// What was measured.
    pub series: Series,
    /// Latency by the number of pods: contestant, pods, milliseconds.
    pub growth: Vec<(String, u32, f64)>,
    amounts: Amounts,
}

impl Bench {
    /// Contestants that all have the small image; how long each took to start is noted.
    ///
    /// # Errors
    /// If one cannot pull it.
    pub async fn new(mut contestants: Vec<Contestant>, amounts: Amounts) -> Result<Self> {
        let mut series = Series::default();
        for contestant in &mut contestants {
            let pulled = contestant.cri.pull(TOOLS).await;
            pulled.with_context(|| format!("{}: pull {TOOLS}", contestant.name()))?;
            let metric = Metric { name: "start of the daemon, nothing in its store", unit: "ms" };
            series.add(contestant.name(), metric, ms(contestant.started()));
        }
        Ok(Self { contestants, series, growth: Vec::new(), amounts })
    }

    /// Measures one thing after the other.
    ///
    /// # Errors
    /// If a call fails that must not.
    pub async fn measure(
        &mut self,
        modes: &[Mode],
        registry: &mut Registry,
        cache: &Path,
    ) -> Result<()> {
        for mode in modes {
            eprintln!("measuring {mode:?}");
            match mode {
                Mode::Latency => self.latency().await?,
                Mode::Throughput => self.throughput().await?,
                Mode::Exec => self.exec().await?,
                Mode::Density | Mode::Lists | Mode::Restart => {}
                Mode::Pull => self.pull(registry, cache).await?,
                Mode::Logs => self.logs().await?,
                Mode::Growth => self.growth().await?,
                Mode::Soak => self.soak().await?,
            }
        }
        self.crowds(modes).await
    }

    async fn latency(&mut self) -> Result<()> {
        for round in 0..=self.amounts.rounds {
            for contestant in &mut self.contestants {
                for net in [Net::Host, Net::Own] {
                    if net == Net::Host && contestant.kind == Kind::Builtin {
                        continue;
                    }
                    let life = life(contestant, net, Warm::Yes).await?;
                    // The first of each is for what is done once.
                    if round > 0 {
                        life.note(&mut self.series, contestant.name(), net);
                    }
                }
            }
        }
        Ok(())
    }

    async fn throughput(&mut self) -> Result<()> {
        let pods = u64::from(self.amounts.rounds).max(2) * WORKERS;
        for contestant in &self.contestants {
            let before = meter::processor_ms(contestant.group())?;
            let began = Instant::now();
            let next = Arc::new(AtomicU64::new(0));
            let mut workers = JoinSet::new();
            for _worker in 0..WORKERS {
                let (next, maker) = (Arc::clone(&next), Maker::of(contestant));
                workers.spawn(async move {
                    while next.fetch_add(1, Ordering::Relaxed) < pods {
                        maker.life(Net::Own, Warm::No).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = workers.join_next().await {
                ended?.with_context(|| contestant.name())?;
            }
            let seconds = began.elapsed().as_secs_f64();
            sleep(SETTLE).await;
            let cpu = meter::processor_ms(contestant.group())? - before;
            let rate = Metric { name: "pods per second, 8 at once", unit: "/s" };
            self.series.add(contestant.name(), rate, pods as f64 / seconds);
            let metric = Metric { name: "CPU of a pod's life", unit: "ms" };
            self.series.add(contestant.name(), metric, cpu / pods as f64);
        }
        Ok(())
    }

    async fn exec(&mut self) -> Result<()> {
        const CALLS: u32 = 20;
        let wall = Metric { name: "ExecSync of true", unit: "ms" };
        let cpu = Metric { name: "CPU of an ExecSync", unit: "ms" };
        let mut running = Vec::new();
        for contestant in &self.contestants {
            running.push(Maker::of(contestant).ready(Net::Own).await?);
        }
        for round in 0..=self.amounts.rounds {
            for (contestant, (_, id)) in self.contestants.iter_mut().zip(&running) {
                let before = meter::processor_ms(contestant.group())?;
                for _call in 0..CALLS {
                    let began = Instant::now();
                    succeed(&mut contestant.cri, id).await?;
                    if round > 0 {
                        self.series.add(contestant.name(), wall, ms(began.elapsed()));
                    }
                }
                if round > 0 {
                    let used = meter::processor_ms(contestant.group())? - before;
                    self.series.add(contestant.name(), cpu, used / f64::from(CALLS));
                }
            }
        }
        for (contestant, (pod, _)) in self.contestants.iter_mut().zip(running) {
            remove(&mut contestant.cri, &pod).await?;
        }
        Ok(())
    }

    /// What is measured with many pods: one contestant after the other, each with nothing but
    /// its own pods on the machine.
    async fn crowds(&mut self, modes: &[Mode]) -> Result<()> {
        let crowded = [Mode::Density, Mode::Lists, Mode::Restart];
        if !modes.iter().any(|mode| crowded.contains(mode)) {
            return Ok(());
        }
        let pods = self.amounts.pods;
        for contestant in &mut self.contestants {
            let name = contestant.name();
            let mut note = |text: &str, unit, value| {
                self.series.add_named(name, text, unit, value);
            };
            sleep(SETTLE).await;
            let alone = meter::memory_kib(contestant.group());
            let mut made = Vec::new();
            for _pod in 0..pods {
                made.push(Maker::of(contestant).ready(Net::Own).await?.0);
            }
            sleep(SETTLE).await;
            if modes.contains(&Mode::Density) {
                note("memory of an idle daemon", "MiB", alone / 1024.0);
                let with = meter::memory_kib(contestant.group());
                let each = (with - alone) / f64::from(pods);
                note(&format!("memory of each of {pods} pods"), "KiB", each);
                for (program, (count, kib)) in meter::memory_by_name(contestant.group()) {
                    eprintln!("  {name}: {count} {program}: {:.1} MiB", kib / 1024.0);
                }
                let before = meter::processor_ms(contestant.group())?;
                let began = Instant::now();
                sleep(IDLE).await;
                let used = meter::processor_ms(contestant.group())? - before;
                let rate = used / began.elapsed().as_secs_f64();
                note(&format!("idle CPU with {pods} pods"), "ms/s", rate);
            }
            if modes.contains(&Mode::Lists) {
                for _round in 0..self.amounts.rounds.max(2) {
                    for (call, took) in lists(&mut contestant.cri).await? {
                        note(&format!("{call} of {pods} pods"), "ms", took);
                    }
                }
            }
            if modes.contains(&Mode::Restart) {
                for _round in 0..self.amounts.rounds.clamp(2, 5) {
                    let took = contestant.restart().await?;
                    note(&format!("start of the daemon with {pods} pods"), "ms", ms(took));
                }
            }
            for pod in made {
                remove(&mut contestant.cri, &pod).await?;
            }
        }
        Ok(())
    }

    async fn pull(&mut self, registry: &mut Registry, cache: &Path) -> Result<()> {
        for large in self.amounts.large.clone() {
            self.pull_one(registry, cache, large).await?;
        }
        Ok(())
    }

    async fn pull_one(
        &mut self,
        registry: &mut Registry,
        cache: &Path,
        large: Large,
    ) -> Result<()> {
        let (references, bytes) = images::push_large(registry, cache, large)?;
        for reference in references {
            let tag = reference.rsplit(':').next().unwrap_or_default().to_owned();
            for _round in 0..self.amounts.pulls {
                for contestant in &mut self.contestants {
                    if contestant.kind == Kind::Builtin {
                        continue;
                    }
                    at_rest(contestant).await?;
                    forget_deleted_files()?;
                    registry.read_ahead()?;
                    let pulled = pull(contestant, &reference).await?;
                    let mut note = |what: &str, unit, value| {
                        let text = format!("pull of {tag}: {what}");
                        self.series.add_named(contestant.name(), &text, unit, value);
                    };
                    note("wall", "s", pulled.seconds);
                    note("CPU", "s", pulled.processor_s);
                    note("peak memory", "MiB", pulled.peak_mib);
                    let unpacked = bytes as f64 / f64::from(1 << 20);
                    note("written, of what is in the files", "", pulled.written_mib / unpacked);
                }
            }
        }
        Ok(())
    }

    async fn logs(&mut self) -> Result<()> {
        for _round in 0..self.amounts.rounds.clamp(1, 3) {
            for contestant in &mut self.contestants {
                if contestant.kind == Kind::Builtin {
                    continue;
                }
                let maker = Maker::of(contestant);
                let config = maker.pod(Net::Own);
                let pod = contestant.cri.run_pod(config, "").await?;
                let line = "x".repeat(99);
                let script = format!("yes {line} | head -c {}", LOG_MIB << 20);
                let command = ["sh", "-c", &script].map(str::to_owned).into();
                let writer = ContainerConfig { command, ..maker.container(&pod.config) };
                let id = contestant.cri.create(&pod, &writer).await?;
                let before = meter::processor_ms(&contestant.daemon_group())?;
                let began = Instant::now();
                contestant.cri.start(&id).await?;
                let status = contestant.cri.wait_exited(&id).await?;
                let seconds = began.elapsed().as_secs_f64();
                ensure!(status.exit_code == 0, "{}: {status:?}", contestant.name());
                let used = meter::processor_ms(&contestant.daemon_group())? - before;
                let rate = Metric { name: "log of a chatty container", unit: "MiB/s" };
                self.series.add(contestant.name(), rate, LOG_MIB as f64 / seconds);
                let cpu = Metric { name: "CPU of its log, in the daemon's group", unit: "ms/MiB" };
                self.series.add(contestant.name(), cpu, used / LOG_MIB as f64);
                remove(&mut contestant.cri, &pod).await?;
            }
        }
        Ok(())
    }

    async fn growth(&mut self) -> Result<()> {
        const EXTRA: u32 = 5;
        let steps = [0, 10, 25, 50, 100, 150, 200, 300, 500, 750, 1000];
        for contestant in &mut self.contestants {
            let name = contestant.name();
            let most = self.amounts.pods.min(contestant.kind.most_pods());
            let mut made = Vec::new();
            for step in steps.into_iter().filter(|step| *step <= most) {
                while made.len() < step as usize {
                    made.push(Maker::of(contestant).ready(Net::Own).await?.0);
                }
                let (mut ready, mut gone) = (Series::default(), Series::default());
                let any = Metric { name: "any", unit: "ms" };
                for _extra in 0..EXTRA {
                    let life = life(contestant, Net::Own, Warm::Yes).await?;
                    ready.add(name, any, life.ready());
                    gone.add(name, any, life.gone());
                }
                for (what, values) in [("ready", ready), ("gone", gone)] {
                    let median = values.summary(name, "any").context("no values")?.median;
                    let text = format!("a pod {what} beside {step} others");
                    self.series.add_named(name, &text, "ms", median);
                    if what == "ready" {
                        self.growth.push((name.to_owned(), step, median));
                    }
                }
                for (call, took) in lists(&mut contestant.cri).await? {
                    if step > 0 {
                        let text = format!("{call} beside {step} others");
                        self.series.add_named(name, &text, "ms", took);
                    }
                }
            }
            for pod in made {
                remove(&mut contestant.cri, &pod).await?;
            }
        }
        Ok(())
    }

    async fn soak(&mut self) -> Result<()> {
        let (execs, pods) = self.amounts.soak;
        for contestant in &mut self.contestants {
            let name = contestant.name();
            let (pod, id) = Maker::of(contestant).ready(Net::Own).await?;
            for step in 0..=10 {
                if step > 0 {
                    for _exec in 0..execs / 10 {
                        succeed(&mut contestant.cri, &id).await?;
                    }
                }
                let text = format!("memory after {} ExecSync", execs / 10 * step);
                let kib = meter::memory_kib(contestant.group());
                self.series.add_named(name, &text, "KiB", kib);
            }
            for step in 0..=10 {
                if step > 0 {
                    for _pod in 0..pods / 10 {
                        life(contestant, Net::Own, Warm::No).await?;
                    }
                }
                let text = format!("memory after {} pods", pods / 10 * step);
                let kib = meter::memory_kib(contestant.group());
                self.series.add_named(name, &text, "KiB", kib);
            }
            remove(&mut contestant.cri, &pod).await?;
        }
        Ok(())
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How long a call took; its answer is as it should be.
async fn timed<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<(T, f64)> {
    let began = Instant::now();
    let answer = call.await?;
    Ok((answer, ms(began.elapsed())))
}

async fn succeed(cri: &mut Cri, container: &str) -> Result<()> {
    let ended = cri.exec(container, &["true"]).await?;
    ensure!(ended.exit_code == 0, "true ended with {ended:?}");
    Ok(())
}

async fn remove(cri: &mut Cri, pod: &Pod) -> Result<()> {
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(())
}

/// Whether the workload is given the time to install its handler of SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warm {
    Yes,
    /// It is killed.
    No,
}

/// What the calls of a pod's life took, in milliseconds and in their order.
struct Life([f64; 7]);

impl Life {
    const CALLS: [&str; 7] = [
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];

    fn ready(&self) -> f64 {
        self.0.iter().take(3).sum()
    }

    fn gone(&self) -> f64 {
        self.0.iter().skip(3).sum()
    }

    fn note(&self, series: &mut Series, contestant: &str, net: Net) {
        let net = net.words();
        series.add_named(contestant, &format!("pod ready, {net}"), "ms", self.ready());
        series.add_named(contestant, &format!("pod gone, {net}"), "ms", self.gone());
        for (call, took) in Self::CALLS.into_iter().zip(self.0) {
            series.add_named(contestant, &format!("{call}, {net}"), "ms", took);
        }
    }
}

async fn life(contestant: &Contestant, net: Net, warm: Warm) -> Result<Life> {
    Maker::of(contestant).life(net, warm).await.with_context(|| contestant.name())
}

/// Makes pods of one contestant.
#[derive(Clone, Debug)]
struct Maker {
    cri: Cri,
    logs: PathBuf,
    parent: String,
    contestant: &'static str,
}

impl Maker {
    fn of(contestant: &Contestant) -> Self {
        Self {
            cri: contestant.cri.clone(),
            logs: contestant.logs(),
            parent: contestant.pods_group(),
            contestant: contestant.name(),
        }
    }

    /// A pod with a name that no other has.
    fn pod(&self, net: Net) -> PodSandboxConfig {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("pod-{number}");
        let network = match net {
            Net::Host => NamespaceMode::Node,
            Net::Own => NamespaceMode::Pod,
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                uid: format!("00000000-0000-4000-8000-{number:012}"),
                namespace: "bench".to_owned(),
                name: name.clone(),
                attempt: 0,
            }),
            hostname: if net == Net::Host { String::new() } else { name.clone() },
            log_directory: self.logs.join(name).to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: network.into(),
                        pid: NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(&self, pod: &PodSandboxConfig) -> ContainerConfig {
        let options = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let security_context = LinuxContainerSecurityContext {
            namespace_options: options.and_then(|context| context.namespace_options.clone()),
            ..Default::default()
        };
        let resources = LinuxContainerResources {
            cpu_shares: 102,
            memory_limit_in_bytes: 128 << 20,
            ..Default::default()
        };
        let mut config = container("workload", TOOLS, &[&format!("/{WORKLOAD}")]);
        config.linux = Some(LinuxContainerConfig {
            security_context: Some(security_context),
            resources: Some(resources),
        });
        config
    }

    /// A pod whose container runs.
    async fn ready(&self, net: Net) -> Result<(Pod, String)> {
        let mut cri = self.cri.clone();
        let made = async {
            let pod = cri.run_pod(self.pod(net), "").await?;
            let container = self.container(&pod.config);
            let id = cri.launch(&pod, &container).await?;
            Ok::<_, tonic::Status>((pod, id))
        };
        made.await.with_context(|| format!("{}: make a pod", self.contestant))
    }

    /// A pod from nothing to nothing.
    async fn life(&self, net: Net, warm: Warm) -> Result<Life> {
        let mut cri = self.cri.clone();
        let (pod, run) = timed(cri.run_pod(self.pod(net), "")).await.context("RunPodSandbox")?;
        let config = self.container(&pod.config);
        let (id, create) = timed(cri.create(&pod, &config)).await.context("CreateContainer")?;
        let ((), start) = timed(cri.start(&id)).await.context("StartContainer")?;
        let grace = match warm {
            Warm::Yes => {
                succeed(&mut cri, &id).await?;
                10
            }
            Warm::No => 0,
        };
        let ((), stop) = timed(cri.stop(&id, grace)).await.context("StopContainer")?;
        let ((), remove) = timed(cri.remove(&id)).await.context("RemoveContainer")?;
        let ((), stop_pod) = timed(cri.stop_pod(&pod.id)).await.context("StopPodSandbox")?;
        let ((), remove_pod) = timed(cri.remove_pod(&pod.id)).await.context("RemovePodSandbox")?;
        Ok(Life([run, create, start, stop, remove, stop_pod, remove_pod]))
    }
}

/// Each list once.
async fn lists(cri: &mut Cri) -> Result<Vec<(&'static str, f64)>> {
    let mut runtime = cri.runtime.clone();
    let mut found = Vec::new();
    let call = runtime.list_pod_sandbox(ListPodSandboxRequest::default());
    found.push(("ListPodSandbox", timed(call).await?.1));
    let call = runtime.list_containers(ListContainersRequest::default());
    found.push(("ListContainers", timed(call).await?.1));
    let call = runtime.list_container_stats(ListContainerStatsRequest::default());
    found.push(("ListContainerStats", timed(call).await?.1));
    let call = runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default());
    found.push(("ListPodSandboxStats", timed(call).await?.1));
    Ok(found)
}

struct Pulled {
    seconds: f64,
    processor_s: f64,
    peak_mib: f64,
    written_mib: f64,
}

/// Pulls an image that the contestant does not have, and removes it.
/// Waits until a daemon is done with what it removes in the background.
async fn at_rest(contestant: &Contestant) -> Result<()> {
    let deadline = Instant::now() + PULL;
    let mut before = meter::processor_ms(contestant.group())?;
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = meter::processor_ms(contestant.group())?;
        if now - before < REST_MS {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} does not come to rest", contestant.name());
        before = now;
    }
}

/// An ext4 that makes a file looks at each inode that was deleted within the last minutes, which
/// costs more than to unpack the image that was removed before; unless it has them in memory no
/// more, as a node that pulls now and then.
fn forget_deleted_files() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("drop the page cache")
}

async fn pull(contestant: &mut Contestant, reference: &str) -> Result<Pulled> {
    let (group, images) = (contestant.group().to_owned(), &mut contestant.cri.images);
    let (before, written) = (meter::processor_ms(&group)?, meter::disk_written_mib()?);
    let peak = Peak::of(&format!("{group}/daemon"));
    let began = Instant::now();
    let image = Some(ImageSpec { image: reference.to_owned(), ..Default::default() });
    let mut request =
        tonic::Request::new(PullImageRequest { image: image.clone(), ..Default::default() });
    request.set_timeout(PULL);
    let answer = timeout(PULL, images.pull_image(request)).await;
    let image_ref = answer
        .context("it takes too long")?
        .with_context(|| format!("{}: pull {reference}", contestant.kind.name()))?
        .into_inner()
        .image_ref;
    let seconds = began.elapsed().as_secs_f64();
    let peak_mib = peak.kib() / 1024.0;
    // What is still in the page cache was written by it as well.
    rustix::fs::sync();
    let processor_s = (meter::processor_ms(&group)? - before) / 1e3;
    let written_mib = meter::disk_written_mib()? - written;
    for image in [reference.to_owned(), image_ref] {
        let image = Some(ImageSpec { image, ..Default::default() });
        images.remove_image(RemoveImageRequest { image }).await?;
    }
    Ok(Pulled { seconds, processor_s, peak_mib, written_mib })
}
