//! Files that a transfer reads and writes; `-` is standard input and output.
//!
//! Invariant: a file that is written has its name only when it is complete.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::admin::Bytes;

use super::Failure;

/// Of a file that is written, less the umask.
const FILE_MODE: u32 = 0o644;

/// Opens what is to be read, and says how long it is where that is known.
pub(super) fn open(path: &Path) -> Result<Bytes, Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()) as Box<dyn Read + Send>, 0));
    }
    let failed = |source| Failure::OpenArchive { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let length = if metadata.is_file() { metadata.len() } else { 0 };
    Ok((Box::new(file), length))
}

/// Where something is written.
#[derive(Debug)]
pub(super) enum Output {
    /// A file that has no name yet, and the name.
    New(NamedTempFile, PathBuf),
    /// A device or a pipe that has its name already.
    Special(File, PathBuf),
    /// Standard output.
    Standard(io::Stdout),
}

impl Output {
    /// Begins to write `path`.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Standard(io::stdout()));
        }
        let failed = |source| Failure::WriteArchive { path: path.to_owned(), source };
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self::Special(file, path.to_owned()));
        }
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(FILE_MODE))
            .tempfile_in(parent.unwrap_or(Path::new(".")))
            .map_err(failed)?;
        Ok(Self::New(file, path.to_owned()))
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Standard(mut out) => out.flush().map_err(|source| Failure::Print { source }),
            Self::Special(mut file, path) => {
                file.flush().map_err(|source| Failure::WriteArchive { path, source })
            }
            Self::New(file, path) => match file.persist(&path) {
                Ok(_) => Ok(()),
                Err(error) => Err(Failure::WriteArchive { path, source: error.error }),
            },
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::New(file, _) => file.write(bytes),
            Self::Special(file, _) => file.write(bytes),
            Self::Standard(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::New(file, _) => file.flush(),
            Self::Special(file, _) => file.flush(),
            Self::Standard(out) => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_complete() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("image.tar");
        drop(Output::create(&path)?.write(b"half"));
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        let mut output = Output::create(&path)?;
        output.write_all(b"whole")?;
        assert!(!path.exists());
        output.finish()?;
        assert_eq!(fs::read(&path)?, b"whole");
        Ok(())
    }

    #[test]
    fn a_device_stays_one() -> Result<(), Box<dyn std::error::Error>> {
        let mut output = Output::create(Path::new("/dev/null"))?;
        output.write_all(b"gone")?;
        assert!(matches!(output, Output::Special(..)));
        output.finish()?;
        assert!(!fs::metadata("/dev/null")?.is_file());
        Ok(())
    }
}
