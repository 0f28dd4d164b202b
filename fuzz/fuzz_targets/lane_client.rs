//! What a server reads from a lane: wherever the stream is cut it decodes alike, a bad request
//! keeps its id and harms none behind it, and what was decoded comes back as it was.

#![no_main]

use btlightning_proto::lane::{Batch, ClientRecord, put_cancel, put_request, take_client_record};
use libfuzzer_sys::fuzz_target;

mod lane_stream;

fuzz_target!(|data: &[u8]| {
    let Some((stream, decoded)) = lane_stream::decode_cut(data, take_client_record) else {
        return;
    };
    lane_stream::assert_in_place(stream, &decoded, |record| match record {
        ClientRecord::Request(request) => (0, Some(request.id)),
        ClientRecord::Cancel { id } => (1, Some(*id)),
        ClientRecord::Invalid { id, .. } => (0, Some(*id)),
    });

    let mut batch = Batch::default();
    let mut good = Vec::new();
    for record in decoded.0 {
        match &record {
            ClientRecord::Request(r) => {
                put_request(
                    &mut batch,
                    r.id,
                    r.priority,
                    r.timeout_ms,
                    r.synapse_type(),
                    &r.data,
                )
                .expect("what fitted a record fits one");
            }
            ClientRecord::Cancel { id } => put_cancel(&mut batch, *id),
            ClientRecord::Invalid { .. } => continue,
        }
        good.push(record);
    }
    lane_stream::assert_decodes_again(batch, take_client_record, good, stream);
});
