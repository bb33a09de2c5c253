//! Splits bytes into lines. A line longer than the limit is reported, and dropped without being kept.

use tokio_util::bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// The longest accepted line: an answer with a large inline image is below 8 MiB, a batch's answers may be longer.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// One line, without its ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Bytes),
    TooLong,
}

/// Splits input into lines. Bytes after the last line ending are an incomplete line, and dropped.
#[derive(Debug)]
pub(crate) struct LineDecoder {
    limit: usize,
    /// How much of the buffer is known to contain no line ending.
    searched: usize,
    /// Whether the current line is too long.
    skipping: bool,
    /// Whether bytes after the last line ending count as a line.
    rest: bool,
}

impl LineDecoder {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, searched: 0, skipping: false, rest: false }
    }

    /// Also returns a last line without an ending, such as the end of a log.
    pub(crate) fn with_rest(limit: usize) -> Self {
        Self { rest: true, ..Self::new(limit) }
    }
}

impl Decoder for LineDecoder {
    type Item = Line;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Line>, Self::Error> {
        let end = buffer.iter().skip(self.searched).position(|byte| *byte == b'\n').map(|at| at + self.searched);
        let Some(end) = end else {
            self.searched = buffer.len();
            // one more for the CR of a line ending
            if self.skipping || buffer.len() > self.limit + 1 {
                (self.skipping, self.searched) = (true, 0);
                buffer.clear();
            }
            return Ok(None);
        };
        self.searched = 0;
        let mut line = buffer.split_to(end);
        buffer.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        let too_long = std::mem::take(&mut self.skipping) || line.len() > self.limit;
        Ok(Some(if too_long { Line::TooLong } else { Line::Whole(line.freeze()) }))
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Line>, Self::Error> {
        let line = self.decode(buffer)?;
        if line.is_some() || buffer.is_empty() {
            return Ok(line);
        }
        let rest = buffer.split().freeze();
        Ok(self.rest.then_some(Line::Whole(rest)))
    }
}
