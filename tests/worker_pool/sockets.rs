//! Results for sockets that are there, and for sockets that are not.

use super::*;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use usockets::{ListenSocket, SocketContext};

/// A listener that callbacks can close, so that the loop ends by itself.
#[derive(Clone, Default)]
struct Listener(Rc<RefCell<Option<ListenSocket>>>);

impl Listener {
    fn listen<T, S>(&self, context: &SocketContext<false, T, S>) -> SocketAddr {
        let listener = context.listen(util::own_address()).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        *self.0.borrow_mut() = Some(listener);
        address
    }

    fn close(&self) {
        drop(self.0.take());
    }
}

#[test]
fn a_result_reaches_its_socket_and_its_state() {
    let _guard = guard();
    let event_loop = new_loop();
    let (pool, handle) = (pool(2), event_loop.handle());
    let listener = Listener::default();
    let closing = listener.clone();
    let shouting = SocketContext::<false, (), usize>::builder()
        .on_data(move |(), socket, _, data| {
            let text = data.to_vec();
            pool.run_for(
                &handle,
                socket.id(),
                move || text.to_ascii_uppercase(),
                |socket, result| {
                    let text = result.expect("no panic");
                    socket.with_state(|answers| *answers += 1).expect("nobody uses the state");
                    assert_eq!(socket.write(&text), text.len());
                },
            )
            .expect("room for a job");
        })
        .on_close(move |(), _, answers, _| {
            assert!(*answers > 0);
            closing.close();
        })
        .build(&event_loop, ())
        .unwrap();
    let address = listener.listen(&shouting);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        stream.write_all(b"can you hear me").expect("a connection");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("an answer");
        answer
    });
    event_loop.run().unwrap();
    assert_eq!(&client.join().expect("the client got its answer"), b"CAN YOU HEAR ME");
}

#[test]
fn a_result_for_a_socket_that_was_closed_is_dropped() {
    let _guard = guard();
    let event_loop = new_loop();
    let (pool, handle) = (Arc::new(pool(1)), event_loop.handle());
    let (called, dropped) = (Count::default(), Drops::new());
    let (closed, was_closed) = mpsc::channel();

    let listener = Listener::default();
    let (closing, pool_inside) = (listener.clone(), Arc::clone(&pool));
    let (called_inside, token) = (called.clone(), RefCell::new(Some(dropped.token())));
    let was_closed = RefCell::new(Some(was_closed));
    let context = SocketContext::<false>::builder()
        .on_open(move |(), socket, (), _| {
            let (called, token) = (called_inside.clone(), token.take());
            let was_closed = was_closed.take().expect("one connection");
            let accepted = pool_inside.run_for(
                &handle,
                socket.id(),
                move || was_closed.recv().expect("the socket closes"),
                move |_socket, _| {
                    let _token = token;
                    called.add();
                },
            );
            assert!(accepted.is_ok());
            socket.close();
            closing.close();
        })
        .on_close(move |(), _, (), _| closed.send(()).expect("the job waits"))
        .build(&event_loop, ())
        .unwrap();
    let address = listener.listen(&context);
    let _client = TcpStream::connect(address).unwrap();
    event_loop.run().unwrap();
    assert_eq!((called.get(), dropped.dropped()), (0, 1));
    assert_eq!(pool.lost_results(), 0, "the loop was there");
}

#[test]
fn a_result_for_a_socket_that_was_adopted_is_dropped() {
    let _guard = guard();
    let event_loop = new_loop();
    let (pool, handle) = (pool(1), event_loop.handle());
    let called = Count::default();
    let (adopted, was_adopted) = mpsc::channel();

    let listener = Listener::default();
    let target = SocketContext::<false, (), u8>::builder()
        .on_adopt(move |(), socket, seven| {
            assert_eq!(*seven, 7);
            adopted.send(()).expect("the job waits");
            socket.close();
        })
        .build(&event_loop, ())
        .unwrap();
    let (closing, called_inside) = (listener.clone(), called.clone());
    let was_adopted = RefCell::new(Some(was_adopted));
    let context = SocketContext::<false>::builder()
        .on_open(move |(), socket, (), _| {
            let was_adopted = was_adopted.take().expect("one connection");
            let called = called_inside.clone();
            let accepted = pool.run_for(
                &handle,
                socket.id(),
                move || was_adopted.recv().expect("the socket moves"),
                move |_socket, _| called.add(),
            );
            assert!(accepted.is_ok());
            socket.adopt(&target, 0, |()| 7).expect("the socket is open");
            closing.close();
        })
        .build(&event_loop, ())
        .unwrap();
    let address = listener.listen(&context);
    let _client = TcpStream::connect(address).unwrap();
    event_loop.run().unwrap();
    assert_eq!(called.get(), 0);
}

#[test]
fn the_socket_must_be_one_of_the_loop() {
    let _guard = guard();
    let (here, there) = (new_loop(), new_loop());
    let pool = pool(1);
    let context = SocketContext::<false>::builder().build(&here, ()).unwrap();
    let listener = context.listen(util::own_address()).unwrap();
    let socket = context.connect(listener.local_addr().unwrap()).unwrap();
    let refused = pool
        .run_for(&there.handle(), socket.id(), || 3, |_socket, _| ())
        .expect_err("another loop");
    assert!(matches!(refused.error(), UsError::WrongLoop), "{refused:?}");
    let (job, _done) = refused.into_closures();
    assert_eq!(job(), 3);
}
