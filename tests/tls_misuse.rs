//! Everything that a program can do to its sockets, contexts and loop, from inside every callback of TLS.
#![cfg(usockets_tls)]

mod util;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use usockets::{
    ConnectOptions, Loop, ServerNameAnswer, Socket, SocketContext, TlsClientOptions,
    TlsServerOptions, UsError,
};
use util::{
    Authority, Descriptors, Drops, Token, alone, new_loop, own_address, panic_message, scaled,
};

/// Where an action is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    ServerHandshake,
    ClientHandshake,
    FailedHandshake,
    Verify,
    Alpn,
    ServerName,
    Session,
}

const PLACES: [Place; 7] = [
    Place::ServerHandshake,
    Place::ClientHandshake,
    Place::FailedHandshake,
    Place::Verify,
    Place::Alpn,
    Place::ServerName,
    Place::Session,
];

/// What an action is given: the socket that was called for, and the rest.
struct Scene {
    socket: Socket<true, Option<Token>>,
    all: Rc<World>,
}

type Context = SocketContext<true, Option<Token>, Option<Token>>;

/// What actions reach.
struct World {
    authority: Authority,
    drops: Drops,
    event_loop: RefCell<Option<Rc<Loop>>>,
    server: RefCell<Option<Context>>,
    client: RefCell<Option<Context>>,
    target: RefCell<Option<Context>>,
    plain: RefCell<Option<SocketContext<false>>>,
}

type Action = (&'static str, fn(&Scene));

const ACTIONS: &[Action] = &[
    ("nothing", |_| ()),
    ("close", |scene| scene.socket.close()),
    ("reset", |scene| scene.socket.reset()),
    ("close_after_flush", |scene| {
        let _written = scene.socket.write(b"last words");
        scene.socket.close_after_flush();
    }),
    ("write", |scene| {
        let _written = scene.socket.write(&[b'x'; 20_000]);
    }),
    ("send", |scene| {
        let _sent = scene.socket.send(&vec![b'x'; 200_000]);
        scene.socket.flush();
    }),
    ("shutdown", |scene| scene.socket.shutdown()),
    ("shutdown_read", |scene| scene.socket.shutdown_read()),
    ("pause", |scene| scene.socket.pause()),
    ("pause and resume", |scene| {
        scene.socket.pause();
        scene.socket.resume();
    }),
    ("send and close", |scene| {
        let _sent = scene.socket.send(b"bye");
        scene.socket.close();
    }),
    ("adopt", |scene| {
        let target = scene.all.target.borrow();
        let _moved = scene.socket.adopt(target.as_ref().expect("a target"), 0, Option::take);
    }),
    ("adopt and close", |scene| {
        let target = scene.all.target.borrow();
        let _moved = scene.socket.adopt(target.as_ref().expect("a target"), 0, Option::take);
        scene.socket.close();
    }),
    ("close the context", |scene| {
        let context = scene.socket.context::<Option<Token>>().expect("it is in one");
        context.close();
    }),
    ("close all contexts", |scene| {
        for context in [&scene.all.server, &scene.all.client, &scene.all.target] {
            if let Some(context) = &*context.borrow() {
                context.close();
            }
        }
    }),
    ("drop all handles", |scene| {
        drop(scene.all.server.take());
        drop(scene.all.client.take());
        drop(scene.all.target.take());
    }),
    ("change configurations", |scene| {
        let context = scene.socket.context::<Option<Token>>().expect("it is in one");
        let config = scene.all.authority.server(&["localhost"]);
        context.set_tls_server(&config).expect("it is set");
        context.set_tls_client(&scene.all.authority.client()).expect("it is set");
        let renewed = scene.all.authority.issue(&["localhost"]).identity();
        context.set_certificate(&renewed).expect("it is set");
    }),
    ("change names", |scene| {
        let context = scene.socket.context::<Option<Token>>().expect("it is in one");
        let config = scene.all.authority.server(&["localhost"]);
        let data = || Rc::new(scene.all.drops.token());
        let _added = context.add_server_name_with("localhost", &config, data());
        context.replace_server_name("localhost", &config, Some(data())).expect("it is set");
        let _data = scene.socket.server_name_data::<Token>();
        context.replace_server_name("*", &config, Some(data())).expect("it is set");
        context.remove_server_name("localhost").expect("the loop lives");
    }),
    ("ask everything", |scene| {
        let socket = &scene.socket;
        let _handshake = socket.tls();
        let _chain = socket.peer_certificates();
        let _data = socket.server_name_data::<Token>();
        let _answers = (socket.is_handshaking(), socket.is_closed(), socket.close_reason());
        assert!(socket.continue_handshake().is_err(), "it does not wait");
        assert!(socket.refuse_handshake().is_err(), "it does not wait");
        assert!(matches!(socket.with_state(|_| ()), Err(UsError::StateInUse | UsError::Closed)));
    }),
    ("run the loop", |scene| {
        let event_loop = scene.all.event_loop.borrow().clone().expect("a loop");
        assert!(matches!(event_loop.run(), Err(UsError::LoopAlreadyRunning)));
        let turned = event_loop.turn(Some(Duration::ZERO));
        assert!(matches!(turned, Err(UsError::LoopAlreadyRunning)));
    }),
    ("connect", |scene| {
        let context = scene.socket.context::<Option<Token>>().expect("it is in one");
        let _another = context.connect("127.0.0.1:1");
    }),
    ("accept", |scene| {
        let context = scene.socket.context::<Option<Token>>().expect("it is in one");
        let _another = context.accept_fd(util::unix_pair().0);
    }),
    ("start another TLS", |scene| {
        let (ours, _theirs) = util::unix_pair();
        let plain = scene.all.plain.borrow();
        let socket = plain.as_ref().expect("a context").accept_fd(ours).expect("a socket");
        let target = scene.all.target.borrow();
        let target = target.as_ref().expect("a target");
        let error = socket.start_tls(target, usockets::StartTls::server(), 0, |()| None);
        assert!(matches!(error, Err(UsError::Closed)), "it is not open yet");
    }),
    ("defer a close", |scene| {
        let socket = scene.socket.clone();
        scene.socket.event_loop().defer(move |_| socket.close()).expect("the loop lives");
    }),
    ("drop the loop", |scene| drop(scene.all.event_loop.take())),
    ("panic", |_| panic!("on purpose")),
];

/// Takes the action in its place, once.
#[derive(Clone)]
struct Deed {
    place: Place,
    action: fn(&Scene),
    done: Rc<Cell<bool>>,
    world: Rc<World>,
}

impl Deed {
    fn at(&self, place: Place, socket: &Socket<true, Option<Token>>) {
        if self.place == place && !self.done.replace(true) {
            let scene = Scene { socket: socket.clone(), all: Rc::clone(&self.world) };
            (self.action)(&scene);
        }
    }
}

fn context(event_loop: &Loop, deed: &Deed, is_server: bool) -> Context {
    let (authority, drops) = (&deed.world.authority, deed.world.drops.clone());
    let server = TlsServerOptions::new(authority.issue(&["localhost"]).identity());
    let client = TlsClientOptions::new().trust(authority.trust()).alpn(["one"]);
    let (handshake, verify, alpn) = (deed.clone(), deed.clone(), deed.clone());
    let (name, session, token) = (deed.clone(), deed.clone(), drops.token());
    let of_sockets = drops.clone();
    let handshaken = if is_server { Place::ServerHandshake } else { Place::ClientHandshake };
    SocketContext::<true, Option<Token>, Option<Token>>::builder_with(move || {
        Some(of_sockets.token())
    })
    .tls_server(&server.build().expect("a configuration"))
    .tls_client(&client.build().expect("a configuration"))
    .on_handshake(move |_, socket, _, result| {
        token.hold();
        let place = if result.is_ok() { handshaken } else { Place::FailedHandshake };
        handshake.at(place, socket);
    })
    .on_verify(move |_, socket, _, certificates| {
        verify.at(Place::Verify, socket);
        certificates.verified()
    })
    .on_alpn(move |_, socket, _, offer| {
        alpn.at(Place::Alpn, socket);
        offer.select(["one"])
    })
    .on_server_name(move |_, socket, _, _| {
        name.at(Place::ServerName, socket);
        ServerNameAnswer::LookUp
    })
    .on_session(move |_, socket, _, _| session.at(Place::Session, socket))
    .on_data(|_, socket, _, _| socket.resume())
    .build(event_loop, Some(drops.token()))
    .expect("a context")
}

/// One action in one place. Whether the place was come to.
fn play(place: Place, action: fn(&Scene)) -> bool {
    let drops = Drops::new();
    let done = Rc::new(Cell::new(false));
    let event_loop = Rc::new(new_loop());
    let world = Rc::new(World {
        authority: Authority::new(),
        drops: drops.clone(),
        event_loop: RefCell::new(Some(Rc::clone(&event_loop))),
        server: RefCell::default(),
        client: RefCell::default(),
        target: RefCell::default(),
        plain: RefCell::default(),
    });
    let deed = Deed { place, action, done: Rc::clone(&done), world: Rc::clone(&world) };
    let (server, client) = (context(&event_loop, &deed, true), context(&event_loop, &deed, false));
    let quiet = Deed { done: Rc::new(Cell::new(true)), ..deed };
    let target = context(&event_loop, &quiet, true);
    drop(quiet);
    let plain = SocketContext::<false>::builder().build(&event_loop, ()).expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    // The names differ where the handshake is to fail.
    let asked = if place == Place::FailedHandshake { "example.org" } else { "localhost" };
    let options = ConnectOptions::new().server_name(asked);
    let address = listener.local_addr().expect("it is bound");
    let socket = client.connect_with(address, &options, Some(drops.token())).expect("it begins");
    world.server.replace(Some(server));
    world.client.replace(Some(client));
    world.target.replace(Some(target));
    world.plain.replace(Some(plain));

    let panics = Cell::new(0);
    let turn = |event_loop: &Loop, wait: Duration| {
        let turned = catch_unwind(AssertUnwindSafe(|| event_loop.turn(Some(wait))));
        match turned {
            Ok(turned) => turned.expect("a turn"),
            Err(payload) => {
                assert_eq!(panic_message(&*payload), "on purpose");
                panics.set(panics.get() + 1);
                true
            }
        }
    };
    // Until the deed is done, and a while longer: for what follows from it.
    let is_over = || done.get() || world.event_loop.borrow().is_none();
    for _ in 0..TURNS_MAX {
        turn(&event_loop, TURN_MAX);
        if is_over() {
            break;
        }
    }
    for _ in 0..10 {
        turn(&event_loop, Duration::ZERO);
    }
    assert!(panics.get() <= 1, "it was thrown once");

    drop(listener);
    for context in [&world.server, &world.client, &world.target] {
        if let Some(context) = &*context.borrow() {
            context.close();
        }
    }
    socket.close();
    if world.event_loop.borrow().is_some() {
        // Moved sockets, and what an action has added, go with the contexts.
        let ends = Instant::now() + scaled(Duration::from_secs(20));
        while turn(&event_loop, TURN_MAX) {
            assert!(Instant::now() < ends, "the loop does not come to its end");
        }
        assert_eq!(event_loop.metrics().live_sockets, 0, "sockets are left");
    }
    drop(world.event_loop.take());
    drop(event_loop);
    for context in [&world.server, &world.client, &world.target] {
        drop(context.take());
    }
    drop(world.plain.take());
    drops.assert_all_dropped();
    assert!(socket.tls().is_err() && socket.is_closed(), "handles outlive the loop");
    done.get()
}

/// How long a turn waits, and most turns until a place must have been come to.
const TURN_MAX: Duration = Duration::from_millis(5);
const TURNS_MAX: usize = 2000;

#[test]
fn every_action_in_every_callback_of_tls() {
    let guard = alone();
    let before = Descriptors::now();
    for place in PLACES {
        for (name, action) in ACTIONS {
            guard.step(&format!("{name} in {place:?}"));
            let played = catch_unwind(|| play(place, *action));
            match played {
                Ok(true) => {}
                Ok(false) => panic!("{name}: {place:?} was not come to"),
                Err(payload) => panic!("{name} in {place:?}: {}", panic_message(&*payload)),
            }
        }
    }
    before.assert_unchanged();
}
