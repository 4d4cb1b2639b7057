//! Files below a folder, and none that are not.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::request::{INTERNAL_SERVER_ERROR, NOT_FOUND, SERVICE_UNAVAILABLE, Status};

/// Types of files by the ends of their names.
const KINDS: [(&str, &str); 9] = [
    (".css", "text/css"),
    (".html", "text/html"),
    (".jpg", "image/jpeg"),
    (".js", "text/javascript"),
    (".json", "application/json"),
    (".md", "text/markdown"),
    (".png", "image/png"),
    (".svg", "image/svg+xml"),
    (".txt", "text/plain"),
];

pub(crate) struct Folder(OwnedFd);

/// A regular file, open for reading.
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) kind: &'static str,
    /// Nanoseconds since 1970.
    modified: i128,
}

impl Folder {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The file with this path, which may be anything.
    ///
    /// It is the system that refuses what leads out of the folder, at the very moment when it opens
    /// the file: `..`, symbolic links, absolute paths. A check before that would be too early for
    /// names that change meanwhile.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Found, Status> {
        // What is no regular file is opened too: without waiting for somebody to write to it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve);
        let file = File::from(file.map_err(status)?);
        let data = file.metadata().map_err(|_| INTERNAL_SERVER_ERROR)?;
        if !data.is_file() {
            return Err(NOT_FOUND);
        }
        let end = |(end, _): &&(&str, &str)| path.ends_with(end.as_bytes());
        Ok(Found {
            file,
            size: data.len(),
            kind: KINDS.iter().find(end).map_or("application/octet-stream", |(_, kind)| *kind),
            modified: i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec()),
        })
    }
}

impl Found {
    /// What is another one when the file has changed.
    pub(crate) fn tag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.modified, self.size)
    }
}

/// What clients may know about why there is no such file: as little as possible.
fn status(error: Errno) -> Status {
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => SERVICE_UNAVAILABLE,
        Errno::IO | Errno::NOSYS | Errno::PERM => INTERNAL_SERVER_ERROR,
        _ => NOT_FOUND,
    }
}
