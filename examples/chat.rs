//! A chat: what one client says, all the others get.
//!
//! ```text
//! cargo run --example chat -- 127.0.0.1:3000
//! nc 127.0.0.1 3000      # in two or more other shells
//! ```
//!
//! Each line typed into one `nc` appears in the others behind the name of the guest, who comes and
//! goes with a notice. The context's state keeps a handle of every member, and a message is written
//! through each of them. A member that does not read costs a limited amount of memory and then its
//! membership, so it holds up nobody. Ctrl-C or SIGTERM prints the totals.

mod common;

use std::collections::HashSet;
use std::process::ExitCode;

use usockets::{Deadlines, Loop, Socket, SocketContext, UsError};

/// Bytes that may wait for a member; beyond that it is too slow for this room.
const BEHIND_MAX: usize = 2 * 1024 * 1024;

/// The longest line, in bytes.
const LINE_MAX: usize = 4096;

/// State of the context.
#[derive(Default)]
struct Room {
    members: HashSet<Socket<false, Member>>,
    guests: u64,
    lines: u64,
    dropped: u64,
}

/// State of each socket.
#[derive(Default)]
struct Member {
    name: String,
    /// The beginning of a line.
    input: Vec<u8>,
}

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;

    let chat = SocketContext::<false, Room, Member>::builder()
        .send_limit(BEHIND_MAX)
        .deadlines(Deadlines::new().first_byte(None)) // guests may just listen
        .on_open(|room, socket, member, _info| {
            room.guests += 1;
            member.name = format!("guest{}", room.guests);
            let notice = format!("* {} comes to {} others\n", member.name, room.members.len());
            room.dropped += tell(socket, notice.as_bytes());
            room.tell_others(socket, notice.as_bytes());
            room.members.insert(socket.clone());
        })
        .on_data(|room, socket, member, data| {
            member.input.extend_from_slice(data);
            for line in take_lines(&mut member.input).split_inclusive(|byte| *byte == b'\n') {
                room.lines += 1;
                room.tell_others(socket, &[member.name.as_bytes(), b": ", line].concat());
            }
            if member.input.len() > LINE_MAX {
                room.dropped += tell(socket, b"* that line is too long\n");
                socket.close(); // what was sent before arrives nevertheless
            }
        })
        .on_end(|_room, socket, _member| socket.shutdown())
        .on_drain_requested(|_room, socket, _member| socket.close())
        .on_close(|room, socket, member, _reason| {
            room.members.remove(socket);
            room.tell_others(socket, format!("* {} goes\n", member.name).as_bytes());
        })
        .build(&event_loop, Room::default())?;

    let listener = chat.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    chat.with_state(|room| {
        println!(
            "served {} guests, {} lines, dropped {} slow readers",
            room.guests, room.lines, room.dropped
        );
    })
}

impl Room {
    fn tell_others(&mut self, speaker: &Socket<false, Member>, text: &[u8]) {
        for other in self.members.iter().filter(|other| *other != speaker) {
            self.dropped += tell(other, text);
        }
    }
}

/// Drops the member if too much waits for it already, and says how many were dropped.
fn tell(member: &Socket<false, Member>, text: &[u8]) -> u64 {
    match member.send(text) {
        Err(UsError::QueueFull) => {
            member.reset();
            1
        }
        // An error means that it is closed, and leaves the room in its `on_close`.
        Ok(()) | Err(_) => 0,
    }
}

/// Takes all whole lines out of `input`.
fn take_lines(input: &mut Vec<u8>) -> Vec<u8> {
    let whole = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    input.drain(..whole).collect()
}
