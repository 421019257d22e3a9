//! What plugins are told.

use crate::network::attachment::{Bandwidth, Dns, PortMapping, Protocol};

use super::*;

fn pod() -> PodNetwork {
    let mapping = |host_port| PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port,
        host_ip: None,
    };
    PodNetwork {
        id: "ab12".to_owned(),
        name: "web-0".to_owned(),
        namespace: "shop".to_owned(),
        uid: "u-1".to_owned(),
        port_mappings: vec![mapping(0), mapping(8080)],
        bandwidth: Bandwidth { ingress_bits: Some(1000), egress_bits: None },
        dns: Dns { nameservers: vec!["192.0.2.53".to_owned()], ..Dns::default() },
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        cgroup_path: Some("/kubepods/pod1".to_owned()),
        ..PodNetwork::default()
    }
}

#[test]
fn arguments_are_those_that_plugins_know() {
    assert_eq!(
        args(&pod()).unwrap(),
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
         K8S_POD_INFRA_CONTAINER_ID=ab12;K8S_POD_UID=u-1"
    );
}

#[test]
fn a_name_cannot_smuggle_an_argument() {
    for name in ["a;K8S_POD_UID=other", "a=b", "a\nb"] {
        let pod = PodNetwork { name: name.to_owned(), ..pod() };
        assert!(matches!(args(&pod), Err(CniAddError::Argument { key: "K8S_POD_NAME", .. })));
    }
}

#[test]
fn capabilities_reach_only_plugins_that_declare_them() {
    let list = ConfigList::from_document(json!({
        "cniVersion": "1.0.0", "name": "net",
        "plugins": [
            {"type": "plain", "cniVersion": "0.1.0", "name": "x", "keep": [1],
                "runtimeConfig": {"portMappings": []}},
            {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": false}},
            {"type": "all", "capabilities": {"portMappings": true, "bandwidth": true, "dns": true,
                "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true, "ips": true}},
        ],
    }))
    .unwrap();
    let offered = capabilities(&pod());
    let given =
        |nth: usize| config(&list, &list.plugins()[nth], &offered, Some(&json!({"ips": []})));
    assert_eq!(
        given(0),
        json!({"type": "plain", "cniVersion": "1.0.0", "name": "net", "keep": [1],
            "prevResult": {"ips": []}})
    );
    let mapped = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    assert_eq!(given(1)["runtimeConfig"], json!({"portMappings": mapped}));
    assert_eq!(given(1).get("capabilities"), None);
    assert_eq!(
        given(2)["runtimeConfig"],
        json!({
            "portMappings": mapped,
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2_147_483_647},
            "dns": {"servers": ["192.0.2.53"], "searches": [], "options": []},
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
            "cgroupPath": "/kubepods/pod1",
        })
    );
    let bare = capabilities(&PodNetwork::default());
    assert!(bare.is_empty());
}
