//! The built-in bridge in a network namespace that plays the host.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use futures_util::future::join_all;

use crate::network::testing::*;
use crate::network::*;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn netns(pod: &PodNetwork) -> Option<&std::path::Path> {
    pod.netns.as_deref()
}

#[test]
fn root_pods_reach_each_other_and_the_host_and_the_host_reaches_them() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let (one, two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
        let at_one = daemon.add(&one).await.unwrap();
        let at_two = daemon.add(&two).await.unwrap();
        let ip_one = at_one.primary().unwrap();
        let ip_two = at_two.primary().unwrap();
        assert_ne!(ip_one, ip_two);

        let server = Server::start(netns(&one), ANY, "one");
        let from_two = ask(netns(&two), ip_one, server.port).unwrap();
        assert_eq!(from_two, format!("one {ip_two}"));
        let gateway = at_one.gateway.unwrap();
        assert_eq!(ask(None, ip_one, server.port).unwrap(), format!("one {gateway}"));

        let host = Server::start(None, ANY, "host");
        let from_one = ask(netns(&one), gateway, host.port).unwrap();
        assert_eq!(from_one, format!("host {ip_one}"));

        let in_pod = inside(netns(&one).unwrap(), || machine.run("ip -br addr show dev eth0"));
        assert!(in_pod.contains("UP") && in_pod.contains(&ip_one.to_string()), "{in_pod}");
        let mac = inside(netns(&one).unwrap(), || machine.run("ip link show dev eth0"));
        assert!(mac.contains(at_one.mac.as_deref().unwrap()), "{mac}");
    });
}

#[test]
fn root_host_ports_lead_to_the_pod_from_everywhere() {
    on_host(|machine| async move {
        machine.run("sysctl -w net.ipv4.ip_forward=0");
        let outside = outside(&machine);
        let daemon = machine.daemon("a");
        let (mut one, two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
        let server = Server::start(netns(&one), ANY, "one");
        one.port_mappings = vec![port(8080, server.port), port(0, 99)];
        let at_one = daemon.add(&one).await.unwrap();
        let at_two = daemon.add(&two).await.unwrap();
        let gateway = at_one.gateway.unwrap();
        let node = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

        let from_localhost = ask(None, LOCALHOST, 8080).unwrap();
        assert_eq!(from_localhost, format!("one {gateway}"));
        assert!(ask(None, node, 8080).unwrap().starts_with("one "));
        assert_eq!(ask(Some(&outside), node, 8080).unwrap(), "one 198.51.100.2");
        // Another pod, and the pod itself, by the node's address.
        assert!(ask(netns(&two), node, 8080).unwrap().starts_with("one "));
        assert!(ask(netns(&one), node, 8080).unwrap().starts_with("one "));
        // A pod beyond the node is seen at the node's address.
        let far = Server::start(Some(&outside), ANY, "far");
        let far_ip = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
        assert_eq!(ask(netns(&two), far_ip, far.port).unwrap(), "far 198.51.100.1");

        daemon.del(&one, Some(&at_one)).await.unwrap();
        assert!(ask(None, LOCALHOST, 8080).is_err());
        daemon.del(&two, Some(&at_two)).await.unwrap();
        let forwarding = "sysctl -n net.ipv4.conf.uplink.forwarding";
        assert_eq!(machine.run(forwarding).trim(), "1");
        assert_eq!(machine.run("sysctl -n net.ipv4.ip_forward").trim(), "0");
        daemon.shutdown().await.unwrap();
        assert_eq!(machine.run(forwarding).trim(), "0");
        sandbox::sys::ns::remove_pinned_netns(&outside).unwrap();
    });
}

/// Gives the host an uplink at 198.51.100.1, and returns the namespace of the neighbour at
/// 198.51.100.2, who also is the gateway.
fn outside(machine: &Machine) -> std::path::PathBuf {
    let outside = machine.path("outside");
    sandbox::sys::ns::create_pinned_netns(&outside).unwrap();
    machine.run("ip link add uplink type veth peer name far");
    inside_move(machine, "far", &outside);
    machine.run("ip addr add 198.51.100.1/24 dev uplink");
    machine.run("ip link set uplink up");
    machine.run("ip route add default via 198.51.100.2");
    inside(&outside, || {
        machine.run("ip addr add 198.51.100.2/24 dev far");
        machine.run("ip link set far up");
    });
    outside
}

/// Makes a namespace send what is for 127.0.0.0/8 to `gateway`, as its root can.
fn send_localhost_to(machine: &Machine, netns: &std::path::Path, gateway: IpAddr) {
    inside(netns, || {
        machine.run("sysctl -w net.ipv4.conf.all.route_localnet=1");
        machine.run("ip link set lo down");
        machine.run("ip addr flush dev lo");
        machine.run("ip rule add pref 0 to 127.0.0.0/8 lookup 100");
        machine.run(&format!("ip route add 127.0.0.0/8 via {gateway} table 100"));
    });
}

#[test]
fn root_a_neighbour_cannot_use_a_host_port_on_localhost() {
    on_host(|machine| async move {
        let outside = outside(&machine);
        let daemon = machine.daemon("a");
        let mut one = pod(&daemon, 1).await;
        let server = Server::start(netns(&one), ANY, "one");
        one.port_mappings =
            vec![PortMapping { host_ip: Some(LOCALHOST), ..port(8080, server.port) }];
        daemon.add(&one).await.unwrap();
        let node = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
        send_localhost_to(&machine, &outside, node);
        assert!(ask(Some(&outside), LOCALHOST, 8080).is_err());
        assert!(ask(Some(&outside), node, 8080).is_err());
        assert!(ask(None, node, 8080).is_err());
        assert!(ask(None, LOCALHOST, 8080).unwrap().starts_with("one "));
        sandbox::sys::ns::remove_pinned_netns(&outside).unwrap();
    });
}

/// Moves an interface into a pinned namespace, which `ip` knows only by a process in it.
fn inside_move(machine: &Machine, interface: &str, netns: &std::path::Path) {
    let mut sleeper =
        inside(netns, || std::process::Command::new("sleep").arg("60").spawn().unwrap());
    machine.run(&format!("ip link set {interface} netns {}", sleeper.id()));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn root_a_pod_cannot_reach_what_listens_on_the_hosts_localhost() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let one = pod(&daemon, 1).await;
        let at_one = daemon.add(&one).await.unwrap();
        let secret = Server::start(None, Ipv4Addr::LOCALHOST, "secret");
        let gateway = at_one.gateway.unwrap();
        send_localhost_to(&machine, netns(&one).unwrap(), gateway);
        assert!(ask(netns(&one), LOCALHOST, secret.port).is_err());
        assert_eq!(ask(None, LOCALHOST, secret.port).unwrap(), "secret 127.0.0.1");
    });
}

#[test]
fn root_a_host_port_is_given_to_one_pod_only() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let (mut one, mut two) = (pod(&daemon, 1).await, pod(&daemon, 2).await);
        let server = Server::start(netns(&one), ANY, "one");
        one.port_mappings = vec![port(8080, server.port)];
        two.port_mappings = vec![port(8080, 1)];
        let at_one = daemon.add(&one).await.unwrap();
        let error = daemon.add(&two).await.unwrap_err();
        assert!(matches!(
            &error,
            AddError::Bridge { source: AttachError::PortTaken { port: 8080, pod, .. }, .. }
                if *pod == one.id
        ));
        // Giving back what was refused must not take it from its owner.
        daemon.del(&two, None).await.unwrap();
        assert!(ask(None, LOCALHOST, 8080).unwrap().starts_with("one "));

        daemon.del(&one, Some(&at_one)).await.unwrap();
        daemon.add(&two).await.unwrap();
    });
}

#[test]
fn root_a_restarted_daemon_goes_on_with_its_pods() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let mut one = pod(&daemon, 1).await;
        let server = Server::start(netns(&one), ANY, "one");
        one.port_mappings = vec![port(8080, server.port)];
        let at_one = daemon.add(&one).await.unwrap();
        let stale = pod(&daemon, 2).await;
        let mut lost = pod(&daemon, 3).await;
        lost.port_mappings = vec![port(8081, server.port)];
        daemon.add(&stale).await.unwrap();
        daemon.add(&lost).await.unwrap();
        drop(daemon);

        // Only the first pod came into a record.
        let stored = serde_json::to_string(&at_one).unwrap();
        let daemon = machine.daemon("a");
        let restored: Attachment = serde_json::from_str(&stored).unwrap();
        assert_eq!(restored, at_one);
        daemon.restore([(one.id.as_str(), &restored)]);
        daemon.gc(std::slice::from_ref(&one.id)).await.unwrap();
        assert!(ask(None, LOCALHOST, 8080).unwrap().starts_with("one "));
        assert!(ask(None, LOCALHOST, 8081).is_err());
        let ports = machine.run("ip -o link show type veth");
        assert_eq!(ports.lines().count(), 1, "{ports}");

        let four = pod(&daemon, 4).await;
        let at_four = daemon.add(&four).await.unwrap();
        assert_ne!(at_four.primary(), at_one.primary());
        assert_eq!(at_four.gateway, at_one.gateway);
        daemon.shutdown().await.unwrap();
        assert!(ask(None, LOCALHOST, 8080).unwrap().starts_with("one "), "pods keep running");
        daemon.del(&one, Some(&restored)).await.unwrap();
        daemon.del(&four, None).await.unwrap();
        daemon.shutdown().await.unwrap();
        assert_eq!(machine.run("ip -o link").lines().count(), links_of_an_empty_host(&machine));
    });
}

/// A new namespace may hold tunnel devices beside `lo`.
fn links_of_an_empty_host(machine: &Machine) -> usize {
    let path = machine.path("empty");
    sandbox::sys::ns::create_pinned_netns(&path).unwrap();
    let links = inside(&path, || machine.run("ip -o link").lines().count());
    sandbox::sys::ns::remove_pinned_netns(&path).unwrap();
    links
}

#[test]
fn root_two_daemons_do_not_get_in_each_others_way() {
    on_host(|machine| async move {
        let (a, b) = (machine.daemon("a"), machine.daemon("b"));
        let (one, two) = (pod(&a, 1).await, pod(&b, 2).await);
        let at_one = a.add(&one).await.unwrap();
        let at_two = b.add(&two).await.unwrap();
        assert_ne!(at_one.gateway, at_two.gateway);
        let server = Server::start(netns(&two), ANY, "two");
        assert!(ask(None, at_two.primary().unwrap(), server.port).is_ok());
        a.del(&one, Some(&at_one)).await.unwrap();
        a.shutdown().await.unwrap();
        assert!(ask(None, at_two.primary().unwrap(), server.port).is_ok());
        assert_eq!(machine.run("nft list tables").lines().count(), 1);
    });
}

#[test]
fn root_a_subnet_in_use_is_avoided_and_a_configured_one_refused() {
    on_host(|machine| async move {
        for second in (88..=127).filter(|second| *second != 101) {
            machine.run(&format!("ip route add 10.{second}.7.0/24 dev lo"));
        }
        let daemon = machine.daemon("a");
        let one = pod(&daemon, 1).await;
        let at_one = daemon.add(&one).await.unwrap();
        assert_eq!(at_one.gateway, Some(IpAddr::V4(Ipv4Addr::new(10, 101, 0, 1))));

        let mut config = machine.config("b");
        config.bridge.subnet = Some("10.101.4.0/24".parse().unwrap());
        let other = Network::new(config).unwrap();
        let two = pod(&other, 2).await;
        let error = other.add(&two).await.unwrap_err();
        let AddError::Bridge { source: AttachError::Build(build), .. } = error else {
            panic!("{error}")
        };
        assert!(matches!(build, BuildError::SubnetTaken { .. }), "{build}");
    });
}

#[test]
fn root_flushed_rules_and_a_removed_bridge_come_back() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let mut one = pod(&daemon, 1).await;
        let server = Server::start(netns(&one), ANY, "one");
        one.port_mappings = vec![port(8080, server.port)];
        let at_one = daemon.add(&one).await.unwrap();
        machine.run("nft flush ruleset");
        assert!(ask(None, LOCALHOST, 8080).is_err());
        daemon.bridge.call(bridge::Bridge::repair).await.unwrap().unwrap();
        assert!(ask(None, LOCALHOST, 8080).is_ok());
        machine.run("nft flush ruleset");
        daemon.del(&one, Some(&at_one)).await.unwrap();

        let bridge = machine.run("ip -o link show type bridge");
        let name = bridge.split(": ").nth(1).unwrap();
        machine.run(&format!("ip link del {name}"));
        let at_one = daemon.add(&one).await.unwrap();
        assert!(ask(None, at_one.primary().unwrap(), server.port).is_ok());
        assert!(ask(None, LOCALHOST, 8080).is_ok());
    });
}

#[test]
fn root_two_hundred_cycles_leave_nothing() {
    on_host(|machine| async move {
        let mut config = machine.config("a");
        config.bridge.subnet = Some("10.9.0.0/28".parse().unwrap());
        let daemon = Network::new(config).unwrap();
        let before = (machine.run("ip -o addr"), machine.run("ip route show table all"));
        let mut given = std::collections::BTreeMap::<IpAddr, u32>::new();
        let mut times = Vec::new();
        for cycle in 0..200 {
            let mut one = pod(&daemon, cycle).await;
            one.port_mappings = vec![port(8080, 80), port(8081, 81)];
            let started = std::time::Instant::now();
            let attachment = daemon.add(&one).await.unwrap();
            let added = started.elapsed();
            *given.entry(attachment.primary().unwrap()).or_default() += 1;
            let started = std::time::Instant::now();
            daemon.del(&one, Some(&attachment)).await.unwrap();
            times.push((added, started.elapsed()));
            daemon.del(&one, Some(&attachment)).await.unwrap();
            daemon.remove_netns(&one.id).await.unwrap();
        }
        times.sort();
        eprintln!("add, del: median {:?}, worst {:?}", times[100], times[199]);
        assert_eq!(given.len(), 13, "every address of the subnet is used: {given:?}");
        assert!(given.values().all(|times| (15..=16).contains(times)), "{given:?}");
        let table = machine.run("nft list ruleset");
        assert!(!table.contains("8080"), "{table}");
        daemon.shutdown().await.unwrap();
        let after = (machine.run("ip -o addr"), machine.run("ip route show table all"));
        assert_eq!(before, after);
        assert_eq!(machine.run("nft list ruleset"), "");
    });
}

#[test]
fn root_what_was_never_taken_can_be_given_back() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let never = PodNetwork { id: pod_id(7), ..PodNetwork::default() };
        daemon.del(&never, None).await.unwrap();
        daemon.remove_netns(&never.id).await.unwrap();
        daemon.gc(&[]).await.unwrap();
        daemon.shutdown().await.unwrap();
        assert_eq!(machine.run("nft list ruleset"), "");

        // A pod whose namespace is gone (a reboot) is given back all the same.
        let one = pod(&daemon, 1).await;
        let attachment = daemon.add(&one).await.unwrap();
        daemon.remove_netns(&one.id).await.unwrap();
        let gone = PodNetwork { netns: None, ..one };
        daemon.del(&gone, Some(&attachment)).await.unwrap();
        assert!(matches!(
            daemon.add(&gone).await,
            Err(AddError::Bridge { source: AttachError::NoNetns, .. })
        ));
    });
}

#[test]
fn root_the_table_is_what_its_description_says() {
    on_host(|machine| async move {
        let mut config = machine.config("a");
        config.bridge.name = Some("br-test".to_owned());
        config.bridge.subnet = Some("10.9.0.0/24".parse().unwrap());
        let daemon = Network::new(config).unwrap();
        let mut one = pod(&daemon, 1).await;
        one.port_mappings = vec![
            port(8080, 80),
            PortMapping { protocol: Protocol::Udp, ..port(53, 5353) },
            PortMapping { protocol: Protocol::Sctp, ..port(9, 9) },
            PortMapping { host_ip: Some(LOCALHOST), ..port(8443, 443) },
        ];
        daemon.add(&one).await.unwrap();
        let listed = machine.run("nft list ruleset");
        for line in [
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
            "tcp . 8080",
            "10.9.0.2 . 80",
            "udp . 53",
            "10.9.0.2 . 5353",
            "sctp . 9",
            "127.0.0.1 . tcp . 8443",
            "10.9.0.2 . 443",
            "iifname \"br-test\" ip daddr 127.0.0.0/8 drop",
            "iifname \"br-test\" ip saddr 127.0.0.0/8 drop",
            "dnat ip to ip daddr . meta l4proto . th dport map @ports_at",
            "dnat ip to meta l4proto . th dport map @ports",
            "ip daddr 127.0.0.0/8 return",
            "fib daddr type local jump host_ports",
            "type nat hook prerouting priority dstnat; policy accept;",
            "type nat hook output priority -100; policy accept;",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip saddr 10.9.0.0/24 oifname != \"br-test\" masquerade",
            "ip saddr 10.9.0.0/24 oifname \"br-test\" ct status dnat masquerade",
            "ip saddr 127.0.0.0/8 oifname \"br-test\" masquerade",
            &one.id,
        ] {
            assert!(listed.contains(line), "{line:?} is missing in\n{listed}");
        }
    });
}

/// Answers every datagram with `name`.
fn echo(server: UdpSocket, name: u8) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&[name], peer);
        }
    });
}

#[test]
fn root_a_udp_client_that_never_pauses_meets_whoever_is_there() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        // Connections are tracked from the first pod on.
        daemon.add(&pod(&daemon, 9).await).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let answer = || {
            let mut buffer = [0; 16];
            (0..50).find_map(|_| {
                let _ = client.send_to(b"?", "127.0.0.1:5353");
                client.recv_from(&mut buffer).is_ok().then_some(buffer[0])
            })
        };
        for _ in 0..3 {
            let _ = client.send_to(b"?", "127.0.0.1:5353");
        }
        let mut served = pod(&daemon, 1).await;
        let server = inside(netns(&served).unwrap(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        let container = server.local_addr().unwrap().port();
        echo(server, 1);
        served.port_mappings =
            vec![PortMapping { protocol: Protocol::Udp, ..port(5353, container) }];
        let attachment = daemon.add(&served).await.unwrap();
        assert_eq!(answer(), Some(1));
        daemon.del(&served, Some(&attachment)).await.unwrap();
        // Answers to what was sent twice while the pod's address was looked up.
        while client.recv_from(&mut [0; 16]).is_ok() {}
        echo(UdpSocket::bind("127.0.0.1:5353").unwrap(), 2);
        assert_eq!(answer(), Some(2));
    });
}

#[test]
fn root_pods_come_and_go_at_once() {
    on_host(|machine| async move {
        let daemon = machine.daemon("a");
        let mut pods = Vec::new();
        for number in 0..40 {
            let mut one = pod(&daemon, number).await;
            one.port_mappings = vec![port(u16::try_from(8000 + number).unwrap(), 80)];
            pods.push(one);
        }
        let added = join_all(pods.iter().map(|pod| daemon.add(pod))).await;
        let addresses: std::collections::BTreeSet<_> =
            added.iter().map(|added| added.as_ref().unwrap().primary()).collect();
        assert_eq!(addresses.len(), pods.len());
        let started = std::time::Instant::now();
        for deleted in join_all(pods.iter().map(|pod| daemon.del(pod, None))).await {
            deleted.unwrap();
        }
        eprintln!("40 dels at once: {:?}", started.elapsed());
        assert_eq!(machine.run("ip -o link show type veth"), "");
        daemon.shutdown().await.unwrap();
        assert_eq!(machine.run("nft list ruleset"), "");
    });
}
