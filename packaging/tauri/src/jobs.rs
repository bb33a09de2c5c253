//! The messages of the long calls in flight: they go to the page that made the call, and to each that follows its job.
//!
//! This module ensures that a window that follows a job takes nothing from another. In the sidecar a job has one
//! channel, which `jobs.attach` moves. So jobs that windows started are followed here; only others (those of Rust code)
//! are followed in the sidecar.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use locara_diffusion::{Canceller, Message};
use serde_json::Value;
use tauri::ipc::Channel;
use tokio::sync::watch;

use crate::calls::{Page, locked};
use crate::error::Error;

#[derive(Clone, Default)]
pub(crate) struct Jobs(Arc<Mutex<HashMap<String, Arc<Job>>>>);

/// A call, and the pages that get its messages.
pub(crate) struct Job {
    canceller: Canceller,
    told: Mutex<Told>,
    /// Its answer, once there is one.
    answer: watch::Sender<Option<Outcome>>,
}

/// A call's result, or why there is none.
pub(crate) type Outcome = Result<Value, locara_diffusion::Error>;

#[derive(Default)]
struct Told {
    /// The last message, with the latest preview of its image.
    last: Option<Value>,
    /// A reloaded page takes the place of the previous page, whose Channel nobody reads any more.
    takers: HashMap<Page, Taker>,
}

struct Taker {
    channel: Channel<Value>,
    sent: Sent,
}

/// How many messages were sent on one Channel.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Taker {
    fn give(&self, message: Value) {
        // a page that is gone receives nothing; the end of its window cancels the call, not the end of the page
        if self.channel.send(message).is_ok() {
            self.sent.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A call as long as its messages come, until [`Running::end`].
pub(crate) struct Running {
    jobs: Jobs,
    job: Arc<Job>,
    /// The job's id from its messages; none for a call without a job.
    id: Option<String>,
}

impl Jobs {
    /// Registers a call that was sent. Its messages go to that page.
    pub(crate) fn begin(&self, page: Page, channel: Channel<Value>, canceller: Canceller) -> (Running, Sent) {
        let job = Arc::new(Job { canceller, told: Mutex::default(), answer: watch::Sender::new(None) });
        let sent = job.add(page, channel);
        (Running { jobs: self.clone(), job, id: None }, sent)
    }

    /// Returns a job that a window has started, while it runs.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Job>> {
        locked(&self.0).get(id).cloned()
    }

    /// Called when a window is gone: it receives no more messages.
    pub(crate) fn forget_window(&self, window: &str) {
        let jobs: Vec<_> = locked(&self.0).values().cloned().collect();
        for job in jobs {
            locked(&job.told).takers.retain(|page, _| page.0 != window);
        }
    }
}

impl Job {
    /// Adds a page: it gets the latest message first, then those that follow.
    pub(crate) fn add(&self, page: Page, channel: Channel<Value>) -> Sent {
        let mut told = locked(&self.told);
        let taker = Taker { channel, sent: Sent::default() };
        let sent = taker.sent.clone();
        if let Some(last) = &told.last {
            taker.give(last.clone());
        }
        // a job that has ended sends no more
        let before = if self.answer.borrow().is_some() { Some(taker) } else { told.takers.insert(page, taker) };
        drop(told);
        drop(before);
        sent
    }

    pub(crate) fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the answer to the job's own call.
    pub(crate) async fn answered(&self) -> Result<Value, Error> {
        let mut answer = self.answer.subscribe();
        let answer = answer.wait_for(Option::is_some).await;
        let outcome = answer.ok().and_then(|answer| answer.clone());
        Ok(outcome.ok_or(Error::Ending)??)
    }
}

impl Running {
    /// Passes a message on to all its pages.
    pub(crate) fn tell(&mut self, message: Value) {
        if self.id.is_none()
            && let Some(id) = message.get("jobId").and_then(Value::as_str)
        {
            self.id = Some(id.to_owned());
            locked(&self.jobs.0).insert(id.to_owned(), Arc::clone(&self.job));
        }
        let mut told = locked(&self.job.told);
        for taker in told.takers.values() {
            taker.give(message.clone());
        }
        told.last = Some(match told.last.take() {
            Some(older) => Message::merge(older, message),
            None => message,
        });
    }
}

impl Running {
    /// Called when the call is answered. Closes all Channels: their end frames come before the answers.
    pub(crate) fn end(self, outcome: &Outcome) {
        if let Some(id) = &self.id {
            locked(&self.jobs.0).remove(id);
        }
        let mut told = locked(&self.job.told);
        told.takers.clear();
        self.job.answer.send_replace(Some(outcome.clone()));
    }
}
