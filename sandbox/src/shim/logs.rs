//! The CRI log file: what a program writes, line by line, with time and stream.
//!
//! ```text
//! 2026-01-02T15:04:05.000000006Z stdout F a whole line
//! 2026-01-02T15:04:05.000000007Z stdout P the first part of a long
//! 2026-01-02T15:04:05.000000008Z stdout F  line
//! ```
//!
//! Records reach the file whole: one `write(2)` holds one or more of them, in append
//! mode, so neither rotation nor a reader meets half a record. A file that cannot be
//! written (disk full) costs the records, which are counted, and never blocks the
//! program.
//!
//! # References
//! - [CRI logging](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md)

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::clock;

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// The log of one container. Without a path everything is dropped.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    max_line: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    records: Vec<u8>,
    /// Writes that failed, since the file was opened.
    lost: u64,
}

impl Log {
    /// Opens the log at `path` (empty: none) for lines of at most `max_line` bytes.
    pub(super) fn open(path: &str, max_line: u32) -> io::Result<Self> {
        let path = (!path.is_empty()).then(|| PathBuf::from(path));
        let file = path.as_deref().map(open_append).transpose()?;
        Ok(Self {
            path,
            file,
            max_line: (max_line as usize).max(1),
            stdout: Vec::new(),
            stderr: Vec::new(),
            records: Vec::new(),
            lost: 0,
        })
    }

    /// Closes the file and opens it anew by its name: after a rotation the name is free,
    /// so that makes a new file. On failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = self.path.as_deref() {
            self.file = Some(open_append(path)?);
            self.lost = 0;
        }
        Ok(())
    }

    /// Takes what a program wrote and writes the lines that are whole.
    pub(super) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let now = clock::rfc3339(clock::now_ns());
        let pending = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        while !bytes.is_empty() {
            let room = self.max_line - pending.len();
            // One byte more than the line has room for, since it may be the line's end.
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    record(&mut self.records, &now, stream, b"F", &[pending, &window[..end]]);
                    pending.clear();
                    bytes = &bytes[end + 1..];
                }
                None if window.len() > room => {
                    record(&mut self.records, &now, stream, b"P", &[pending, &window[..room]]);
                    pending.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    pending.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                }
            }
        }
        self.flush();
    }

    /// Writes what a program left without a line end.
    pub(super) fn finish(&mut self) {
        let now = clock::rfc3339(clock::now_ns());
        for (stream, pending) in
            [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)]
        {
            if !pending.is_empty() && self.file.is_some() {
                record(&mut self.records, &now, stream, b"P", &[pending]);
            }
            *pending = Vec::new();
        }
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && file.write_all(&self.records).is_err()
        {
            self.lost += 1;
        }
        self.records.clear();
        // A burst must not cost memory for the rest of the container's life.
        self.records.shrink_to(64 << 10);
    }
}

/// Opens the file, making it, and its directory if the kubelet did not.
fn open_append(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)?;
            open()
        }
        (opened, _) => opened,
    }
}

fn record(out: &mut Vec<u8>, time: &str, stream: Stream, tag: &[u8], content: &[&[u8]]) {
    for part in [time.as_bytes(), b" ", stream.name(), b" ", tag, b" "] {
        out.extend_from_slice(part);
    }
    for part in content {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(max_line: u32, chunks: &[(Stream, &[u8])]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.to_str().unwrap(), max_line).unwrap();
        for (stream, bytes) in chunks {
            log.write(*stream, bytes);
        }
        log.finish();
        let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn whole_lines_and_a_rest() {
        let out = lines(16, &[(Stream::Stdout, b"one\ntwo\nthr"), (Stream::Stdout, b"ee")]);
        assert_eq!(out, ["stdout F one", "stdout F two", "stdout P three"]);
    }

    #[test]
    fn a_line_of_just_the_limit_is_whole_and_one_byte_more_is_split() {
        assert_eq!(lines(4, &[(Stream::Stderr, b"abcd\n")]), ["stderr F abcd"]);
        assert_eq!(lines(4, &[(Stream::Stderr, b"abcde\n")]), ["stderr P abcd", "stderr F e"]);
        assert_eq!(
            lines(4, &[(Stream::Stderr, b"abcd"), (Stream::Stderr, b"\n")]),
            ["stderr F abcd"]
        );
    }

    #[test]
    fn streams_do_not_mix() {
        let out =
            lines(9, &[(Stream::Stdout, b"a"), (Stream::Stderr, b"b\n"), (Stream::Stdout, b"c\n")]);
        assert_eq!(out, ["stderr F b", "stdout F ac"]);
    }

    #[test]
    fn any_split_of_the_input_gives_the_same_content() {
        let text = b"first\n\nthird line is long\nend";
        for split in 0..text.len() {
            let out =
                lines(64, &[(Stream::Stdout, &text[..split]), (Stream::Stdout, &text[split..])]);
            assert_eq!(
                out,
                ["stdout F first", "stdout F ", "stdout F third line is long", "stdout P end"]
            );
        }
    }

    #[test]
    fn after_a_rename_reopen_makes_a_new_file_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.to_str().unwrap(), 64).unwrap();
        log.write(Stream::Stdout, b"old\nhalf");
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b" line\n");
        let old = std::fs::read_to_string(dir.path().join("log.1")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        assert!(old.ends_with("stdout F old\n"));
        assert!(new.ends_with("stdout F half line\n"));
    }
}
