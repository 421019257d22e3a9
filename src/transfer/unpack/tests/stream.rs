//! The stream around the archive: compression, digest, and its end.

use std::io::{self, Read, Write};

use super::build::{Builder, Item};
use super::*;

fn archive() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..600_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Builder::default().item(Item::file(b"a", b"one")).item(Item::file(b"b", &noise)).end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn root_every_compression_gives_the_same_layer() {
    let plain = archive();
    let (front, back) = plain.split_at(plain.len() / 3);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], zstd(&plain).as_slice()].concat();
    let cases = [
        ("application/vnd.oci.image.layer.v1.tar", plain.clone()),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&plain)),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", [gzip(front), gzip(back)].concat()),
        ("application/vnd.oci.image.layer.v1.tar+zstd", [zstd(front), zstd(back)].concat()),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", skippable),
        // What the bytes are counts, not what they are called.
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", zstd(&plain)),
    ];
    for (media_type, bytes) in cases {
        let fixture = Fixture::new();
        let diff_id = Hasher::digest(Algorithm::Sha256, &plain);
        let mut source = Counting { bytes: &bytes, given: 0 };
        let lease = unpack(&mut source, media_type, fixture.writer(&diff_id)).unwrap();
        assert_eq!(std::fs::read(lease.path().join("a")).unwrap(), b"one", "{media_type}");
        assert_eq!(source.given, bytes.len(), "{media_type}: all bytes are taken");
        drop(lease);
        assert!(fixture.layers_on_disk().is_empty(), "an uncommitted layer goes with its lease");
    }
}

struct Counting<'a> {
    bytes: &'a [u8],
    given: usize,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Small and odd portions, as a network gives them.
        let step = buffer.len().min(1_009);
        let got = self.bytes.read(&mut buffer[..step])?;
        self.given += got;
        Ok(got)
    }
}

#[test]
fn root_bytes_behind_the_end_count() {
    let fixture = Fixture::new();
    let plain = [archive(), vec![7; 300_000]].concat();
    fixture.unpack(&plain).unwrap();
}

#[test]
fn root_empty_layers() {
    let fixture = Fixture::new();
    for plain in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10_240]] {
        let lease = fixture.unpack(&plain).unwrap();
        // The root and the record.
        assert_eq!(lease.usage().inodes, 2);
    }
}

#[test]
fn root_wrong_digests_leave_nothing() {
    let fixture = Fixture::new();
    let promised = Hasher::digest(Algorithm::Sha512, b"something else");
    let refused = unpack(archive().as_slice(), PLAIN, fixture.writer(&promised)).unwrap_err();
    assert!(matches!(refused, UnpackError::Mismatch { expected, .. } if expected == promised));
    assert!(fixture.layers_on_disk().is_empty());
    // The right to write is free again.
    drop(fixture.writer(&promised));
}

#[test]
fn root_broken_streams_leave_nothing() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer hung up"))
        }
    }
    let fixture = Fixture::new();
    let plain = archive();
    let diff_id = Hasher::digest(Algorithm::Sha256, &plain);
    let compressed = gzip(&plain);
    let sources: Vec<(&str, Box<dyn Read + Send>)> = vec![
        ("the peer hung up", Box::new(plain[..700].chain(Failing))),
        ("the peer hung up", Box::new(compressed[..9_000].chain(Failing))),
        ("incomplete", Box::new(&compressed[..compressed.len() - 20])),
        ("corrupt", Box::new([&compressed[..5_000], &[0xff; 90_000]].concat().leak() as &[u8])),
        ("ends early", Box::new(&plain[..520])),
        ("unexpected end of file", Box::new(&plain[..5_000])),
    ];
    for (expected, source) in sources {
        let error = chain(&unpack(source, PLAIN, fixture.writer(&diff_id)).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(fixture.layers_on_disk().is_empty());
    }
}

#[test]
fn other_media_types_are_refused() {
    let fixture = Fixture::new();
    for media_type in
        ["", "application/vnd.oci.image.config.v1+json", "application/vnd.in-toto+json"]
    {
        let diff_id = Hasher::digest(Algorithm::Sha256, b"");
        let refused = unpack(io::empty(), media_type, fixture.writer(&diff_id)).unwrap_err();
        assert!(matches!(refused, UnpackError::MediaType(_)));
    }
}
