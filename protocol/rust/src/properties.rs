//! Property tests of the parts without I/O: what holds for any bytes, frames and answers, even absurd ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;

use crate::error::{Error, RemoteError, WireError};
use crate::exchange::{Exchange, Start};
use crate::lines::{Line, LineDecoder};
use crate::mailbox::{Mailbox, Sink, WAITING};
use crate::{ErrorKind, Phase, Restart};

// --- lines ---

const LIMIT: usize = 12;

/// Splits lines in the plainest way, as a reference.
fn lines_of(bytes: &[u8], rest: bool) -> Vec<Line> {
    let mut parts: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    let last = parts.pop().unwrap();
    let mut lines: Vec<_> = parts
        .into_iter()
        .map(|part| part.strip_suffix(b"\r").unwrap_or(part))
        .map(|part| if part.len() > LIMIT { Line::TooLong } else { Line::Whole(Bytes::copy_from_slice(part)) })
        .collect();
    if rest && !last.is_empty() && last.len() <= LIMIT + 1 {
        lines.push(Line::Whole(Bytes::copy_from_slice(last)));
    }
    lines
}

fn decoded(chunks: &[Vec<u8>], mut decoder: LineDecoder) -> Vec<Line> {
    let (mut buffer, mut lines) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(line) = decoder.decode(&mut buffer).unwrap() {
            lines.push(line);
        }
        assert!(buffer.len() <= LIMIT + 1, "what is kept is bounded");
    }
    while let Some(line) = decoder.decode_eof(&mut buffer).unwrap() {
        lines.push(line);
    }
    lines
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![3 => Just(b'\n'), 2 => Just(b'\r'), 8 => any::<u8>()];
    prop::collection::vec(prop::collection::vec(byte, 0..20), 0..12)
}

proptest! {
    #[test]
    fn lines_are_the_same_however_they_come_in_pieces(chunks in chunks()) {
        let whole = chunks.concat();
        prop_assert_eq!(decoded(&chunks, LineDecoder::new(LIMIT)), lines_of(&whole, false));
        prop_assert_eq!(decoded(&chunks, LineDecoder::with_rest(LIMIT)), lines_of(&whole, true));
    }
}

// --- the mailbox ---

fn polled(mailbox: &Mailbox<Value>) -> Poll<Option<Value>> {
    mailbox.poll(&mut Context::from_waker(Waker::noop()))
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

proptest! {
    #[test]
    fn a_slow_taker_gets_messages_in_order_and_the_last_one_and_memory_is_bounded(takes in prop::collection::vec(0..4_usize, 0..300)) {
        let mailbox = Mailbox::new();
        let mut seen = Vec::new();
        for (number, takes) in takes.iter().enumerate() {
            mailbox.put(&raw(&json!(number))).unwrap();
            for _ in 0..*takes {
                if let Poll::Ready(Some(message)) = polled(&mailbox) {
                    seen.push(message.as_u64().unwrap());
                }
            }
        }
        mailbox.close(None);
        mailbox.put(&raw(&json!("late"))).unwrap();
        let mut left = 0;
        while let Poll::Ready(Some(message)) = polled(&mailbox) {
            seen.push(message.as_u64().unwrap());
            left += 1;
        }
        prop_assert_eq!(polled(&mailbox), Poll::Ready(None));
        prop_assert!(left <= WAITING);
        prop_assert!(seen.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(seen.last().copied(), takes.len().checked_sub(1).map(|last| last as u64));
        if takes.iter().all(|takes| *takes > 0) || takes.len() <= WAITING {
            prop_assert_eq!(seen.len(), takes.len(), "nothing is left out that could have been kept");
        }
    }
}

#[test]
fn a_merged_step_keeps_the_preview_of_its_image() {
    let mailbox = Mailbox::new();
    for number in 0..WAITING - 1 {
        mailbox.give(json!(number));
    }
    mailbox.give(json!({"image": 1, "preview": "a"}));
    mailbox.give(json!({"image": 1, "step": 2}));
    let newest = |mailbox: &Mailbox<Value>| {
        let mut last = Value::Null;
        while let Poll::Ready(Some(message)) = polled(mailbox) {
            last = message;
        }
        last
    };
    assert_eq!(newest(&mailbox), json!({"image": 1, "step": 2, "preview": "a"}));
    for number in 0..WAITING {
        mailbox.give(json!({"image": 1, "preview": number}));
    }
    mailbox.give(json!({"image": 2, "step": 1}));
    assert_eq!(newest(&mailbox), json!({"image": 2, "step": 1}), "not the preview of another image");
}

// --- the exchange ---

/// The outcome of a call: how often it was answered, its messages, how often its channel was closed.
#[derive(Default)]
struct Seen {
    answers: Mutex<Vec<Result<(), Error>>>,
    messages: Mutex<Vec<u64>>,
    closed: AtomicUsize,
}

impl Sink for Seen {
    fn put(&self, message: &RawValue) -> Result<bool, serde_json::Error> {
        self.messages.lock().unwrap().push(serde_json::from_str(message.get())?);
        Ok(false)
    }

    fn close(&self, _: Option<&Error>) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

fn begin(exchange: &mut Exchange, id: u64, attaches: bool) -> (Arc<Seen>, String) {
    let seen: Arc<Seen> = Arc::default();
    let kept = Arc::clone(&seen);
    let start = Start {
        id,
        method: "image.generate".to_owned(),
        params: r#"{"prompt":"}"}"#.to_owned(),
        sink: Some(Arc::clone(&seen) as Arc<dyn Sink>),
        attaches,
        file: None,
        reply: Box::new(move |answer| {
            kept.answers.lock().unwrap().push(answer.map(|_| ()));
            None
        }),
    };
    let line = exchange.start(start, None).unwrap();
    (seen, line)
}

fn line(text: impl Into<String>) -> Line {
    Line::Whole(text.into().into())
}

fn messages() -> impl Strategy<Value = Value> {
    let (channel, index) = (0..5_u32, 0..4_u64);
    let params = (channel, index.clone(), any::<bool>(), index).prop_map(|(channel, index, end, message)| {
        if end {
            json!({"channel": channel, "index": index, "end": true})
        } else {
            json!({"channel": channel, "index": index, "message": message})
        }
    });
    let answer = (0..5_u64, 0..5_u8).prop_map(|(id, kind)| match kind {
        0 => json!({"id": id, "error": {"code": -32013, "message": "full"}}),
        1 => json!({"id": id, "result": [1]}),
        2 => json!({"id": id}),
        3 => json!({"id": id.to_string(), "result": {}}),
        _ => json!({"id": id, "result": {}}),
    });
    prop_oneof![
        8 => params.prop_map(|params| json!({"method": "DiffusionStep", "params": params})),
        4 => answer,
        1 => Just(json!({"method": "DiffusionStep", "params": [1]})),
        1 => Just(json!({"method": "host.show", "id": 1, "params": {}})),
        1 => Just(json!([])),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_each_call_is_answered_once_and_its_messages_have_no_holes(
        sent in prop::collection::vec(messages(), 0..40), cut in any::<prop::sample::Index>(),
    ) {
        let mut exchange = Exchange::new(Arc::new(|_| {}));
        let calls: Vec<_> = (1..=3).map(|id| begin(&mut exchange, id, id == 3).0).collect();
        for message in &sent {
            exchange.line(&line(message.to_string()));
        }
        if let Some(last) = sent.last().map(Value::to_string) {
            exchange.line(&line(last.get(..cut.index(last.len())).unwrap_or_default()));
        }
        exchange.fail(&Error::closed());
        for call in calls {
            prop_assert_eq!(call.answers.lock().unwrap().len(), 1);
            prop_assert!(call.closed.load(Ordering::Relaxed) >= 1);
            prop_assert!(call.messages.lock().unwrap().len() <= 4, "an index comes once");
        }
    }

    #[test]
    fn no_bytes_can_break_it(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut exchange = Exchange::new(Arc::new(|_| {}));
        let (seen, _) = begin(&mut exchange, 1, false);
        exchange.line(&Line::Whole(bytes.into()));
        exchange.line(&line(r#"{"method":"DiffusionStep","params":{"channel":1,"index":0,"end":true}}"#));
        exchange.line(&line(r#" {"id":1,"result":{}} "#));
        prop_assert!(seen.answers.lock().unwrap()[0].is_ok());
    }
}

#[test]
fn a_request_is_one_line_of_json_with_its_channel() {
    let mut exchange = Exchange::new(Arc::new(|_| {}));
    let (_, text) = begin(&mut exchange, 7, false);
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.ends_with('\n'));
    let sent: Value = serde_json::from_str(&text).unwrap();
    let wanted =
        json!({"jsonrpc": "2.0", "id": 7, "method": "image.generate", "params": {"prompt": "}", "channel": 1}});
    assert_eq!(sent, wanted);
    let cancel: Value = serde_json::from_str(&exchange.cancel(7).unwrap()).unwrap();
    assert_eq!(cancel, json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 7}}));
    assert_eq!(exchange.cancel(7), None, "once");
    assert_eq!(exchange.cancel(8), None);
}

#[test]
fn what_breaks_the_contract_is_noted_once_and_fails_its_own_call() {
    let noted: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&noted);
    let mut exchange = Exchange::new(Arc::new(move |violation| told.lock().unwrap().push(violation.to_string())));
    let (seen, _) = begin(&mut exchange, 1, false);
    for index in [0, 2, 3] {
        exchange.line(&line(
            json!({"method": "DiffusionStep", "params": {"channel": 1, "index": index, "message": 5}}).to_string(),
        ));
    }
    exchange.line(&line(r#"{"id":1,"result":{}}"#));
    let hole = "Channel 1: index 2 came where 1 was expected.";
    assert_eq!(*noted.lock().unwrap(), [hole]);
    assert_eq!(*seen.messages.lock().unwrap(), [5]);
    assert!(matches!(&seen.answers.lock().unwrap()[0], Err(Error::Violation(violation)) if violation.sentence == hole));

    // an attach that is refused sends no end frame, which is correct
    let (refused, _) = begin(&mut exchange, 2, true);
    exchange.line(&line(r#"{"id":2,"error":{"code":-32602,"message":"no such job"}}"#));
    assert_eq!(refused.closed.load(Ordering::Relaxed), 1);
    // one that succeeds goes on until its end frame
    let (attached, _) = begin(&mut exchange, 3, true);
    exchange.line(&line(r#"{"id":3,"result":{}}"#));
    assert_eq!(attached.closed.load(Ordering::Relaxed), 0);
    exchange.line(&line(r#"{"method":"ModelProgress","params":{"channel":3,"index":0,"message":1}}"#));
    exchange.line(&line(r#"{"method":"ModelProgress","params":{"channel":3,"index":1,"end":true}}"#));
    assert_eq!(attached.closed.load(Ordering::Relaxed), 1);
    assert_eq!(noted.lock().unwrap().len(), 1);
}

// --- values of a later version ---

#[test]
fn what_a_later_version_adds_is_passed_over_or_kept() {
    let step = json!({
        "jobId": "a", "phase": "dreaming", "image": 1, "images": 1, "step": 0, "steps": 4, "progress": 0, "elapsedMs": 1,
        "colour": "red",
    });
    let step: crate::DiffusionStep = serde_json::from_value(step).unwrap();
    assert_eq!(step.phase, Phase::Other("dreaming".to_owned()));
    assert_eq!(serde_json::to_value(&step.phase).unwrap(), json!("dreaming"));
    let misspelt = json!({"prompt": "a", "option": {}});
    assert!(serde_json::from_value::<crate::GenerateParams>(misspelt).is_err(), "never silently lost");

    let error = |value: Value| RemoteError::from(serde_json::from_value::<WireError>(value).unwrap());
    assert_eq!(error(json!({"code": -32013, "message": "full"})).kind, ErrorKind::QueueFull);
    let later = error(json!({"code": -32099, "message": "", "data": {"kind": "TooColourful", "retryable": true}}));
    assert_eq!((later.kind.as_str(), later.retryable()), ("TooColourful", true));
    assert_eq!(error(json!({"code": -1, "data": 7})).kind, ErrorKind::InternalError);
}

#[test]
fn no_secret_is_printed() {
    let builder = format!("{:?}", crate::Auth::new("hf_secret"));
    assert!(!builder.contains("secret"));
}

#[test]
fn the_wait_for_another_process_doubles_up_to_the_most() {
    let restart = Restart::OnDemand { first: Duration::from_millis(250), most: Duration::from_secs(3) };
    let waits: Vec<_> = (0..7).map(|failures| restart.wait(failures).unwrap().as_millis()).collect();
    assert_eq!(waits, [0, 250, 500, 1000, 2000, 3000, 3000]);
    assert_eq!(restart.wait(u32::MAX).unwrap().as_secs(), 3);
    assert_eq!(Restart::Never.wait(0), None);
}
