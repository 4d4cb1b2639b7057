//! haproxy on the other side: it makes the headers that we read, and reads those that we make.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process};

use usockets::{
    ConnectOptions, ListenOptions, Loop, OpenInfo, ProxyHeader, ProxyProtocol, ProxyVersion,
    SocketContext, UsError,
};

use crate::util::{Log, Peer, Record, guard_for, new_loop, pump_for};
use crate::{client, service};

const START_MAX: Duration = Duration::from_secs(30);

/// A running haproxy, and where it listens.
struct Haproxy {
    child: Child,
    configuration: PathBuf,
    address: SocketAddr,
}

impl Haproxy {
    /// Starts it with sections of a configuration, in which `fd@0` is its listener. `None`: it is not
    /// installed.
    fn start(name: &str, sections: &str) -> Option<Self> {
        let configuration = env::temp_dir().join(format!("usockets-{name}-{}.cfg", process::id()));
        let defaults = "defaults\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n";
        fs::write(&configuration, format!("{defaults}{sections}")).expect("a file");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&configuration)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, configuration, address }),
            Err(error) => {
                let _removed = fs::remove_file(&configuration);
                assert!(env::var_os("CI").is_none(), "haproxy cannot be started: {error}");
                println!("skipped: haproxy cannot be started: {error}");
                None
            }
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
        let _removed = fs::remove_file(&self.configuration);
    }
}

/// A server that asks for headers and writes down what it sees.
fn server(
    event_loop: &Loop,
    log: &Log<OpenInfo>,
) -> (SocketContext<false>, usockets::ListenSocket) {
    let infos = log.clone();
    let context = SocketContext::<false>::builder()
        .on_open(move |(), _, (), info| infos.push(info.clone()))
        .on_data(|(), socket, (), data| assert_eq!(socket.write(data), data.len()))
        .build(event_loop, ())
        .expect("a context");
    let options = ListenOptions::new().proxy_protocol(ProxyProtocol::from_everybody());
    let listener = context.listen_with("127.0.0.1:0", &options).expect("a listener");
    (context, listener)
}

/// Has haproxy pass on a connection to us with this option; the header that came.
fn header_of(name: &str, option: &str) -> Option<ProxyHeader> {
    let event_loop = new_loop();
    let log = Log::new();
    let (_context, listener) = server(&event_loop, &log);
    let mut sections = String::new();
    let port = listener.local_addr().expect("it is bound").port();
    write!(
        sections,
        "listen front\n mode tcp\n bind fd@0\n unique-id-format the-id\n server us 127.0.0.1:{port} {option}\n"
    )
    .expect("a string");
    let haproxy = Haproxy::start(name, &sections)?;
    let mut peer = Peer::connect(haproxy.address);
    pump_for(&event_loop, START_MAX, || !log.is_empty());
    let info = log.take().swap_remove(0);
    peer.write(&event_loop, b"through");
    assert_eq!(peer.read(&event_loop, 7), b"through");
    let header = info.proxy_header().expect("the listener asks for one").clone();
    assert_eq!(header.source(), peer.stream().local_addr().ok());
    assert_eq!(header.destination(), Some(haproxy.address));
    assert_ne!(info.peer_addr(), header.source());
    assert_eq!(event_loop.metrics().prelude_failures, 0);
    Some(header)
}

#[test]
fn headers_of_haproxy_are_read() {
    let _guard = guard_for(START_MAX * 3);
    let Some(header) = header_of("v1", "send-proxy") else { return };
    assert_eq!(header.version(), ProxyVersion::V1);
    let header = header_of("v2", "send-proxy-v2").expect("it was there before");
    assert_eq!((header.version(), header.tlvs().count()), (ProxyVersion::V2, 0));
    let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
    let header = header_of("fields", options).expect("it was there before");
    let types: Vec<_> = header.tlvs().map(|(kind, _)| kind).collect();
    assert_eq!(types, [0x03, 0x05]);
    assert_eq!(header.tlv(0x05), Some(&b"the-id"[..]));
    // Ours is the same, with the checksum.
    assert_eq!(
        ProxyHeader::decode(&header.encode()),
        Ok(Some((header.clone(), header.encode().len())))
    );
}

/// Its health checks are local connections.
#[test]
fn health_checks_of_haproxy_are_local() {
    let _guard = guard_for(START_MAX * 2);
    let event_loop = new_loop();
    let log = Log::new();
    let (_context, listener) = server(&event_loop, &log);
    let port = listener.local_addr().expect("it is bound").port();
    let sections = format!(
        "listen front\n mode tcp\n bind fd@0\n server us 127.0.0.1:{port} send-proxy-v2 check-send-proxy check inter 100ms\n"
    );
    let Some(_haproxy) = Haproxy::start("check", &sections) else { return };
    pump_for(&event_loop, START_MAX, || {
        !log.is_empty() || event_loop.metrics().prelude_failures > 0
    });
    let info = log.take().swap_remove(0);
    let header = info.proxy_header().expect("the listener asks for one");
    assert!(header.is_local());
    assert_eq!(header.source(), None);
}

#[test]
fn haproxy_reads_our_headers() -> Result<(), UsError> {
    let _guard = guard_for(START_MAX * 2);
    let event_loop = new_loop();
    let sections = "listen front\n mode http\n bind fd@0 accept-proxy\n \
        http-request return status 200 content-type text/plain \
        lf-string %[src]:%[src_port],%[dst]:%[dst_port],%[fc_pp_authority],%[fc_pp_unique_id].\n";
    let Some(haproxy) = Haproxy::start("reads", sections) else { return Ok(()) };
    let v2 = || ProxyHeader::new(ProxyVersion::V2, client(), service());
    let ipv6 = |version| {
        let [from, to] = ["[2001:db8::7]:51234", "[2001:db8::1]:443"].map(crate::address);
        ProxyHeader::new(version, from, to)
    };
    let (four, six) = ("192.0.2.7:51234,198.51.100.1:443", "2001:db8::7:51234,2001:db8::1:443");
    for (header, expected) in [
        (ProxyHeader::new(ProxyVersion::V1, client(), service())?, format!("{four},,.")),
        (ipv6(ProxyVersion::V1)?, format!("{six},,.")),
        (v2()?, format!("{four},,.")),
        (ipv6(ProxyVersion::V2)?, format!("{six},,.")),
        (v2()?.with_tlv(2, b"name")?.with_tlv(5, b"id")?, format!("{four},name,id.")),
        (v2()?.with_tlv(2, b"name")?.with_checksum()?, format!("{four},name,.")),
    ] {
        let record = Record::<()>::new();
        let context = record
            .builder()
            .on_open(|(), socket, (), _| {
                let request = b"GET / HTTP/1.0\r\n\r\n";
                assert_eq!(socket.write(request), request.len());
            })
            .build(&event_loop, ())?;
        let options = ConnectOptions::new().proxy_header(header);
        context.connect_with(haproxy.address, &options, ())?;
        let answer = || String::from_utf8_lossy(&record.data()).into_owned();
        pump_for(&event_loop, START_MAX, || answer().ends_with('.') || record.ended());
        assert!(answer().ends_with(&format!("\r\n\r\n{expected}")), "{}", answer());
    }
    Ok(())
}
