use proptest::prelude::*;

use super::*;

fn payload(len: usize) -> Payload {
    let map = std::collections::BTreeMap::from([(
        "payload",
        serde_bytes::ByteBuf::from(vec![0x42; len]),
    )]);
    Payload::from_typed(&map).unwrap()
}

fn request(id: u64, timeout_ms: u64, data: &Payload) -> BytesMut {
    let mut out = BytesMut::new();
    put_request(&mut out, id, 7, timeout_ms, "echo", data).unwrap();
    out
}

#[test]
fn bytes_of_every_record() {
    let mut out = request(5, 12_000, &Payload::empty());
    assert_eq!(hex::encode(&out), "0b0005076ee0046563686f80");
    out.clear();
    put_cancel(&mut out, 300);
    assert_eq!(hex::encode(&out), "0301412c");
    out.clear();
    put_answer(&mut out, 5, &Payload::empty()).unwrap();
    assert_eq!(hex::encode(&out), "03000580");
    out.clear();
    put_failure(&mut out, 5, "no");
    assert_eq!(hex::encode(&out), "0401056e6f");
    out.clear();
    put_credit(&mut out, 112);
    assert_eq!(hex::encode(&out), "03024070");
    out.clear();
    put_go_away(&mut out);
    assert_eq!(hex::encode(&out), "0103");
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
    let mut out = BytesMut::new();
    let fits = MAX_RECORD - (payload(0).as_bytes().len() + 2) - 9;
    put_request(&mut out, 0, 0, 0, "echo", &payload(fits)).unwrap();
    let before = out.len();
    assert!(matches!(
        put_request(&mut out, 0, 0, 0, "echo", &payload(MAX_RECORD)),
        Err(ProtoError::FrameTooLarge { .. })
    ));
    assert_eq!(out.len(), before);
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
    // A type that is longer than the record, and one that is not UTF-8.
    assert!(matches!(
        take("0600050700096580"),
        Err(ProtoError::Truncated { .. })
    ));
    assert!(matches!(
        take("070005070001ff80"),
        Err(ProtoError::Field {
            field: "synapse_type",
            ..
        })
    ));
    // Data that is no map.
    assert!(matches!(
        take("07000507000165c0"),
        Err(ProtoError::Field { field: "data", .. })
    ));
    assert_eq!(take("0b0005"), Ok(None));
}

#[test]
fn long_failures_are_cut_at_a_character() {
    let mut out = BytesMut::new();
    put_failure(&mut out, 1, &"é".repeat(2000));
    match take_server_record(&mut out.freeze()).unwrap() {
        Some(ServerRecord::Failure { text, .. }) => assert_eq!(text.len(), 1024),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Records come out as they went in, wherever the stream is cut.
    #[test]
    fn streams_cut_anywhere_decode_alike(
        sizes in proptest::collection::vec((0usize..300, 0u64..1 << 40, any::<u16>()), 1..20),
        cuts in proptest::collection::vec(1usize..100, 1..50),
    ) {
        let mut wire = BytesMut::new();
        for (len, id, timeout) in &sizes {
            put_request(&mut wire, *id, 3, (*timeout).into(), "type", &payload(*len)).unwrap();
            put_cancel(&mut wire, *id);
        }
        let mut rest = wire.freeze();
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
