//! Requests: what a server that has nothing but files needs to know of them.

use std::ops::Range;
use std::str;

/// Code and reason.
pub(crate) type Status = &'static str;

pub(crate) const OK: Status = "200 OK";
pub(crate) const PARTIAL_CONTENT: Status = "206 Partial Content";
pub(crate) const NOT_MODIFIED: Status = "304 Not Modified";
const BAD_REQUEST: Status = "400 Bad Request";
pub(crate) const NOT_FOUND: Status = "404 Not Found";
pub(crate) const METHOD_NOT_ALLOWED: Status = "405 Method Not Allowed";
pub(crate) const REQUEST_TIMEOUT: Status = "408 Request Timeout";
pub(crate) const RANGE_NOT_SATISFIABLE: Status = "416 Range Not Satisfiable";
const HEAD_TOO_LARGE: Status = "431 Request Header Fields Too Large";
pub(crate) const INTERNAL_SERVER_ERROR: Status = "500 Internal Server Error";
const NOT_IMPLEMENTED: Status = "501 Not Implemented";
pub(crate) const SERVICE_UNAVAILABLE: Status = "503 Service Unavailable";
const VERSION_NOT_SUPPORTED: Status = "505 HTTP Version Not Supported";

/// The longest head, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// The most fields of a head.
const FIELDS_MAX: usize = 64;

/// Methods that are known and not for files. All others are not known.
const OTHER_METHODS: [&str; 7] = ["CONNECT", "DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// A request for a file.
pub(crate) struct Request<'a> {
    pub(crate) is_head: bool,
    /// Decoded, and without the slash that it began with. It may be anything.
    pub(crate) path: Vec<u8>,
    hosts: usize,
    asks_to_keep: bool,
    asks_to_close: bool,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    if_none_match: Option<&'a [u8]>,
}

/// The part of a file that a request is about.
pub(crate) enum Selection {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

impl<'a> Request<'a> {
    /// The request that `input` begins with, and the length of its head; `None` if that is not
    /// whole yet. After an error, which is the status to answer, nothing more can be understood.
    pub(crate) fn parse(input: &'a [u8]) -> Result<Option<(Self, usize)>, Status> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        let length = match head.parse(input) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
            Ok(httparse::Status::Partial) if input.len() < HEAD_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
            Err(httparse::Error::Version) => return Err(VERSION_NOT_SUPPORTED),
            Err(_) => return Err(BAD_REQUEST),
        };
        let is_http_11 = head.version == Some(1);
        let mut request = Self {
            is_head: is_head(head.method.unwrap_or_default())?,
            path: decode(path_of(head.path.unwrap_or_default())?).ok_or(BAD_REQUEST)?,
            hosts: 0,
            asks_to_keep: is_http_11,
            asks_to_close: false,
            range: None,
            if_range: None,
            if_none_match: None,
        };
        for field in head.headers {
            request.read_field(field.name, field.value)?;
        }
        if is_http_11 && request.hosts != 1 {
            return Err(BAD_REQUEST);
        }
        Ok(Some((request, length)))
    }

    fn read_field(&mut self, name: &str, value: &'a [u8]) -> Result<(), Status> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            self.hosts += 1;
        } else if is("Connection") {
            self.asks_to_keep |=
                list_has(value, |option| option.eq_ignore_ascii_case(b"keep-alive"));
            self.asks_to_close |= list_has(value, |option| option.eq_ignore_ascii_case(b"close"));
        } else if is("Transfer-Encoding") || (is("Content-Length") && value != b"0") {
            // Such a request means nothing, and its content must not be taken for the next one.
            return Err(BAD_REQUEST);
        } else if is("Range") {
            self.range = Some(value);
        } else if is("If-Range") {
            self.if_range = Some(value);
        } else if is("If-None-Match") {
            self.if_none_match = Some(value);
        }
        Ok(())
    }

    /// Whether the client would like to keep the connection.
    pub(crate) fn keeps(&self) -> bool {
        self.asks_to_keep && !self.asks_to_close
    }

    /// Whether the client has what is tagged like this already.
    pub(crate) fn has(&self, tag: &str) -> bool {
        self.if_none_match.is_some_and(|tags| {
            list_has(tags, |one| {
                one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == tag.as_bytes()
            })
        })
    }

    /// What is asked for of so many bytes that are tagged like this.
    pub(crate) fn select(&self, tag: &str, size: u64) -> Selection {
        let unchanged = self.if_range.is_none_or(|known| known == tag.as_bytes());
        match self.range {
            Some(range) if unchanged && !self.is_head => select(range, size),
            _ => Selection::Whole,
        }
    }
}

/// Whether one of the parts between commas is what is looked for.
fn list_has(list: &[u8], what: impl Fn(&[u8]) -> bool) -> bool {
    list.split(|byte| *byte == b',').any(|part| what(part.trim_ascii()))
}

fn is_head(method: &str) -> Result<bool, Status> {
    match method {
        "GET" => Ok(false),
        "HEAD" => Ok(true),
        known if OTHER_METHODS.contains(&known) => Err(METHOD_NOT_ALLOWED),
        _ => Err(NOT_IMPLEMENTED),
    }
}

/// The path of a target, without its first slash.
fn path_of(target: &str) -> Result<&str, Status> {
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |begin| &rest[begin..]),
        None => target,
    };
    let path = target.split_once('?').map_or(target, |(path, _query)| path);
    path.strip_prefix('/').ok_or(BAD_REQUEST)
}

/// Undoes percent-encoding. `None` for what is wrong, and for a NUL, which no name contains.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        };
        if byte == 0 {
            return None;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

/// A single range of bytes. What is no range, or several, is ignored, as the standard allows.
fn select(range: &[u8], size: u64) -> Selection {
    let Some((first, last)) = range
        .strip_prefix(b"bytes=")
        .and_then(|range| str::from_utf8(range).ok())
        .and_then(|range| range.split_once('-'))
    else {
        return Selection::Whole;
    };
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(length)) if first.is_empty() => size.saturating_sub(length)..size,
        _ => return Selection::Whole,
    };
    if part.is_empty() { Selection::Unsatisfiable } else { Selection::Part(part) }
}

/// Decimal digits and nothing else. More than there can be is as much as there can be.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}
