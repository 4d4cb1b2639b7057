#![forbid(unsafe_code)]
//! Bytes that nobody should see, and files of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::error::TlsError;

/// Bytes that are overwritten when they are dropped, and do not show in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// Longest file of certificates or keys that is read: a system's trusted certificates are a quarter of
/// a megabyte, and reading a device by mistake must end.
const FILE_MAX: u64 = 16 << 20;

/// Reads a file whole, leaving no copies behind.
pub(crate) fn read_file(path: &Path) -> Result<Secret, TlsError> {
    read(path).map_err(|error| TlsError::system(error, path))
}

fn read(path: &Path) -> io::Result<Secret> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(FILE_MAX);
    // Room for all of it, and a byte to see the end by: a vector that grows leaves copies.
    let capacity = usize::try_from(length).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_show_their_length_only() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "[7 bytes]");
    }

    #[test]
    fn files_that_are_not_there_or_endless_are_errors() {
        let error = read_file(Path::new("no such file")).expect_err("it is not there");
        assert_eq!(error.io_kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("no such file"), "{error}");
        let error = read_file(Path::new("/dev/zero")).expect_err("it does not end");
        assert_eq!(error.io_kind(), io::ErrorKind::FileTooLarge);
    }
}
