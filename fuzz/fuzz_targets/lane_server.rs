//! What a client reads from a lane: wherever the stream is cut it decodes alike, a bad answer
//! keeps its id and harms none behind it, and what was decoded comes back as it was.

#![no_main]

use btlightning_proto::lane::{
    Batch, ServerRecord, put_answer, put_credit, put_failure, put_go_away, take_server_record,
};
use libfuzzer_sys::fuzz_target;

mod lane_stream;

/// Longer texts of failures are cut when they are sent.
const MAX_FAILURE_TEXT: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some((stream, decoded)) = lane_stream::decode_cut(data, take_server_record) else {
        return;
    };
    lane_stream::assert_in_place(stream, &decoded, |record| match record {
        ServerRecord::Answer { id, .. } => (0, Some(*id)),
        ServerRecord::Failure { id, .. } => (1, Some(*id)),
        ServerRecord::Credit { requests } => (2, Some(*requests)),
        ServerRecord::GoAway => (3, None),
        // Of an answer or of a failure.
        ServerRecord::Invalid { id, error } if error.to_string().contains("text") => (1, Some(*id)),
        ServerRecord::Invalid { id, .. } => (0, Some(*id)),
    });

    let mut batch = Batch::default();
    let mut good = Vec::new();
    for mut record in decoded.0 {
        match &mut record {
            ServerRecord::Answer { id, data } => {
                put_answer(&mut batch, *id, data).expect("what fitted a record fits one");
            }
            ServerRecord::Failure { id, text } => {
                put_failure(&mut batch, *id, text);
                while text.len() > MAX_FAILURE_TEXT {
                    text.pop();
                }
            }
            ServerRecord::Credit { requests } => put_credit(&mut batch, *requests),
            ServerRecord::GoAway => put_go_away(&mut batch),
            ServerRecord::Invalid { .. } => continue,
        }
        good.push(record);
    }
    lane_stream::assert_decodes_again(batch, take_server_record, good, stream);
});
