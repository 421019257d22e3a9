//! Results of every version.

use serde_json::json;

use super::*;

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
