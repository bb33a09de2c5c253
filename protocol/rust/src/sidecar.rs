//! The API: what an app calls.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::builder::{Builder, Config};
use crate::call::{Answer, Messages};
use crate::error::Error;
#[cfg(unix)]
use crate::handing::Handed;
use crate::handle::{Command, Handle};
use crate::message::{JobAnswer, JobMessage, Method};
use crate::schema::{self as s, methods as m};
use crate::supervisor::Supervisor;

/// A sidecar and the session with it. Clones are the same one; when the last is dropped the process ends, and calls
/// under way fail.
#[derive(Clone)]
pub struct Sidecar(Arc<Inner>);

struct Inner {
    handle: Handle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.handle.send(Command::Dropped);
    }
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sidecar").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Sidecar {
    /// How one is started.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn start(config: Config) -> (Self, impl Future<Output = Result<(), Error>> + Send + use<>) {
        let (sender, commands) = mpsc::unbounded_channel();
        let handle = Handle::new(sender, config.max_calls, config.hands_files);
        let sidecar = Self(Arc::new(Inner { handle: handle.clone() }));
        let (told, first) = oneshot::channel();
        tokio::spawn(Supervisor::new(config, commands, handle).run(told));
        (sidecar, async move { first.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

    // --- pictures ---

    /// Text to image: its steps, with previews, and its result.
    pub fn generate(&self, params: s::GenerateParams) -> (Messages<s::DiffusionStep>, Answer<s::GenerateResult>) {
        self.stream::<m::ImageGenerate>(params)
    }

    /// Changes an image: as a whole, where a mask is white, or as the prompt says.
    pub fn edit(&self, params: s::EditParams) -> (Messages<s::DiffusionStep>, Answer<s::GenerateResult>) {
        self.stream::<m::ImageEdit>(params)
    }

    /// Cancels a job of which only the id is known; whether a queued or running one was told to stop.
    pub async fn cancel_job(&self, job: &str) -> Result<bool, Error> {
        Ok(self.request::<m::ImageCancel>(s::CancelJobParams::new(job)).await?.cancelled)
    }

    // --- jobs ---

    /// Those that wait or run, in the order of their turns; then those that ended lately.
    pub async fn jobs(&self) -> Result<Vec<s::JobInfo>, Error> {
        Ok(self.request::<m::JobsList>(s::NoParams {}).await?.jobs)
    }

    /// The further messages of a job and the answer of its own call, as after a web view was loaded again: its first
    /// message is the last one that there was, with the preview. Whoever had them before has them no more.
    ///
    /// To drop the answer is to look away: the job goes on. Its [`Answer::cancel`] cancels the job.
    pub fn attach(&self, job: impl Into<String>) -> (Messages<JobMessage>, Answer<JobAnswer>) {
        self.0.handle.attach(job.into())
    }

    /// What a job that has ended was answered with; fails with its error, if that was it.
    pub async fn job_result(&self, job: &str) -> Result<JobAnswer, Error> {
        self.request::<m::JobsResult>(s::JobResultParams::new(job)).await
    }

    // --- models ---

    /// The models that the app's manifest declares.
    pub async fn models(&self) -> Result<Vec<s::Model>, Error> {
        Ok(self.request::<m::ModelsList>(s::NoParams {}).await?.models)
    }

    /// One model of the catalogue.
    pub async fn model(&self, model: &str) -> Result<s::Model, Error> {
        self.request::<m::ModelsGet>(s::ModelParams::new(model)).await
    }

    /// Downloads a model, from where the last try stopped.
    pub fn download(&self, model: &str) -> (Messages<s::DownloadProgress>, Answer<s::InstalledResult>) {
        self.stream::<m::ModelsDownload>(s::ModelWorkParams::new(model))
    }

    /// Hashes an installed model's files again and compares.
    pub fn verify(&self, model: &str) -> (Messages<s::ModelProgress>, Answer<s::VerifyResult>) {
        self.stream::<m::ModelsVerify>(s::ModelWorkParams::new(model))
    }

    /// Takes a model from a folder.
    pub fn import(&self, params: s::ImportParams) -> (Messages<s::ModelProgress>, Answer<s::InstalledResult>) {
        self.stream::<m::ModelsImport>(params)
    }

    /// Has the engine load a model ahead of its first job.
    pub fn load(&self, params: s::LoadParams) -> (Messages<s::ModelProgress>, Answer<s::LoadResult>) {
        self.stream::<m::ModelsLoad>(params)
    }

    /// Keeps a model as the engine has quantized it, so that it loads sooner.
    pub fn prepare(&self, params: s::PrepareParams) -> (Messages<s::ModelProgress>, Answer<s::PrepareResult>) {
        self.stream::<m::ModelsPrepare>(params)
    }

    /// Gives the engine's memory back if it has no work; whether it did.
    pub async fn unload(&self) -> Result<bool, Error> {
        Ok(self.request::<m::ModelsUnload>(s::NoParams {}).await?.unloaded)
    }

    /// Removes a model, or with `prepared` its prepared forms alone.
    pub async fn remove(&self, params: s::RemoveParams) -> Result<s::RemovedResult, Error> {
        self.request::<m::ModelsRemove>(params).await
    }

    /// The room that models take.
    pub async fn usage(&self) -> Result<s::UsageResult, Error> {
        self.request::<m::ModelsUsage>(s::NoParams {}).await
    }

    /// Collects what no model needs and, down to `max_bytes`, the models used least recently.
    pub async fn collect(&self, params: s::GcParams) -> Result<s::RemovedResult, Error> {
        self.request::<m::ModelsGc>(params).await
    }

    // --- the host's own: never for a web view ---

    /// A handle of a file that the user picked in a dialog, for `image`, `mask` and `options.output`. It is good until
    /// the process ends: after a restart it is unknown.
    pub async fn pick_file(&self, path: &Path, access: s::FileAccess) -> Result<s::PickFileResult, Error> {
        let Some(path) = path.to_str() else {
            let reason = "$.path: the contract has no names of files that are not Unicode".to_owned();
            return Err(Error::Params { method: m::HostPickFile::NAME.to_owned(), reason });
        };
        let params = s::PickFileParams { path: Some(path.to_owned()), ..s::PickFileParams::new(access) };
        self.0.handle.pick(params, None).await
    }

    /// The same for a file that the sidecar cannot open by its path, as in macOS's App Sandbox: its bytes, to be read.
    /// `name` is the file's own, without its folder.
    pub async fn pick_bytes(&self, name: &str, bytes: &[u8]) -> Result<s::PickFileResult, Error> {
        let (name, data) = (Some(name.to_owned()), Some(STANDARD.encode(bytes)));
        let params = s::PickFileParams { name, data, ..s::PickFileParams::new(s::FileAccess::Read) };
        self.0.handle.pick(params, None).await
    }

    /// The same for a file that is open here, for `access` and not for appending: a [`File`](std::fs::File), whose
    /// `try_clone` can be given where it is needed afterwards. It is closed once the call has ended, whether or not it
    /// succeeds. A picture is written into it in place, over its old content.
    ///
    /// Needs [`Builder::hands_files`], and fails with [`Error::Params`] without. If the future is dropped, the file is
    /// not picked, or is released again.
    #[cfg(unix)]
    pub async fn pick_open_file(
        &self,
        name: &str,
        file: impl Into<std::os::fd::OwnedFd>,
        access: s::FileAccess,
    ) -> Result<s::PickFileResult, Error> {
        let handle = &self.0.handle;
        let refused =
            |reason: &str| Error::Params { method: m::HostPickFile::NAME.to_owned(), reason: reason.to_owned() };
        if !handle.hands_files {
            return Err(refused("$.descriptor: the sidecar was started without Builder::hands_files"));
        }
        // a call with another name is refused before its file is taken from the socket, which would fill up
        if Path::new(name).file_name() != Some(name.as_ref()) || name.chars().count() > 255 {
            return Err(refused("$.name: it is not the file's own name, without its folder"));
        }
        let handed = Handed { name: format!("file-{}", handle.next_id()), file: Arc::new(file.into()) };
        let (name, descriptor) = (Some(name.to_owned()), Some(handed.name.clone()));
        let params = s::PickFileParams { name, descriptor, ..s::PickFileParams::new(access) };
        handle.pick(params, Some(handed)).await
    }

    /// No new call may use that handle any more.
    pub async fn release_file(&self, handle: &str) -> Result<(), Error> {
        self.request::<m::HostReleaseFile>(s::ReleaseFileParams::new(handle)).await.map(|_| ())
    }

    /// The gate's decisions about this app's calls, oldest first.
    pub async fn capability_log(&self, params: s::CapabilityLogParams) -> Result<Vec<s::AuditEntry>, Error> {
        Ok(self.request::<m::AuditCapabilityLog>(params).await?.entries)
    }

    // --- the sidecar itself ---

    /// Platform, memory, engines, sandbox, cache folder.
    pub async fn info(&self) -> Result<s::SystemInfo, Error> {
        self.request::<m::SystemInfo>(s::NoParams {}).await
    }

    /// Is it alive, what is the engine doing, how many jobs are there.
    pub async fn ping(&self) -> Result<s::PingResult, Error> {
        self.request::<m::Ping>(s::NoParams {}).await
    }

    /// What `initialize` was answered with, the last time: versions, limits, and what the app was granted.
    #[must_use]
    pub fn session(&self) -> Option<Arc<s::InitializeResult>> {
        self.0.handle.known().session.clone()
    }

    /// The process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.handle.known().pid
    }

    /// How often a process was started: 1, until the first one has ended and a call needed another.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.0.handle.known().starts
    }

    /// How many calls are under way, those included that were dropped and are not answered yet.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.0.handle.open()
    }

    /// Ends the sidecar for good: closes its stdin and waits; after the close timeout its process group is killed.
    /// Calls under way are answered or fail, and so does every later one. May be repeated.
    pub async fn close(&self) -> Option<ExitStatus> {
        let (told, exit) = oneshot::channel();
        self.0.handle.send(Command::Close(told));
        match exit.await {
            Ok(exit) => exit,
            Err(_) => self.0.handle.known().exit,
        }
    }

    // --- any method ---

    /// Any method, by its type in [`methods`](crate::methods), without its messages.
    #[allow(clippy::needless_pass_by_value)] // as a call reads best
    pub fn request<N: Method>(&self, params: N::Params) -> Answer<N::Result> {
        self.0.handle.ask(N::NAME, &params)
    }

    /// Any long method with its messages.
    #[allow(clippy::needless_pass_by_value)]
    pub fn stream<N: Method>(&self, params: N::Params) -> (Messages<N::Message>, Answer<N::Result>) {
        self.0.handle.stream(N::NAME, &params)
    }

    /// Any method by its name, with parameters as a web view gave them: what is unknown or misspelt in them is told by
    /// the sidecar. Only a `streams` call has messages. A shell must never pass on names that begin with `host.`.
    pub fn call(
        &self,
        method: &str,
        params: &Map<String, Value>,
        streams: bool,
    ) -> (Messages<Value>, Answer<Map<String, Value>>) {
        if streams {
            self.0.handle.stream(method, params)
        } else {
            (Messages::none(), self.0.handle.ask(method, params))
        }
    }
}
