//! What is sent: an endless stream of which each connection has another stretch, so that bytes of
//! another connection or from another place show.

/// A prime number, so that messages of round lengths are all different.
const PERIOD: usize = 65_521;

/// Longest slice.
pub(crate) const SLICE_MAX: usize = 128 * 1024;

pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        Self(period.iter().copied().cycle().take(PERIOD + SLICE_MAX).collect())
    }

    /// `length` bytes of the stream of connection `index`, from `position` on.
    pub(crate) fn slice(&self, index: usize, position: usize, length: usize) -> &[u8] {
        let begin = (index * 7919 + position) % PERIOD;
        &self.0[begin..begin + length]
    }
}
