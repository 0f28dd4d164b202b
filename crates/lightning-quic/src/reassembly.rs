//! Putting a stream that arrives out of order back in order.
//!
//! quinn does that itself, but ends the whole connection when more than 1,024 gaps are open on one
//! stream (quinn-proto 0.11.19, "too many gaps in stream buffer"). That many are no attack: where a
//! queue on the way overflows, every second packet of several megabytes may be missing. So large
//! messages are read as their pieces come, which costs quinn nothing, and are put in order here,
//! with bounds of our own. Flow control is the better for it too: a missing packet does not hold up
//! what comes behind it.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream};

/// Reads one stream in order, however many gaps it has.
///
/// Use it for all reading from that stream.
#[derive(Debug, Default)]
pub struct InOrder {
    /// Offset of the byte that comes next.
    next: u64,
    /// Set once the stream is read as pieces come.
    pieces: Option<Reassembly>,
}

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamReadError {
    /// quinn could not read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its pieces are too many, or too far ahead of a missing one.
    #[error(transparent)]
    Scattered(#[from] Scattered),
}

/// The pieces of a stream are too many, or too far ahead of a missing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream has more than {MAX_SPANS} gaps or {MAX_HELD_BYTES} bytes behind one")]
pub struct Scattered;

/// Pieces of a stream that wait for those before them.
///
/// No piece may overlap with another; quinn sees to that.
#[derive(Debug, Default)]
pub struct Reassembly {
    next: u64,
    /// What waits, by offset. No two touch, so there is one for each gap.
    spans: BTreeMap<u64, BytesMut>,
    held_bytes: usize,
}

impl InOrder {
    /// Returns how much has been read.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Reads what comes next, in one or several pieces; `None` at the end of the stream.
    ///
    /// With `much`, for streams on which megabytes are to come, it stops to insist on quinn's
    /// order at the first gap. From then on pieces are read one by one, which is slower, and the
    /// stream cannot be read in another way. Without gaps nothing changes.
    ///
    /// # Errors
    ///
    /// [`StreamReadError::Scattered`] beyond 16,384 gaps, or 64 MiB behind one.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn read_chunks(
        &mut self,
        stream: &mut RecvStream,
        chunks: &mut [Bytes],
        much: bool,
    ) -> Result<Option<usize>, StreamReadError> {
        if self.pieces.is_none()
            && let Some(read) = read_or_gap(stream, chunks, much).await
        {
            let count = read?;
            let read = &chunks[..count.unwrap_or(0)];
            self.next += read.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            return Ok(count);
        }
        let Some(first) = chunks.first_mut() else {
            return Ok(Some(0));
        };
        let pieces = self
            .pieces
            .get_or_insert_with(|| Reassembly::starting_at(self.next));
        loop {
            if let Some(ready) = pieces.pop() {
                self.next = pieces.next;
                *first = ready;
                return Ok(Some(1));
            }
            let Some(piece) = stream.read_chunk(usize::MAX, false).await? else {
                return Ok(None);
            };
            if let Some(ready) = pieces.push(piece.offset, piece.bytes)? {
                self.next = pieces.next;
                *first = ready;
                return Ok(Some(1));
            }
        }
    }
}

impl Reassembly {
    /// Begins with the byte at this offset.
    pub fn starting_at(next: u64) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// Takes a piece in. Gives it back when it is what comes next, and keeps a copy otherwise: a
    /// piece may be a small part of a large buffer that would live as long.
    ///
    /// # Errors
    ///
    /// [`Scattered`] when there is no room for it.
    pub fn push(&mut self, offset: u64, piece: Bytes) -> Result<Option<Bytes>, Scattered> {
        if offset == self.next {
            self.next += piece.len() as u64;
            return Ok(Some(piece));
        }
        self.held_bytes += piece.len();
        if self.held_bytes > MAX_HELD_BYTES {
            return Err(Scattered);
        }
        let end = offset + piece.len() as u64;
        let behind = self.spans.remove(&end);
        let before = self.spans.range_mut(..offset).next_back();
        match (before, behind) {
            (Some((start, span)), behind) if start + span.len() as u64 == offset => {
                span.extend_from_slice(&piece);
                span.extend_from_slice(behind.as_deref().unwrap_or_default());
            }
            (_, behind) => {
                if self.spans.len() >= MAX_SPANS {
                    return Err(Scattered);
                }
                let mut span = BytesMut::from(&piece[..]);
                span.extend_from_slice(behind.as_deref().unwrap_or_default());
                self.spans.insert(offset, span);
            }
        }
        Ok(None)
    }

    /// Gives out what was kept and now comes next.
    pub fn pop(&mut self) -> Option<Bytes> {
        let span = self.spans.remove(&self.next)?;
        self.next += span.len() as u64;
        self.held_bytes -= span.len();
        Some(span.freeze())
    }
}

/// Reads in order; `None` when the stream has news, but not what comes next.
async fn read_or_gap(
    stream: &mut RecvStream,
    chunks: &mut [Bytes],
    may_give_up: bool,
) -> Option<Result<Option<usize>, ReadError>> {
    let mut read = pin!(stream.read_chunks(chunks));
    let mut waited = false;
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(Some(read)),
        Poll::Pending if waited && may_give_up => Poll::Ready(None),
        Poll::Pending => {
            waited = true;
            Poll::Pending
        }
    })
    .await
}

/// Gaps of one stream at a time: what 40 MB of packets make of which every second is missing.
const MAX_SPANS: usize = 16 * 1024;

/// Bytes of one stream behind a gap: as much as one message may have anyway, by default.
const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the pieces of 0, 1, 2, … in this order and returns what came out.
    fn through(reassembly: &mut Reassembly, pieces: &[(u64, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for &(start, end) in pieces {
            let piece: Vec<u8> = (start..end).map(|byte| byte as u8).collect();
            if let Some(ready) = reassembly.push(start, piece.into()).unwrap() {
                out.extend_from_slice(&ready);
            }
            while let Some(ready) = reassembly.pop() {
                out.extend_from_slice(&ready);
            }
        }
        out
    }

    #[test]
    fn every_order_of_pieces_gives_the_same_bytes() {
        let cuts = [(10, 12), (12, 13), (13, 40), (40, 41), (41, 60)];
        let expected: Vec<u8> = (10..60).collect();
        // All permutations of five, by Lehmer code.
        for mut code in 0..120 {
            let mut left = cuts.to_vec();
            let mut order = Vec::new();
            for choices in (1..=cuts.len()).rev() {
                order.push(left.remove(code % choices));
                code /= choices;
            }
            let mut reassembly = Reassembly::starting_at(10);
            assert_eq!(through(&mut reassembly, &order), expected, "{order:?}");
            assert_eq!((reassembly.held_bytes, reassembly.spans.len()), (0, 0));
        }
    }

    #[test]
    fn touching_pieces_are_one_span() {
        let mut reassembly = Reassembly::default();
        through(
            &mut reassembly,
            &[(5, 6), (9, 10), (6, 9), (4, 5), (20, 21)],
        );
        assert_eq!(reassembly.spans.len(), 2);
        assert_eq!(reassembly.held_bytes, 7);
    }

    #[test]
    fn gaps_are_bounded() {
        let mut reassembly = Reassembly::default();
        let byte = Bytes::from_static(&[1]);
        for gap in 1..=MAX_SPANS as u64 {
            assert_eq!(reassembly.push(2 * gap, byte.clone()), Ok(None));
        }
        let beyond = 2 * (MAX_SPANS as u64 + 1);
        assert_eq!(reassembly.push(beyond, byte), Err(Scattered));
    }

    #[test]
    fn bytes_behind_a_gap_are_bounded() {
        let mut reassembly = Reassembly::default();
        let half = Bytes::from(vec![0; MAX_HELD_BYTES / 2]);
        assert_eq!(reassembly.push(1, half.clone()), Ok(None));
        let offset = 1 + half.len() as u64;
        assert_eq!(reassembly.push(offset, half.clone()), Ok(None));
        let offset = offset + half.len() as u64;
        assert_eq!(
            reassembly.push(offset, Bytes::from_static(&[1])),
            Err(Scattered)
        );
    }
}
