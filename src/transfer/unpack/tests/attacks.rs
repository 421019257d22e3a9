//! Layers that try to get out, or to be read in two ways.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::build::{Builder, Item};
use super::{Fixture, LayerLease, UnpackError, chain};

/// A directory beside the store with one file, which no layer may see or change.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), b"secret").unwrap();
        Self(outside)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.path().join(name).to_str().unwrap().as_bytes().to_vec()
    }

    fn assert_untouched(&self) {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 1);
        let secret = fs::metadata(self.0.path().join("secret")).unwrap();
        assert_eq!(fs::read(self.0.path().join("secret")).unwrap(), b"secret");
        assert_eq!((secret.nlink(), secret.mode() & 0o7777), (1, 0o644));
    }
}

/// `..` up to where the store's directory is, and further.
fn up(target: &[u8]) -> Vec<u8> {
    [b"../".repeat(12).as_slice(), target.strip_prefix(b"/").unwrap()].concat()
}

fn run(items: Vec<Item>) -> (Fixture, Result<LayerLease, UnpackError>) {
    let fixture = Fixture::new();
    let archive = items.into_iter().fold(Builder::default(), Builder::item).end();
    let outcome = fixture.unpack(&archive);
    (fixture, outcome)
}

#[test]
fn root_names_that_go_up_are_refused() {
    for name in [&b"../evil"[..], b"a/../../evil", b"..", b"a/..", b"./../evil", b"/../evil"] {
        for item in [Item::file(name, b"x"), Item::directory(name), Item::link(b'2', name, b"x")] {
            let (fixture, outcome) = run(vec![item]);
            let error = chain(&outcome.unwrap_err());
            assert!(error.contains("not allowed"), "{error}");
            assert!(fixture.layers_on_disk().is_empty());
        }
    }
    for name in [&b".wh."[..], b".wh..", b".wh...", b"d/.wh...", b"../.wh.x"] {
        assert!(run(vec![Item::file(name, b"")]).1.is_err(), "{name:?}");
    }
}

#[test]
fn root_nothing_leaves_the_layer() {
    let outside = Outside::new();
    let dir = outside.path("");
    let secret = outside.path("secret");
    let lists = || {
        vec![
            // Absolute names stay below the layer's root.
            vec![Item::file(&outside.path("new"), b"x")],
            vec![Item::directory(&outside.path("new")).mode(0o777)],
            vec![Item::file(&[&dir[..], b".wh.secret"].concat(), b"")],
            // Through a link, absolute or climbing.
            vec![Item::link(b'2', b"l", &dir), Item::file(b"l/new", b"x")],
            vec![Item::link(b'2', b"l", &up(&dir)), Item::file(b"l/new", b"x")],
            vec![Item::link(b'2', b"l", &dir), Item::file(b"l/.wh.secret", b"")],
            vec![Item::link(b'2', b"l", &dir), Item::file(b"l/.wh..wh..opq", b"")],
            vec![Item::link(b'2', b"l", &dir), Item::directory(b"l/new")],
            vec![Item::link(b'2', b"l", &dir), Item::device(b'3', b"l/new", 1, 3)],
            // A link in the place of a file is replaced, not written or changed through.
            vec![Item::link(b'2', b"l", &secret), Item::file(b"l", b"evil").mode(0o777)],
            vec![Item::link(b'2', b"l", &dir), Item::directory(b"l").mode(0o777)],
            // A hard link to a link is that link, not what it leads to.
            vec![
                Item::link(b'2', b"l", &secret),
                Item::link(b'1', b"h", b"l"),
                Item::file(b"h", b"evil"),
            ],
        ]
    };
    for (number, items) in lists().into_iter().enumerate() {
        let (_fixture, outcome) = run(items);
        outcome.unwrap_or_else(|error| panic!("{number}: {}", chain(&error)));
        outside.assert_untouched();
    }
}

#[test]
fn root_hard_links_find_only_the_layer() {
    let outside = Outside::new();
    let (dir, secret) = (outside.path(""), outside.path("secret"));
    let lists = vec![
        vec![Item::link(b'1', b"h", &secret)],
        vec![Item::link(b'1', b"h", &up(&secret))],
        vec![Item::link(b'2', b"l", &dir), Item::link(b'1', b"h", b"l/secret")],
        vec![Item::link(b'2', b"l", &up(&dir)), Item::link(b'1', b"h", b"l/secret")],
        vec![Item::file(b".wh.w", b""), Item::link(b'1', b"h", b"w")],
        vec![Item::link(b'1', b"h", b"h")],
        vec![Item::link(b'1', b"h", b"")],
        vec![Item::link(b'1', b"h", b".")],
        vec![Item::file(b"d/f", b""), Item::link(b'1', b"h", b"d")],
        vec![Item::file(b"d/f", b""), Item::link(b'1', b"d", b"d/f")],
    ];
    for (number, items) in lists.into_iter().enumerate() {
        let (fixture, outcome) = run(items);
        assert!(outcome.is_err(), "{number}");
        outside.assert_untouched();
        assert!(fixture.layers_on_disk().is_empty(), "{number}");
    }
    let (_fixture, outcome) = run(vec![Item::link(b'1', b"h", b"lower/file")]);
    assert!(chain(&outcome.unwrap_err()).contains("which this layer does not have"));
}

#[test]
fn root_links_that_lead_nowhere_end() {
    let (_fixture, outcome) = run(vec![
        Item::link(b'2', b"a", b"b"),
        Item::link(b'2', b"b", b"a"),
        Item::file(b"a/x", b""),
    ]);
    assert!(chain(&outcome.unwrap_err()).contains("symbolic links"));
    let (_fixture, outcome) = run(vec![Item::file(b"f", b""), Item::file(b"f/x", b"")]);
    assert!(chain(&outcome.unwrap_err()).contains("Not a directory"));
}

#[test]
fn root_numbers_out_of_range_are_refused() {
    for item in [
        Item::file(b"f", b"").owner(u64::from(u32::MAX), 0),
        Item::file(b"f", b"").owner(0, u64::from(u32::MAX)),
        Item::file(b"f", b"").owner(1 << 32, 0),
        Item::new(b'6', b"f").owner(0, 1 << 40),
    ] {
        assert!(chain(&run(vec![item]).1.unwrap_err()).contains("out of range"));
    }
}

/// Two lengths for one content: the header's and the extended header's. Whoever used one to
/// read and the other to go on would see entries that the other reader does not.
#[test]
fn root_a_content_has_one_length() {
    let fixture = Fixture::new();
    let smuggled = Builder::default().item(Item::file(b"smuggled", b"evil")).end();
    let length = smuggled.len().to_string();
    let hidden = Builder::default()
        .pax(&[("size", length.as_bytes())])
        .item(Item::new(b'0', b"carrier"))
        .raw(&smuggled)
        .item(Item::file(b"after", b"seen"))
        .end();
    let lease = fixture.unpack(&hidden).unwrap();
    assert!(!lease.path().join("smuggled").exists());
    assert_eq!(fs::read(lease.path().join("carrier")).unwrap(), smuggled);
    assert_eq!(fs::read(lease.path().join("after")).unwrap(), b"seen");

    let visible = Builder::default()
        .pax(&[("size", b"0")])
        .item(Item::new(b'0', b"carrier").claimed_size(smuggled.len() as u64))
        .raw(&smuggled)
        .end();
    let lease = fixture.unpack(&visible).unwrap();
    assert_eq!(fs::read(lease.path().join("carrier")).unwrap(), b"");
    assert_eq!(fs::read(lease.path().join("smuggled")).unwrap(), b"evil");

    // What is not a file has no content, whatever is claimed.
    for flag in [b'1', b'2', b'5', b'6'] {
        let archive = Builder::default()
            .item(Item::file(b"t", b""))
            .item(Item::link(flag, b"x", b"t").claimed_size(1024))
            .item(Item::file(b"after", b"seen"))
            .end();
        let lease = fixture.unpack(&archive).unwrap();
        assert_eq!(fs::read(lease.path().join("after")).unwrap(), b"seen", "{flag}");
    }
}

#[test]
fn root_the_umask_does_not_matter() {
    let (_fixture, outcome) = run(vec![
        Item::file(b"implied/f", b"").mode(0o666),
        Item::directory(b"d").mode(0o777),
        Item::new(b'6', b"p").mode(0o666),
    ]);
    let lease = outcome.unwrap();
    let mode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(lease.path().join(Path::new(name))).unwrap().mode() & 0o7777
    };
    assert_eq!((mode("implied"), mode("implied/f")), (0o755, 0o666));
    assert_eq!((mode("d"), mode("p")), (0o777, 0o666));
}

/// An entry of any kind, with names that meet each other and lead everywhere.
#[derive(Debug, Clone)]
struct Any {
    kind: u8,
    name: String,
    target: String,
}

fn any_entry() -> impl Strategy<Value = Any> {
    let part = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 2 => Just("c"), 1 => Just(".."), 1 => Just("."),
        1 => Just("OUTSIDE"), 1 => Just("secret"), 1 => Just(".wh.a"), 1 => Just(".wh.secret"),
        1 => Just(".wh..wh..opq"), 1 => Just(""),
    ];
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let kind = prop::sample::select(b"0012222155346".to_vec());
    (kind, path.clone(), path).prop_map(|(kind, name, target)| Any { kind, name, target })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever the entries are, in whatever order: what is outside stays as it is, and every
    /// layer that is accepted lies wholly in its directory.
    #[test]
    fn root_no_layer_gets_out(entries in prop::collection::vec(any_entry(), 1..14)) {
        let outside = Outside::new();
        let whole = |path: &str| path.replace("OUTSIDE", outside.0.path().to_str().unwrap());
        let items = entries.iter().map(|entry| {
            let (name, target) = (whole(&entry.name), whole(&entry.target));
            match entry.kind {
                b'0' => Item::file(name.as_bytes(), b"evil").mode(0o6777),
                b'5' => Item::directory(name.as_bytes()).mode(0o777),
                kind => Item::link(kind, name.as_bytes(), target.as_bytes()).mode(0o777),
            }
        });
        let (fixture, outcome) = run(items.collect());
        outside.assert_untouched();
        let layers = fixture.layers_on_disk();
        prop_assert_eq!(layers.len(), usize::from(outcome.is_ok()));
    }
}
