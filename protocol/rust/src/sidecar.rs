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

/// A sidecar and its session. Clones share one sidecar; when the last is dropped, the process ends and calls in flight
/// fail.
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
    /// Configures and starts one.
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

    /// Text to image: returns its steps, with previews, and its result.
    pub fn generate(&self, params: s::GenerateParams) -> (Messages<s::DiffusionStep>, Answer<s::GenerateResult>) {
        self.stream::<m::ImageGenerate>(params)
    }

    /// Changes an image: as a whole, where a mask is white, or as the prompt says.
    pub fn edit(&self, params: s::EditParams) -> (Messages<s::DiffusionStep>, Answer<s::GenerateResult>) {
        self.stream::<m::ImageEdit>(params)
    }

    /// Cancels a job by its id; returns whether it was queued or running.
    pub async fn cancel_job(&self, job: &str) -> Result<bool, Error> {
        Ok(self.request::<m::ImageCancel>(s::CancelJobParams::new(job)).await?.cancelled)
    }

    // --- jobs ---

    /// Lists the jobs: first those that run or wait, in queue order; then those that ended recently.
    pub async fn jobs(&self) -> Result<Vec<s::JobInfo>, Error> {
        Ok(self.request::<m::JobsList>(s::NoParams {}).await?.jobs)
    }

    /// Returns a job's further messages and the answer to its own call, for example after a web view reloads. The first
    /// message repeats the latest one, with its preview. The previous receiver gets no more messages.
    ///
    /// Dropping the answer only stops following: the job goes on. [`Answer::cancel`] cancels the job.
    pub fn attach(&self, job: impl Into<String>) -> (Messages<JobMessage>, Answer<JobAnswer>) {
        self.0.handle.attach(job.into())
    }

    /// Returns the answer to a job that has ended; fails with the job's error if it failed.
    pub async fn job_result(&self, job: &str) -> Result<JobAnswer, Error> {
        self.request::<m::JobsResult>(s::JobResultParams::new(job)).await
    }

    // --- models ---

    /// Lists the models that the app's manifest declares.
    pub async fn models(&self) -> Result<Vec<s::Model>, Error> {
        Ok(self.request::<m::ModelsList>(s::NoParams {}).await?.models)
    }

    /// Describes one model of the catalogue.
    pub async fn model(&self, model: &str) -> Result<s::Model, Error> {
        self.request::<m::ModelsGet>(s::ModelParams::new(model)).await
    }

    /// Downloads a model; resumes an interrupted download.
    pub fn download(&self, model: &str) -> (Messages<s::DownloadProgress>, Answer<s::InstalledResult>) {
        self.stream::<m::ModelsDownload>(s::ModelWorkParams::new(model))
    }

    /// Hashes an installed model's files again and compares.
    pub fn verify(&self, model: &str) -> (Messages<s::ModelProgress>, Answer<s::VerifyResult>) {
        self.stream::<m::ModelsVerify>(s::ModelWorkParams::new(model))
    }

    /// Imports a model from a folder.
    pub fn import(&self, params: s::ImportParams) -> (Messages<s::ModelProgress>, Answer<s::InstalledResult>) {
        self.stream::<m::ModelsImport>(params)
    }

    /// Has the engine load a model ahead of its first job.
    pub fn load(&self, params: s::LoadParams) -> (Messages<s::ModelProgress>, Answer<s::LoadResult>) {
        self.stream::<m::ModelsLoad>(params)
    }

    /// Saves a model in quantized form, so that it loads faster.
    pub fn prepare(&self, params: s::PrepareParams) -> (Messages<s::ModelProgress>, Answer<s::PrepareResult>) {
        self.stream::<m::ModelsPrepare>(params)
    }

    /// Frees the engine's memory if it has no work; returns whether it did.
    pub async fn unload(&self) -> Result<bool, Error> {
        Ok(self.request::<m::ModelsUnload>(s::NoParams {}).await?.unloaded)
    }

    /// Removes a model, or with `prepared` its prepared forms alone.
    pub async fn remove(&self, params: s::RemoveParams) -> Result<s::RemovedResult, Error> {
        self.request::<m::ModelsRemove>(params).await
    }

    /// Reports the disk space that models use.
    pub async fn usage(&self) -> Result<s::UsageResult, Error> {
        self.request::<m::ModelsUsage>(s::NoParams {}).await
    }

    /// Removes what no model needs and, down to `max_bytes`, the least recently used models.
    pub async fn collect(&self, params: s::GcParams) -> Result<s::RemovedResult, Error> {
        self.request::<m::ModelsGc>(params).await
    }

    // --- for the host alone, never for a web view ---

    /// Returns a handle for a file that the user picked in a dialog, for `image`, `mask` and `options.output`. It is
    /// valid until the process ends: after a restart it is unknown.
    pub async fn pick_file(&self, path: &Path, access: s::FileAccess) -> Result<s::PickFileResult, Error> {
        let Some(path) = path.to_str() else {
            let reason = "$.path: the contract cannot express file names that are not Unicode".to_owned();
            return Err(Error::Params { method: m::HostPickFile::NAME.to_owned(), reason });
        };
        let params = s::PickFileParams { path: Some(path.to_owned()), ..s::PickFileParams::new(access) };
        self.0.handle.pick(params, None).await
    }

    /// Like [`Self::pick_file`], for a file to read that the sidecar cannot open by its path, as in macOS's App
    /// Sandbox: takes its bytes. `name` is the file's own, without its folder.
    pub async fn pick_bytes(&self, name: &str, bytes: &[u8]) -> Result<s::PickFileResult, Error> {
        let (name, data) = (Some(name.to_owned()), Some(STANDARD.encode(bytes)));
        let params = s::PickFileParams { name, data, ..s::PickFileParams::new(s::FileAccess::Read) };
        self.0.handle.pick(params, None).await
    }

    /// Like [`Self::pick_file`], for a file that is open here, for `access` and not for appending. Pass a
    /// [`try_clone`](std::fs::File::try_clone) if you need the file afterwards: it is closed once the call has ended,
    /// whether or not it succeeds. A picture is written into it in place, over its old content.
    ///
    /// Needs [`Builder::hands_files`]; fails with [`Error::Params`] without it. If the future is dropped, the file is
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
        // the sidecar refuses other names before it takes their file from the socket, which would fill up
        if Path::new(name).file_name() != Some(name.as_ref()) || name.chars().count() > 255 {
            return Err(refused("$.name: it must be the file's own name, without its folder"));
        }
        let handed = Handed { name: format!("file-{}", handle.next_id()), file: Arc::new(file.into()) };
        let (name, descriptor) = (Some(name.to_owned()), Some(handed.name.clone()));
        let params = s::PickFileParams { name, descriptor, ..s::PickFileParams::new(access) };
        handle.pick(params, Some(handed)).await
    }

    /// Releases a handle: no new call may use it.
    pub async fn release_file(&self, handle: &str) -> Result<(), Error> {
        self.request::<m::HostReleaseFile>(s::ReleaseFileParams::new(handle)).await.map(|_| ())
    }

    /// Returns the gate's decisions about this app's calls, oldest first.
    pub async fn capability_log(&self, params: s::CapabilityLogParams) -> Result<Vec<s::AuditEntry>, Error> {
        Ok(self.request::<m::AuditCapabilityLog>(params).await?.entries)
    }

    // --- the sidecar itself ---

    /// Platform, memory, engines, sandbox, cache folder.
    pub async fn info(&self) -> Result<s::SystemInfo, Error> {
        self.request::<m::SystemInfo>(s::NoParams {}).await
    }

    /// Reports whether it is alive, what the engine is doing and how many jobs there are.
    pub async fn ping(&self) -> Result<s::PingResult, Error> {
        self.request::<m::Ping>(s::NoParams {}).await
    }

    /// The latest result of `initialize`: versions, limits, and what the app was granted.
    #[must_use]
    pub fn session(&self) -> Option<Arc<s::InitializeResult>> {
        self.0.handle.known().session.clone()
    }

    /// The process id, while there is a process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.handle.known().pid
    }

    /// How many processes have been started: 1, until the first has ended and a call needed another.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.0.handle.known().starts
    }

    /// How many calls are in flight, including those that were dropped and are not answered yet.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.0.handle.open()
    }

    /// Ends the sidecar for good: closes its stdin and waits; after the close timeout its process group is killed.
    /// Calls in flight are answered or fail; every later call fails. May be called again.
    pub async fn close(&self) -> Option<ExitStatus> {
        let (told, exit) = oneshot::channel();
        self.0.handle.send(Command::Close(told));
        match exit.await {
            Ok(exit) => exit,
            Err(_) => self.0.handle.known().exit,
        }
    }

    // --- any method ---

    /// Calls any method, by its type in [`methods`](crate::methods), without its messages.
    #[allow(clippy::needless_pass_by_value)] // reads best at the call
    pub fn request<N: Method>(&self, params: N::Params) -> Answer<N::Result> {
        self.0.handle.ask(N::NAME, &params)
    }

    /// Calls any long method, with its messages.
    #[allow(clippy::needless_pass_by_value)]
    pub fn stream<N: Method>(&self, params: N::Params) -> (Messages<N::Message>, Answer<N::Result>) {
        self.0.handle.stream(N::NAME, &params)
    }

    /// Calls any method by its name, with parameters from a web view; the sidecar reports what is unknown or misspelt
    /// in them. Only a call with `streams` has messages. A shell must never pass on names that begin with `host.`.
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
