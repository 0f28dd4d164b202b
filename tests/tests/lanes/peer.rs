//! A lane on which the test sends what it likes.

use btlightning_proto::{
    Payload,
    lane::{Batch, RecordBuffer, ServerRecord, put_cancel, put_request, take_server_record},
    message,
};
use bytes::Bytes;
use lightning_tests::{raw::RawClient, within};
use quinn::{ReadError, RecvStream, SendStream};

/// The client's end of a lane.
pub(crate) struct RawLane {
    send: SendStream,
    recv: RecvStream,
    buffer: RecordBuffer,
}

/// What comes next on a lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Record(ServerRecord),
    /// The server ended it.
    Finished,
    /// The server reset it with this code.
    Reset(u64),
}

impl RawLane {
    pub(crate) async fn open(peer: &RawClient) -> Self {
        let (mut send, recv) = within(peer.connection.open_bi()).await.unwrap();
        let opening = message::encode_lane_open().unwrap().to_vec();
        send.write_all(&opening).await.unwrap();
        Self {
            send,
            recv,
            buffer: RecordBuffer::default(),
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        within(self.send.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn request(&mut self, id: u64, synapse_type: &str, data: &Payload) {
        self.send_bytes(&request(id, synapse_type, data)).await;
    }

    pub(crate) async fn cancel(&mut self, id: u64) {
        self.send_bytes(&encode(|batch| put_cancel(batch, id)))
            .await;
    }

    pub(crate) fn finish(&mut self) {
        self.send.finish().unwrap();
    }

    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(record) = self.buffer.next(take_server_record).unwrap() {
                return Next::Record(record);
            }
            match within(self.recv.read_chunk(usize::MAX, true)).await {
                Ok(Some(chunk)) => self.buffer.push(chunk.bytes),
                Ok(None) => return Next::Finished,
                Err(ReadError::Reset(code)) => return Next::Reset(code.into_inner()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Returns the next record, past those of credit.
    pub(crate) async fn record(&mut self) -> ServerRecord {
        loop {
            match self.next().await {
                Next::Record(ServerRecord::Credit { .. }) => {}
                Next::Record(record) => return record,
                end => panic!("the lane is over: {end:?}"),
            }
        }
    }

    /// Waits for the lane's end, past what was on its way.
    pub(crate) async fn end(&mut self) -> Next {
        loop {
            match self.next().await {
                Next::Record(_) => {}
                end => return end,
            }
        }
    }

    /// Asks and checks the answer.
    pub(crate) async fn assert_serves(&mut self, id: u64) {
        let data = Payload::from_typed(&crate::numbered(id, 100)).unwrap();
        self.request(id, "at-once", &data).await;
        assert_eq!(self.record().await, ServerRecord::Answer { id, data });
    }

    pub(crate) async fn assert_fails(&mut self, id: u64, text: &str) {
        let text = text.to_owned();
        assert_eq!(self.record().await, ServerRecord::Failure { id, text });
    }
}

pub(crate) fn request(id: u64, synapse_type: &str, data: &Payload) -> Bytes {
    encode(|batch| put_request(batch, id, 0, 0, synapse_type, data).unwrap())
}

fn encode(put: impl FnOnce(&mut Batch)) -> Bytes {
    let mut batch = Batch::default();
    put(&mut batch);
    let mut chunks = Vec::new();
    batch.take_into(&mut chunks);
    chunks.concat().into()
}
