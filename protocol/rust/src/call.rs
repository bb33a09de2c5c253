//! A call in flight, in two halves: the stream of its messages and the future of its answer.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::handle::Handle;
use crate::mailbox::Mailbox;
use crate::message::Message;

/// The stream of one call's messages, as they arrive; it ends after the last one, before the answer is available.
///
/// They need not be consumed: beyond 64 the newest one absorbs the next, so memory does not grow, and the last one
/// always arrives. Dropping the stream does not affect the call.
#[must_use = "streams do nothing unless polled"]
pub struct Messages<M: Message>(Arc<Mailbox<M>>);

impl<M: Message> Messages<M> {
    pub(crate) fn new(mailbox: Arc<Mailbox<M>>) -> Self {
        Self(mailbox)
    }

    /// The stream of a call that has no messages.
    pub(crate) fn none() -> Self {
        let mailbox = Mailbox::new();
        mailbox.discard();
        Self(mailbox)
    }

    /// Returns the next message, or none after the last one. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<M> {
        poll_fn(|context| self.0.poll(context)).await
    }
}

impl<M: Message> Stream for Messages<M> {
    type Item = M;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<M>> {
        self.0.poll(context)
    }
}

impl<M: Message> Drop for Messages<M> {
    fn drop(&mut self) {
        self.0.discard();
    }
}

impl<M: Message> fmt::Debug for Messages<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

/// The future of a call's answer. The request has already been sent; this waits for its end.
///
/// Dropping it before that cancels the call; [`Answer::detach`] lets the call go on.
#[must_use = "dropping it cancels the call"]
pub struct Answer<R> {
    future: Pin<Box<dyn Future<Output = Result<R, Error>> + Send>>,
    canceller: Canceller,
    cancels_on_drop: bool,
}

impl<R: Send + 'static> Answer<R> {
    pub(crate) fn of_request(answer: oneshot::Receiver<Result<R, Error>>, canceller: Canceller) -> Self {
        // the other end is dropped unused only together with its runtime
        let future = async { answer.await.unwrap_or_else(|_| Err(Error::closed())) };
        Self { future: Box::pin(future), canceller, cancels_on_drop: true }
    }

    /// The answer of another call's job; dropping it does not cancel the job.
    pub(crate) fn of_job(
        future: impl Future<Output = Result<R, Error>> + Send + 'static,
        canceller: Canceller,
    ) -> Self {
        Self { future: Box::pin(future), canceller, cancels_on_drop: false }
    }
}

impl<R> Answer<R> {
    /// Cancels the call. It is still answered: with RequestCancelled, whose [`images`](crate::RemoteError::images) are
    /// those that were finished, or with its result if that was available already.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// Returns a handle that can cancel the call from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Lets the call go on with nobody waiting for its answer: a saved picture is still written to its folder.
    pub fn detach(mut self) {
        self.cancels_on_drop = false;
    }
}

impl<R> Future for Answer<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.future.as_mut().poll(context);
        if outcome.is_ready() {
            self.cancels_on_drop = false;
        }
        outcome
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        if self.cancels_on_drop {
            self.canceller.cancel();
        }
    }
}

impl<R> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

/// Cancels one call, from anywhere and at any time; after the call's end it does nothing.
#[derive(Clone)]
pub struct Canceller(Arc<Cancelling>);

struct Cancelling {
    target: Target,
    done: AtomicBool,
    handle: Handle,
}

enum Target {
    Request(u64),
    Job(String),
}

impl Canceller {
    pub(crate) fn of_request(id: u64, handle: Handle) -> Self {
        Self::of(Target::Request(id), handle)
    }

    pub(crate) fn of_job(job: String, handle: Handle) -> Self {
        Self::of(Target::Job(job), handle)
    }

    fn of(target: Target, handle: Handle) -> Self {
        Self(Arc::new(Cancelling { target, done: AtomicBool::new(false), handle }))
    }

    /// Cancels the call.
    pub fn cancel(&self) {
        if self.0.done.swap(true, Ordering::Relaxed) {
            return;
        }
        match &self.0.target {
            Target::Request(id) => self.0.handle.cancel(*id),
            Target::Job(job) => self.0.handle.cancel_job(job),
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}
