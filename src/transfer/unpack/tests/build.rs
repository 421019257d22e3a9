//! Writes archives block by block, also such that no decent writer would make.

/// A growing archive.
#[derive(Default)]
pub(super) struct Builder(Vec<u8>);

/// One header, before its checksum is made.
pub(super) struct Item {
    header: tar::Header,
    content: Vec<u8>,
}

impl Item {
    pub(super) fn new(flag: u8, name: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        assert!(name.len() <= 100, "long names need a header of their own");
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        header.set_size(0);
        Self { header, content: Vec::new() }
    }

    pub(super) fn file(name: &[u8], content: &[u8]) -> Self {
        let mut item = Self::new(b'0', name);
        item.header.set_size(content.len() as u64);
        item.content = content.to_vec();
        item
    }

    pub(super) fn directory(name: &[u8]) -> Self {
        Self::new(b'5', name).mode(0o755)
    }

    pub(super) fn link(flag: u8, name: &[u8], target: &[u8]) -> Self {
        let mut item = Self::new(flag, name);
        item.header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        item
    }

    pub(super) fn device(flag: u8, name: &[u8], major: u32, minor: u32) -> Self {
        let mut item = Self::new(flag, name);
        item.header.set_device_major(major).unwrap();
        item.header.set_device_minor(minor).unwrap();
        item
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub(super) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    /// What the header claims, whatever follows.
    pub(super) fn claimed_size(mut self, bytes: u64) -> Self {
        self.header.set_size(bytes);
        self
    }

    pub(super) fn header(&mut self) -> &mut tar::Header {
        &mut self.header
    }
}

impl Builder {
    pub(super) fn item(mut self, mut item: Item) -> Self {
        item.header.set_cksum();
        self.0.extend_from_slice(item.header.as_bytes());
        self.0.extend_from_slice(&item.content);
        self.pad()
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut item = Item::file(b"pax", &content);
        item.header.set_entry_type(tar::EntryType::XHeader);
        self.item(item)
    }

    pub(super) fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// With the two blocks that end an archive.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// The length counts itself.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while rest.len() + length.to_string().len() != length {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}
