//! The long calls in flight, by the window that made them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use locara_diffusion::Canceller;

use crate::error::Error;

/// The longest id of a request.
const MAX_ID: usize = 128;

/// A window and a web view in it; there is one page at a time.
pub(crate) type Page = (String, String);

/// A window, a web view in it, and the id that its page gave the call.
type Key = (String, String, String);

#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<HashMap<Key, Arc<Cancelling>>>>);

/// The handle for cancelling one call, even before it is sent.
struct Cancelling {
    /// Whether it only follows a job, which goes on without followers.
    follows: bool,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    cancelled: bool,
    canceller: Option<Canceller>,
}

impl Cancelling {
    fn cancel(&self) {
        let mut asked = locked(&self.asked);
        asked.cancelled = true;
        if let Some(canceller) = &asked.canceller {
            canceller.cancel();
        }
    }
}

/// A call that is in flight as long as this value lives.
pub(crate) struct Open {
    calls: Calls,
    key: Key,
    cancelling: Arc<Cancelling>,
}

impl Calls {
    /// Fails if the id is missing or belongs to another call.
    ///
    /// `follows`: the call is about a job of another one, and the end of the window does not cancel it.
    pub(crate) fn open(
        &self,
        (window, webview): (&str, &str),
        id: Option<String>,
        follows: bool,
    ) -> Result<Open, Error> {
        let id = id.filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let id = id.ok_or_else(|| refused(format!("A long call needs an id, a string of 1 to {MAX_ID} bytes.")))?;
        let key = (window.to_owned(), webview.to_owned(), id);
        let cancelling = Arc::new(Cancelling { follows, asked: Mutex::default() });
        let mut calls = locked(&self.0);
        if calls.contains_key(&key) {
            return Err(refused("Another call in flight has this id.".to_owned()));
        }
        calls.insert(key.clone(), Arc::clone(&cancelling));
        Ok(Open { calls: self.clone(), key, cancelling })
    }

    pub(crate) fn is_empty(&self) -> bool {
        locked(&self.0).is_empty()
    }

    /// Cancels one call; does nothing if it is not in flight.
    pub(crate) fn cancel(&self, (window, webview): (&str, &str), id: &str) {
        let key = (window.to_owned(), webview.to_owned(), id.to_owned());
        let found = locked(&self.0).get(&key).cloned();
        if let Some(call) = found {
            call.cancel();
        }
    }

    /// Cancels the calls of a window that is gone.
    pub(crate) fn cancel_window(&self, window: &str) {
        let ends = |key: &Key, call: &Cancelling| key.0 == window && !call.follows;
        let found: Vec<_> =
            locked(&self.0).iter().filter(|(key, call)| ends(key, call)).map(|(_, call)| Arc::clone(call)).collect();
        for call in found {
            call.cancel();
        }
    }
}

#[cfg(test)]
impl Calls {
    pub(crate) fn len(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Open {
    /// The window and the web view that made it.
    pub(crate) fn page(&self) -> Page {
        (self.key.0.clone(), self.key.1.clone())
    }

    /// Notes that the call was sent. If it was cancelled before that, it is cancelled now.
    pub(crate) fn sent(&self, canceller: Canceller) {
        let mut asked = locked(&self.cancelling.asked);
        if asked.cancelled {
            canceller.cancel();
        }
        asked.canceller = Some(canceller);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        locked(&self.calls.0).remove(&self.key);
    }
}

fn refused(reason: String) -> Error {
    Error::Params { path: "$.requestId", reason }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
