//! Much data both ways at the same time, with the tool `openssl` on the other side, compared by hash.
#![cfg(usockets_tls)]

mod util;

use std::cell::RefCell;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use openssl::sha::Sha256;
use usockets::{ConnectOptions, ContextBuilder, Socket, SocketContext};
use util::{Secured, certificates, drain, guard_for, new_loop, own_address, pattern, pump_for};

const MIB: usize = 1 << 20;

type Hash = [u8; 32];

// -- What is sent -----------------------------------------------------------------------------

/// A mebibyte, each one different.
struct Source {
    bytes: Vec<u8>,
    number: u64,
    left: usize,
    hash: Sha256,
}

impl Source {
    fn new(seed: u64, mebibytes: usize) -> Self {
        Self { bytes: pattern(MIB), number: seed, left: mebibytes, hash: Sha256::new() }
    }

    fn next(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        self.number += 1;
        self.bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        self.hash.update(&self.bytes);
        Some(&self.bytes)
    }
}

// -- The tool ---------------------------------------------------------------------------------

struct Tool {
    child: Child,
    /// What it has printed: the number of bytes, and their hash.
    printed: JoinHandle<(usize, Hash)>,
    /// Keeps its input open: at the end of that it would take leave.
    fed: JoinHandle<(ChildStdin, Hash)>,
}

impl Tool {
    /// `None`: it is not installed. It is fed with so many mebibytes.
    fn start(arguments: &[&str], mebibytes: usize) -> Option<Self> {
        let mut command = Command::new("openssl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                assert!(env::var_os("CI").is_none(), "openssl cannot be started: {error}");
                eprintln!("skipped: openssl cannot be started: {error}");
                return None;
            }
        };
        let mut input = child.stdin.take().expect("a pipe");
        let mut output = child.stdout.take().expect("a pipe");
        let fed = thread::spawn(move || {
            let mut source = Source::new(1 << 32, mebibytes);
            while let Some(bytes) = source.next() {
                input.write_all(bytes).expect("it reads");
            }
            (input, source.hash.finish())
        });
        let printed = thread::spawn(move || {
            let (mut buffer, mut hash, mut total) = (vec![0; MIB], Sha256::new(), 0);
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                hash.update(&buffer[..count]);
                total += count;
            }
            (total, hash.finish())
        });
        Some(Self { child, printed, fed })
    }

    /// The hash of what it was fed, and the length and the hash of what it has printed.
    fn finish(mut self) -> (Hash, usize, Hash) {
        let (input, fed) = self.fed.join().expect("no panic");
        let (length, printed) = self.printed.join().expect("no panic");
        drop(input);
        self.child.wait().expect("it has ended");
        (fed, length, printed)
    }
}

// -- The crate --------------------------------------------------------------------------------

/// Sends all of its source while it receives, and closes when it has sent and received everything.
struct Exchange {
    source: Source,
    received: usize,
    expected: usize,
    hash: Sha256,
    /// The tool may not listen yet.
    is_to_connect: bool,
    is_over: bool,
}

impl Exchange {
    fn go_on(&mut self, socket: &Socket<true>) {
        while !socket.needs_drain() {
            let Some(bytes) = self.source.next() else { break };
            socket.send(bytes).expect("there is room");
        }
        if self.source.left == 0 && self.received == self.expected {
            socket.close(); // which lingers with what waits
        }
    }

    fn take(&mut self, socket: &Socket<true>, data: &[u8]) {
        self.hash.update(data);
        self.received += data.len();
        self.go_on(socket);
    }
}

fn builder(exchange: &Rc<RefCell<Exchange>>) -> ContextBuilder<true> {
    let [opened, told, drained, closed, failed] = [(); 5].map(|()| Rc::clone(exchange));
    SocketContext::<true>::builder()
        .secured()
        .on_open(move |(), socket, (), _| opened.borrow_mut().go_on(socket))
        .on_data(move |(), socket, (), data| told.borrow_mut().take(socket, data))
        .on_drain(move |(), socket, ()| drained.borrow_mut().go_on(socket))
        .on_connect_error(move |(), _, (), _| failed.borrow_mut().is_to_connect = true)
        .on_close(move |(), _, (), reason| {
            let mut exchange = closed.borrow_mut();
            assert!(reason.is_local(), "{reason:?} after {} bytes", exchange.received);
            exchange.is_over = true;
        })
}

/// A file that goes with the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let file = format!("usockets-bulk-{}-{number}-{name}", process::id());
        let path = env::temp_dir().join(file);
        fs::write(&path, text).expect("a folder for temporary files");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}

/// Where a program can listen that does not say where it does. Only this process uses the address.
fn free_address() -> (SocketAddr, String) {
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    (address, address.to_string())
}

/// With `s_client`, or with `s_server`.
fn exchange(tool_is_client: bool, mebibytes: usize) {
    let time = Duration::from_secs(30 + mebibytes as u64);
    let _guard = guard_for(time);
    let event_loop = new_loop();
    let exchange = Rc::new(RefCell::new(Exchange {
        source: Source::new(0, mebibytes),
        received: 0,
        expected: mebibytes * MIB,
        hash: Sha256::new(),
        is_to_connect: false,
        is_over: false,
    }));
    let context = builder(&exchange).build(&event_loop, ()).expect("a context");
    let begun = Instant::now();
    let mut listener = None;
    // What only `s_server` needs.
    let certificate = Temporary::new("certificate", &certificates().server.certificate);
    let key = Temporary::new("key", &certificates().server.key);
    let (address, text) = free_address();
    let tool = if tool_is_client {
        let listening = listener.insert(context.listen(own_address()).expect("a listener"));
        let address = listening.local_addr().expect("it is bound").to_string();
        let tool = ["s_client", "-quiet", "-servername", "localhost", "-connect", &address];
        Tool::start(&tool, mebibytes)
    } else {
        exchange.borrow_mut().is_to_connect = true;
        let files = ["-cert", certificate.path(), "-key", key.path(), "-accept", &text];
        let tool = [&["s_server", "-quiet", "-naccept", "1"], &files[..]].concat();
        Tool::start(&tool, mebibytes)
    };
    let Some(mut tool) = tool else { return };
    let options = ConnectOptions::new().server_name("localhost");
    pump_for(&event_loop, time, || {
        if mem::take(&mut exchange.borrow_mut().is_to_connect) {
            assert!(tool.child.try_wait().expect("it is a child").is_none(), "it has ended early");
            context.connect_with(address, &options, ()).expect("it begins");
        }
        exchange.borrow().is_over
    });
    drop(listener);
    drain(&event_loop);
    let (fed, length, printed) = tool.finish();
    let mut exchange = exchange.borrow_mut();
    assert_eq!(length, exchange.expected, "bytes that the tool has received");
    let sent = mem::replace(&mut exchange.source.hash, Sha256::new()).finish();
    let received = mem::replace(&mut exchange.hash, Sha256::new()).finish();
    assert!(printed == sent && fed == received, "the hashes are not the same");
    let time = begun.elapsed().as_secs_f64();
    println!(
        "{mebibytes} MiB each way in {time:.2} s, identical; tool is client: {tool_is_client}"
    );
}

/// How much goes each way; `make tls-bulk` asks for a gibibyte.
fn mebibytes() -> usize {
    env::var("USOCKETS_TEST_MIB").map_or(8, |text| text.parse().expect("a number"))
}

#[test]
fn data_both_ways_is_the_same_as_s_client_has_it() {
    exchange(true, mebibytes());
}

#[test]
fn data_both_ways_is_the_same_as_s_server_has_it() {
    exchange(false, mebibytes());
}
