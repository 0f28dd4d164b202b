use proptest::prelude::*;

use super::*;

fn payload(len: usize) -> Payload {
    let map = std::collections::BTreeMap::from([(
        "payload",
        serde_bytes::ByteBuf::from(vec![0x42; len]),
    )]);
    Payload::from_typed(&map).unwrap()
}

/// The bytes of what `put` puts into a batch.
fn wire(put: impl FnOnce(&mut Batch)) -> Bytes {
    let mut batch = Batch::default();
    put(&mut batch);
    let mut chunks = Vec::new();
    batch.take_into(&mut chunks);
    assert!(batch.is_empty());
    chunks.concat().into()
}

fn request(id: u64, timeout_ms: u64, data: &Payload) -> Bytes {
    wire(|out| put_request(out, id, 7, timeout_ms, "echo", data).unwrap())
}

#[test]
fn bytes_of_every_record() {
    let empty = Payload::empty();
    assert_eq!(
        hex::encode(request(5, 12_000, &empty)),
        "0b0005076ee0046563686f80"
    );
    assert_eq!(hex::encode(wire(|out| put_cancel(out, 300))), "0301412c");
    assert_eq!(
        hex::encode(wire(|out| put_answer(out, 5, &empty).unwrap())),
        "03000580"
    );
    assert_eq!(
        hex::encode(wire(|out| put_failure(out, 5, "no"))),
        "0401056e6f"
    );
    assert_eq!(hex::encode(wire(|out| put_credit(out, 112))), "03024070");
    assert_eq!(hex::encode(wire(put_go_away)), "0103");
    assert_eq!(hex::encode(large_answer_head(5)), "05");
}

/// A request costs no more on a lane than as a frame of its own.
#[test]
fn never_larger_than_the_frame() {
    for (len, frame) in [(256, 284), (1024, 1052), (10 * 1024, 10_268)] {
        let lane = request(16_383, 16_383, &payload(len));
        assert!(lane.len() <= frame, "{len}: {} > {frame}", lane.len());
    }
}

#[test]
fn records_over_the_limit_are_refused_on_both_sides() {
    let fits = MAX_RECORD - (payload(0).as_bytes().len() + 2) - 9;
    let mut longest = request(0, 0, &payload(fits));
    assert!(matches!(take_client_record(&mut longest), Ok(Some(_))));
    let mut out = Batch::default();
    assert!(matches!(
        put_request(&mut out, 0, 0, 0, "echo", &payload(MAX_RECORD)),
        Err(ProtoError::FrameTooLarge { .. })
    ));
    assert!(out.is_empty());
    let mut wire = Bytes::from_static(&[0x80, 0, 0x40, 1, 0]);
    assert!(matches!(
        take_client_record(&mut wire),
        Err(ProtoError::FrameTooLarge { .. })
    ));
}

#[test]
fn malformed_records_are_named() {
    let take = |hex: &str| take_client_record(&mut Bytes::from(hex::decode(hex).unwrap()));
    assert!(matches!(take("00"), Err(ProtoError::Truncated { .. })));
    assert!(matches!(take("0109"), Err(ProtoError::UnknownType(9))));
    assert!(matches!(
        take("03010505"),
        Err(ProtoError::TrailingBytes(1))
    ));
    assert_eq!(take("0b0005"), Ok(None));
}

/// A bad request spoils neither the lane nor the requests behind it.
#[test]
fn bad_requests_and_answers_keep_their_ids() {
    let of = |hex: &str| {
        let mut wire = Bytes::from([hex::decode(hex).unwrap(), vec![2, 1, 9]].concat());
        let first = take_client_record(&mut wire).unwrap().unwrap();
        let next = take_client_record(&mut wire).unwrap().unwrap();
        assert_eq!(next, ClientRecord::Cancel { id: 9 });
        match first {
            ClientRecord::Invalid { id: 5, error } => error,
            other => panic!("{other:?}"),
        }
    };
    // A type that is longer than the record, one that is not UTF-8, and data that is no map.
    assert!(matches!(
        of("0700050700096580"),
        ProtoError::Truncated { .. }
    ));
    assert!(matches!(
        of("070005070001ff80"),
        ProtoError::Field {
            field: "synapse_type",
            ..
        }
    ));
    assert!(matches!(
        of("07000507000165c0"),
        ProtoError::Field { field: "data", .. }
    ));
    let mut answer = Bytes::from_static(&[3, 0, 5, 0xc0]);
    assert!(matches!(
        take_server_record(&mut answer),
        Ok(Some(ServerRecord::Invalid { id: 5, .. }))
    ));
}

#[test]
fn long_failures_are_cut_at_a_character() {
    let mut out = wire(|out| put_failure(out, 1, &"é".repeat(2000)));
    match take_server_record(&mut out).unwrap() {
        Some(ServerRecord::Failure { text, .. }) => assert_eq!(text.len(), 1024),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Records come out as they went in, wherever the stream is cut.
    #[test]
    fn streams_cut_anywhere_decode_alike(
        sizes in proptest::collection::vec((prop_oneof![0usize..300, 2000usize..2100, 5000usize..16_000], 0u64..1 << 40, any::<u16>()), 1..20),
        cuts in proptest::collection::vec(1usize..3000, 1..50),
    ) {
        let mut rest = wire(|out| {
            for (len, id, timeout) in &sizes {
                put_request(out, *id, 3, (*timeout).into(), "type", &payload(*len)).unwrap();
                put_cancel(out, *id);
            }
        });
        let mut buffer = RecordBuffer::default();
        let mut got = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let piece = rest.split_to((*cuts.next().unwrap()).min(rest.len()));
            buffer.push(piece);
            while let Some(record) = buffer.next(take_client_record).unwrap() {
                got.push(record);
            }
        }
        prop_assert_eq!(got.len(), sizes.len() * 2);
        for (pair, (len, id, timeout)) in got.chunks(2).zip(&sizes) {
            let ClientRecord::Request(request) = &pair[0] else { panic!("{pair:?}") };
            prop_assert_eq!((request.id, request.timeout_ms), (*id, u64::from(*timeout)));
            prop_assert_eq!(request.synapse_type(), "type");
            prop_assert_eq!(&request.data, &payload(*len));
            prop_assert_eq!(&pair[1], &ClientRecord::Cancel { id: *id });
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut halves = RecordBuffer::default();
        let (front, back) = bytes.split_at(bytes.len() / 2);
        halves.push(Bytes::copy_from_slice(front));
        while let Ok(Some(_)) = halves.next(take_client_record) {}
        halves.push(Bytes::copy_from_slice(back));
        while let Ok(Some(_)) = halves.next(take_client_record) {}
        let mut client = Bytes::from(bytes.clone());
        while let Ok(Some(_)) = take_client_record(&mut client) {}
        let mut server = Bytes::from(bytes);
        while let Ok(Some(_)) = take_server_record(&mut server) {}
    }
}
