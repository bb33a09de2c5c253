//! The handle that starts and cancels calls, by sending commands to the supervisor.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::call::{Answer, Canceller, Messages};
use crate::error::{Error, Violation};
use crate::exchange::{Reply, Start};
use crate::handing::Handed;
use crate::mailbox::{Mailbox, Sink};
use crate::message::{JobAnswer, JobMessage, Message, Method};
use crate::schema::methods::{HostPickFile, HostReleaseFile, ImageCancel, JobsAttach, JobsResult};
use crate::schema::{AttachParams, AttachResult, CancelJobParams, CancelJobResult, InitializeResult, JobResultParams};
use crate::schema::{PickFileParams, PickFileResult, ReleaseFileParams};

pub(crate) enum Command {
    Start(Start),
    Cancel(u64),
    /// A call that releases something. It is needless once the process has ended, so it never starts another.
    Forget(Start),
    /// Ends the process; answered once it has ended.
    Close(oneshot::Sender<Option<ExitStatus>>),
    /// The last handle is gone: no more calls can come.
    Dropped,
    /// A job has lost a follower.
    Unfollowed,
}

/// What is currently known about the process.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) session: Option<Arc<InitializeResult>>,
    pub(crate) pid: Option<u32>,
    pub(crate) exit: Option<ExitStatus>,
    /// How many processes have been started.
    pub(crate) starts: u64,
}

#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    ids: Arc<AtomicU64>,
    room: Arc<Semaphore>,
    max_calls: usize,
    /// Whether open files can be passed to the sidecar.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(crate) hands_files: bool,
    known: Arc<Mutex<Known>>,
    followers: Arc<AtomicUsize>,
}

impl Handle {
    pub(crate) fn new(commands: mpsc::UnboundedSender<Command>, max_calls: usize, hands_files: bool) -> Self {
        let max_calls = max_calls.min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(max_calls));
        let (ids, known, followers) = (Arc::new(AtomicU64::new(1)), Arc::default(), Arc::default());
        Self { commands, ids, room, max_calls, hands_files, known, followers }
    }

    /// Returns an id that no request has used.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls are in flight, including those that nobody waits for any more.
    pub(crate) fn open(&self) -> usize {
        self.max_calls.saturating_sub(self.room.available_permits())
    }

    /// Whether somebody follows a job, and may still ask for its answer, which no other process has.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }

    /// Sends a command; returns whether the supervisor accepted it.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    pub(crate) fn cancel(&self, id: u64) {
        self.send(Command::Cancel(id));
    }

    pub(crate) fn cancel_job(&self, job: &str) {
        let params = CancelJobParams::new(job);
        self.ask::<CancelJobResult>(ImageCancel::NAME, &params).detach();
    }

    /// Starts a call that streams messages.
    pub(crate) fn stream<M: Message, R: DeserializeOwned + Send + 'static>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> (Messages<M>, Answer<R>) {
        let mailbox = Mailbox::new();
        let answer = self.start(method, params, Some(Arc::clone(&mailbox) as Arc<dyn Sink>), Kind::plain(), as_it_is);
        (Messages::new(mailbox), answer)
    }

    /// Starts a call without messages.
    pub(crate) fn ask<R: DeserializeOwned + Send + 'static>(&self, method: &str, params: &impl Serialize) -> Answer<R> {
        self.start(method, params, None, Kind::plain(), as_it_is)
    }

    /// Picks a file for the user, together with the open file itself if the sidecar cannot open it.
    ///
    /// The sidecar's handle is released if nobody takes the answer.
    pub(crate) async fn pick(&self, params: PickFileParams, file: Option<Handed>) -> Result<PickFileResult, Error> {
        #[cfg(unix)]
        let kept = file.as_ref().map(|handed| Arc::clone(&handed.file));
        let handle = self.clone();
        let picked = move |result| {
            #[cfg(unix)]
            drop(kept); // the call has been answered
            Picked { result: Some(result), handle }
        };
        let kind = Kind { file, ..Kind::plain() };
        self.start(HostPickFile::NAME, &params, None, kind, picked).await?.taken()
    }

    /// Follows a job: its further messages, and the answer to its own call.
    pub(crate) fn attach(&self, job: String) -> (Messages<JobMessage>, Answer<JobAnswer>) {
        let follower = Follower::new(self.clone());
        let mailbox = Mailbox::new();
        let (end, ended) = oneshot::channel();
        let watched = Watched { mailbox: Arc::clone(&mailbox), end: Mutex::new(Some(end)) };
        let params = AttachParams::new(job.clone());
        let attached = self.start(
            JobsAttach::NAME,
            &params,
            Some(Arc::new(watched)),
            Kind { attaches: true, ..Kind::plain() },
            as_it_is::<AttachResult>,
        );
        let canceller = Canceller::of_job(job.clone(), self.clone());
        let answer = async move {
            attached.await?;
            ended.await.unwrap_or_else(|_| Err(Error::closed()))?;
            follower.0.ask(JobsResult::NAME, &JobResultParams::new(job)).await
        };
        (Messages::new(mailbox), Answer::of_job(answer, canceller))
    }

    fn start<R: DeserializeOwned + Send + 'static, T: Send + 'static>(
        &self,
        method: &str,
        params: &impl Serialize,
        sink: Option<Arc<dyn Sink>>,
        Kind { attaches, file }: Kind,
        made: impl FnOnce(R) -> T + Send + 'static,
    ) -> Answer<T> {
        let id = self.next_id();
        let (reply, answer) = oneshot::channel();
        let failed = match (self.room.clone().try_acquire_owned(), object(method, params)) {
            (Ok(permit), Ok(params)) => {
                let reply = typed(method.to_owned(), reply, Some(permit), made);
                let start = Start { id, method: method.to_owned(), params, sink, attaches, file, reply };
                // a supervisor that has ended drops it, which closes the answer
                if let Err(mpsc::error::SendError(Command::Start(start))) = self.commands.send(Command::Start(start)) {
                    refuse(start, Error::closed());
                }
                return Answer::of_request(answer, Canceller::of_request(id, self.clone()));
            }
            (_, Err(error)) => error,
            (Err(_), _) => Error::TooManyCalls { limit: self.max_calls },
        };
        if let Some(sink) = sink {
            sink.close(Some(&failed));
        }
        let _ = reply.send(Err(failed));
        Answer::of_request(answer, Canceller::of_request(id, self.clone()))
    }
}

/// A follower of a job, until it has the answer or is dropped.
struct Follower(Handle);

impl Follower {
    fn new(handle: Handle) -> Self {
        handle.followers.fetch_add(1, Ordering::SeqCst);
        Self(handle)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::SeqCst);
        self.0.send(Command::Unfollowed);
    }
}

/// How a call differs from others.
struct Kind {
    /// Whether its channel outlives its answer.
    attaches: bool,
    file: Option<Handed>,
}

impl Kind {
    fn plain() -> Self {
        Self { attaches: false, file: None }
    }
}

fn as_it_is<R>(result: R) -> R {
    result
}

/// A picked file. Its handle is released unless somebody takes it: the caller may be gone.
struct Picked {
    result: Option<PickFileResult>,
    handle: Handle,
}

impl Picked {
    fn taken(mut self) -> Result<PickFileResult, Error> {
        self.result.take().ok_or_else(Error::closed) // present, because only this takes it
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        let Some(picked) = self.result.take() else { return };
        let method = HostReleaseFile::NAME.to_owned();
        if let Ok(params) = object(&method, &ReleaseFileParams::new(picked.handle)) {
            let (id, reply): (_, Reply) = (self.handle.next_id(), Box::new(|_| None));
            self.handle.send(Command::Forget(Start {
                id,
                method,
                params,
                sink: None,
                attaches: false,
                file: None,
                reply,
            }));
        }
    }
}

/// Fails a call that was not sent.
pub(crate) fn refuse(start: Start, error: Error) {
    if let Some(sink) = start.sink {
        sink.close(Some(&error));
    }
    (start.reply)(Err(error));
}

/// Receives an answer, decodes it for the waiting caller, and then returns the permit.
pub(crate) fn typed<R: DeserializeOwned + Send + 'static, T: Send + 'static>(
    method: String,
    reply: oneshot::Sender<Result<T, Error>>,
    permit: Option<OwnedSemaphorePermit>,
    made: impl FnOnce(R) -> T + Send + 'static,
) -> Reply {
    Box::new(move |answer: Result<&RawValue, Error>| {
        let (told, violation) = match answer.map(|raw| serde_json::from_str(raw.get())) {
            Ok(Ok(result)) => (Ok(made(result)), None),
            Ok(Err(error)) => {
                let violation = Violation::new(format!("The result of {method} does not match the contract: {error}"));
                (Err(violation.clone().into()), Some(violation))
            }
            Err(error) => (Err(error), None),
        };
        drop(permit);
        let _ = reply.send(told); // the caller may be gone
        violation
    })
}

/// Encodes parameters as the text of a JSON object.
pub(crate) fn object(method: &str, params: &impl Serialize) -> Result<String, Error> {
    let failed = |reason: String| Error::Params { method: method.to_owned(), reason };
    let text = serde_json::to_string(params).map_err(|error| failed(error.to_string()))?;
    if text.starts_with('{') {
        Ok(text)
    } else if serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_null()) {
        Ok("{}".to_owned())
    } else {
        Err(failed("they are not a JSON object".to_owned()))
    }
}

/// The messages of an attached job, and a signal once they have ended.
struct Watched {
    mailbox: Arc<Mailbox<JobMessage>>,
    end: Mutex<Option<oneshot::Sender<Result<(), Error>>>>,
}

impl Sink for Watched {
    fn put(&self, message: &RawValue) -> Result<bool, serde_json::Error> {
        self.mailbox.put(message)
    }

    fn close(&self, failure: Option<&Error>) {
        self.mailbox.close(failure);
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            let _ = end.send(failure.cloned().map_or(Ok(()), Err));
        }
    }
}
