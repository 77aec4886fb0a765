//! The growth of a buffer for bytes that arrive in pieces, and whose number is announced or at least limited.

/// How many times what has arrived is reserved for the rest. Doubling would free as much in outgrown buffers as the whole takes,
/// and the allocator returns those to the system only later; what is reserved and not written takes no memory. The whole at once
/// would let a peer reserve address space by announcements alone.
const GROWTH: usize = 15;

/// Makes room for a piece, and for a part of the `left_bytes` that may follow it.
pub(crate) fn make_room(buffer: &mut Vec<u8>, piece_bytes: usize, left_bytes: usize) {
    let arrived_bytes = buffer.len() + piece_bytes;
    if arrived_bytes <= buffer.capacity() {
        return;
    }
    let expected_bytes = GROWTH * arrived_bytes;
    // A little less than the rest would soon be outgrown.
    let rest_bytes = if left_bytes / 2 <= expected_bytes { left_bytes } else { expected_bytes };
    buffer.reserve_exact(piece_bytes + rest_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outgrown buffers are memory that is not charged to the peer.
    #[test]
    fn a_long_whole_outgrows_few_buffers() {
        let (length, piece): (usize, _) = (16 << 20, [b'x'; 1 << 14]);
        let (mut buffer, mut outgrown_bytes) = (Vec::new(), 0);
        while buffer.len() < length {
            let before = buffer.capacity();
            let left = length - buffer.len() - piece.len();
            make_room(&mut buffer, piece.len(), left);
            outgrown_bytes += if buffer.capacity() == before { 0 } else { before };
            buffer.extend_from_slice(&piece);
        }
        assert!(buffer.capacity() == length && outgrown_bytes < length / 3, "{outgrown_bytes} bytes");
    }
}
