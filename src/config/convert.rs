//! From the file's words to the `Config` of each component.

use std::path::PathBuf;

use super::{
    CgroupDriver, ExecCpuAffinity, Forwarding, LogFormat, LogLevel, PrimaryAddress, Settings,
    SnapshotDriver, WhenUnconfigured,
};
use crate::{daemon, images, network, pods, snapshots, streaming, transfer};

impl Settings {
    /// Where CRI is served.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.listen.written.clone().unwrap_or_else(|| self.state.join("orlop.sock"))
    }

    /// What the daemon is told.
    #[must_use]
    pub fn daemon(&self) -> daemon::Config {
        daemon::Config {
            root: self.root.clone(),
            state: self.state.clone(),
            listen: self.socket(),
            log: self.log(),
            metrics: self.metrics.listen.written,
            transfer: self.transfer(),
            images: self.images(),
            snapshots: self.snapshots(),
            network: self.network(),
            pods: self.pods(),
            streaming: self.streaming(),
        }
    }

    fn snapshots(&self) -> snapshots::Config {
        let of = &self.images;
        let remote = of.remote_snapshotter.written.clone().map(|socket| snapshots::RemoteConfig {
            socket,
            timeout: of.remote_snapshotter_timeout,
        });
        let driver = match of.snapshots {
            SnapshotDriver::Overlay => snapshots::Driver::Overlay,
            SnapshotDriver::Native => snapshots::Driver::Native,
        };
        snapshots::Config { driver, remote }
    }

    fn images(&self) -> images::Config {
        let of = &self.prefetch;
        let images = of.images.iter().filter_map(|image| images::Reference::parse(image).ok());
        images::Config {
            pinned_images: self.images.pinned.clone(),
            prefetch: images::Prefetch {
                images: images.collect(),
                archives: of.archives.written.clone(),
                gate: (!of.gate.is_zero()).then_some(of.gate),
            },
        }
    }

    fn log(&self) -> daemon::LogConfig {
        let level = match self.log.level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        };
        let format = match self.log.format {
            LogFormat::Text => daemon::LogFormat::Text,
            LogFormat::Json => daemon::LogFormat::Json,
        };
        daemon::LogConfig { format, level }
    }

    fn transfer(&self) -> transfer::Config {
        let of = &self.registry;
        transfer::Config {
            hosts_dir: Some(of.hosts_dir.clone()),
            credentials_file: of.credentials_file.written.clone(),
            connect_timeout: of.connect_timeout,
            stall_timeout: of.stall_timeout,
            min_bytes_per_second: of.min_rate.0,
            no_progress_timeout: of.progress_timeout,
            parallel_layers: of.parallel_layers as usize,
            ranges_per_layer: of.parallel_ranges as usize,
            memory_bytes: of.memory.0,
            connections_per_registry: of.max_connections as usize,
            bytes_per_second_per_registry: of.max_rate.0,
            max_io_pressure: of.max_io_pressure,
            layer_blobs: if self.images.keep_blobs {
                transfer::LayerBlobs::Keep
            } else {
                transfer::LayerBlobs::Drop
            },
            decryption: transfer::DecryptionConfig {
                key_providers: of.key_providers.written.clone(),
                provider_timeout: of.key_provider_timeout,
            },
            trust: transfer::TrustConfig {
                verifier_dir: Some(self.trust.verifier_dir.clone()),
                max_verifiers: self.trust.max_verifiers as usize,
                verifier_timeout: self.trust.verifier_timeout,
                signature_policy: self.trust.signature_policy.written.clone(),
            },
            ..transfer::Config::default()
        }
    }

    fn pods(&self) -> pods::Config {
        let exec_cpus = |affinity| match affinity {
            ExecCpuAffinity::Any => pods::ExecCpus::Any,
            ExecCpuAffinity::First => pods::ExecCpus::First,
        };
        let handlers = self.runtimes.iter().filter_map(|(name, of)| {
            let path = of.path.written.clone()?;
            let exec_cpus = exec_cpus(of.exec_cpu_affinity);
            Some((name.clone(), pods::ExternalRuntime { path, exec_cpus }))
        });
        pods::Config {
            root: self.root.clone(),
            state: self.state.clone(),
            cdi_dirs: self.pods.cdi_dirs.clone(),
            criu: self.pods.criu.clone().into(),
            cgroup_driver: match self.pods.cgroup_driver {
                CgroupDriver::Auto => None,
                CgroupDriver::Cgroupfs => Some(pods::CgroupDriver::Cgroupfs),
                CgroupDriver::Systemd => Some(pods::CgroupDriver::Systemd),
            },
            cgroup_parent: self.pods.cgroup_parent.written.clone(),
            handlers: handlers.collect(),
            builtin_exec_cpus: exec_cpus(self.pods.exec_cpu_affinity),
            default_handler: self.pods.default_runtime.clone(),
            max_log_line: u32::try_from(self.pods.log_line_size.0).unwrap_or(u32::MAX),
        }
    }

    fn streaming(&self) -> streaming::Config {
        let of = &self.streaming;
        let files = of.tls_certificate.written.clone().zip(of.tls_key.written.clone());
        streaming::Config {
            listen: of.listen,
            tls: files.map(|(certificate, key)| streaming::Tls { certificate, key }),
            idle_timeout: of.idle_timeout,
            creation_timeout: of.creation_timeout,
        }
    }

    fn network(&self) -> network::Config {
        let defaults = network::Config::below(&self.root, &self.state);
        let of = &self.network;
        network::Config {
            conf_dir: Some(of.conf_dir.clone()),
            plugin_dirs: of.plugin_dirs.clone(),
            netns_dir: of.netns_dir.written.clone().unwrap_or(defaults.netns_dir),
            when_unconfigured: match of.when_unconfigured {
                WhenUnconfigured::Bridge => network::WhenUnconfigured::Bridge,
                WhenUnconfigured::Wait => network::WhenUnconfigured::Wait,
            },
            primary: match of.primary_address {
                PrimaryAddress::Ipv4 => network::PrimaryAddress::Ipv4,
                PrimaryAddress::Ipv6 => network::PrimaryAddress::Ipv6,
                PrimaryAddress::AsReported => network::PrimaryAddress::AsReported,
            },
            bridge: network::BridgeConfig {
                name: of.bridge.written.clone(),
                subnet: of.subnet.written,
                forwarding: match of.forwarding {
                    Forwarding::Uplinks => network::Forwarding::Uplinks,
                    Forwarding::BridgeOnly => network::Forwarding::BridgeOnly,
                },
                ..defaults.bridge
            },
            plugin_timeout: of.plugin_timeout,
            plugins_max: of.parallel_plugins as usize,
            ..defaults
        }
    }
}
