//! What both lane targets do with an input: four bytes say where it is cut, the rest is a stream.

use btlightning_proto::ProtoError;
use btlightning_proto::lane::{Batch, MAX_RECORD, RecordBuffer};
use bytes::Bytes;

/// What a stream came to: its records, and why no more of them can be taken.
pub type Decoded<R> = (Vec<R>, Option<ProtoError>);

/// Splits one record off.
pub type Take<R> = fn(&mut Bytes) -> Result<Option<R>, ProtoError>;

/// Decodes the stream twice, whole and in pieces, which must come to the same.
pub fn decode_cut<R: PartialEq + std::fmt::Debug>(
    data: &[u8],
    take: Take<R>,
) -> Option<(&[u8], Decoded<R>)> {
    let (cuts, stream) = data.split_first_chunk::<4>()?;
    let whole = decode([Bytes::copy_from_slice(stream)], take);

    let mut rest = stream;
    let pieces = cuts.iter().cycle().map_while(|len| {
        let (piece, behind) = rest
            .split_at_checked(usize::from(*len) + 1)
            .or_else(|| (!rest.is_empty()).then(|| rest.split_at(rest.len())))?;
        rest = behind;
        Some(Bytes::copy_from_slice(piece))
    });
    assert_eq!(decode(pieces, take), whole, "cut");
    Some((stream, whole))
}

/// Decodes a stream that arrives in these pieces.
fn decode<R>(pieces: impl IntoIterator<Item = Bytes>, take: Take<R>) -> Decoded<R> {
    let mut buffer = RecordBuffer::default();
    let mut records = Vec::new();
    for piece in pieces {
        buffer.push(piece);
        loop {
            match buffer.next(take) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

/// Checks that each record was taken from where it lies, and none was left out before the end.
///
/// `describe` returns a record's kind, and its one leading number if it has one.
pub fn assert_in_place<R>(
    stream: &[u8],
    (records, end): &Decoded<R>,
    describe: impl Fn(&R) -> (u8, Option<u64>),
) {
    let mut rest = stream;
    for record in records {
        let (len, head) = varint(rest).expect("a record has a length");
        let body = &rest[head..][..usize::try_from(len).expect("a small length")];
        assert!(body.len() <= MAX_RECORD);
        let (kind, number) = describe(record);
        assert_eq!(body[0], kind);
        assert_eq!(
            varint(&body[1..])
                .map(|(n, _)| n)
                .filter(|_| number.is_some()),
            number
        );
        rest = &rest[head + body.len()..];
    }
    let left = varint(rest).map(|(len, head)| (len, rest.len() - head));
    match (end, left) {
        (Some(ProtoError::FrameTooLarge { len, max }), Some((left, _))) => {
            assert!((*len, *max) == (left, MAX_RECORD as u64) && len > max);
        }
        (Some(_), Some((len, have))) => assert!(len <= have as u64, "judged before it was there"),
        (None, Some((len, have))) => assert!(len > have as u64, "left out"),
        (None, None) => {}
        (Some(error), None) => panic!("{error} for nothing"),
    }
}

/// Checks that what was encoded again is no longer and decodes to the same.
pub fn assert_decodes_again<R: PartialEq + std::fmt::Debug>(
    mut batch: Batch,
    take: Take<R>,
    records: Vec<R>,
    stream: &[u8],
) {
    let mut chunks = Vec::new();
    batch.take_into(&mut chunks);
    assert!(batch.is_empty());
    assert!(
        chunks.iter().map(Bytes::len).sum::<usize>() <= stream.len(),
        "grew"
    );
    assert_eq!(decode(chunks, take), (records, None));
}

/// Reads a number as RFC 9000 says, section 16; the decoder's own way is what is being tested.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = [1, 2, 4, 8][usize::from(bytes.first()? >> 6)];
    let mut number = [0; 8];
    number[8 - len..].copy_from_slice(bytes.get(..len)?);
    number[8 - len] &= 0x3f;
    Some((u64::from_be_bytes(number), len))
}
