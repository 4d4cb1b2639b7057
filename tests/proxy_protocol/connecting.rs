//! Connections that begin with a header.

use std::cell::RefCell;
use std::rc::Rc;

use usockets::{
    ConnectOptions, ListenOptions, OpenInfo, ProxyHeader, ProxyProtocol, ProxyVersion,
    SocketContext, UsError,
};

use crate::util::{
    Nobody, Peer, Record, drain, guard, listen, new_loop, own_address, pump, recorded,
};
use crate::{V1_TCP4, client, service};

/// The first bytes of a connection are the header, whatever is written in `on_open`, and in one piece.
#[test]
fn the_header_goes_first() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    // Where a name leads.
    let listener = recorded(&event_loop, &record).listen("127.0.0.1:0")?;
    let context = SocketContext::<false>::builder()
        .on_open(|(), socket, (), _| assert_eq!(socket.write(b"hello"), 5))
        .build(&event_loop, ())?;
    let header = ProxyHeader::new(ProxyVersion::V1, client(), service())?;
    let options = ConnectOptions::new().proxy_header(header);
    let port = listener.local_addr()?.port();
    context.connect_with(listener.local_addr()?, &options, ())?;
    let expected = [V1_TCP4, b"hello"].concat();
    pump(&event_loop, || record.data() == expected);
    // By name, too.
    context.connect_with(("localhost", port), &options, ())?;
    let expected = expected.repeat(2);
    pump(&event_loop, || record.data() == expected);
    Ok(())
}

/// A proxy of three lines: the server sees the client's address.
#[test]
fn a_header_passes_through_a_proxy_and_its_listener() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let seen: Rc<RefCell<Vec<OpenInfo>>> = Rc::default();
    let infos = Rc::clone(&seen);
    let server = SocketContext::<false>::builder()
        .on_open(move |(), _, (), info| infos.borrow_mut().push(info.clone()))
        .build(&event_loop, ())?;
    let options = ListenOptions::new().proxy_protocol(ProxyProtocol::from_everybody());
    let behind = server.listen_with(own_address(), &options)?;
    let target = behind.local_addr()?;

    let outgoing = SocketContext::<false>::builder().build(&event_loop, ())?;
    let proxy = SocketContext::<false>::builder()
        .on_open(move |(), socket, (), info| {
            let client = info.peer_addr().expect("it is TCP");
            let here = socket.local_addr().expect("it is open");
            let header = ProxyHeader::new(ProxyVersion::V2, client, here).expect("one family");
            let options = ConnectOptions::new().proxy_header(header);
            outgoing.connect_with(target, &options, ()).expect("it begins");
        })
        .build(&event_loop, ())?;
    let front = listen(&proxy);
    let peer = Peer::connect(front.local_addr()?);
    pump(&event_loop, || !seen.borrow().is_empty());
    let info = seen.borrow()[0].clone();
    let header = info.proxy_header().expect("the listener asks for one");
    assert_eq!(header.source(), peer.stream().local_addr().ok());
    assert_eq!(header.destination(), Some(front.local_addr()?));
    assert_ne!(info.peer_addr(), header.source());
    Ok(())
}

#[test]
fn a_header_that_may_not_wait_fails_the_call() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record.builder().send_limit(10).build(&event_loop, ())?;
    let options = ConnectOptions::new().proxy_header(ProxyHeader::local());
    let nobody = Nobody::new();
    let error = context.connect_with(nobody.address(), &options, ()).expect_err("16 bytes");
    assert!(matches!(error, UsError::QueueFull), "{error}");
    drain(&event_loop);
    assert!(record.events().is_empty());
    assert_eq!(event_loop.metrics().live_sockets, 0);
    Ok(())
}

#[test]
fn a_connection_that_is_not_made_sends_no_header() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let nobody = Nobody::new();
    let options = ConnectOptions::new().proxy_header(ProxyHeader::local());
    recorded(&event_loop, &record).connect_with(nobody.address(), &options, ())?;
    drain(&event_loop);
    assert!(record.ended());
    assert_eq!(record.opened(), 0);
    Ok(())
}
