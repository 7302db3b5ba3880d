//! Server-sent events as a worker sends them: cut anywhere, with any line ends
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// A frame longer than this is a fault of the worker.
const LONGEST: usize = 16 << 20;

/// Takes bytes as they come, and gives the data of whole frames.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    /// Until here no line ends.
    looked: usize,
    data: Option<BytesMut>,
    /// The stream has begun: a byte order mark may stand before it.
    begun: bool,
}

/// The worker sends what is no stream of events.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Frames {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.buffer.extend_from_slice(bytes);
        let held = self.data.as_ref().map_or(0, BytesMut::len);
        if self.buffer.len() + held > LONGEST {
            return Err(TooLong);
        }
        Ok(())
    }

    /// Whether no part of a frame is left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.trim_ascii().is_empty() && self.data.is_none()
    }

    /// The data of the next frame that is there as a whole. Comments and other fields are passed over.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        while let Some(mut line) = self.line() {
            if line.is_empty() {
                match self.data.take() {
                    // A frame without data is none.
                    Some(data) if !data.is_empty() => return Some(data.freeze()),
                    _ => continue,
                }
            }
            let Some(value) = line.strip_prefix(b"data:".as_slice()) else {
                continue;
            };
            let value = value.strip_prefix(b" ".as_slice()).unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.extend_from_slice(b"\n");
                    data.extend_from_slice(value);
                }
                None => {
                    let start = line.len() - value.len();
                    self.data = Some(line.split_off(start));
                }
            }
        }
        None
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Option<BytesMut> {
        let found = memchr2(b'\n', b'\r', &self.buffer[self.looked..]);
        let Some(end) = found.map(|place| self.looked + place) else {
            self.looked = self.buffer.len();
            return None;
        };
        let width = match (self.buffer[end], self.buffer.get(end + 1)) {
            (b'\r', Some(b'\n')) => 2,
            // A line feed may be on its way.
            (b'\r', None) => {
                self.looked = end;
                return None;
            }
            _ => 1,
        };
        let mut line = self.buffer.split_to(end + width);
        line.truncate(end);
        self.looked = 0;
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line = line.split_off(3);
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut frames = Frames::default();
        let mut all = Vec::new();
        for piece in pieces {
            frames.push(piece).unwrap();
            while let Some(data) = frames.next() {
                all.push(String::from_utf8(data.to_vec()).unwrap());
            }
        }
        all
    }

    const STREAM: &str = ": hello\r\n\r\ndata: {\"a\":\"水力发电🌊\"}\n\nevent: x\ndata:1\ndata: 2\n\nid: 7\n\ndata: [DONE]\n\n";
    const TOLD: [&str; 3] = ["{\"a\":\"水力发电🌊\"}", "1\n2", "[DONE]"];

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_cut() {
        let bytes = STREAM.as_bytes();
        for cut in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), TOLD, "at {cut}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single), TOLD);
    }

    #[test]
    fn any_line_end_will_do() {
        // The last carriage return may still be followed by a line feed.
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("{}: bye", STREAM.replace("\r\n", "\n").replace('\n', end));
            for cut in 0..=stream.len() {
                let (one, other) = stream.as_bytes().split_at(cut);
                assert_eq!(read(&[one, other]), TOLD, "{end:?} at {cut}");
            }
        }
    }

    #[test]
    fn a_mark_of_byte_order_is_passed_over() {
        assert_eq!(read(&[b"\xef\xbb\xbfdata: 1\n\n"]), ["1"]);
    }

    #[test]
    fn a_frame_without_end_is_refused() {
        let mut frames = Frames::default();
        let piece = [b'x'; 1 << 20];
        let refused = (0..32).any(|_| {
            let pushed = frames.push(&piece);
            assert!(frames.next().is_none());
            pushed == Err(TooLong)
        });
        assert!(refused);
    }
}
