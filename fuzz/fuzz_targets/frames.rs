//! Frames from either side: header, payload, messages, compressed contents.
#![no_main]

use dunlin::plan::Digest;
use dunlin::protocol::frame::{Frame, Receiver, encode_blob, encode_message, read_frame};
use dunlin::protocol::{AgentMessage, ControllerMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for receiver in [Receiver::Controller, Receiver::Agent] {
        let mut input = data;
        while let Ok(Some(frame)) = read_frame(&mut input, receiver) {
            if let Ok(message) = frame.parse_message::<AgentMessage>() {
                encode_message(&message).expect("a message that was read can be written");
            }
            if let Ok(message) = frame.parse_message::<ControllerMessage>() {
                encode_message(&message).expect("a message that was read can be written");
            }
            if let Frame::Blob(blob) = frame {
                assert_eq!(receiver, Receiver::Agent, "a host sent a content");
                let _ = blob.unpack();
            }
        }
    }
    let digest = Digest::of_bytes(data);
    let frame = encode_blob(&digest, data).expect("a content that fits");
    match read_frame(&mut &frame[..], Receiver::Agent) {
        Ok(Some(Frame::Blob(blob))) => assert_eq!(blob.unpack().expect("a whole content"), (digest, data.to_vec())),
        other => panic!("not a content: {other:?}"),
    }
});
