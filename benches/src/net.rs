//! Listening and connecting: the same for all peers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::Result;

/// As many connections as may wait to be accepted; the system allows fewer, perhaps.
const BACKLOG: i32 = 4096;

/// A listener that does not block. What accepted connections inherit is set here, so that all peers
/// have the same: no delay, and the congestion control, if one was asked for.
pub(crate) fn listen(congestion: &str) -> Result<TcpListener> {
    let socket = socket(congestion)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A connection that blocks.
pub(crate) fn connect(address: SocketAddr, congestion: Option<&str>) -> Result<TcpStream> {
    let socket = socket(congestion.unwrap_or_default())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

fn socket(congestion: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    if !congestion.is_empty() {
        socket
            .set_tcp_congestion(congestion.as_bytes())
            .map_err(|error| format!("congestion control {congestion}: {error}"))?;
    }
    Ok(socket)
}

/// The congestion control that both ends of a connection have.
pub(crate) fn congestion_in_force(asked: Option<&str>) -> Result<String> {
    let listener = listen(asked.unwrap_or_default())?;
    let client = Socket::from(connect(listener.local_addr()?, asked)?);
    let (server, _) = listener.accept()?;
    let names = [client.tcp_congestion()?, Socket::from(server).tcp_congestion()?]
        .map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
    if names[0] != names[1] {
        return Err(format!("the ends have different congestion controls: {names:?}").into());
    }
    Ok(names[0].clone())
}
