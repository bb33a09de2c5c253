//! Holds the messages of one call until the caller consumes them.
//!
//! This module decides what happens when the consumer is slower than the sidecar. While it keeps up, nothing is left
//! out. Beyond [`WAITING`] messages the newest one absorbs the next, as in the sidecar itself, so memory does not grow
//! and the latest state is always delivered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;

use crate::error::Error;
use crate::message::Message;

/// How many messages may wait.
pub(crate) const WAITING: usize = 64;

/// Where a channel's messages go, whatever their type.
pub(crate) trait Sink: Send + Sync {
    /// Accepts one message; returns whether the consumer has fallen behind.
    fn put(&self, message: &RawValue) -> Result<bool, serde_json::Error>;
    /// Called when no more messages will come, after the end frame or a failure; those that wait can still be consumed.
    fn close(&self, failure: Option<&Error>);
}

#[derive(Debug)]
struct State<M> {
    waiting: VecDeque<M>,
    closed: bool,
    taker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct Mailbox<M>(Mutex<State<M>>);

impl<M: Message> Mailbox<M> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { waiting: VecDeque::new(), closed: false, taker: None })))
    }

    /// Returns the next message; none after the last one. For a single consumer.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<M>> {
        let mut state = self.state();
        match state.waiting.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.taker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Adds a message; after [`Sink::close`] it is dropped. Returns whether many wait.
    pub(crate) fn give(&self, message: M) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        let message = if state.waiting.len() < WAITING {
            message
        } else {
            match state.waiting.pop_back() {
                Some(newest) => M::merge(newest, message),
                None => message,
            }
        };
        state.waiting.push_back(message);
        let many = state.waiting.len() > WAITING / 2;
        wake(state);
        many
    }

    /// Drops the waiting messages, and accepts no more.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        state.waiting = VecDeque::new();
        state.closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Message> Sink for Mailbox<M> {
    fn put(&self, message: &RawValue) -> Result<bool, serde_json::Error> {
        Ok(self.give(serde_json::from_str(message.get())?))
    }

    fn close(&self, _failure: Option<&Error>) {
        let mut state = self.state();
        state.closed = true;
        wake(state);
    }
}

/// Wakes the consumer once the lock is released, because the consumer needs it at once.
fn wake<M>(mut state: MutexGuard<'_, State<M>>) {
    let taker = state.taker.take();
    drop(state);
    if let Some(taker) = taker {
        taker.wake();
    }
}
