//! Results of every version.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// JSON whose keys and words are those of results, in any place.
fn confused() -> impl Strategy<Value = Value> {
    let word = || {
        prop::sample::select(vec![
            "cniVersion",
            "0.2.0",
            "1.0.0",
            "ips",
            "ip4",
            "ip6",
            "ip",
            "address",
            "10.0.0.1/8",
            "gateway",
            "interface",
            "interfaces",
            "eth0",
            "routes",
            "dst",
            "dns",
            "sandbox",
            "",
        ])
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word(), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_plugin_prints_is_read_or_refused(result in confused()) {
        for version in [Version::new(0, 2, 0), Version::new(0, 4, 0), Version::new(1, 1, 0)] {
            let _ = as_version(result.clone(), version);
        }
        let _ = Outcome::parse(&result);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"address": "fd00::5/64", "gateway": "fd00::1", "interface": 1},
            {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
            {"address": "10.1.0.1/16", "interface": 0},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": {"nameservers": null, "search": ["example"]},
    })
}

#[test]
fn the_pods_addresses_are_those_of_its_interface() {
    let outcome = Outcome::parse(&result()).unwrap();
    assert_eq!(outcome.mac.as_deref(), Some("02:00:00:00:00:02"));
    assert_eq!(outcome.dns.search, ["example"]);
    let first = |primary| outcome.ordered(primary)[0];
    assert_eq!(first(PrimaryAddress::Ipv4), (ip("10.1.0.5"), Some(ip("10.1.0.1"))));
    assert_eq!(first(PrimaryAddress::Ipv6).0, ip("fd00::5"));
    assert_eq!(first(PrimaryAddress::AsReported).0, ip("fd00::5"));
    assert_eq!(outcome.ordered(PrimaryAddress::Ipv4).len(), 2);
}

#[test]
fn interfaces_may_be_missing() {
    let outcome = Outcome::parse(&json!({"ips": [{"address": "10.1.0.5/16"}]})).unwrap();
    assert_eq!(outcome.ips, [(ip("10.1.0.5"), None)]);
    let foreign = json!({
        "interfaces": [{"name": "vm0", "sandbox": "vm"}],
        "ips": [{"address": "10.1.0.5/16", "interface": 0}, {"address": "10.1.0.6/16", "interface": 9}],
    });
    assert_eq!(Outcome::parse(&foreign).unwrap().ips[0].0, ip("10.1.0.6"));
}

#[test]
fn what_says_no_address_is_an_error() {
    for none in [json!({}), json!({"ips": null}), json!({"cniVersion": "1.0.0", "ips": []})] {
        let outcome = Outcome::parse(&none).unwrap().with_addresses();
        assert!(matches!(outcome, Err(OutcomeError::NoAddress)));
    }
    let wrong = json!({"ips": [{"address": "ten"}]});
    assert!(matches!(Outcome::parse(&wrong), Err(OutcomeError::Address { .. })));
    assert!(matches!(Outcome::parse(&json!({"ips": 1})), Err(OutcomeError::Form(_))));
    assert!(matches!(Outcome::parse(&json!([])), Err(OutcomeError::Version { .. })));
    assert!(matches!(
        Outcome::parse(&json!({"cniVersion": "new"})),
        Err(OutcomeError::Version { .. })
    ));
}

#[test]
fn results_change_version_and_keep_what_the_version_knows() {
    let to = |version| as_version(result(), version).unwrap();
    let with_family = to(Version::new(0, 4, 0));
    assert_eq!(with_family["cniVersion"], "0.4.0");
    assert_eq!(with_family["ips"][0]["version"], "6");
    assert_eq!(with_family["ips"][1]["version"], "4");
    assert_eq!(as_version(with_family, Version::new(1, 0, 0)).unwrap(), result());

    let by_family = to(Version::new(0, 2, 0));
    assert_eq!(
        by_family["ip4"],
        json!({"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]})
    );
    assert_eq!(by_family["ip6"]["routes"], json!([{"dst": "::/0", "gw": "fd00::1"}]));
    let outcome = Outcome::parse(&by_family).unwrap();
    assert_eq!(outcome.ordered(PrimaryAddress::Ipv4)[0].0, ip("10.1.0.5"));
    assert_eq!(outcome.ips.len(), 2);
}

#[test]
fn an_old_result_without_a_version_is_recognised() {
    let old = json!({"ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1"}});
    assert_eq!(Outcome::parse(&old).unwrap().ips, [(ip("10.1.0.5"), Some(ip("10.1.0.1")))]);
}
