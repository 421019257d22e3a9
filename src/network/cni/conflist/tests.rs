//! Lists in the forms that are found on nodes, and what is refused.

use serde_json::json;

use super::*;

fn list(document: Value) -> ConfigList {
    ConfigList::from_document(document).unwrap()
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    let list = list(json!({"cniVersion": "0.3.1", "name": "net", "type": "bridge", "mtu": 9000}));
    assert_eq!((list.name(), list.version()), ("net", Version::new(0, 3, 1)));
    assert_eq!(list.plugins().len(), 1);
    assert_eq!(list.plugins()[0].kind(), "bridge");
    assert_eq!(list.plugins()[0].object()["mtu"], 9000);
    // What DEL is given back reads the same.
    assert_eq!(ConfigList::from_document(list.document().clone()).unwrap(), list);
}

#[test]
fn the_newest_version_spoken_by_both_is_taken() {
    let of = |versions: Value| {
        list(json!({"name": "n", "plugins": [{"type": "p"}], "cniVersion": versions[0],
            "cniVersions": versions}))
        .version()
    };
    assert_eq!(of(json!(["0.4.0", "1.1.0", "9.0.0"])), Version::new(1, 1, 0));
    assert_eq!(of(json!(["1.0.0"])), Version::new(1, 0, 0));
    let unsaid = list(json!({"name": "n", "plugins": [{"type": "p"}]}));
    assert_eq!(unsaid.version(), UNSAID);
    let future = json!({"cniVersion": "2.0.0", "name": "n", "plugins": [{"type": "p"}]});
    let error = ConfigList::from_document(future).unwrap_err();
    assert_eq!(error.to_string(), "cniVersion \"2.0.0\" is not supported");
}

#[test]
fn flags_are_booleans_or_strings() {
    let with = |value: Value| {
        list(json!({"name": "n", "plugins": [{"type": "p"}], "disableCheck": value}))
            .disables_check()
    };
    assert!(with(json!(true)) && with(json!("True")));
    assert!(!with(json!(false)) && !with(json!("no")) && !with(json!(1)));
}

#[test]
fn what_is_no_list_is_refused_with_its_reason() {
    for (document, reason) in [
        (json!([]), "not a JSON object"),
        (json!({"name": "n"}), "neither plugins nor type is given"),
        (json!({"plugins": [{"type": "p"}]}), "name is missing"),
        (json!({"name": "n", "plugins": []}), "plugins is empty"),
        (json!({"name": "n", "plugins": {}}), "plugins is not a list"),
        (json!({"name": "n", "plugins": [{}]}), "a plugin has no type"),
        (json!({"name": "n", "plugins": [7]}), "a plugin is not a JSON object"),
        (json!({"name": "n", "plugins": [{"type": "../sh"}]}), "\"../sh\" is not a valid name"),
        (json!({"name": "n/..", "plugins": [{"type": "p"}]}), "\"n/..\" is not a valid name"),
    ] {
        assert_eq!(ConfigList::from_document(document).unwrap_err().to_string(), reason);
    }
}

#[test]
fn the_first_valid_file_in_the_order_of_names_wins() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let found = || Directory(directory.path().to_path_buf()).read().unwrap();
    assert!(found().list.is_none() && found().rejected.is_empty());
    let absent = Directory(at("absent")).read().unwrap();
    assert!(absent.list.is_none());

    fs::write(at("20-b.conflist"), r#"{"name": "b", "plugins": [{"type": "p"}]}"#).unwrap();
    fs::write(at("30-c.conf"), r#"{"name": "c", "type": "p"}"#).unwrap();
    fs::write(at("10-a.json"), "{ half").unwrap();
    fs::write(at("05-no.txt"), "not a configuration").unwrap();
    fs::write(at(".05-hidden.conf"), "half written").unwrap();
    fs::create_dir(at("01-d.conf")).unwrap();
    let both = found();
    assert_eq!(both.list.unwrap().name(), "b");
    assert_eq!(both.rejected.len(), 1);
    assert_eq!(both.rejected[0].path, at("10-a.json"));
    fs::write(at("10-a.json"), r#"{"name": "a", "type": "p"}"#).unwrap();
    assert_eq!(found().list.unwrap().name(), "a");
    fs::write(at("10-a.json"), " ".repeat(2 << 20)).unwrap();
    assert!(matches!(found().rejected[0].error, ParseListError::TooLong));
}

#[test]
fn further_plugins_come_from_the_directory_of_the_network() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("net")).unwrap();
    fs::write(at("net/2.conf"), r#"{"type": "second"}"#).unwrap();
    fs::write(at("net/1.conf"), r#"{"type": "first"}"#).unwrap();
    let kinds = |text: &str| {
        fs::write(at("10.conflist"), text).unwrap();
        let list = Directory(directory.path().to_path_buf()).read().unwrap().list.unwrap();
        list.plugins().iter().map(|p| p.kind().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(r#"{"name": "net", "plugins": [{"type": "p"}]}"#), ["p", "first", "second"]);
    let only = r#"{"name": "net", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "p"}]}"#;
    assert_eq!(kinds(only), ["p"]);
}
