/// Bytes of which every stretch can be told from every other one.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (number, block) in bytes.chunks_mut(8).enumerate() {
        let value = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        block.copy_from_slice(&value.to_le_bytes()[..block.len()]);
    }
    bytes
}

/// Compares without printing megabytes.
#[track_caller]
pub fn assert_same(actual: &[u8], expected: &[u8]) {
    assert_eq!(actual.len(), expected.len(), "numbers of bytes");
    let differs = actual.iter().zip(expected).position(|(one, other)| one != other);
    assert_eq!(differs, None, "first byte that differs");
}

/// Numbers that are the same in every run: xorshift.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 up to, but not including, `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }
}
