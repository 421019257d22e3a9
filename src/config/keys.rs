//! Every key of the file. The comments are what `orlop config default` prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::network::Subnet;

use super::scalar::{Absent, ByteSize, absent, words};
use super::setting::{Place, Setting, comment, join, settings};

words! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
    /// The least important messages that are logged.
    LogLevel {
        /// What failed.
        Error = "error",
        /// What is not right but was survived.
        Warn = "warn",
        /// What was done.
        Info = "info",
        /// How it was done.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// How containers get their root file systems.
    SnapshotDriver {
        /// By overlayfs.
        Overlay = "overlay",
        /// By a copy of the image.
        Native = "native",
    }
    /// Who makes the cgroups of pods.
    CgroupDriver {
        /// What the machine is made for.
        Auto = "auto",
        /// orlop, in the cgroup file system.
        Cgroupfs = "cgroupfs",
        /// systemd, down to a pod's scope.
        Systemd = "systemd",
    }
    /// What a node without CNI configuration does.
    WhenUnconfigured {
        /// Pods are attached to the built-in bridge.
        Bridge = "bridge",
        /// The network is not ready.
        Wait = "wait",
    }
    /// Which address of a pod with several comes first.
    PrimaryAddress {
        /// The first IPv4 address.
        Ipv4 = "ipv4",
        /// The first IPv6 address.
        Ipv6 = "ipv6",
        /// The first one that plugins report.
        AsReported = "as-reported",
    }
    /// Which interfaces are made to forward for the built-in bridge.
    Forwarding {
        /// The bridge and the interface of the default route.
        Uplinks = "uplinks",
        /// The bridge.
        BridgeOnly = "bridge-only",
    }
    /// Where commands in a container begin.
    ExecCpuAffinity {
        /// Anywhere the container may run.
        Any = "any",
        /// On its first processor.
        First = "first",
    }
    /// What a runtime handler is.
    RuntimeKind {
        /// An executable with the command line of runc.
        Oci = "oci",
    }
}

settings! {
    /// The whole file.
    Settings {
        /// What must outlive a reboot: images, snapshots and the database. One daemon
        /// at a time. Flag: --root.
        root: PathBuf = "/var/lib/orlop".into(),
        /// What need not: network namespaces, sockets, the files of running pods. Best
        /// on a tmpfs. Flag: --state.
        state: PathBuf = "/run/orlop".into(),
        /// The socket that serves CRI; STATE/orlop.sock if absent. Flag: --listen.
        listen: Absent<PathBuf> = absent(r#""/run/orlop/orlop.sock""#),
        /// The daemon's own log, written to standard error.
        log: Log = Log::default(),
        /// Prometheus metrics over HTTP, at /metrics.
        metrics: Metrics = Metrics::default(),
        /// Where images come from, and how patiently.
        registry: Registry = Registry::default(),
        /// What is kept of images.
        images: Images = Images::default(),
        /// Which images may be pulled.
        trust: Trust = Trust::default(),
        /// Images that are there before anybody asks.
        prefetch: Prefetch = Prefetch::default(),
        /// How pods get their network.
        network: Network = Network::default(),
        /// How pods and containers are run.
        pods: Pods = Pods::default(),
        /// Where exec, attach and port-forward are served. Clients get the address from
        /// CRI and a token with it, good for one session.
        streaming: Streaming = Streaming::default(),
        /// Runtime handlers beside "builtin", by the name a RuntimeClass gives.
        runtimes: BTreeMap<String, RuntimeSettings> = BTreeMap::new(),
    }

    /// The daemon's own log.
    Log {
        /// "text" for people, "json" for machines.
        format: LogFormat = LogFormat::Text,
        /// "error", "warn", "info", "debug" or "trace". ORLOP_LOG in the environment
        /// overrides it and may name single components.
        level: LogLevel = LogLevel::Info,
    }

    /// Prometheus metrics.
    Metrics {
        /// The address to serve on; nothing is served without one. There is no
        /// authentication, so keep it on loopback.
        listen: Absent<SocketAddr> = absent(r#""127.0.0.1:9476""#),
    }

    /// Registries.
    Registry {
        /// Mirrors, certificates and headers per registry: HOST/hosts.toml below this
        /// directory, as containerd reads it. Read anew for each pull.
        hosts_dir: PathBuf = "/etc/orlop/certs.d".into(),
        /// Credentials of the node itself, in a file as docker writes it (config.json), for
        /// pulls that bring none. Every pod of the node can pull what they open. Read anew
        /// for each pull.
        credentials_file: Absent<PathBuf> = absent(r#""/etc/orlop/credentials.json""#),
        /// Who has the keys of encrypted layers: key providers, in a file as ocicrypt has it in
        /// OCICRYPT_KEYPROVIDER_CONFIG, of which programs (`cmd`) are known. They are run as the
        /// daemon's user; every pod of the node can pull what they open. Read anew for each pull.
        key_providers: Absent<PathBuf> = absent(r#""/etc/orlop/ocicrypt.json""#),
        /// How long a key provider may take for one key; one that takes longer fails the pull.
        key_provider_timeout: Duration = Duration::from_secs(10),
        /// How many layers are fetched and unpacked at once, all pulls together.
        parallel_layers: u32 = 8,
        /// How many ranges of one layer of 64MiB and more are fetched at once, each over a
        /// connection of its own, where the registry answers ranges and `memory` and
        /// `max_connections` leave room; 1 fetches each layer in one piece.
        parallel_ranges: u32 = 4,
        /// How much memory the layers that are fetched may take, all pulls together. A layer takes
        /// 4MiB, and 2MiB for each range that comes before its turn; what does not fit waits. The
        /// window of a zstd layer (8MiB as a rule, 128MiB at most) comes on top.
        memory: ByteSize = ByteSize(40 << 20),
        /// How many layers, or ranges of layers, are fetched at once from one registry, all pulls
        /// together; 0 sets no limit but those above.
        max_connections: u32 = 0,
        /// How many bytes of layers a second are taken from one registry, all pulls together,
        /// as in "20MiB"; 0 sets no limit.
        max_rate: ByteSize = ByteSize(0),
        /// Above this I/O pressure fewer layers are fetched and unpacked at once, down to one: in
        /// percent of the last ten seconds in which nothing went on because of I/O ("full" in
        /// /proc/pressure/io). 100 never slows down.
        max_io_pressure: u32 = 60,
        /// How long a registry may take to accept a connection.
        connect_timeout: Duration = Duration::from_secs(10),
        /// How long a registry may send nothing before the request is repeated.
        stall_timeout: Duration = Duration::from_secs(30),
        /// What a registry must send per second at the least while a layer is waited for;
        /// one that sends less over a whole `stall_timeout` counts as stalled, and the next
        /// mirror is asked. 0 waits for every byte, until `progress_timeout`.
        min_rate: ByteSize = ByteSize(1024),
        /// How long a layer may make no progress, all attempts together, before the pull
        /// fails.
        progress_timeout: Duration = Duration::from_secs(300),
    }

    /// Images.
    Images {
        /// Keep the layers of images as the registry sent them, beside the unpacked ones.
        keep_blobs: bool = false,
        /// How containers get their root file systems: "overlay" shares the layers of images,
        /// "native" copies them for each container, where overlayfs is not to be had; it cannot
        /// label files for SELinux. To be changed when no container is there.
        snapshots: SnapshotDriver = SnapshotDriver::Overlay,
        /// The socket of a remote snapshotter (containerd's snapshots API), which is asked for
        /// each layer that is not here, and may serve it before it is downloaded. It mounts each
        /// layer on its own, and needs registry credentials of its own. What it does not serve is
        /// fetched as ever.
        remote_snapshotter: Absent<PathBuf> =
            absent(r#""/run/containerd-stargz-grpc/containerd-stargz-grpc.sock""#),
        /// How long it may take for one layer, before that is fetched instead.
        remote_snapshotter_timeout: Duration = Duration::from_secs(60),
        /// References that the kubelet's garbage collection must leave alone, written out
        /// in full; a * at the end stands for anything.
        pinned: Vec<String> = Vec::new(),
    }

    /// Trust in images.
    Trust {
        /// Image verifiers: programs that may block a pull, called as containerd calls those
        /// in its `bin_dir`. A directory that is not there blocks nothing.
        verifier_dir: PathBuf = "/opt/orlop/image-verifier/bin".into(),
        /// How many of them are asked, in the order of their names; 0 sets no limit.
        max_verifiers: u32 = 10,
        /// How long each may take; one that takes longer blocks the pull.
        verifier_timeout: Duration = Duration::from_secs(10),
        /// Which images must be signed, and by whom: a policy.json as other tools have it in
        /// /etc/containers, of which `insecureAcceptAnything`, `reject` and `sigstoreSigned` with
        /// keys are known. Read anew for each pull; imports are not asked about.
        signature_policy: Absent<PathBuf> = absent(r#""/etc/containers/policy.json""#),
    }

    /// Images that are pulled or imported when the daemon starts, behind what pods wait for, and
    /// that the kubelet's garbage collection must leave alone.
    Prefetch {
        /// References; what is there already is not pulled again.
        images: Vec<String> = Vec::new(),
        /// A directory of archives (OCI layouts, or what `docker save` writes).
        archives: Absent<PathBuf> = absent(r#""/var/lib/orlop-archives""#),
        /// How long the runtime may say that it is not ready, so that no pod is started, until all
        /// of these were tried once. "0s" never does.
        gate: Duration = Duration::ZERO,
    }

    /// Pod networks.
    Network {
        /// CNI configuration; the first file in lexical order is used, and watched. While
        /// there is none, `when_unconfigured` decides.
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Where CNI plugins are looked for, in this order.
        plugin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        /// How long one plugin may take.
        plugin_timeout: Duration = Duration::from_secs(60),
        /// How many plugins run at once; further ones wait.
        parallel_plugins: u32 = 16,
        /// Where pods' network namespaces are pinned; STATE/netns if absent. Some plugins
        /// need it to be /run/netns.
        netns_dir: Absent<PathBuf> = absent(r#""/run/netns""#),
        /// "bridge" attaches pods to the built-in bridge, "wait" leaves the node not ready
        /// until there is a CNI configuration.
        when_unconfigured: WhenUnconfigured = WhenUnconfigured::Bridge,
        /// Which of several addresses is the pod's own: "ipv4", "ipv6" or "as-reported".
        primary_address: PrimaryAddress = PrimaryAddress::Ipv4,
        /// The interface of the built-in bridge; a name derived from `root` if absent.
        bridge: Absent<String> = absent(r#""orlop0""#),
        /// The pods' addresses on the built-in bridge; a /16 in 10.0.0.0/8 that no route
        /// of the host overlaps if absent.
        subnet: Absent<Subnet> = absent(r#""10.88.0.0/16""#),
        /// Who forwards packets for the built-in bridge: "uplinks" switches forwarding on
        /// for the bridge and the interface of the default route, "bridge-only" for the
        /// bridge alone.
        forwarding: Forwarding = Forwarding::Uplinks,
    }

    /// Pods and containers.
    Pods {
        /// The handler of pods that name none: "builtin" or a name from `runtimes`.
        default_runtime: String = "builtin".into(),
        /// Who makes the cgroups of pods: "cgroupfs", that is orlop, or "systemd", where
        /// that is process 1 and cgroup v2 alone is mounted; "auto" is systemd there and
        /// cgroupfs elsewhere. The kubelet asks for it and does the same.
        cgroup_driver: CgroupDriver = CgroupDriver::Auto,
        /// The cgroup, or with systemd the slice, of pods that name no parent; the
        /// kubelet's pods do. /orlop or orlop.slice if absent.
        cgroup_parent: Absent<String> = absent(r#""/orlop""#),
        /// Where CDI specs are, read when a container asks for a device; what a later
        /// directory says wins.
        cdi_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        /// Where a command in a container of the built-in runtime (exec, probes) begins:
        /// "any" of the node's processors, or the "first" of the container's cpuset, so
        /// that it disturbs no other before it has joined the container's cgroup. From
        /// then on it has the container's processors.
        exec_cpu_affinity: ExecCpuAffinity = ExecCpuAffinity::Any,
        /// The criu program that checkpoints need, 3.16 or newer; a name without a slash is
        /// looked for in PATH, when the first checkpoint is asked for. Empty: there are no
        /// checkpoints.
        criu: String = "criu".into(),
        /// A longer line of a container's output is logged in several parts.
        log_line_size: ByteSize = ByteSize(16 * 1024),
    }

    /// Exec, attach and port-forward.
    Streaming {
        /// The address to serve on; port 0 takes one that is free. The kubelet connects to
        /// it in the name of its clients, so keep it on loopback.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0)),
        /// Certificate in PEM, with those that vouch for it. Plain HTTP without; with one
        /// there must be `tls_key`.
        tls_certificate: Absent<PathBuf> = absent(r#""/etc/orlop/streaming.pem""#),
        /// The certificate's private key in PEM.
        tls_key: Absent<PathBuf> = absent(r#""/etc/orlop/streaming.key""#),
        /// How long a session may go on with nothing sent either way.
        idle_timeout: Duration = Duration::from_secs(4 * 60 * 60),
        /// How long a client may take to open its streams once it is connected.
        creation_timeout: Duration = Duration::from_secs(30),
    }

    /// One runtime handler.
    RuntimeSettings {
        /// The executable. Must be given.
        path: Absent<PathBuf> = absent(r#""/usr/sbin/runc""#),
        /// "oci": runc, crun, youki.
        kind: RuntimeKind = RuntimeKind::Oci,
        /// Where commands in its containers begin, as `pods.exec_cpu_affinity`; the
        /// executable must know execCPUAffinity of the OCI runtime spec 1.2.1.
        exec_cpu_affinity: ExecCpuAffinity = ExecCpuAffinity::Any,
    }
}
