//! A connection that changes its protocol: from lines of text to frames with a length before them.
//!
//! ```text
//! cargo run --example upgrade -- 127.0.0.1:3000
//! printf 'hello\nUPGRADE\n\0\0\0\2hi\0\0\0\3you' | nc -N 127.0.0.1 3000 | xxd
//! ```
//!
//! A line comes back in capitals. The line `UPGRADE` is answered by `OK`, and moves the socket into
//! another context, with other callbacks and another type of state. The bytes behind that line
//! belong to the new protocol already and are delivered there: frames, each a big-endian number of
//! 4 bytes and as many bytes of payload, that come back in reverse. The first frame from the server
//! tells how many lines there were. Ctrl-C or SIGTERM prints the totals.

mod common;

use std::process::ExitCode;

use usockets::{Loop, LoopRef, Socket, SocketContext, UsError};

/// The longest line and the longest payload, in bytes.
const LENGTH_MAX: usize = 64 * 1024;

/// Bytes of the number before each frame.
const HEADER: usize = 4;

/// State of a socket that talks in lines.
#[derive(Default)]
struct Lines {
    /// The beginning of a line.
    input: Vec<u8>,
    count: u32,
}

/// State of a socket that talks in frames.
struct Frames {
    /// The beginning of a frame.
    input: Vec<u8>,
    lines_before: u32,
}

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;
    let frames = frames_context(&event_loop)?;
    let lines = lines_context(&event_loop, &frames)?;

    let listener = lines.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    let upgraded = frames.with_state(|upgraded| *upgraded)?;
    lines.with_state(|opened| println!("served {opened} connections, {upgraded} upgraded"))
}

/// The first protocol. The context's state counts the connections.
fn lines_context(
    event_loop: &LoopRef,
    frames: &SocketContext<false, u64, Frames>,
) -> Result<SocketContext<false, u64, Lines>, UsError> {
    let frames = frames.clone();
    SocketContext::builder()
        .on_open(|opened, _socket, _lines, _info| *opened += 1)
        .on_data(move |_opened, socket, lines: &mut Lines, data| {
            lines.input.extend_from_slice(data);
            let mut answer = Vec::new();
            let mut rest = lines.input.as_slice();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end + 1);
                rest = after;
                if line == b"UPGRADE\n" {
                    answer.extend_from_slice(b"OK\n");
                    send(socket, &answer);
                    // Takes place after this callback, and the handle is stale from here on. What
                    // was sent moves along. The bytes behind the line came with its end, so they
                    // are part of this data.
                    let adopted = socket.adopt(&frames, rest.len(), into_frames);
                    return adopted.unwrap_or_else(|_| socket.reset());
                }
                answer.extend(line.to_ascii_uppercase());
                lines.count += 1;
            }
            lines.input = rest.to_vec();
            send(socket, &answer);
            if lines.input.len() > LENGTH_MAX {
                socket.close();
            }
        })
        .on_drain(|_opened, socket, _lines| socket.resume())
        .on_end(|_opened, socket, _lines| socket.shutdown())
        .on_drain_requested(|_opened, socket, _lines| socket.close())
        .build(event_loop, 0)
}

/// The new state, made of the old one.
fn into_frames(lines: &mut Lines) -> Frames {
    Frames { input: Vec::new(), lines_before: lines.count }
}

/// The second protocol. The context's state counts the connections that came to it.
fn frames_context(event_loop: &LoopRef) -> Result<SocketContext<false, u64, Frames>, UsError> {
    // Sockets come by adoption alone, so that no state is ever made from nothing.
    SocketContext::builder_with(|| unreachable!("this context does not listen or connect"))
        .on_adopt(|upgraded, socket, frames: &mut Frames| {
            *upgraded += 1;
            let mut greeting = Vec::new();
            put_frame(&mut greeting, format!("{} lines", frames.lines_before).as_bytes());
            send(socket, &greeting);
        })
        .on_data(|_upgraded, socket, frames, data| {
            frames.input.extend_from_slice(data);
            let mut answer = Vec::new();
            let mut rest = frames.input.as_slice();
            while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
                let length = u32::from_be_bytes(*header) as usize;
                if length > LENGTH_MAX {
                    return socket.close();
                }
                let Some((payload, after)) = after.split_at_checked(length) else { break };
                let reversed: Vec<u8> = payload.iter().rev().copied().collect();
                put_frame(&mut answer, &reversed);
                rest = after;
            }
            frames.input = rest.to_vec();
            send(socket, &answer);
        })
        .on_drain(|_upgraded, socket, _frames| socket.resume())
        .on_end(|_upgraded, socket, _frames| socket.shutdown())
        .on_drain_requested(|_upgraded, socket, _frames| socket.close())
        .build(event_loop, 0)
}

fn put_frame(output: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is at most LENGTH_MAX");
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(payload);
}

/// Sends, and reads on only when the peer has read enough of that.
fn send<S: 'static>(socket: &Socket<false, S>, data: &[u8]) {
    if socket.send(data).is_err() {
        socket.reset();
    } else if socket.needs_drain() {
        socket.pause();
    }
}
