//! The messages of one call between their arrival and the one who takes them.
//!
//! Owned here: what happens when the taker is slower than the sidecar. Nothing is left out while it keeps up; beyond
//! [`WAITING`] messages the newest one absorbs the next, as the sidecar itself does, so that memory does not grow and
//! the latest state is always delivered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;

use crate::error::Error;
use crate::message::Message;

/// How many messages may wait.
pub(crate) const WAITING: usize = 64;

/// Where a channel's messages go, whatever their type is.
pub(crate) trait Sink: Send + Sync {
    /// Takes one message; gives back whether its taker falls behind.
    fn put(&self, message: &RawValue) -> Result<bool, serde_json::Error>;
    /// No more will come, because of the end frame or what failed; what waits can still be taken.
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

    /// The next message; none after the last one. For one taker.
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

    /// Takes a message in; after [`Sink::close`] it is dropped. Gives back whether many wait.
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

    /// Forgets what waits, and takes nothing more.
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

/// Wakes the taker once the lock is given back, which the taker wants at once.
fn wake<M>(mut state: MutexGuard<'_, State<M>>) {
    let taker = state.taker.take();
    drop(state);
    if let Some(taker) = taker {
        taker.wake();
    }
}
