//! What is done by the calls of TLS.

use std::rc::Rc;
use std::time::Duration;

use usockets::{
    ConnectOptions, DeadlineKind, Socket, StartTls, TlsIdentity, TlsServerOptions, TlsSession,
    UsError,
};

use crate::SSL;
use crate::table::list;
use crate::tls::{
    ELSEWHERE, FOR_EVER, REFUSED, WAITS, configs, connect, name_data, new_plain, send_garbage,
    start_tls,
};
use crate::util::certificates;
use crate::values::{Probe, Session};
use crate::world::{Here, Main, World};

list! {
    /// What is done.
    TlsDeed {
        Continue,
        Refuse,
        RefuseAndContinue,
        ContinueByJob,
        ContinueFromThread,
        AskTls,
        ExpireHandshake,
        StartTls,
        StartTlsTwice,
        StartTlsAndClose,
        CloseAndStartTls,
        StartTlsOfNew,
        SetCertificate,
        SetMismatched,
        SetConfigs,
        DropConfigs,
        AddName,
        AddNameTwice,
        ReplaceName,
        RemoveNames,
        AddNonsense,
        ConnectToName,
        ConnectWaiting,
        ConnectForEver,
        ConnectRefusedName,
        ConnectElsewhere,
        ConnectWithSession,
        ConnectWithBadSession,
        ConnectToNonsense,
        SendGarbage,
        DropPlainContext,
        ClosePlainContext,
    }
}

/// Does it.
pub(crate) fn perform(world: &Rc<World>, deed: TlsDeed, here: &mut Here<'_>) {
    match deed {
        TlsDeed::Continue
        | TlsDeed::Refuse
        | TlsDeed::RefuseAndContinue
        | TlsDeed::ContinueByJob
        | TlsDeed::ContinueFromThread
        | TlsDeed::AskTls
        | TlsDeed::ExpireHandshake => {
            if let Some(socket) = here.socket {
                socket.act_by_tls(world, deed);
            }
            if let Some(other) = world.other.get() {
                act(world, &other, deed);
            }
        }
        TlsDeed::StartTls
        | TlsDeed::StartTlsTwice
        | TlsDeed::StartTlsAndClose
        | TlsDeed::CloseAndStartTls
        | TlsDeed::StartTlsOfNew => start(world, deed),
        TlsDeed::SetCertificate | TlsDeed::SetMismatched | TlsDeed::SetConfigs => {
            if let Some(main) = world.main.get() {
                configure(world, &main, deed);
            }
        }
        TlsDeed::DropConfigs => {
            let identity = certificates().server.identity();
            let config = TlsServerOptions::new(identity).build().expect("a configuration");
            drop((config.clone(), config));
        }
        TlsDeed::AddName
        | TlsDeed::AddNameTwice
        | TlsDeed::ReplaceName
        | TlsDeed::RemoveNames
        | TlsDeed::AddNonsense => {
            if let Some(main) = world.main.get() {
                with_names(world, &main, deed);
            }
        }
        TlsDeed::SendGarbage => send_garbage(world),
        TlsDeed::DropPlainContext => world.extra.clear(),
        TlsDeed::ClosePlainContext => {
            if let Some(plain) = world.extra.plain.get() {
                plain.close();
            }
        }
        _ => connect_as(world, deed),
    }
}

/// To a socket of any state.
pub(crate) fn act<S: 'static>(world: &World, socket: &Socket<SSL, S>, deed: TlsDeed) {
    match deed {
        TlsDeed::Continue => {
            let _continued = socket.continue_handshake();
            world.expect(socket.continue_handshake().is_err(), "it does not wait twice");
        }
        TlsDeed::Refuse => {
            let _refused = socket.refuse_handshake();
            world.expect(socket.refuse_handshake().is_err(), "it does not wait twice");
        }
        TlsDeed::RefuseAndContinue => {
            let _refused = socket.refuse_handshake();
            world.expect(socket.continue_handshake().is_err(), "it does not wait twice");
        }
        TlsDeed::ContinueByJob => {
            let (probe, socket) = (Probe::silent(), socket.clone());
            let _given = socket.event_loop().defer(move |_| {
                probe.hold();
                let _continued = socket.continue_handshake();
            });
        }
        TlsDeed::ContinueFromThread => {
            let (probe, id, handle) = (Probe::silent(), socket.id(), world.handle.clone());
            let sent = std::thread::spawn(move || {
                let job = handle.defer(move |event_loop| {
                    probe.hold();
                    if let Ok(socket) = id.resolve(event_loop) {
                        let _continued = socket.continue_handshake();
                    }
                });
                job.is_ok()
            });
            let _given = sent.join();
        }
        TlsDeed::ExpireHandshake => {
            let _set = socket.set_deadline(DeadlineKind::Handshake, Duration::from_nanos(1));
        }
        _ => ask(socket),
    }
}

/// Every question that one can ask a socket with TLS.
pub(crate) fn ask<S: 'static>(socket: &Socket<SSL, S>) {
    let handshaking = socket.is_handshaking();
    let handshake = socket.tls();
    assert!(!handshaking || !socket.is_closed(), "closed but in its handshake");
    assert!(!handshaking || socket.is_established(), "in its handshake but not open");
    let _asked = (format!("{handshake:?}"), socket.peer_certificates());
    let _asked = (socket.server_name_data::<Probe>(), socket.server_name_data::<u8>());
    let _asked = socket.context::<u8>().is_ok();
}

fn start(world: &World, deed: TlsDeed) {
    let (Some(main), role) = (world.main.get(), StartTls::server()) else { return };
    if deed == TlsDeed::StartTlsOfNew {
        let Some(socket) = new_plain(world) else { return };
        world.expect(start_tls(&socket, &main, role).is_err(), "TLS on what is not open yet");
        return;
    }
    let Some(socket) = world.extra.in_the_clear.get() else { return };
    if deed == TlsDeed::CloseAndStartTls {
        socket.close();
        world.expect(start_tls(&socket, &main, role).is_err(), "TLS on what is closed");
        return;
    }
    let begun = start_tls(&socket, &main, role);
    world.expect(begun.is_err() || socket.is_closed(), "started but not for its old handle");
    match deed {
        TlsDeed::StartTlsTwice => {
            let again = start_tls(&socket, &main, StartTls::client("localhost"));
            world.expect(again.is_err(), "started twice");
            let nonsense = start_tls(&socket, &main, StartTls::client("a\0b"));
            world.expect(nonsense.is_err(), "a name that is none");
        }
        TlsDeed::StartTlsAndClose => socket.close(),
        _ => {}
    }
}

fn configure(world: &World, main: &Main, deed: TlsDeed) {
    let closed = world.loop_ref.is_closed();
    match deed {
        TlsDeed::SetCertificate => {
            let set = main.set_certificate(&configs().identity);
            world.expect(closed || set.is_ok(), "a certificate is not renewed");
        }
        TlsDeed::SetMismatched => {
            let set = main.set_certificate(&configs().mismatched);
            world.expect(set.is_err(), "the key of another certificate");
            let nothing = main.set_certificate(&TlsIdentity::from_pem("", ""));
            world.expect(nothing.is_err(), "no certificate");
        }
        _ => {
            // New ones, so that the old ones may go with the last socket.
            let authority = &certificates().authority;
            let set = main.set_tls_server(&authority.server(&["localhost"]));
            world.expect(closed || set.is_ok(), "a configuration is not set");
            let set = main.set_tls_client(&authority.client());
            world.expect(closed || set.is_ok(), "a configuration is not set");
            let set = main.set_tls_server(&configs().server);
            world.expect(closed || set.is_ok(), "a configuration is not set");
        }
    }
}

fn with_names(world: &World, main: &Main, deed: TlsDeed) {
    let config = &configs().server;
    match deed {
        TlsDeed::AddName => drop(main.add_server_name_with("localhost", config, name_data())),
        TlsDeed::AddNameTwice => {
            let _added = main.add_server_name("localhost", config);
            let again = main.add_server_name_with("localhost", config, name_data());
            world.expect(again.is_err(), "a name is there twice");
        }
        TlsDeed::ReplaceName => {
            for name in ["localhost", "kept.example", "*.example"] {
                let _replaced = main.replace_server_name(name, config, Some(name_data()));
                let _replaced = main.replace_server_name(name, config, None);
            }
        }
        TlsDeed::RemoveNames => {
            for name in ["localhost", "kept.example", "nothing.example"] {
                let _removed = main.remove_server_name(name);
                let again = main.remove_server_name(name);
                world.expect(!matches!(again, Ok(true)), "removed twice");
            }
        }
        _ => {
            for name in ["", "a\0b"] {
                let added = main.add_server_name_with(name, config, name_data());
                world.expect(added.is_err(), "a name that is none");
            }
        }
    }
}

fn connect_as(world: &World, deed: TlsDeed) {
    let options = ConnectOptions::new();
    let named = |name: &str| ConnectOptions::new().server_name(name);
    let socket = match deed {
        TlsDeed::ConnectToName => connect(world, &named("localhost")),
        TlsDeed::ConnectWaiting => connect(world, &named(WAITS)),
        TlsDeed::ConnectForEver => connect(world, &named(FOR_EVER)),
        TlsDeed::ConnectRefusedName => connect(world, &named(REFUSED)),
        TlsDeed::ConnectElsewhere => connect(world, &named(ELSEWHERE)),
        TlsDeed::ConnectWithSession => {
            let Some(session) = world.extra.session.get() else { return };
            connect(world, &options.tls_session(&session))
        }
        TlsDeed::ConnectWithBadSession => {
            connect(world, &options.tls_session(&TlsSession::from_bytes(b"no session".to_vec())))
        }
        _ => {
            let none = connect(world, &named("a\0b"));
            world.expect(none.is_none(), "a name that is none");
            none
        }
    };
    if let Some(socket) = socket {
        world.expect(!socket.is_handshaking(), "a new socket is in its handshake");
        let asked: Result<_, UsError> = socket.tls();
        world.expect(asked.is_err(), "a new socket had a handshake");
        let _state = socket.with_state(|session: &mut Session| session.received);
    }
}
