#![forbid(unsafe_code)]
//! What the system knows of a TCP connection.

use std::time::Duration;

use crate::error::UsError;
use crate::ffi;
use crate::socket::Socket;

/// What the system knows of a TCP connection, at one moment: the `TCP_INFO` of tcp(7).
///
/// Counts are since the connection was made, in segments or bytes as said. What is an `Option` came
/// with a later kernel than the rest, and is `None` on one that is older than that.
///
/// ```
/// use usockets::{Loop, SocketContext, TcpState};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder()
///     .on_open(|_, socket, _, info| {
///         let tcp = socket.tcp_info().expect("an open TCP connection");
///         assert_eq!(tcp.state, TcpState::Established);
///         assert!(tcp.congestion_window > 0 && tcp.send_mss > 0);
///         if !info.is_client() {
///             socket.event_loop().stop();
///         }
///     })
///     .build(&event_loop, ())?;
/// let listener = context.listen("127.0.0.1:0")?;
/// context.connect(listener.local_addr()?)?;
/// event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// Where the connection is in its life.
    pub state: TcpState,
    /// How often in a row the oldest unacknowledged segment was sent again.
    pub retransmits: u8,
    /// Zero-window or keep-alive probes that were not answered.
    pub probes: u8,
    /// After what time an unacknowledged segment is sent again.
    pub retransmit_timeout: Duration,
    /// How long an acknowledgement of ours may be held back.
    pub ack_timeout: Duration,
    /// Largest segment that is sent, in bytes.
    pub send_mss: u32,
    /// Largest segment that the peer is expected to send, in bytes.
    pub receive_mss: u32,
    /// Segments that were sent and not acknowledged yet.
    pub unacked: u32,
    /// Segments of these that were acknowledged out of order.
    pub sacked: u32,
    /// Segments of these that are believed to be lost.
    pub lost: u32,
    /// Segments of these that have been sent again.
    pub retransmitted: u32,
    /// Since data was sent for the last time.
    pub last_data_sent: Duration,
    /// Since data was received for the last time.
    pub last_data_received: Duration,
    /// Since an acknowledgement was received for the last time.
    pub last_ack_received: Duration,
    /// Largest packet for this path, in bytes.
    pub path_mtu: u32,
    /// Smoothed round-trip time; zero before the first measurement.
    pub rtt: Duration,
    /// Mean deviation of the round-trip time.
    pub rtt_variance: Duration,
    /// Slow-start threshold in segments; `None` as long as there is none.
    pub slow_start_threshold: Option<u32>,
    /// Congestion window in segments.
    pub congestion_window: u32,
    /// Largest segment that we have offered to take, in bytes.
    pub advertised_mss: u32,
    /// How many segments out of order are taken for a change of order, not a loss.
    pub reordering: u32,
    /// Round-trip time as the receiving side estimates it.
    pub receive_rtt: Duration,
    /// Bytes that the program is believed to read per round trip.
    pub receive_space: u32,
    /// Segments sent again, in total.
    pub total_retransmits: u32,
    /// Rate at which packets are spaced, in bytes per second. `None` also if there is no limit.
    pub pacing_rate: Option<u64>,
    /// Bytes of ours that the peer has acknowledged.
    pub bytes_acked: Option<u64>,
    /// Bytes received, in order.
    pub bytes_received: Option<u64>,
    /// Segments sent, with those without data and those sent again.
    pub segments_out: Option<u32>,
    /// Segments received.
    pub segments_in: Option<u32>,
    /// Bytes that were taken from the program and have not been sent once.
    pub not_sent: Option<u32>,
    /// Lowest round-trip time of late; `None` also before the first measurement.
    pub min_rtt: Option<Duration>,
    /// Segments with data received.
    pub data_segments_in: Option<u32>,
    /// Segments with data sent.
    pub data_segments_out: Option<u32>,
    /// Rate at which data was delivered of late, in bytes per second.
    pub delivery_rate: Option<u64>,
    /// How long there was something to send.
    pub busy: Option<Duration>,
    /// How much of [`busy`](Self::busy) the peer's window held us up.
    pub limited_by_peer: Option<Duration>,
    /// How much of [`busy`](Self::busy) our send buffer was too small.
    pub limited_by_send_buffer: Option<Duration>,
    /// Segments delivered to the peer.
    pub delivered: Option<u32>,
    /// Segments of these that came with a mark of congestion (ECN).
    pub delivered_ce: Option<u32>,
    /// Bytes sent, with those sent again.
    pub bytes_sent: Option<u64>,
    /// Bytes sent again.
    pub bytes_retransmitted: Option<u64>,
    /// Segments of which the peer has said that it had them already.
    pub duplicates: Option<u32>,
    /// Segments received out of order.
    pub received_out_of_order: Option<u32>,
    /// The peer's receive window in bytes.
    pub peer_window: Option<u32>,
}

/// Where a TCP connection is in its life: the states of RFC 9293, section 3.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcpState {
    /// Open in both directions.
    Established,
    /// Our request to connect is not answered yet.
    SynSent,
    /// A request to connect was answered, and not confirmed yet.
    SynReceived,
    /// We have finished sending; the peer has not acknowledged it.
    FinWait1,
    /// We have finished sending, and the peer knows.
    FinWait2,
    /// Both have finished; late segments are waited for.
    TimeWait,
    /// Over, or reset.
    Closed,
    /// The peer has finished sending.
    CloseWait,
    /// The peer has finished, then we did; it has not acknowledged it.
    LastAck,
    /// Not a connection but a listener.
    Listen,
    /// Both have finished at once; the peer has not acknowledged it.
    Closing,
    /// Any other number of the system.
    Other(u8),
}

impl TcpState {
    /// From the numbers of Linux (`tcp_states.h`).
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// What the system knows of the connection now: round-trip time, losses, rates. One system call.
    /// Beneath: `TCP_INFO` of tcp(7).
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), also while a name is being looked up; [`Stale`](UsError::Stale),
    /// [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] of kind
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) for a Unix socket.
    pub fn tcp_info(&self) -> Result<TcpInfo, UsError> {
        let mut bytes = [0; ffi::TCP_INFO_MAX];
        let length = ffi::tcp_info(self.descriptor()?, &mut bytes)
            .map_err(|source| UsError::io("tcp_info", source))?;
        Ok(TcpInfo::parse(&bytes[..length.min(bytes.len())]))
    }
}

/// The value of a slow-start threshold or a rate that says that there is none.
const NO_THRESHOLD: u32 = 0x7fff_ffff;

/// Offset in the kernel's structure of what came after its first version, in the order of arrival.
/// They do not change: the structure only grows.
mod offset {
    pub(super) const PACING_RATE: usize = 104;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const SEGMENTS_OUT: usize = 136;
    pub(super) const SEGMENTS_IN: usize = 140;
    pub(super) const NOT_SENT: usize = 144;
    pub(super) const MIN_RTT: usize = 148;
    pub(super) const DATA_SEGMENTS_IN: usize = 152;
    pub(super) const DATA_SEGMENTS_OUT: usize = 156;
    pub(super) const DELIVERY_RATE: usize = 160;
    pub(super) const BUSY: usize = 168;
    pub(super) const LIMITED_BY_PEER: usize = 176;
    pub(super) const LIMITED_BY_SEND_BUFFER: usize = 184;
    pub(super) const DELIVERED: usize = 192;
    pub(super) const DELIVERED_CE: usize = 196;
    pub(super) const BYTES_SENT: usize = 200;
    pub(super) const BYTES_RETRANSMITTED: usize = 208;
    pub(super) const DUPLICATES: usize = 216;
    pub(super) const OUT_OF_ORDER: usize = 224;
    pub(super) const PEER_WINDOW: usize = 228;
}

impl TcpInfo {
    /// Reads what the kernel has filled in, and no more.
    fn parse(bytes: &[u8]) -> Self {
        let byte = |offset: usize| bytes.get(offset).copied().unwrap_or(0);
        let long = |offset: usize| {
            let place = bytes.get(offset..offset + 4)?;
            Some(u32::from_ne_bytes(place.try_into().ok()?))
        };
        let wide = |offset: usize| {
            let place = bytes.get(offset..offset + 8)?;
            Some(u64::from_ne_bytes(place.try_into().ok()?))
        };
        // The members of the first version are always there.
        let first = |offset| long(offset).unwrap_or(0);
        let micros = |offset| Duration::from_micros(first(offset).into());
        let millis = |offset| Duration::from_millis(first(offset).into());
        let later_micros = |offset| wide(offset).map(Duration::from_micros);
        Self {
            state: TcpState::from_number(byte(0)),
            retransmits: byte(2),
            probes: byte(3),
            retransmit_timeout: micros(8),
            ack_timeout: micros(12),
            send_mss: first(16),
            receive_mss: first(20),
            unacked: first(24),
            sacked: first(28),
            lost: first(32),
            retransmitted: first(36),
            last_data_sent: millis(44),
            last_data_received: millis(52),
            last_ack_received: millis(56),
            path_mtu: first(60),
            rtt: micros(68),
            rtt_variance: micros(72),
            slow_start_threshold: Some(first(76)).filter(|segments| *segments < NO_THRESHOLD),
            congestion_window: first(80),
            advertised_mss: first(84),
            reordering: first(88),
            receive_rtt: micros(92),
            receive_space: first(96),
            total_retransmits: first(100),
            // Kernels say "no limit" in the width that the rate has inside them.
            pacing_rate: wide(offset::PACING_RATE)
                .filter(|rate| *rate != u64::MAX && *rate != u32::MAX.into()),
            bytes_acked: wide(offset::BYTES_ACKED),
            bytes_received: wide(offset::BYTES_RECEIVED),
            segments_out: long(offset::SEGMENTS_OUT),
            segments_in: long(offset::SEGMENTS_IN),
            not_sent: long(offset::NOT_SENT),
            min_rtt: long(offset::MIN_RTT)
                .filter(|time| *time != u32::MAX)
                .map(|time| Duration::from_micros(time.into())),
            data_segments_in: long(offset::DATA_SEGMENTS_IN),
            data_segments_out: long(offset::DATA_SEGMENTS_OUT),
            delivery_rate: wide(offset::DELIVERY_RATE),
            busy: later_micros(offset::BUSY),
            limited_by_peer: later_micros(offset::LIMITED_BY_PEER),
            limited_by_send_buffer: later_micros(offset::LIMITED_BY_SEND_BUFFER),
            delivered: long(offset::DELIVERED),
            delivered_ce: long(offset::DELIVERED_CE),
            bytes_sent: wide(offset::BYTES_SENT),
            bytes_retransmitted: wide(offset::BYTES_RETRANSMITTED),
            duplicates: long(offset::DUPLICATES),
            received_out_of_order: long(offset::OUT_OF_ORDER),
            peer_window: long(offset::PEER_WINDOW),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_does_not_fill_is_not_there() {
        let bytes: Vec<u8> = (0..232).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let full = TcpInfo::parse(&bytes);
        // Linux 2.6; 4.1; in the middle of a member, which no kernel does.
        let old = TcpInfo::parse(&bytes[..104]);
        assert_eq!((old.pacing_rate, old.bytes_acked, old.peer_window), (None, None, None));
        assert_eq!((old.rtt, old.total_retransmits), (full.rtt, full.total_retransmits));
        let newer = TcpInfo::parse(&bytes[..136]);
        assert_eq!(newer.bytes_received, full.bytes_received);
        assert_eq!((newer.segments_out, newer.min_rtt), (None, None));
        assert_eq!(TcpInfo::parse(&bytes[..230]).peer_window, None);
        assert!(full.peer_window.is_some());
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn offsets_are_those_of_the_headers() {
        use libc::tcp_info;
        use std::mem::offset_of;
        assert_eq!(offset_of!(tcp_info, tcpi_last_ack_recv), 56);
        assert_eq!(offset_of!(tcp_info, tcpi_rtt), 68);
        assert_eq!(offset_of!(tcp_info, tcpi_rcv_rtt), 92);
        assert_eq!(offset_of!(tcp_info, tcpi_total_retrans), 100);
        assert_eq!(offset_of!(tcp_info, tcpi_pacing_rate), offset::PACING_RATE);
        assert_eq!(offset_of!(tcp_info, tcpi_segs_out), offset::SEGMENTS_OUT);
        assert_eq!(offset_of!(tcp_info, tcpi_min_rtt), offset::MIN_RTT);
        assert_eq!(offset_of!(tcp_info, tcpi_delivery_rate), offset::DELIVERY_RATE);
        assert_eq!(offset_of!(tcp_info, tcpi_delivered), offset::DELIVERED);
        assert_eq!(offset_of!(tcp_info, tcpi_dsack_dups), offset::DUPLICATES);
        assert_eq!(offset_of!(tcp_info, tcpi_snd_wnd), offset::PEER_WINDOW);
    }

    #[test]
    fn states_have_names() {
        assert_eq!(TcpState::from_number(1), TcpState::Established);
        assert_eq!(TcpState::from_number(8), TcpState::CloseWait);
        assert_eq!(TcpState::from_number(200), TcpState::Other(200));
    }
}
