//! What a provider has said: its first event, and all of an answer that waits for the charge.

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;

use crate::conversation::chunk::Completer;
use crate::conversation::reply::{Chunk, Reply};
use crate::error::{UpstreamFailure, UpstreamKind};
use crate::json::where_it_went_wrong;
use crate::provider::Event;

/// The most that is kept of one streamed answer until it is stored, in bytes.
const MAX_KEPT: u64 = 64 * 1024 * 1024;

/// A provider's stream.
pub type Chunks = LocalBoxStream<'static, Result<Event, UpstreamFailure>>;

/// The provider's first event, taken in.
pub struct First {
    /// What came so far.
    pub(super) reply: Reply,
    /// What it is for the client: a delta at once, or part of the end.
    pub(super) pending: Vec<Bytes>,
    /// What waits for the charge, or the whole answer of a plain call.
    pub(super) tail: Vec<Bytes>,
    /// Bytes of the tail.
    tail_bytes: usize,
    /// The chunk with usage alone, if there was one.
    pub(super) usage_chunk: Option<Bytes>,
    /// Whether all that comes belongs to the end, since it goes on from a chunk that does.
    held: bool,
    /// Adds what a chunk has to say and the provider left out.
    pub(super) completer: Completer,
    /// Whether the provider gave all of it at once.
    whole: bool,
    /// What is still to come, of a stream.
    pub(super) chunks: Option<Chunks>,
}

impl First {
    /// A whole answer.
    pub fn whole(answer: Bytes) -> Result<Self, UpstreamFailure> {
        let reply = Reply::whole(&answer).map_err(|cause| malformed(&cause))?;
        Ok(Self {
            reply,
            pending: Vec::new(),
            tail: vec![answer],
            tail_bytes: 0,
            usage_chunk: None,
            held: false,
            completer: Completer::default(),
            whole: true,
            chunks: None,
        })
    }

    /// The first chunk of a stream.
    pub fn streamed(chunk: Bytes, chunks: Chunks) -> Result<Self, UpstreamFailure> {
        let mut first = Self {
            reply: Reply::default(),
            pending: Vec::new(),
            tail: Vec::new(),
            tail_bytes: 0,
            usage_chunk: None,
            held: false,
            completer: Completer::default(),
            whole: false,
            chunks: Some(chunks),
        };
        let delta = first.take(chunk)?;
        first.pending.extend(delta);
        Ok(first)
    }

    /// Whether it is all of the answer.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What came so far.
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// Takes what waited for the charge: of a stream in memory of its own, since all that was read with it would be kept for
    /// as long, which of a quick provider is 16 KiB and more.
    pub(super) fn take_tail(&mut self) -> Vec<Bytes> {
        let tail = std::mem::take(&mut self.tail);
        if self.whole { tail } else { tail.iter().map(alone).collect() }
    }

    /// Takes the chunk with usage alone, likewise, or one of ours.
    pub(super) fn take_usage_chunk(&mut self) -> Bytes {
        self.usage_chunk.take().map_or_else(|| self.completer.chunk_of(b"[]"), |chunk| alone(&chunk))
    }

    /// Keeps a chunk until the charge is made.
    fn hold_back(&mut self, chunk: Bytes) {
        self.tail_bytes += chunk.len();
        self.tail.push(chunk);
    }

    /// Takes in a chunk; answers it if it goes to the client now. The chunks that tell the end wait for the charge.
    pub(super) fn take(&mut self, chunk: Bytes) -> Result<Option<Bytes>, UpstreamFailure> {
        let chunk = self.completer.complete(chunk);
        let kind = self.reply.absorb(&chunk).map_err(|cause| malformed(&cause))?;
        if self.reply.kept_bytes() + (self.tail_bytes + chunk.len()) as u64 > MAX_KEPT {
            let cause = format!("an answer of over {MAX_KEPT} bytes");
            return Err(UpstreamFailure::new(UpstreamKind::Invalid, cause));
        }
        match kind {
            Chunk::Delta if !self.held => return Ok(Some(chunk)),
            Chunk::Delta | Chunk::Finish => self.hold_back(chunk),
            Chunk::Mixed => {
                self.held = true;
                self.hold_back(chunk);
            }
            Chunk::Usage => self.usage_chunk = Some(chunk),
            Chunk::Error(error) => {
                let cause = format!("an error event of {} bytes", error.bytes().len());
                return Err(UpstreamFailure::new(UpstreamKind::Refused, cause));
            }
        }
        Ok(None)
    }
}

/// The same in memory of its own.
fn alone(chunk: &Bytes) -> Bytes {
    Bytes::copy_from_slice(chunk)
}

fn malformed(cause: &serde_json::Error) -> UpstreamFailure {
    UpstreamFailure::new(UpstreamKind::Invalid, format!("not an answer: {}", where_it_went_wrong(cause)))
}
