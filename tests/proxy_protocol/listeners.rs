//! Listeners that ask for headers.

use std::cell::RefCell;
use std::io::Write;
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use usockets::{
    CloseReason, IpPrefix, ListenOptions, ListenSocket, Loop, OpenInfo, ProxyHeader,
    ProxyHeaderError, ProxyProtocol, ProxyVersion, SocketContext, UsError,
};

use crate::util::{
    Drops, Event, Log, Peer, Record, Token, assert_nothing_live, drain, guard, listen, new_loop,
    own_address, panic_of, pump, raise_descriptor_limit, settle, test_clock_loop,
};
use crate::{INET, V1_TCP4, V1_TCP6, client, service, v2, valid_headers};

/// What a connection came to.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Open(OpenInfo),
    Data(Vec<u8>),
    End,
    Close(CloseReason),
    Refused(ProxyHeaderError, Option<SocketAddr>),
    Failed(String),
}

/// A context that writes down what it sees, and its listener.
struct Server {
    context: SocketContext<false, (), Token>,
    listener: ListenSocket,
    log: Log<Seen>,
    states: Drops,
}

impl Server {
    fn new(event_loop: &Loop, protocol: ProxyProtocol) -> Self {
        Self::at(event_loop, protocol, own_address())
    }

    fn at(event_loop: &Loop, protocol: ProxyProtocol, address: SocketAddr) -> Self {
        let (log, states) = (Log::new(), Drops::new());
        let (factory, all) = (states.clone(), || log.clone());
        let (open, data, end, close, failed) = (all(), all(), all(), all(), all());
        let context = SocketContext::<false, (), Token>::builder_with(move || factory.token())
            .on_open(move |(), _, _, info| open.push(Seen::Open(info.clone())))
            .on_data(move |(), _, _, bytes| data.push(Seen::Data(bytes.to_vec())))
            .on_end(move |(), socket, _| {
                end.push(Seen::End);
                socket.close();
            })
            .on_close(move |(), _, _, reason| close.push(Seen::Close(*reason)))
            .on_connect_error(move |(), socket, token, error| {
                token.hold();
                assert!(socket.is_closed());
                failed.push(match error {
                    UsError::ProxyHeader { reason, peer, .. } => Seen::Refused(*reason, *peer),
                    other => Seen::Failed(other.to_string()),
                });
            })
            .build(event_loop, ())
            .expect("a context");
        let options = ListenOptions::new().proxy_protocol(protocol);
        let listener = context.listen_with(address, &options).expect("a listener");
        Self { context, listener, log, states }
    }

    fn peer(&self) -> Peer {
        Peer::connect(self.listener.local_addr().expect("it is bound"))
    }

    /// The next connection's `on_open`.
    #[track_caller]
    fn opened(&self, event_loop: &Loop) -> OpenInfo {
        pump(event_loop, || !self.log.is_empty());
        match self.log.take().swap_remove(0) {
            Seen::Open(info) => info,
            other => panic!("it has not opened: {other:?}"),
        }
    }

    /// Waits until the next connection is refused, and is nothing but that.
    #[track_caller]
    fn assert_refuses(&self, event_loop: &Loop, peer: &Peer, expected: ProxyHeaderError) {
        let before = event_loop.metrics().prelude_failures;
        pump(event_loop, || !self.log.is_empty());
        let address = peer.stream().local_addr().ok();
        assert_eq!(self.log.take(), [Seen::Refused(expected, address)]);
        assert!(event_loop.metrics().prelude_failures >= before);
    }
}

/// As the listeners of most tests are.
fn anybody() -> ProxyProtocol {
    ProxyProtocol::from_everybody()
}

fn local(peer: &Peer) -> Option<SocketAddr> {
    Some(peer.stream().local_addr().expect("it is connected"))
}

// -- Headers that come ------------------------------------------------------------------------

#[test]
fn real_and_claimed_address_are_told_apart() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut peer = server.peer();
        let header = ProxyHeader::new(version, client(), service())?;
        peer.write(&event_loop, &header.encode());
        let info = server.opened(&event_loop);
        assert_eq!(info.peer_addr(), local(&peer));
        assert_eq!(info.proxy_header(), Some(&header));
        assert!(!info.is_client());
        drop(peer);
        pump(&event_loop, || server.log.len() == 2);
        assert_eq!(server.log.take()[0], Seen::End);
    }
    assert_eq!(event_loop.metrics().prelude_failures, 0);
    Ok(())
}

#[test]
fn every_kind_of_header_is_taken() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    for bytes in valid_headers() {
        let mut peer = server.peer();
        peer.write(&event_loop, &[&bytes[..], b"hello"].concat());
        pump(&event_loop, || server.log.len() == 2);
        let (expected, _) = ProxyHeader::decode(&bytes).expect("a header").expect("all of it");
        let seen = server.log.take();
        let Seen::Open(info) = &seen[0] else { panic!("{seen:?}") };
        assert_eq!(info.proxy_header(), Some(&expected));
        assert_eq!(info.peer_addr(), local(&peer));
        assert_eq!(seen[1], Seen::Data(b"hello".to_vec()));
        SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        pump(&event_loop, || server.log.contains(&Seen::Close(CloseReason::Reset)));
        server.log.take();
    }
    server.states.assert_all_dropped();
}

#[test]
fn a_header_may_be_split_anywhere() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    for bytes in [V1_TCP4, V1_TCP6, &v2(0x21, 0x11, INET), &v2(0x21, 0x31, &[1; 216])] {
        let all = [bytes, b"data"].concat();
        for at in (1..all.len()).filter(|at| *at < 60 || *at > all.len() - 10) {
            let mut peer = server.peer();
            peer.write(&event_loop, &all[..at]);
            settle(&event_loop);
            assert_eq!(server.log.is_empty(), at < bytes.len(), "{at} bytes");
            peer.write(&event_loop, &all[at..]);
            let data = || {
                let all = server.log.take();
                all.into_iter()
                    .flat_map(|seen| if let Seen::Data(data) = seen { data } else { vec![] })
            };
            let mut received = Vec::new();
            pump(&event_loop, || {
                received.extend(data());
                received.len() == 4
            });
            assert_eq!(received, b"data");
            peer.stream().shutdown(Shutdown::Both).expect("it is connected");
            pump(&event_loop, || event_loop.metrics().live_sockets == 0);
            server.log.take();
        }
    }
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    let header = ProxyHeader::new(ProxyVersion::V2, client(), service())
        .and_then(|it| it.with_tlv(0xe0, &[b'x'; 400]))
        .and_then(ProxyHeader::with_checksum)
        .expect("it fits");
    let mut peer = server.peer();
    let bytes = header.encode();
    for byte in &bytes[..bytes.len() - 1] {
        peer.write(&event_loop, &[*byte]);
        event_loop.turn(Some(Duration::ZERO)).expect("a turn");
    }
    settle(&event_loop);
    assert!(server.log.is_empty());
    peer.write(&event_loop, &bytes[bytes.len() - 1..]);
    let info = server.opened(&event_loop);
    assert_eq!(info.proxy_header().map(ProxyHeader::encode), Some(bytes));
}

#[test]
fn the_end_of_the_peer_behind_a_header_comes_after_its_data() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peer = server.peer();
    peer.write(&event_loop, &[V1_TCP4, b"last words"].concat());
    peer.stream().shutdown(Shutdown::Write).expect("it is connected");
    pump(&event_loop, || server.log.len() == 4);
    let seen = server.log.take();
    assert_eq!(
        seen[1..],
        [Seen::Data(b"last words".to_vec()), Seen::End, Seen::Close(CloseReason::Local)]
    );
}

#[test]
fn pausing_in_open_holds_back_what_came_with_the_header() {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let opened = record.clone();
    let context = record
        .builder()
        .on_open(move |(), socket, (), _| {
            socket.pause();
            opened.add_socket(socket, Event::Open);
        })
        .build(&event_loop, ())
        .expect("a context");
    let options = ListenOptions::new().proxy_protocol(anybody());
    let listener = context.listen_with(own_address(), &options).expect("a listener");
    let mut peer = Peer::connect(listener.local_addr().expect("it is bound"));
    peer.write(&event_loop, &[V1_TCP4, b"early"].concat());
    pump(&event_loop, || record.opened() == 1);
    peer.write(&event_loop, b" late");
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    record.socket().resume();
    pump(&event_loop, || record.data_length() == 10);
    assert_eq!(record.data(), b"early late");
}

#[test]
fn a_panic_in_open_loses_nothing_that_came_with_the_header() {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_open(|(), _, (), _| panic!("in on_open"))
        .build(&event_loop, ())
        .expect("a context");
    let options = ListenOptions::new().proxy_protocol(anybody());
    let listener = context.listen_with(own_address(), &options).expect("a listener");
    let mut stream =
        TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    stream.write_all(&[V1_TCP4, b"data"].concat()).expect("it is connected");
    assert_eq!(panic_of(|| pump(&event_loop, || false)), "in on_open");
    pump(&event_loop, || record.data() == b"data");
}

#[test]
fn adoption_in_open_takes_along_what_came_with_the_header() {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let target = record.builder().build(&event_loop, ()).expect("a context");
    let context = SocketContext::<false, (), u8>::builder()
        .on_open(move |(), socket, _, _| socket.adopt(&target, 0, |_| ()).expect("it is open"))
        .build(&event_loop, ())
        .expect("a context");
    let options = ListenOptions::new().proxy_protocol(anybody());
    let listener = context.listen_with(own_address(), &options).expect("a listener");
    let mut peer = Peer::connect(listener.local_addr().expect("it is bound"));
    peer.write(&event_loop, &[V1_TCP4, b"data"].concat());
    pump(&event_loop, || record.data_length() == 4);
    assert_eq!(record.events(), [Event::Adopt, Event::Data(b"data".to_vec())]);
}

#[test]
fn other_listeners_take_a_header_for_data() {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record.builder().build(&event_loop, ()).expect("a context");
    let listener = listen(&context);
    let mut peer = Peer::connect(listener.local_addr().expect("it is bound"));
    peer.write(&event_loop, V1_TCP4);
    pump(&event_loop, || record.data_length() == V1_TCP4.len());
    assert_eq!(record.data(), V1_TCP4);
}

// -- Peers ------------------------------------------------------------------------------------

fn prefixes(texts: &[&str]) -> Vec<IpPrefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

#[test]
fn headers_are_taken_from_the_peers_that_are_named() {
    let _guard = guard();
    let event_loop = new_loop();
    for texts in [&["127.0.0.1"][..], &["10.0.0.0/8", "127.0.0.0/8"], &["0.0.0.0/0"]] {
        let server = Server::new(&event_loop, ProxyProtocol::from_peers(prefixes(texts)));
        let mut peer = server.peer();
        peer.write(&event_loop, V1_TCP4);
        assert_eq!(
            server.opened(&event_loop).proxy_header().and_then(ProxyHeader::source),
            Some(client())
        );
    }
    for texts in [&[][..], &["127.0.0.2"], &["10.0.0.0/8", "128.0.0.0/1"], &["::/0"]] {
        let server = Server::new(&event_loop, ProxyProtocol::from_peers(prefixes(texts)));
        // Before it sends anything.
        let mut peer = server.peer();
        server.assert_refuses(&event_loop, &peer, ProxyHeaderError::PeerNotAllowed);
        assert_eq!(peer.read_to_end(&event_loop), b"");
    }
}

#[test]
fn other_peers_are_served_without_a_header_if_that_is_asked_for() {
    let _guard = guard();
    let event_loop = new_loop();
    let protocol = ProxyProtocol::from_peers(prefixes(&["192.0.2.0/24"])).serve_others(true);
    let server = Server::new(&event_loop, protocol);
    let mut peer = server.peer();
    let info = server.opened(&event_loop);
    assert_eq!(info.proxy_header(), None);
    assert_eq!(info.peer_addr(), local(&peer));
    // What they send is never taken for a header.
    peer.write(&event_loop, V1_TCP4);
    pump(&event_loop, || server.log.contains(&Seen::Data(V1_TCP4.to_vec())));
}

#[test]
fn ipv4_peers_of_a_dual_stack_listener_are_ipv4_peers() {
    let _guard = guard();
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let event_loop = new_loop();
    let any = (Ipv6Addr::UNSPECIFIED, 0).into();
    let protocol = ProxyProtocol::from_peers(prefixes(&["127.0.0.1/32"]));
    let server = Server::at(&event_loop, protocol, any);
    let port = server.listener.local_addr().expect("it is bound").port();
    let mut peer = Peer::connect(([127, 0, 0, 1], port).into());
    peer.write(&event_loop, V1_TCP4);
    assert!(server.opened(&event_loop).proxy_header().is_some());
    let _peer = Peer::connect((Ipv6Addr::LOCALHOST, port).into());
    pump(&event_loop, || !server.log.is_empty());
    assert!(matches!(server.log.take()[..], [Seen::Refused(ProxyHeaderError::PeerNotAllowed, _)]));
}

#[test]
fn prefixes_contain_what_begins_with_them() {
    let contains = |prefix: &str, address: &str| {
        let prefix: IpPrefix = prefix.parse().expect("a prefix");
        prefix.contains(address.parse().expect("an address"))
    };
    for (prefix, address) in [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/32", "::ffff:10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/8", "10.255.255.255"),
        ("10.128.0.0/9", "10.128.0.1"),
        ("0.0.0.0/0", "255.255.255.255"),
        ("2001:db8::/32", "2001:db8:ffff::1"),
        ("2001:db8::7/128", "2001:db8::7"),
        ("::/0", "2001:db8::7"),
    ] {
        assert!(contains(prefix, address), "{prefix} {address}");
    }
    for (prefix, address) in [
        ("10.1.2.3", "10.1.2.2"),
        ("10.128.0.0/9", "10.127.255.255"),
        ("0.0.0.0/0", "::1"),
        ("::/0", "10.1.2.3"),
        ("2001:db8::/32", "2001:db9::1"),
        ("2001:db8::7/128", "2001:db8::6"),
    ] {
        assert!(!contains(prefix, address), "{prefix} {address}");
    }
    for text in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.0/-1",
        "host/8",
        "10.0.0.0/8/8",
    ] {
        let error = text.parse::<IpPrefix>().expect_err(text);
        assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
    }
    let error = IpPrefix::new([10, 0, 0, 0].into(), 33).expect_err("IPv4 has 32 bits");
    assert!(matches!(error, UsError::InvalidOption { option: "prefix", .. }), "{error}");
}

// -- Headers that are wrong, or do not come ---------------------------------------------------

#[test]
fn bad_headers_close_with_the_reason() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody().max_len(300));
    let many = "x".repeat(300);
    let cases: [(&[u8], ProxyHeaderError); 9] = [
        (b"GET / HTTP/1.1\r\n\r\n", ProxyHeaderError::NotAHeader),
        (b"\x16\x03\x01\x02\x00\x01", ProxyHeaderError::NotAHeader),
        (b"PROXY TCP4 1.2.3.4 garbage\r\n", ProxyHeaderError::Malformed),
        (&[b"PROXY UNKNOWN ", many.as_bytes()].concat(), ProxyHeaderError::Malformed),
        (&v2(0x11, 0x11, INET), ProxyHeaderError::Malformed),
        (&v2(0x21, 0x11, &INET[1..]), ProxyHeaderError::Malformed),
        (&v2(0x21, 0x11, &[INET, &[1, 1, 0, 0]].concat()), ProxyHeaderError::Malformed),
        (
            &v2(0x21, 0x11, &[INET, &[3, 0, 4, 0, 0, 0, 0]].concat()),
            ProxyHeaderError::WrongChecksum,
        ),
        // Known from the first 16 bytes: nothing more is waited for.
        (&v2(0x21, 0x11, &[0; 285])[..16], ProxyHeaderError::TooLong),
    ];
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        let mut peer = server.peer();
        peer.write(&event_loop, bytes);
        server.assert_refuses(&event_loop, &peer, expected);
        assert_eq!(peer.read_to_end(&event_loop), b"");
        assert_eq!(event_loop.metrics().prelude_failures, number as u64 + 1);
    }
    // The longest that is allowed.
    let mut peer = server.peer();
    let fields = [INET, &[1, 1, 13], &[0; 269]].concat();
    peer.write(&event_loop, &v2(0x21, 0x11, &fields));
    assert!(server.opened(&event_loop).proxy_header().is_some());
    drop(peer);
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    server.states.assert_all_dropped();
}

#[test]
fn a_peer_that_ends_too_early_is_told_as_that() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    for length in [0, 1, 5, V1_TCP4.len() - 1] {
        let mut peer = server.peer();
        peer.write(&event_loop, &V1_TCP4[..length]);
        peer.stream().shutdown(Shutdown::Write).expect("it is connected");
        server.assert_refuses(&event_loop, &peer, ProxyHeaderError::Incomplete);
    }
    let mut peer = server.peer();
    peer.write(&event_loop, b"PROXY ");
    settle(&event_loop);
    SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(peer);
    pump(&event_loop, || !server.log.is_empty());
    let seen = server.log.take();
    assert!(matches!(&seen[..], [Seen::Failed(text)] if text.contains("reset")), "{seen:?}");
}

#[test]
fn a_version_that_is_not_wanted_is_refused() {
    let _guard = guard();
    let event_loop = new_loop();
    let (v1, v2) = (V1_TCP4, &v2(0x21, 0x11, INET)[..]);
    for (version, good, bad) in [(ProxyVersion::V1, v1, v2), (ProxyVersion::V2, v2, v1)] {
        let server = Server::new(&event_loop, anybody().version(version));
        let mut peer = server.peer();
        peer.write(&event_loop, &bad[..12]);
        server.assert_refuses(&event_loop, &peer, ProxyHeaderError::VersionNotAccepted);
        let mut peer = server.peer();
        peer.write(&event_loop, good);
        assert!(server.opened(&event_loop).proxy_header().is_some());
    }
}

#[test]
fn limits_beyond_their_range_are_refused() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<false>::builder().build(&event_loop, ()).expect("a context");
    for bytes in [0, 106, 65_552, usize::MAX] {
        let options = ListenOptions::new().proxy_protocol(anybody().max_len(bytes));
        let error = context.listen_with(own_address(), &options).expect_err("out of range");
        assert!(matches!(error, UsError::InvalidOption { option: "max_len", .. }), "{error}");
    }
    for time in [Duration::ZERO, Duration::from_secs(50 * 86_400 + 1), Duration::MAX] {
        let options = ListenOptions::new().proxy_protocol(anybody().deadline(time));
        let error = context.listen_with(own_address(), &options).expect_err("out of range");
        assert!(matches!(error, UsError::InvalidOption { option: "deadline", .. }), "{error}");
    }
    drain(&event_loop);
    assert_eq!(event_loop.metrics().live_listeners, 0);
    for bytes in [107, 65_551] {
        let options = ListenOptions::new().proxy_protocol(anybody().max_len(bytes));
        let _listener = context.listen_with(own_address(), &options).expect("a listener");
    }
}

#[test]
fn the_longest_header_of_all_is_taken_if_it_is_allowed() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody().max_len(65_551));
    let header = ProxyHeader::new(ProxyVersion::V2, client(), service())
        .and_then(|it| it.with_tlv(0xe0, &vec![7; 65_535 - 12 - 3]))
        .expect("it fits");
    let mut peer = server.peer();
    peer.write(&event_loop, &[&header.encode()[..], b"data"].concat());
    assert_eq!(server.opened(&event_loop).proxy_header(), Some(&header));
}

#[test]
fn a_header_that_does_not_come_in_time_is_told_as_that() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let server = Server::new(&event_loop, anybody().deadline(Duration::from_secs(10)));
    let silent = server.peer();
    pump(&event_loop, || event_loop.metrics().accepted == 1);
    event_loop.advance_clock(Duration::from_secs(5))?;
    let mut slow = server.peer();
    slow.write(&event_loop, b"PRO");
    pump(&event_loop, || event_loop.metrics().receives == 1);
    event_loop.advance_clock(Duration::from_secs(5) - Duration::from_nanos(1))?;
    settle(&event_loop);
    assert!(server.log.is_empty());
    event_loop.advance_clock(Duration::from_millis(10))?;
    server.assert_refuses(&event_loop, &silent, ProxyHeaderError::TimedOut);
    slow.write(&event_loop, b"XY");
    pump(&event_loop, || event_loop.metrics().receives == 2);
    event_loop.advance_clock(Duration::from_secs(5))?;
    server.assert_refuses(&event_loop, &slow, ProxyHeaderError::TimedOut);
    assert_eq!(event_loop.metrics().prelude_failures, 2);
    Ok(())
}

#[test]
fn a_header_that_came_is_not_timed_any_more() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peer = server.peer();
    peer.write(&event_loop, &[V1_TCP4, b"data"].concat());
    pump(&event_loop, || server.log.len() == 2);
    server.log.take();
    event_loop.advance_clock(Duration::from_secs(3600))?;
    settle(&event_loop);
    assert!(server.log.is_empty());
    Ok(())
}

/// Peers that send a byte now and then hold little memory each, and only until the deadline.
#[test]
fn many_slow_peers_end_together() -> Result<(), UsError> {
    const PEERS: usize = 1000;
    let _guard = guard();
    assert!(raise_descriptor_limit() > 2 * PEERS + 100, "descriptors for both ends");
    let event_loop = test_clock_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peers: Vec<_> = (0..PEERS).map(|_| server.peer()).collect();
    for byte in &V1_TCP4[..20] {
        for peer in &mut peers {
            peer.write(&event_loop, &[*byte]);
        }
        event_loop.turn(Some(Duration::ZERO))?;
    }
    settle(&event_loop);
    assert!(server.log.is_empty());
    assert!(event_loop.metrics().receives > 10 * PEERS as u64, "in pieces");
    event_loop.advance_clock(Duration::from_secs(6))?;
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    assert_eq!(server.log.len(), PEERS);
    assert_eq!(event_loop.metrics().prelude_failures, PEERS as u64);
    server.states.assert_all_dropped();
    Ok(())
}

// -- The program closes meanwhile -------------------------------------------------------------

#[test]
fn closing_while_headers_are_awaited_is_a_cancellation() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peers = [server.peer(), server.peer()];
    peers[0].write(&event_loop, b"PROXY");
    pump(&event_loop, || event_loop.metrics().accepted == 2);
    settle(&event_loop);
    server.context.close();
    drain(&event_loop);
    let cancelled = Seen::Failed(UsError::Cancelled.to_string());
    assert_eq!(server.log.take(), [cancelled.clone(), cancelled]);
    assert_eq!(event_loop.metrics().prelude_failures, 0);
    server.states.assert_all_dropped();
    let Server { context, listener, .. } = server;
    drop((context, listener));
    drain(&event_loop);
    assert_nothing_live(&event_loop);
}

#[test]
fn the_end_of_the_loop_while_headers_are_awaited_is_a_cancellation() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peer = server.peer();
    peer.write(&event_loop, b"PROXY");
    pump(&event_loop, || event_loop.metrics().receives == 1);
    drop(event_loop);
    assert_eq!(server.log.take(), [Seen::Failed(UsError::Cancelled.to_string())]);
    server.states.assert_all_dropped();
}

#[test]
fn connections_outlive_the_listener_that_asks_for_headers() {
    let _guard = guard();
    let event_loop = new_loop();
    let server = Server::new(&event_loop, anybody());
    let mut peer = server.peer();
    pump(&event_loop, || event_loop.metrics().accepted == 1);
    let Server { listener, log, .. } = server;
    drop(listener);
    settle(&event_loop);
    peer.write(&event_loop, &[V1_TCP4, b"data"].concat());
    pump(&event_loop, || log.len() == 2);
}

#[test]
fn a_factory_that_panics_makes_a_refusal_silent() {
    let _guard = guard();
    let event_loop = new_loop();
    let called = Rc::new(RefCell::new(Vec::new()));
    let (opened, failed) = (Rc::clone(&called), Rc::clone(&called));
    let context = SocketContext::<false, (), ()>::builder_with(|| panic!("no state"))
        .on_open(move |(), _, (), _| opened.borrow_mut().push("open"))
        .on_connect_error(move |(), _, (), _| failed.borrow_mut().push("error"))
        .build(&event_loop, ())
        .expect("a context");
    let options = ListenOptions::new().proxy_protocol(anybody());
    let listener = context.listen_with(own_address(), &options).expect("a listener");
    for bytes in [V1_TCP4, b"no header"] {
        let mut stream =
            TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        stream.write_all(bytes).expect("it is connected");
        assert_eq!(panic_of(|| pump(&event_loop, || false)), "no state");
    }
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    assert!(called.borrow().is_empty());
}
