//! TLS: handshakes that succeed and that fail, names that are waited for, sessions, STARTTLS, renewal.
//!
//! Configurations are made once, where they are not the subject: a sweep makes many loops.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use usockets::{
    CloseReason, ConnectOptions, ContextBuilder, Loop, ServerNameAnswer, Socket, SocketContext,
    StartTls, TlsFailure, TlsServerConfig, TlsServerOptions, TlsSession, UsError,
};

use crate::peer::patient;
use crate::util::{Issued, Secured, Token, alone_for, certificates, own_address, pattern};
use crate::{Case, SWEEP_MAX, has_struck, sweep, test_loop};

/// A little more than one record.
const LENGTH: usize = 20_000;

const NAME: &str = "a.example.test";

/// What a side has of one connection.
#[derive(Debug)]
struct Session {
    _token: Token,
    /// What `on_handshake` was told.
    is_secure: Option<bool>,
    input: Vec<u8>,
}

/// What one side has seen, of all its connections.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Handshakes that were done.
    secure: Rc<Cell<u32>>,
    /// Connections that have ended, or were never made.
    ended: Rc<Cell<u32>>,
    /// The reason of the last.
    reason: Rc<Cell<Option<CloseReason>>>,
    /// All that the last has received.
    input: Rc<RefCell<Vec<u8>>>,
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

/// Makes the state of a connection.
fn session(case: &Case) -> impl Fn() -> Session + use<> {
    let drops = case.drops.clone();
    move || Session { _token: drops.token(), is_secure: None, input: Vec::new() }
}

/// A context that says what it has seen, and in which every connection has one end of its handshake, and one end.
/// A reason that is not expected is reported.
fn side(
    case: &Case,
    seen: &Seen,
    is_expected: impl Fn(&CloseReason) -> bool + 'static,
) -> ContextBuilder<true, (), Session> {
    let (shaken, closed, failed) = (seen.clone(), seen.clone(), seen.clone());
    let (report, report_error) = (case.reporter(), case.reporter());
    SocketContext::<true, (), Session>::builder_with(session(case))
        .secured()
        .deadlines(patient())
        .on_handshake(move |(), socket, session, result| {
            assert!(session.is_secure.replace(result.is_ok()).is_none(), "it is done twice");
            assert_eq!(socket.tls().is_ok(), result.is_ok());
            if result.is_ok() {
                count(&shaken.secure);
            }
        })
        .on_close(move |(), _, session, reason| {
            assert!(session.is_secure.is_some(), "the end of the handshake was not told");
            count(&closed.ended);
            closed.reason.set(Some(*reason));
            closed.input.replace(std::mem::take(&mut session.input));
            if !is_expected(reason) {
                report(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            count(&failed.ended);
            report_error(error.to_string());
        })
}

fn is_in_order(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::End | CloseReason::Local)
}

/// Sends back what it receives, and ends after its peer.
fn echoes(case: &Case, seen: &Seen) -> ContextBuilder<true, (), Session> {
    let report = case.reporter();
    side(case, seen, is_in_order)
        .on_data(move |(), socket, session, data| {
            assert_eq!(session.is_secure, Some(true), "data before the handshake was done");
            if let Err(error) = socket.send(data) {
                report(error.to_string());
                socket.reset();
            }
        })
        .on_end(|(), socket, _| socket.close())
}

/// Collects what it receives, and ends after its peer.
fn collects(case: &Case, seen: &Seen) -> ContextBuilder<true, (), Session> {
    side(case, seen, is_in_order)
        .on_data(|(), _, session, data| {
            assert_eq!(session.is_secure, Some(true), "data before the handshake was done");
            session.input.extend_from_slice(data);
        })
        .on_end(|(), socket, _| socket.close())
}

/// Sends everything and ends, or ends with a reset: it must not look complete.
fn say_all(socket: &Socket<true, Session>, report: &impl Fn(String)) {
    match socket.send(&pattern(LENGTH)) {
        Ok(()) => socket.shutdown(),
        Err(error) => {
            report(error.to_string());
            socket.reset();
        }
    }
}

/// Turns the loop until the client has seen so many ends, and nothing is left on either side.
fn finish(case: &Case, event_loop: &Loop, client: &Seen, ends: u32) {
    case.turn_until(event_loop, || {
        client.ended.get() == ends && event_loop.metrics().live_sockets == 0
    });
    assert_eq!(client.ended.get(), ends);
    if event_loop.metrics().accept_failures > 0 {
        case.report("a connection was not accepted");
    }
}

/// What has come back is what was sent, or the beginning of it and somebody was told.
fn assert_came_back(case: &Case, client: &Seen) {
    let (sent, received) = (pattern(LENGTH), client.input.borrow());
    assert!(sent.starts_with(&received), "other bytes");
    assert!(
        received.len() == sent.len() || case.is_reported(),
        "{} of {} bytes, and nobody was told",
        received.len(),
        sent.len()
    );
}

fn localhost() -> ConnectOptions {
    ConnectOptions::new().server_name("localhost")
}

// -- Handshakes -------------------------------------------------------------------------------

/// What is written at first waits for the handshake.
fn echo(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let server = echoes(case, &of_server).build(&event_loop, ())?;
    let report = case.reporter();
    let client = collects(case, &of_client)
        .on_open(move |(), socket, _, _| say_all(socket, &report))
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    client.connect_with(listener.local_addr()?, &localhost(), session(case)())?;
    finish(case, &event_loop, &of_client, 1);
    assert_came_back(case, &of_client);
    Ok(())
}

#[test]
fn tls_echo() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("echo over TLS", echo);
}

/// Whatever fails, nothing that was written goes to a server that is not trusted.
fn refuse_a_stranger(case: &Case, stranger: &TlsServerConfig) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let was_alert =
        |reason: &CloseReason| matches!(reason, CloseReason::Tls(TlsFailure::AlertReceived(_)));
    let was_certificate =
        |reason: &CloseReason| matches!(reason, CloseReason::Tls(TlsFailure::Verification(_)));
    let server = side(case, &of_server, was_alert)
        .tls_server(stranger)
        .on_data(|(), _, _, _| panic!("the client must not talk to this server"))
        .build(&event_loop, ())?;
    let report = case.reporter();
    let client = side(case, &of_client, was_certificate)
        .on_open(move |(), socket, _, _| say_all(socket, &report))
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    client.connect_with(listener.local_addr()?, &localhost(), session(case)())?;
    finish(case, &event_loop, &of_client, 1);
    assert_eq!((of_client.secure.get(), of_server.secure.get()), (0, 0), "a handshake was done");
    let reason = of_client.reason.take();
    assert!(case.is_reported() || reason.as_ref().is_some_and(was_certificate), "{reason:?}");
    Ok(())
}

#[test]
fn tls_certificate_that_is_refused() {
    let _guard = alone_for(SWEEP_MAX);
    let stranger = TlsServerOptions::new(certificates().stranger.identity());
    let stranger = stranger.build().expect("a configuration");
    sweep("a certificate that is refused", |case| refuse_a_stranger(case, &stranger));
}

// -- Names ------------------------------------------------------------------------------------

/// The name is added by a job, for which the handshake waits.
fn name_on_demand(
    case: &Case,
    nameless: &TlsServerConfig,
    named: &TlsServerConfig,
) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let (asked, named, reports) = (Rc::new(Cell::new(0)), named.clone(), Rc::clone(&case.reports));
    let (asks, report) = (Rc::clone(&asked), case.reporter());
    let server = echoes(case, &of_server)
        .tls_server(nameless)
        .on_server_name(move |(), socket, _, name| {
            assert_eq!(name, NAME);
            count(&asks);
            let (id, named, reports) = (socket.id(), named.clone(), Rc::clone(&reports));
            let context = socket.context::<()>().expect("it is in one");
            let job = socket.event_loop().defer(move |event_loop| {
                // Not there any more: its end was told.
                let Ok(socket) = id.resolve(event_loop) else { return };
                let gone_on = match context.add_server_name(NAME, &named) {
                    Ok(()) => socket.continue_handshake(),
                    Err(error) => {
                        reports.borrow_mut().push(error.to_string());
                        socket.refuse_handshake()
                    }
                };
                if let Err(error) = gone_on {
                    reports.borrow_mut().push(error.to_string());
                }
            });
            match job {
                Ok(()) => ServerNameAnswer::Wait,
                Err(error) => {
                    report(error.to_string());
                    ServerNameAnswer::Refuse
                }
            }
        })
        .build(&event_loop, ())?;
    let report = case.reporter();
    let client = collects(case, &of_client)
        .on_open(move |(), socket, _, _| say_all(socket, &report))
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let options = ConnectOptions::new().server_name(NAME);
    client.connect_with(listener.local_addr()?, &options, session(case)())?;
    finish(case, &event_loop, &of_client, 1);
    assert!(asked.get() <= 1, "it was asked for the name again");
    assert_came_back(case, &of_client);
    Ok(())
}

#[test]
fn tls_name_on_demand() {
    let _guard = alone_for(SWEEP_MAX);
    let nameless = TlsServerOptions::without_identity().build().expect("a configuration");
    let named = certificates().authority.server(&[NAME]);
    sweep("a name on demand", |case| name_on_demand(case, &nameless, &named));
}

// -- Sessions ---------------------------------------------------------------------------------

/// The second connection resumes the session of the first; without one it is a connection like any.
fn resumption(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let server = echoes(case, &of_server).build(&event_loop, ())?;
    let last = Rc::new(RefCell::new(None::<TlsSession>));
    let (given, report) = (Rc::clone(&last), case.reporter());
    let resumed = Rc::new(Cell::new(0));
    let is_resumed = Rc::clone(&resumed);
    let client = collects(case, &of_client)
        .on_open(move |(), socket, _, _| say_all(socket, &report))
        .on_session(move |(), socket, _, session| {
            if socket.tls().is_ok_and(|handshake| handshake.is_resumed) {
                count(&is_resumed);
            }
            given.replace(Some(session));
        })
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    for ends in 1..=2 {
        let mut options = localhost();
        if let Some(session) = last.take() {
            options = options.tls_session(&session);
        }
        client.connect_with(listener.local_addr()?, &options, session(case)())?;
        finish(case, &event_loop, &of_client, ends);
        assert_came_back(case, &of_client);
    }
    assert!(has_struck() || (of_client.secure.get(), resumed.get()) == (2, 1), "not resumed");
    Ok(())
}

#[test]
fn tls_resumption() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("resumption", resumption);
}

// -- STARTTLS ---------------------------------------------------------------------------------

/// A plain context, which begins TLS when it has received `word`.
fn plain(
    case: &Case,
    seen: &Seen,
    word: &'static [u8],
    begin: impl Fn(&Socket<false, Session>) -> Result<(), UsError> + 'static,
) -> ContextBuilder<false, (), Session> {
    let (closed, failed) = (seen.clone(), seen.clone());
    let (report, report_error, refused) = (case.reporter(), case.reporter(), case.reporter());
    SocketContext::<false, (), Session>::builder_with(session(case))
        .deadlines(patient())
        .on_data(move |(), socket, session, data| {
            session.input.extend_from_slice(data);
            assert!(word.starts_with(&session.input), "more than the word, or another");
            if session.input == word
                && let Err(error) = begin(socket)
            {
                refused(error.to_string());
                socket.reset();
            }
        })
        // Nothing ends in the clear unless something has failed.
        .on_close(move |(), _, _, reason| {
            count(&closed.ended);
            report(reason.to_string());
        })
        .on_connect_error(move |(), _, _, error| {
            count(&failed.ended);
            report_error(error.to_string());
        })
}

fn begin_in_the_clear(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let secure_server = echoes(case, &of_server).build(&event_loop, ())?;
    let report = case.reporter();
    let secure_client = collects(case, &of_client)
        .on_adopt(move |(), socket, _| say_all(socket, &report))
        .build(&event_loop, ())?;
    let make = Rc::new(session(case));
    let makes = Rc::clone(&make);
    let server = plain(case, &of_server, b"STARTTLS\n", move |socket| {
        socket.send(b"go ahead\n")?;
        let make = Rc::clone(&makes);
        socket.start_tls(&secure_server, StartTls::server(), 0, move |_| make())
    })
    .build(&event_loop, ())?;
    let report = case.reporter();
    let client = plain(case, &of_client, b"go ahead\n", move |socket| {
        let (make, role) = (Rc::clone(&make), StartTls::client("localhost"));
        socket.start_tls(&secure_client, role, 0, move |_| make())
    })
    .on_open(move |(), socket, _, _| {
        if let Err(error) = socket.send(b"STARTTLS\n") {
            report(error.to_string());
            socket.reset();
        }
    })
    .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    client.connect(listener.local_addr()?)?;
    finish(case, &event_loop, &of_client, 1);
    assert_came_back(case, &of_client);
    Ok(())
}

#[test]
fn tls_that_begins_in_the_clear() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("STARTTLS", begin_in_the_clear);
}

// -- Renewal ----------------------------------------------------------------------------------

/// A connection goes on, and a new one sees the new certificate; or the old one, and the program was told.
fn renewal(case: &Case, config: &TlsServerConfig, renewed: &Issued) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (of_server, of_client) = (Seen::default(), Seen::default());
    let server = echoes(case, &of_server).tls_server(config).build(&event_loop, ())?;
    let client = collects(case, &of_client).build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let connect = || client.connect_with(listener.local_addr()?, &localhost(), session(case)());
    let leaf = |socket: &Socket<true, Session>| match socket.peer_certificates() {
        Ok(mut chain) => Some(chain.swap_remove(0)),
        Err(error) => {
            case.report(error);
            None
        }
    };
    let first = connect()?;
    case.turn_until(&event_loop, || first.tls().is_ok() || first.is_closed());
    let old = leaf(&first);
    if let Err(error) = server.set_certificate(&renewed.identity()) {
        case.report(error);
    }
    let second = connect()?;
    case.turn_until(&event_loop, || second.tls().is_ok() || second.is_closed());
    let new = leaf(&second);
    let is_renewed = new.as_deref() == Some(&renewed.certificate_der[..]);
    assert!(is_renewed || (case.is_reported() && (new.is_none() || old.is_none() || new == old)));
    assert!(old.is_none_or(|old| old != renewed.certificate_der));
    for (ends, socket) in (1..).zip([&second, &first]) {
        // One that has ended is reported.
        say_all(socket, &case.reporter());
        case.turn_until(&event_loop, || of_client.ended.get() >= ends);
    }
    finish(case, &event_loop, &of_client, 2);
    assert_came_back(case, &of_client);
    Ok(())
}

#[test]
fn tls_renewal() {
    let _guard = alone_for(SWEEP_MAX);
    let config = TlsServerOptions::new(certificates().server.identity());
    let config = config.build().expect("a configuration");
    let renewed = certificates().chained.clone();
    sweep("renewal", |case| renewal(case, &config, &renewed));
}
