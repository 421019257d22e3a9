//! CNI with the real plugins, and with one that fails as it is told, on a host of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::chain;
use super::testing::*;
use super::*;

const PLUGINS: &str = "/usr/lib/cni";
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A plugin which notes how it was called, and then does what the file `<name>.<verb>` beside
/// it says; otherwise it succeeds and passes on the previous result.
const TOLD: &str = r#"#!/bin/sh
here=$(dirname "$0"); name=$(basename "$0")
cat > "$here/$name.$CNI_COMMAND.stdin"
echo "$name $CNI_COMMAND $CNI_CONTAINERID [$CNI_NETNS] $CNI_IFNAME" >> "$here/calls"
echo "$CNI_ARGS" > "$here/args"
if [ -e "$here/$name.$CNI_COMMAND" ]; then . "$here/$name.$CNI_COMMAND"; fi
if [ "$CNI_COMMAND" = ADD ]; then
    if grep -q prevResult "$here/$name.ADD.stdin"; then
        sed 's/.*"prevResult":\({.*}\),"type".*/\1/' "$here/$name.ADD.stdin"
    else
        echo '{"cniVersion":"1.0.0","ips":[{"address":"10.7.0.2/24","gateway":"10.7.0.1"}]}'
    fi
fi
"#;

struct Node {
    machine: Machine,
    config: Config,
}

impl Node {
    fn new(machine: Machine) -> Self {
        let mut config = machine.config("node");
        let conf_dir = machine.path("net.d");
        let told = machine.path("bin");
        fs::create_dir(&conf_dir).unwrap();
        fs::create_dir(&told).unwrap();
        config.conf_dir = Some(conf_dir);
        config.plugin_dirs = vec![told, PLUGINS.into()];
        config.plugin_timeout = Duration::from_secs(60);
        Self { machine, config }
    }

    fn daemon(&self) -> Network {
        Network::new(self.config.clone()).unwrap()
    }

    fn configure(&self, list: &Value) {
        let path = self.machine.path("net.d/10-test.conflist");
        fs::write(path, serde_json::to_vec(list).unwrap()).unwrap();
    }

    /// Installs plugins that do as they are told, and a list of them.
    fn tell(&self, names: &[&str], version: &str) {
        for name in names {
            let path = self.machine.path("bin").join(name);
            fs::write(&path, TOLD).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let plugins: Vec<_> = names.iter().map(|name| json!({"type": name})).collect();
        self.configure(&json!({"cniVersion": version, "name": "told", "plugins": plugins}));
    }

    /// What a plugin does at a verb.
    fn order(&self, name: &str, verb: &str, script: &str) {
        fs::write(self.machine.path("bin").join(format!("{name}.{verb}")), script).unwrap();
    }

    fn obey(&self, name: &str, verb: &str) {
        fs::remove_file(self.machine.path("bin").join(format!("{name}.{verb}"))).unwrap();
    }

    /// The calls so far, as `name verb`.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.machine.path("bin/calls")).unwrap_or_default();
        let first = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        calls.lines().map(first).collect()
    }

    fn stdin(&self, name: &str, verb: &str) -> Value {
        let path = self.machine.path("bin").join(format!("{name}.{verb}.stdin"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Bridge with host-local addresses and port mappings: what a small node has.
    fn real(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "real",
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.machine.path("ipam"),
                        "ranges": [[{"subnet": "10.7.0.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
                {"type": "loopback"},
            ],
        })
    }

    /// The addresses that host-local holds.
    fn leases(&self) -> usize {
        let entries = fs::read_dir(self.machine.path("ipam/real")).into_iter().flatten();
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
            .count()
    }

    fn intents(&self) -> usize {
        fs::read_dir(&self.config.cache_dir).unwrap().count()
    }
}

fn on_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    on_host(move |machine| test(Node::new(machine)));
}

fn failing(error: &AddError) -> &PluginError {
    match error {
        AddError::Cni { source: CniAddError::Plugin { source, .. }, .. } => source,
        other => panic!("{}", chain(other)),
    }
}

#[test]
fn every_operation_can_run_in_a_task() {
    fn sendable<T: Send>(_: impl FnOnce(&'static Network) -> T) {}
    sendable(|network| network.watch());
    sendable(|network| network.add(Box::leak(Box::default())));
    sendable(|network| network.del(Box::leak(Box::default()), None));
    sendable(|network| network.gc(&[]));
    sendable(|network| network.shutdown());
    sendable(|network| network.create_netns(""));
}

#[test]
fn root_real_plugins_attach_and_detach() {
    for version in ["1.0.0", "0.4.0", "0.3.1"] {
        on_node(move |node| async move {
            node.configure(&node.real(version));
            let daemon = node.daemon();
            daemon.status().unwrap();
            let (mut one, two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
            let server = Server::start(one.netns.as_deref(), ANY, "one");
            one.port_mappings = vec![port(8080, server.port), port(0, 7)];
            let at_one = daemon.add(&one).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
            let at_two = daemon.add(&two).await.unwrap();
            assert_eq!(at_one.ips, ["10.7.0.2".parse::<IpAddr>().unwrap()]);
            assert_eq!(at_one.gateway, Some("10.7.0.1".parse().unwrap()));
            let mac = at_one.mac.clone().unwrap();
            let link =
                inside(one.netns.as_deref().unwrap(), || node.machine.run("ip link show dev eth0"));
            assert!(link.contains(&mac), "{link}");

            let ip = at_one.primary().unwrap();
            assert!(ask(None, ip, server.port).unwrap().starts_with("one "));
            assert!(ask(two.netns.as_deref(), ip, server.port).unwrap().starts_with("one "));
            assert!(ask(None, LOCALHOST, 8080).unwrap().starts_with("one "));
            // The portmap plugin of some versions finds no IPv6 rules of a pod without IPv6.
            daemon.check(&two, &at_two).await.unwrap();
            assert_eq!((node.leases(), node.intents()), (2, 2));

            let stored = serde_json::to_vec(&at_one).unwrap();
            let restored: Attachment = serde_json::from_slice(&stored).unwrap();
            assert_eq!(restored, at_one);
            daemon.del(&one, Some(&restored)).await.unwrap();
            daemon.del(&one, Some(&restored)).await.unwrap();
            daemon.del(&two, Some(&at_two)).await.unwrap();
            assert!(ask(None, LOCALHOST, 8080).is_err());
            assert_eq!((node.leases(), node.intents()), (0, 0));
            assert_eq!(node.machine.run("ip -o link show type veth"), "");
        });
    }
}

#[test]
fn root_a_pod_is_detached_without_its_namespace_and_without_the_configuration() {
    on_node(|node| async move {
        node.configure(&node.real("1.0.0"));
        let daemon = node.daemon();
        let (one, two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
        let at_one = daemon.add(&one).await.unwrap();
        let at_two = daemon.add(&two).await.unwrap();
        fs::remove_file(node.machine.path("net.d/10-test.conflist")).unwrap();
        daemon.remove_netns(&one.id).await.unwrap();
        // A pin that is only a file now, as after a reboot.
        fs::write(one.netns.as_ref().unwrap(), "").unwrap();
        daemon.del(&one, Some(&at_one)).await.unwrap();
        assert_eq!(node.leases(), 1);
        // The record was never written: the intent says what to do.
        drop(at_two);
        daemon.remove_netns(&two.id).await.unwrap();
        daemon.del(&PodNetwork { netns: None, ..two }, None).await.unwrap();
        assert_eq!((node.leases(), node.intents()), (0, 0));
    });
}

#[test]
fn root_an_add_that_fails_half_way_is_undone() {
    on_node(|node| async move {
        node.tell(&["told-a", "told-b", "told-c"], "1.0.0");
        let mut list = node.real("1.0.0");
        let plugins = list["plugins"].as_array_mut().unwrap();
        plugins.push(json!({"type": "told-a"}));
        plugins.push(json!({"type": "told-b"}));
        node.configure(&list);
        node.order(
            "told-a",
            "ADD",
            r#"printf %s '{"cniVersion":"1.0.0","code":101,"msg":"no more","details":"of it\nat all"}'; exit 3"#,
        );
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let error = daemon.add(&one).await.unwrap_err();
        assert_eq!(
            chain(&error),
            format!(
                "attaching pod {} to network \"real\": CNI ADD by plugin \"told-a\" (4 of 5) of \
                 network \"real\": error 101: no more; of it at all",
                one.id
            )
        );
        assert_eq!(node.calls(), ["told-a ADD", "told-b DEL", "told-a DEL"]);
        assert_eq!((node.leases(), node.intents()), (0, 0));
        assert_eq!(node.machine.run("ip -o link show type veth"), "");
        daemon.del(&one, None).await.unwrap();
        assert_eq!(node.calls().len(), 3, "nothing was left to undo");
    });
}

#[test]
fn root_what_could_not_be_undone_is_undone_later() {
    on_node(|node| async move {
        node.tell(&["told-a", "told-b"], "1.0.0");
        node.order("told-b", "ADD", "echo oh no >&2; exit 1");
        node.order("told-a", "DEL", "exit 1");
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let error = daemon.add(&one).await.unwrap_err();
        assert!(chain(&error).ends_with("exit status: 1 without a CNI error; it said \"oh no\""));
        assert_eq!(node.intents(), 1);
        let error = daemon.del(&one, None).await.unwrap_err();
        assert!(chain(&error).contains("CNI DEL by plugin \"told-a\" (1 of 2)"));
        // A new daemon that knows no such pod.
        drop(daemon);
        node.obey("told-a", "DEL");
        let daemon = node.daemon();
        daemon.gc(&[]).await.unwrap();
        assert_eq!(node.intents(), 0);
    });
}

#[test]
fn root_each_way_to_misbehave_is_one_clear_error() {
    on_node(|mut node| async move {
        node.config.plugin_timeout = Duration::from_millis(1500);
        node.tell(&["told-a"], "1.0.0");
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let add = async |script: &str| {
            node.order("told-a", "ADD", script);
            daemon.add(&one).await.unwrap_err()
        };

        let error = add("echo hello; exit 0").await;
        assert!(
            matches!(failing(&error), PluginError::Garbage { printed, .. } if printed.contains("hello"))
        );
        let error = add("exit 0").await;
        assert!(
            matches!(failing(&error), PluginError::Garbage { printed, .. } if printed.is_empty())
        );
        let error = add("kill -9 $$").await;
        assert!(chain(&error).contains("signal: 9"), "{}", chain(&error));
        let error = add("exec cat /dev/zero").await;
        assert!(matches!(failing(&error), PluginError::TooMuchOutput));
        let error = add("yes >&2 & sleep 0.1; kill $!; exit 4").await;
        assert!(chain(&error).len() < 8192);
        let error = add("echo '{\"cniVersion\":\"1.0.0\"}'; exit 0").await;
        assert!(matches!(
            error,
            AddError::Cni { source: CniAddError::Outcome(OutcomeError::NoAddress), .. }
        ));

        let error = add("echo waiting >&2; sleep 987 & echo $! > $here/pid; wait").await;
        assert!(
            matches!(failing(&error), PluginError::Timeout { stderr, .. } if stderr == "waiting"),
            "{}",
            chain(&error)
        );
        let child = fs::read_to_string(node.machine.path("bin/pid")).unwrap();
        let state = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        assert!(state.is_err() || state.unwrap().contains(") Z "), "the plugin's child lives");

        // What a plugin leaves running does not hold its answer back.
        let answer = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.7.0.9/24"}]}'"#;
        node.order("told-a", "ADD", &format!("{answer}; sleep 5 & exit 0"));
        node.config.plugin_timeout = Duration::from_secs(60);
        let patient = node.daemon();
        assert_eq!(patient.add(&one).await.unwrap().ips, ["10.7.0.9".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
fn root_a_plugin_that_cannot_run_is_named() {
    on_node(|node| async move {
        node.tell(&["told-a"], "1.0.0");
        let plugin = node.machine.path("bin/told-a");
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o644)).unwrap();
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let error = daemon.add(&one).await.unwrap_err();
        assert!(matches!(failing(&error), PluginError::Start { path, .. } if *path == plugin));

        fs::remove_file(&plugin).unwrap();
        let error = daemon.add(&one).await.unwrap_err();
        assert!(matches!(failing(&error), PluginError::Missing { .. }));
        let missing = node.daemon().status().unwrap_err();
        assert_eq!(missing.reason, "NetworkPluginNotReady");
        assert!(missing.message.contains("not installed: told-a"), "{}", missing.message);
    });
}

#[test]
fn root_plugins_are_told_what_the_specification_says() {
    on_node(|node| async move {
        node.tell(&["told-a", "told-b"], "1.1.0");
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let attachment = daemon.add(&one).await.unwrap();
        assert_eq!(node.stdin("told-a", "ADD").get("prevResult"), None);
        let previous = node.stdin("told-b", "ADD")["prevResult"].clone();
        assert_eq!(previous["cniVersion"], "1.1.0", "the list's version");
        assert_eq!(previous["ips"][0]["address"], "10.7.0.2/24");
        let args = fs::read_to_string(node.machine.path("bin/args")).unwrap();
        assert!(args.starts_with("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-1;"));
        let calls = fs::read_to_string(node.machine.path("bin/calls")).unwrap();
        let netns = one.netns.as_ref().unwrap().display();
        assert!(calls.contains(&format!("told-a ADD {} [{netns}] eth0", one.id)), "{calls}");

        daemon.check(&one, &attachment).await.unwrap();
        assert_eq!(node.stdin("told-a", "CHECK")["prevResult"]["ips"], previous["ips"]);
        daemon.gc(std::slice::from_ref(&one.id)).await.unwrap();
        assert_eq!(
            node.stdin("told-b", "GC")["cni.dev/valid-attachments"],
            json!([{"containerID": one.id, "ifname": "eth0"}])
        );
        daemon.remove_netns(&one.id).await.unwrap();
        daemon.del(&one, Some(&attachment)).await.unwrap();
        assert_eq!(node.stdin("told-a", "DEL")["prevResult"]["ips"], previous["ips"]);
        let calls = fs::read_to_string(node.machine.path("bin/calls")).unwrap();
        let ends: Vec<_> = calls.lines().rev().take(2).collect();
        assert_eq!(ends[0], format!("told-a DEL {} [] eth0", one.id));
        assert_eq!(ends[1], format!("told-b DEL {} [] eth0", one.id));
    });
}

#[test]
fn root_the_status_follows_configuration_and_plugins() {
    on_node(|mut node| async move {
        node.config.when_unconfigured = WhenUnconfigured::Wait;
        let daemon = node.daemon();
        let message = daemon.status().unwrap_err().message;
        assert!(message.contains("cni plugin not initialized"), "{message}");
        let watched = async {
            let until = async |good: &dyn Fn(&Result<(), NotReady>) -> bool| {
                while !good(&daemon.status()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            fs::write(node.machine.path("net.d/05-half.conf"), "{ half").unwrap();
            until(&|status| {
                status.as_ref().is_err_and(|e| e.message.contains("05-half.conf: not JSON"))
            })
            .await;
            node.tell(&["told-a"], "1.1.0");
            node.order("told-a", "STATUS", r#"echo '{"code":50,"msg":"not yet"}'; exit 1"#);
            until(&|status| {
                status.as_ref().is_err_and(|e| e.message.ends_with("error 50: not yet"))
            })
            .await;
            node.obey("told-a", "STATUS");
            until(&Result::is_ok).await;
            fs::remove_file(node.machine.path("net.d/10-test.conflist")).unwrap();
            until(&Result::is_err).await;
        };
        let deadline = Duration::from_secs(60);
        tokio::select! {
            () = daemon.watch() => unreachable!(),
            done = tokio::time::timeout(deadline, watched) => done.expect("status was stuck"),
        }
    });
}

#[test]
fn root_a_dropped_add_kills_its_plugin_and_is_undone_by_del() {
    on_node(|node| async move {
        node.tell(&["told-a"], "1.0.0");
        node.order("told-a", "ADD", "echo $$ > $here/pid; sleep 987");
        let daemon = node.daemon();
        let one = pod(&daemon, 1).await;
        let pid_file = node.machine.path("bin/pid");
        let started = async {
            while !fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = daemon.add(&one) => panic!("the plugin ended"),
            () = started => {}
        }
        let pid = fs::read_to_string(&pid_file).unwrap();
        let gone = || {
            let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
        };
        while !gone() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        daemon.del(&one, None).await.unwrap();
        assert_eq!(node.calls(), ["told-a ADD", "told-a DEL"]);
        assert_eq!(node.intents(), 0);
    });
}

#[test]
fn root_without_configuration_the_bridge_is_taken_and_with_a_bad_one_nothing() {
    on_node(|node| async move {
        let daemon = node.daemon();
        daemon.status().unwrap();
        let (one, two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
        let at_one = daemon.add(&one).await.unwrap();
        assert!(matches!(at_one.origin, Origin::Bridge(_)));
        fs::write(node.machine.path("net.d/10-bad.conf"), "{}").unwrap();
        let error = daemon.add(&two).await.unwrap_err();
        assert!(
            chain(&error).contains("10-bad.conf: neither plugins nor type"),
            "{}",
            chain(&error)
        );
        daemon.del(&one, Some(&at_one)).await.unwrap();
    });
}
