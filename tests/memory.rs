//! How much memory of user space an idle connection costs.
//!
//! Server and client are processes of their own, this very program started anew: each needs a descriptor
//! for every connection, and what is measured is to be the server's alone. `make memory` prints the
//! figures of a release build.

#![cfg(target_os = "linux")]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use usockets::{Loop, SocketContext};

/// Connections to measure with; fewer if the system does not allow so many descriptors.
const CONNECTIONS: usize = 10_000;

/// Descriptors that a process needs besides those of the connections.
const OTHER_DESCRIPTORS: usize = 100;

/// Most bytes that a connection may cost beyond its state: the socket itself, its place in the tables,
/// and what the allocator rounds up.
const BYTES_MAX: usize = 160;

/// How long a server waits for its connections.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Tells a child its part.
const ROLE: &str = "USOCKETS_MEMORY_ROLE";
/// The address of the server, for the client.
const ADDRESS: &str = "USOCKETS_MEMORY_ADDRESS";
/// The number of connections.
const COUNT: &str = "USOCKETS_MEMORY_COUNT";

/// Prefixes of the lines by which a server speaks.
const LISTENING: &str = "listening on ";
const GROWN: &str = "grown by ";

#[test]
fn an_idle_connection_costs_little_memory() {
    match env::var(ROLE).as_deref() {
        Ok("server of ()") => serve::<()>(),
        Ok("server of 64 bytes") => serve::<[u64; 8]>(),
        Ok("client") => connect(),
        _ => {
            measure("server of ()", 0);
            measure("server of 64 bytes", 64);
        }
    }
}

/// Starts both sides, prints what the server says, and compares.
fn measure(role: &str, state: usize) {
    let count = CONNECTIONS.min(descriptor_limit() - OTHER_DESCRIPTORS);
    let mut server = start(role, "", count);
    let lines = BufReader::new(server.stdout.take().expect("stdout is piped")).lines();
    let mut lines = lines.map(|line| line.expect("the server writes text"));
    let mut value = |prefix: &str| {
        let line = lines.find(|line| line.contains(prefix)).expect("the server says so");
        line.split_once(prefix).expect("it was just found").1.to_owned()
    };

    let mut client = start("client", &value(LISTENING), count);
    let grown: usize = value(GROWN).parse().expect("a number");
    // Its end of stdin tells the client to end.
    drop(client.stdin.take());
    assert!(client.wait().expect("the client ends").success());
    assert!(server.wait().expect("the server ends").success());

    let bytes = grown / count;
    println!("{count} idle connections, state of {state} bytes: {bytes} bytes each");
    // An instrumented build allocates differently.
    if env::var_os("USOCKETS_SANITIZE").is_none() {
        assert!(bytes <= state + BYTES_MAX, "{bytes} bytes for a state of {state}");
    }
}

/// This program in another process, with as many descriptors as it may have.
fn start(role: &str, address: &str, count: usize) -> Child {
    Command::new("sh")
        .args(["-c", "ulimit -n \"$(ulimit -Hn)\" && exec \"$0\" --exact --nocapture \"$1\""])
        .arg(env::current_exe().expect("this program has a path"))
        .arg("an_idle_connection_costs_little_memory")
        .envs([(ROLE, role), (ADDRESS, address), (COUNT, &count.to_string())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell can be started")
}

fn descriptor_limit() -> usize {
    let output = Command::new("sh").args(["-c", "ulimit -Hn"]).output().expect("a shell runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(CONNECTIONS * 2)
}

fn count() -> usize {
    env::var(COUNT).expect("it is set").parse().expect("a number")
}

/// Accepts connections with an `S` each; when all are there, says how much memory that took.
fn serve<S: Default + 'static>() {
    let event_loop = Loop::<()>::new().expect("a loop");
    let all = count();
    let context = SocketContext::<false, usize, S>::builder()
        .on_open(move |open, socket, _, _| {
            *open += 1;
            if *open == all {
                socket.event_loop().stop();
            }
        })
        .build(&event_loop, 0)
        .expect("a context");
    let listener = context.listen("127.0.0.1:0").expect("a listener");
    println!("{LISTENING}{}", listener.local_addr().expect("it is bound"));
    // What the first turn needs is there before the measurement begins.
    event_loop.turn(Some(Duration::ZERO)).expect("a turn");

    let before = anonymous_memory();
    event_loop.run_for(GIVE_UP).expect("nothing else runs the loop");
    println!("{GROWN}{}", anonymous_memory().saturating_sub(before));
}

/// Opens connections and keeps them until stdin ends.
fn connect() {
    let address: SocketAddr = env::var(ADDRESS).expect("it is set").parse().expect("an address");
    let connections: Vec<TcpStream> =
        (0..count()).map(|_| TcpStream::connect(address).expect("the server accepts")).collect();
    let _end = io::stdin().read_to_end(&mut Vec::new()).expect("stdin can be read");
    drop(connections);
}

/// Bytes of memory that this process has to itself, without files.
fn anonymous_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("since 4.5");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}
