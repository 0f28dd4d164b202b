//! `docs/protocol.md` says what the code does: its frames decode and encode again, its handshake
//! verifies, and its tables have every type, limit and code with the right value.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod message;

use std::collections::{BTreeMap, BTreeSet};

use btlightning_proto::{
    ALPN_V0, ALPN_V1, Payload,
    close::{self, CloseReason},
    frame::{self, HEADER_LEN, MessageType},
    handshake::{ClientHandshake, Fingerprint, Unverified, request_message, response_message},
    lane::{self, ClientRecord, ServerRecord},
    limits,
    message::{HandshakeRequest, HandshakeResponse},
    nonce::Nonce,
};
use bytes::Bytes;
use lightning_keys::Keypair;
use message::Message;
use serde::Serialize;

const DOC: &str = include_str!("../../../docs/protocol.md");

/// The fenced blocks of this kind, by the name behind it.
fn blocks(kind: &str) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    let mut lines = DOC.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let content: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let (block, name) = info.split_once(' ').unwrap_or((info, ""));
        assert!(block != "hex" || !name.is_empty(), "no name: {content:?}");
        if block == kind && !name.is_empty() {
            let former = found.insert(name, content.join("\n"));
            assert_eq!(former, None, "two blocks are called {name}");
        }
    }
    found
}

/// The whole frames.
fn frames() -> BTreeMap<&'static str, Vec<u8>> {
    bytes_of_blocks("hex")
}

/// The bytes of the blocks of this kind, without what explains them.
fn bytes_of_blocks(kind: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let bytes = |text: &str| {
        let digits: String = text
            .lines()
            .filter_map(|line| line.split('#').next())
            .flat_map(str::split_whitespace)
            .collect();
        hex::decode(&digits).unwrap_or_else(|e| panic!("{e} in {digits}"))
    };
    blocks(kind)
        .into_iter()
        .map(|(name, text)| (name, bytes(&text)))
        .collect()
}

fn decode(frame: &[u8]) -> Message {
    let (kind, body) = frame::parse(frame, limits::DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
    assert_eq!(
        HEADER_LEN + body.len(),
        frame.len(),
        "bytes behind the frame"
    );
    Message::decode(kind, Bytes::copy_from_slice(body)).unwrap()
}

/// The rows of every table that begin with these cells.
fn has_row(cells: &[&str]) -> bool {
    let start = format!("| {} |", cells.join(" | "));
    DOC.lines().any(|line| line.starts_with(&start))
}

fn assert_row(cells: &[&str]) {
    assert!(has_row(cells), "no row begins with {cells:?}");
}

fn with_commas(value: u64) -> String {
    let digits = value.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    let groups: Vec<_> = groups
        .into_iter()
        .map(|group| std::str::from_utf8(group).unwrap())
        .collect();
    groups.join(",")
}

#[test]
fn every_frame_decodes_and_encodes_to_the_same_bytes() {
    for (name, frame) in frames() {
        let encoded = decode(&frame).encode().unwrap().to_vec();
        assert_eq!(hex::encode(encoded), hex::encode(frame), "{name}");
    }
}

#[test]
fn every_record_of_a_lane_decodes_and_encodes_to_the_same_bytes() {
    let records = bytes_of_blocks("record");
    let names: Vec<_> = records.keys().copied().collect();
    assert_eq!(
        names,
        [
            "lane_answer",
            "lane_cancel",
            "lane_credit",
            "lane_failure",
            "lane_go_away",
            "lane_request"
        ]
    );
    for (name, record) in records {
        let mut rest = Bytes::from(record.clone());
        let mut again = lane::Batch::default();
        match name {
            "lane_request" | "lane_cancel" => {
                let decoded = lane::take_client_record(&mut rest).unwrap().unwrap();
                put_client_record(&mut again, decoded);
            }
            _ => {
                let decoded = lane::take_server_record(&mut rest).unwrap().unwrap();
                put_server_record(&mut again, decoded);
            }
        }
        assert!(rest.is_empty(), "bytes behind {name}");
        let mut chunks = Vec::new();
        again.take_into(&mut chunks);
        assert_eq!(hex::encode(chunks.concat()), hex::encode(record), "{name}");
    }
}

fn put_client_record(out: &mut lane::Batch, record: ClientRecord) {
    match record {
        ClientRecord::Request(r) => {
            let synapse_type = r.synapse_type();
            lane::put_request(out, r.id, r.priority, r.timeout_ms, synapse_type, &r.data).unwrap();
        }
        ClientRecord::Cancel { id } => lane::put_cancel(out, id),
        ClientRecord::Invalid { error, .. } => panic!("{error}"),
    }
}

fn put_server_record(out: &mut lane::Batch, record: ServerRecord) {
    match record {
        ServerRecord::Answer { id, data } => lane::put_answer(out, id, &data).unwrap(),
        ServerRecord::Failure { id, text } => lane::put_failure(out, id, &text),
        ServerRecord::Credit { requests } => lane::put_credit(out, requests),
        ServerRecord::GoAway => lane::put_go_away(out),
        ServerRecord::Invalid { error, .. } => panic!("{error}"),
    }
}

#[test]
fn every_message_type_has_a_row_and_an_example() {
    let examples: BTreeSet<u8> = frames().values().map(|frame| frame[0]).collect();
    let types: Vec<_> = (0..=u8::MAX)
        .filter_map(|byte| MessageType::try_from(byte).ok())
        .collect();
    for kind in &types {
        let byte = *kind as u8;
        let heading = format!("### 0x{byte:02x} {kind:?}");
        assert!(DOC.lines().any(|l| l == heading), "no heading {heading}");
        let link = format!(
            "[{kind:?}](#0x{byte:02x}-{})",
            format!("{kind:?}").to_lowercase()
        );
        assert_row(&[&format!("0x{byte:02x}"), &link]);
        assert!(examples.contains(&byte), "no example of {kind:?}");
    }
    assert_eq!(examples.len(), types.len());
}

/// Frames under a name of the published vectors are those of the published package.
#[test]
fn frames_of_the_published_package_are_shown_as_they_are() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/btlightning.json")).unwrap();
    let mut compared = BTreeSet::new();
    for (name, frame) in frames() {
        let published = vectors["frames"].as_array().unwrap().iter();
        for vector in published.filter(|vector| vector["name"] == name) {
            assert_eq!(vector["frame_hex"], hex::encode(&frame), "{name}");
            compared.insert(frame[0]);
        }
    }
    assert_eq!(compared, (1..=6).collect());
}

#[test]
fn the_handshake_example_verifies() {
    let (frames, texts) = (frames(), blocks("text"));
    let Message::HandshakeRequest(request) = decode(&frames["handshake_request"]) else {
        panic!("another message");
    };
    let Message::HandshakeResponse(response) = decode(&frames["handshake_response_accepted"])
    else {
        panic!("another message");
    };
    check_handshake(&request, &response, &texts);
}

fn check_handshake(
    request: &HandshakeRequest,
    response: &HandshakeResponse,
    texts: &BTreeMap<&str, String>,
) {
    let certificate = b"example certificate DER bytes";
    assert_eq!(certificate.len(), 29);
    let fingerprint = Fingerprint::of_certificate(certificate);
    assert_eq!(fingerprint.to_base64(), texts["fingerprint"]);

    let client_key = Keypair::from_seed(&[2; 32]);
    let server_key = Keypair::from_seed(&[1; 32]);
    assert_eq!(request.validator_hotkey, client_key.hotkey());
    assert_eq!(response.miner_hotkey, server_key.hotkey());
    let fp = &texts["fingerprint"];
    assert_eq!(
        request_message(&client_key.hotkey(), request.timestamp, &request.nonce, fp),
        texts["signed_by_client"]
    );
    assert_eq!(
        response_message(
            &client_key.hotkey(),
            &server_key.hotkey(),
            response.timestamp,
            &request.nonce,
            fp
        ),
        texts["signed_by_server"]
    );

    let nonce = Nonce::from_hex(&request.nonce).unwrap();
    let unverified = Unverified::check(request, fingerprint, request.timestamp, 300).unwrap();
    assert_eq!(unverified.verify(), Ok((nonce, request.timestamp)));
    let client = ClientHandshake::new(client_key.hotkey(), request.timestamp, nonce, fingerprint);
    assert_eq!(client.check(response, &server_key.hotkey()), Ok(()));
}

#[test]
fn every_limit_has_a_row_with_its_value() {
    let values = [
        (
            "DEFAULT_MAX_FRAME_PAYLOAD",
            limits::DEFAULT_MAX_FRAME_PAYLOAD as u64,
        ),
        (
            "MIN_FRAME_PAYLOAD_LIMIT",
            limits::MIN_FRAME_PAYLOAD_LIMIT as u64,
        ),
        (
            "MAX_FRAME_PAYLOAD_LIMIT",
            limits::MAX_FRAME_PAYLOAD_LIMIT as u64,
        ),
        (
            "MAX_HANDSHAKE_PAYLOAD",
            limits::MAX_HANDSHAKE_PAYLOAD as u64,
        ),
        ("MAX_NESTING_DEPTH", limits::MAX_NESTING_DEPTH as u64),
        ("MAX_ELEMENTS", limits::MAX_ELEMENTS as u64),
        ("NONCE_HEX_LEN", limits::NONCE_HEX_LEN as u64),
        ("MAX_FUTURE_SKEW_SECS", limits::MAX_FUTURE_SKEW_SECS),
        (
            "HANDSHAKE_RATE_WINDOW_SECS",
            limits::HANDSHAKE_RATE_WINDOW_SECS,
        ),
        ("EAGER_ALLOCATION", limits::EAGER_ALLOCATION as u64),
    ];
    for (name, value) in values {
        assert_row(&[&format!("`{name}`"), &with_commas(value)]);
    }
    assert_row(&["`MAX_RECORD`", &with_commas(lane::MAX_RECORD as u64)]);
    assert_row(&["`INITIAL_CREDIT`", &lane::INITIAL_CREDIT.to_string()]);
    // A limit that is added there is missed here.
    let defined: BTreeSet<_> = include_str!("../src/limits.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert_eq!(defined, values.into_iter().map(|(name, _)| name).collect());
}

#[test]
fn every_close_reason_and_stream_code_has_a_row() {
    for reason in CloseReason::ALL {
        let code = match reason.code() {
            0 => "0".to_owned(),
            code => format!("{code:#04x}"),
        };
        assert_row(&[&format!("`{}`", reason.as_str()), &code]);
    }
    for (name, code) in [
        ("CANCELLED", close::stream::CANCELLED),
        ("REFUSED", close::stream::REFUSED),
        ("TIMED_OUT", close::stream::TIMED_OUT),
    ] {
        assert_row(&[&format!("`{name}`"), &code.to_string()]);
    }
}

#[test]
fn both_protocol_names_are_given() {
    for (version, name) in [("V0", ALPN_V0), ("V1", ALPN_V1)] {
        let name = std::str::from_utf8(name).unwrap();
        assert_row(&[&format!("ALPN, {version}"), &format!("`{name}`")]);
    }
}

#[derive(Serialize)]
struct Point {
    x: u8,
    label: Option<&'static str>,
}

#[derive(Serialize)]
enum Shape {
    Empty,
    Circle(f32),
    Line(u8, u8),
    Named { x: u8 },
}

#[derive(Serialize)]
struct Metres(f32);

#[test]
fn typed_values_have_the_bytes_of_the_table() {
    fn bytes_of(value: &impl Serialize) -> String {
        let payload = Payload::from_typed(&BTreeMap::from([("v", value)])).unwrap();
        hex::encode(payload.get("v").unwrap())
    }
    let rows = [
        (
            "`Point { x: 1, label: None }`",
            bytes_of(&Point { x: 1, label: None }),
        ),
        ("`Shape::Empty`", bytes_of(&Shape::Empty)),
        ("`Shape::Circle(1.0)`", bytes_of(&Shape::Circle(1.0))),
        ("`Shape::Line(1, 2)`", bytes_of(&Shape::Line(1, 2))),
        ("`Shape::Named { x: 1 }`", bytes_of(&Shape::Named { x: 1 })),
        ("`Metres(1.0)`", bytes_of(&Metres(1.0))),
        ("`None`", bytes_of(&None::<u8>)),
        ("`Some(7)`", bytes_of(&Some(7))),
        ("`true`", bytes_of(&true)),
        ("`200`", bytes_of(&200)),
        ("`1.0_f64`", bytes_of(&1.0_f64)),
        ("`'a'`", bytes_of(&'a')),
        (
            "`Bytes::new(&[1, 2])`",
            bytes_of(&serde_bytes::Bytes::new(&[1, 2])),
        ),
        ("`vec![1_u8, 2]`", bytes_of(&vec![1_u8, 2])),
        ("`{\"a\": 1}`", bytes_of(&BTreeMap::from([("a", 1)]))),
    ];
    for (example, bytes) in &rows {
        let row = DOC
            .lines()
            .find(|line| line.contains(&format!("| {example} |")));
        let row = row.unwrap_or_else(|| panic!("no row for {example}"));
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let shown: String = cell.chars().filter(char::is_ascii_hexdigit).collect();
        assert_eq!(shown, *bytes, "{example}");
    }
    let table = DOC.lines().skip_while(|line| *line != "## Typed values");
    let table = table.filter(|line| line.starts_with('|')).skip(2);
    // The table of the handshake follows; its first cells are who signs.
    let shown = table
        .take_while(|line| !line.starts_with("| signer"))
        .count();
    assert_eq!(shown, rows.len(), "a row of the table is not compared");
}
