//! JSON-RPC 2.0 over lines, without I/O: which call an incoming line belongs to.
//!
//! This module tracks the requests in flight in one process and their channels, and enforces the contract's rules about
//! them. A violation (a gap in the indexes, an answer before the end frame, a line that is not a message) is reported,
//! and fails the call that it is about; the others go on.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, RemoteError, Violation, WireError};
use crate::handing::Handed;
use crate::lines::Line;
use crate::mailbox::Sink;
use crate::schema::STREAMS;

/// How deeply nested a message the sidecar accepts.
const MAX_DEPTH: usize = 64;

/// Receives a call's answer; returns what is wrong with a result that does not have the contract's type.
pub(crate) type Reply = Box<dyn FnOnce(Result<&RawValue, Error>) -> Option<Violation> + Send>;

/// Called with each violation of the contract.
pub(crate) type Note = Arc<dyn Fn(&Violation) + Send + Sync>;

/// A request before it is sent.
pub(crate) struct Start {
    /// An id that no request of this host has used.
    pub(crate) id: u64,
    pub(crate) method: String,
    /// A JSON object, without a channel.
    pub(crate) params: String,
    /// Where the messages go, if the call has a channel.
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// Whether the channel outlives the answer, as it does for `jobs.attach`.
    pub(crate) attaches: bool,
    /// The open file to send ahead of its line.
    pub(crate) file: Option<Handed>,
    pub(crate) reply: Reply,
}

struct Call {
    channel: Option<u32>,
    attaches: bool,
    cancelled: bool,
    reply: Reply,
}

struct Channel {
    sink: Arc<dyn Sink>,
    count: u64,
    ended: bool,
    problem: Option<Violation>,
    /// Only the end frame is still due.
    attached: bool,
}

impl Channel {
    fn end(&mut self, problem: Option<Violation>) {
        self.ended = true;
        let failure = problem.clone().map(Error::from);
        self.sink.close(failure.as_ref());
        self.problem = problem;
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    channel: u32,
    index: u64,
    #[serde(default)]
    end: bool,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

pub(crate) struct Exchange {
    calls: HashMap<u64, Call>,
    channels: HashMap<u32, Channel>,
    last_channel: u32,
    note: Note,
    /// A consumer has fallen behind: the reader should yield to it.
    pub(crate) pressed: bool,
    /// How many calls were answered with a result.
    pub(crate) succeeded: u64,
    /// An answer said that an update has replaced the sidecar's files.
    pub(crate) outdated: bool,
}

impl Exchange {
    pub(crate) fn new(note: Note) -> Self {
        let (calls, channels) = (HashMap::new(), HashMap::new());
        Self { calls, channels, last_channel: 0, note, pressed: false, succeeded: 0, outdated: false }
    }

    /// Registers a request and returns its line, unless the sidecar would not accept that.
    pub(crate) fn start(&mut self, start: Start, limit: Option<usize>) -> Option<String> {
        let channel = start.sink.is_some().then(|| self.free_channel());
        let line = request_line(&start, channel);
        if let Some(reason) = unreadable(&line, limit) {
            (start.reply)(Err(Error::Params { method: start.method, reason }));
            if let Some(sink) = start.sink {
                sink.close(None);
            }
            return None;
        }
        if let (Some(number), Some(sink)) = (channel, start.sink) {
            let fresh = Channel { sink, count: 0, ended: false, problem: None, attached: false };
            self.channels.insert(number, fresh);
        }
        let call = Call { channel, attaches: start.attaches, cancelled: false, reply: start.reply };
        self.calls.insert(start.id, call);
        Some(line)
    }

    /// Returns the line that cancels a call: only once, and only while the call is in flight.
    pub(crate) fn cancel(&mut self, id: u64) -> Option<String> {
        let call = self.calls.get_mut(&id).filter(|call| !call.cancelled)?;
        call.cancelled = true;
        Some(format!(r#"{{"jsonrpc":"2.0","method":"$/cancelRequest","params":{{"id":{id}}}}}{}"#, '\n'))
    }

    /// Whether no call waits for its answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Handles one incoming line.
    pub(crate) fn line(&mut self, line: &Line) {
        let Line::Whole(bytes) = line else {
            return self.violation("A line is too long.");
        };
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.violation("A line is not UTF-8.");
        };
        let text = text.trim_ascii();
        if text.is_empty() {
            return;
        }
        match object::<Envelope<'_>>(text) {
            Some(message) if message.method.is_some() => self.notification(&message),
            Some(message) => self.answer(&message),
            None => self.violation("A line is not a message."),
        }
    }

    /// Nothing more will arrive: fails every call that waits.
    pub(crate) fn fail(&mut self, error: &Error) {
        for (_, channel) in self.channels.drain() {
            if !channel.ended {
                channel.sink.close(Some(error));
            }
        }
        for (_, call) in self.calls.drain() {
            (call.reply)(Err(error.clone()));
        }
    }

    fn answer(&mut self, message: &Envelope<'_>) {
        let id = message.id.map_or("null", RawValue::get);
        // an id that is a string, or 1.0, is not one of ours
        let Some(call) = id.parse().ok().and_then(|id: u64| self.calls.remove(&id)) else {
            return self.violation(format!("An answer came for the id {}, which no call has.", shown(id)));
        };
        let problem = call.channel.and_then(|number| match (call.attaches, message.error) {
            (true, Some(_)) => self.refused(number),
            (true, None) => self.attached(number),
            (false, _) => self.answered(number),
        });
        let error = message.error.and_then(|raw| object::<WireError>(raw.get()));
        let found = if let Some(wire) = error {
            let error = RemoteError::from(wire);
            self.outdated |= error.is_outdated();
            (call.reply)(Err(Arc::new(error).into()))
        } else if let Some(problem) = problem {
            (call.reply)(Err(problem.into()))
        } else if let Some(result) = message.result.filter(|raw| raw.get().starts_with('{')) {
            self.succeeded += 1;
            (call.reply)(Ok(result))
        } else {
            let violation = Violation::new("An answer has neither a result that is an object nor an error.");
            (call.reply)(Err(violation.clone().into()));
            Some(violation)
        };
        if let Some(violation) = found {
            (self.note)(&violation);
        }
    }

    /// Settles a call's channel once it is answered; returns what is wrong with it.
    fn answered(&mut self, number: u32) -> Option<Violation> {
        let mut channel = self.channels.remove(&number)?;
        if !channel.ended {
            let problem = Violation::new(format!("Channel {number} had no end before its answer."));
            (self.note)(&problem);
            channel.end(Some(problem));
        }
        channel.problem
    }

    /// An attach that succeeded: its channel goes on until its end frame, which may have arrived already.
    fn attached(&mut self, number: u32) -> Option<Violation> {
        let channel = self.channels.get_mut(&number)?;
        channel.attached = true;
        if channel.ended { self.channels.remove(&number)?.problem } else { None }
    }

    /// An attach that was refused sends nothing on its channel, not even an end frame.
    fn refused(&mut self, number: u32) -> Option<Violation> {
        self.channels.remove(&number)?.end(None);
        None
    }

    fn notification(&mut self, message: &Envelope<'_>) {
        let method = message.method.map_or("", RawValue::get).trim_matches('"');
        if message.id.is_some() {
            return self.violation(format!("The sidecar sent {}, which is not in the contract.", shown(method)));
        }
        if !STREAMS.contains(&method) {
            return; // from a later version
        }
        match message.params.and_then(|raw| object::<Frame<'_>>(raw.get())) {
            Some(frame) => self.frame(&frame),
            None => self.violation(format!("{method} came without a channel's frame.")),
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        let number = frame.channel;
        let Some(channel) = self.channels.get_mut(&number) else {
            return self.violation(format!("A frame came on channel {number}, which is not open."));
        };
        if channel.problem.is_some() {
            if frame.end && channel.attached {
                self.channels.remove(&number);
            }
            return; // reported already
        }
        let problem = if channel.ended {
            Some(format!("A frame came after the end of channel {number}."))
        } else if frame.index != channel.count {
            Some(format!("Channel {number}: index {} came where {} was expected.", frame.index, channel.count))
        } else if frame.end {
            channel.end(None);
            if channel.attached {
                self.channels.remove(&number);
            }
            return;
        } else {
            channel.count += 1;
            let put = match frame.message {
                Some(raw) => channel.sink.put(raw).map_err(|error| format!("does not match the contract: {error}")),
                None => Err("is missing".to_owned()),
            };
            self.pressed |= *put.as_ref().unwrap_or(&false);
            put.err().map(|why| format!("A message on channel {number} {why}."))
        };
        if let Some(sentence) = problem {
            let violation = Violation::new(sentence);
            channel.end(Some(violation.clone()));
            (self.note)(&violation);
        }
    }

    fn free_channel(&mut self) -> u32 {
        loop {
            self.last_channel = self.last_channel.wrapping_add(1);
            if !self.channels.contains_key(&self.last_channel) {
                return self.last_channel;
            }
        }
    }

    fn violation(&self, sentence: impl Into<String>) {
        (self.note)(&Violation::new(sentence));
    }
}

/// Reads an object's members; serde would accept an array, too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    text.starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Says why the sidecar would refuse a line without looking at its id, so that its call would never be answered.
fn unreadable(line: &str, limit: Option<usize>) -> Option<String> {
    if let Some(limit) = limit.filter(|limit| line.len() > *limit) {
        return Some(format!("{} bytes are more than the sidecar accepts in one line ({limit})", line.len()));
    }
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in line.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (deepest > MAX_DEPTH).then(|| format!("they are nested deeper than {MAX_DEPTH} levels, the request included"))
}

/// Builds a request's line; the channel becomes the last member of its params.
fn request_line(start: &Start, channel: Option<u32>) -> String {
    let Start { id, method, params, .. } = start;
    let mut line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":"#);
    match (channel, params.strip_suffix('}')) {
        (Some(number), Some(open)) => {
            let comma = if open.len() > 1 { "," } else { "" };
            let _ = write!(line, r#"{open}{comma}"channel":{number}}}"#); // a String takes all
        }
        _ => line.push_str(params),
    }
    line.push_str("}\n");
    line
}
