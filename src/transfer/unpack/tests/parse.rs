//! The reader alone: the same answers as a well-known reader, and never more memory than agreed.

use std::io::Read;

use proptest::prelude::*;

use super::super::archive::{Archive, ArchiveError, Entry, Kind};
use super::build::{Builder, Item, record};

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut content = Vec::new();
        archive.content().read_to_end(&mut content).map_err(ArchiveError::Read)?;
        entries.push((entry, content));
    }
    Ok(entries)
}

#[test]
fn large_specials_are_not_read() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let mut item = Item::new(flag, b"special");
        item.header().set_size(2 << 20);
        let archive = Builder::default().item(item).end();
        assert!(matches!(read_all(&archive), Err(ArchiveError::TooLong { .. })), "{flag}");
    }
    let long = "x".repeat(4096);
    let archive =
        Builder::default().pax(&[("path", long.as_bytes())]).item(Item::file(b"f", b"")).end();
    assert!(matches!(read_all(&archive), Err(ArchiveError::TooLong { what: "path", .. })));
}

#[test]
fn malformed_archives_are_refused() {
    let mut wrong_sum = Builder::default().item(Item::file(b"f", b"")).end();
    wrong_sum[0] = b'g';
    assert!(matches!(read_all(&wrong_sum), Err(ArchiveError::Header { field: "checksum", .. })));

    let mut item = Item::file(b"f", b"");
    item.header().as_old_mut().size = *b"not a number";
    let archive = Builder::default().item(item).end();
    assert!(matches!(read_all(&archive), Err(ArchiveError::Header { field: "size", .. })));

    let mut item = Item::file(b"f", b"");
    item.header().as_old_mut().size = [0xff; 12];
    let archive = Builder::default().item(item).end();
    assert!(matches!(read_all(&archive), Err(ArchiveError::Header { field: "size", .. })));

    let lone_zero_block = Builder::default().raw(&[0; 512]).item(Item::file(b"f", b"")).end();
    assert!(matches!(read_all(&lone_zero_block), Err(ArchiveError::Header { .. })));

    let archive = Builder::default().item(Item::new(b'D', b"dump")).end();
    assert!(matches!(read_all(&archive), Err(ArchiveError::Kind { flag: 'D', .. })));

    for content in [
        &b"x"[..],
        b"5 a=b",
        b"99 path=x\n",
        b"0 path=x\n",
        b"7 path\n",
        b"6 =ab\n",
        b"-1 a=b\n",
        b"11 path=a\0b\n",
        b"8 size=x\n",
        b"10 mtime=1x\n",
        b"28 size=99999999999999999999\n",
    ] {
        let mut item = Item::file(b"pax", content);
        item.header().set_entry_type(tar::EntryType::XHeader);
        let archive = Builder::default().item(item).item(Item::file(b"f", b"")).end();
        assert!(matches!(read_all(&archive), Err(ArchiveError::Extended(_))), "{content:?}");
    }
}

#[test]
fn inconsistent_sparse_files_are_refused() {
    for map in ["0,4,2,4", "4,4,0,4", "0,8,8,100", "0,4", "0,9", "0", "9223372036854775807,8"] {
        let archive = Builder::default()
            .pax(&[("GNU.sparse.size", b"16"), ("GNU.sparse.map", map.as_bytes())])
            .item(Item::file(b"f", b"12345678"))
            .end();
        assert!(matches!(read_all(&archive), Err(ArchiveError::Sparse(_))), "{map}");
    }
}

#[test]
fn old_forms_are_read() {
    // Before ustar a directory was a file whose name ends with a slash.
    let mut old = Item::new(b'0', b"old/");
    old.header().as_old_mut().linkflag = [0];
    let archive = Builder::default().item(old).end();
    assert_eq!(read_all(&archive).unwrap()[0].0.kind, Kind::Directory);
    // A global header says nothing that is used, and above all no length.
    let mut global = Item::file(b"global", &record("size", b"1000"));
    global.header().set_entry_type(tar::EntryType::XGlobalHeader);
    let archive = Builder::default().item(global).item(Item::file(b"f", b"x")).end();
    assert_eq!(read_all(&archive).unwrap()[0].1, b"x");
    // The end may be missing.
    let archive = Builder::default().item(Item::file(b"f", b"x")).end();
    assert_eq!(read_all(&archive[..1024]).unwrap().len(), 1);
}

#[derive(Debug, Clone)]
struct Model {
    path: String,
    content: Vec<u8>,
    mode: u32,
    uid: u64,
    mtime: u64,
}

fn model() -> impl Strategy<Value = Model> {
    let path = "[a-z]{1,60}(/[a-z]{1,60}){0,4}";
    (
        path,
        prop::collection::vec(any::<u8>(), 0..1500),
        0_u32..0o10000,
        0_u64..1 << 40,
        0_u64..1 << 36,
    )
        .prop_map(|(path, content, mode, uid, mtime)| Model {
            path,
            content,
            mode,
            uid,
            mtime,
        })
}

proptest! {
    /// What a well-known writer writes is read back, long names and large numbers included.
    #[test]
    fn reads_what_others_write(models in prop::collection::vec(model(), 0..8)) {
        let mut builder = tar::Builder::new(Vec::new());
        for model in &models {
            let mut header = tar::Header::new_gnu();
            header.set_mode(model.mode);
            header.set_uid(model.uid);
            header.set_gid(0);
            header.set_mtime(model.mtime);
            header.set_size(model.content.len() as u64);
            builder.append_data(&mut header, &model.path, model.content.as_slice()).unwrap();
        }
        let entries = read_all(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(entries.len(), models.len());
        for ((entry, content), model) in entries.iter().zip(&models) {
            prop_assert_eq!(&entry.path, model.path.as_bytes());
            prop_assert_eq!(content, &model.content);
            prop_assert_eq!(entry.mode, model.mode);
            prop_assert_eq!(entry.uid, model.uid);
            prop_assert_eq!(entry.mtime.seconds.cast_unsigned(), model.mtime);
        }
    }

    /// Nothing that can be in an archive stops the reader in another way than by an error.
    #[test]
    fn any_bytes_end(
        mut bytes in Just(Builder::default()
            .pax(&[("path", b"p"), ("size", b"3"), ("SCHILY.xattr.user.a", b"b")])
            .item(Item::file(b"f", b"abc"))
            .item(Item::link(b'1', b"h", b"f"))
            .end()),
        changes in prop::collection::vec((0_usize..3000, any::<u8>()), 0..40),
    ) {
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        // Right sums, so that the fields behind them are reached.
        for block in bytes.as_chunks_mut::<512>().0 {
            if block.iter().any(|byte| *byte != 0) && block[257..262] == *b"ustar" {
                let mut header = tar::Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        drop(read_all(&bytes));
    }
}
