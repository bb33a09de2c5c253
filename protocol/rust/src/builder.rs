//! Configures and starts a sidecar.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::error::{Error, Violation};
use crate::exchange::Note;
use crate::schema::{Auth, ClientInfo, InitializeParams, PROTOCOL_VERSION};
use crate::sidecar::Sidecar;

pub(crate) type OnLog = Arc<dyn Fn(&str) + Send + Sync>;

/// What happens once the sidecar's process has ended without being closed. Calls in flight fail, and are never sent
/// again automatically.
///
/// A process that reports that an update has replaced its files ([`Error::is_outdated`]) has to end, too: it is closed
/// as soon as it has answered all calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// Every further call fails with how the process ended. After an update it is not closed: that is up to the app.
    Never,
    /// The next call restarts it. As long as no call succeeds, it waits `first`, then twice as long each time, up to
    /// `most`.
    OnDemand {
        /// The wait after a process that did not answer any call.
        first: Duration,
        /// The longest wait.
        most: Duration,
    },
}

impl Default for Restart {
    fn default() -> Self {
        Self::OnDemand { first: Duration::from_millis(250), most: Duration::from_secs(30) }
    }
}

impl Restart {
    /// How long to wait after this many processes in a row that answered no call; none if it is not restarted.
    pub(crate) fn wait(self, failures: u32) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::OnDemand { .. } if failures == 0 => Some(Duration::ZERO),
            Self::OnDemand { first, most } => Some(first.saturating_mul(1 << (failures - 1).min(16)).min(most)),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
    clears_variables: bool,
    folder: Option<PathBuf>,
    pub(crate) opening: InitializeParams,
    pub(crate) restart: Restart,
    pub(crate) max_calls: usize,
    pub(crate) start_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) on_log: Option<OnLog>,
    pub(crate) hands_files: bool,
    on_violation: Option<Note>,
}

impl Config {
    pub(crate) fn surroundings(&self, command: &mut Command) {
        if self.clears_variables {
            command.env_clear();
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
    }

    pub(crate) fn unspawned(&self, source: std::io::Error) -> Error {
        Error::Spawn { program: self.program.to_string_lossy().into_owned(), source: Arc::new(source) }
    }

    pub(crate) fn note(&self) -> Note {
        let told = self.on_violation.clone();
        Arc::new(move |violation: &Violation| {
            tracing::warn!("the sidecar broke the contract: {violation}");
            if let Some(told) = &told {
                told(violation);
            }
        })
    }
}

/// Configures and starts a sidecar; created by [`Sidecar::builder`].
#[must_use = "a builder does nothing until spawn()"]
pub struct Builder {
    config: Config,
    manifest: Option<Value>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let client = ClientInfo::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let mut opening = InitializeParams::new(u64::from(PROTOCOL_VERSION), client);
        opening.process_id = Some(std::process::id());
        let config = Config {
            program: "locara-sidecar".into(),
            args: vec!["serve".into()],
            variables: Vec::new(),
            clears_variables: false,
            folder: None,
            opening,
            restart: Restart::default(),
            max_calls: 256,
            start_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
            on_log: None,
            hands_files: false,
            on_violation: None,
        };
        Self { config, manifest: None }
    }

    /// What to run: a program and its arguments; by default `locara-sidecar serve`.
    pub fn command<A: Into<OsString>>(
        mut self,
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        self.config.program = program.into();
        self.config.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// One more argument, such as `--allow-downloads`.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.config.args.push(arg.into());
        self
    }

    /// Sets a variable in the sidecar's environment, which is otherwise inherited from this process.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.config.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an inherited variable from the sidecar's environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.config.variables.push((name.into(), None));
        self
    }

    /// Starts from an empty environment; the sidecar needs no variable.
    pub fn env_clear(mut self) -> Self {
        self.config.clears_variables = true;
        self.config.variables.clear();
        self
    }

    /// The sidecar's working directory.
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config.folder = Some(folder.into());
        self
    }

    /// The app's `locara.json`, as an object. Without it nothing is granted.
    pub fn manifest(mut self, manifest: Value) -> Self {
        self.manifest = Some(manifest);
        self
    }

    /// The folder that stands for a root: `user-folder`, `app-data` or `user-paths.<name>`.
    pub fn grant(mut self, root: impl Into<String>, folder: impl Into<String>) -> Self {
        self.config.opening.grants.get_or_insert_default().insert(root.into(), folder.into());
        self
    }

    /// The host's name and version.
    pub fn client_info(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.config.opening.client_info = ClientInfo::new(name, version);
        self
    }

    /// The token for gated downloads. It is never printed.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.config.opening.auth = Some(Auth::new(token));
        self
    }

    /// The process whose end also ends the sidecar, for a host behind a wrapper; by default this process.
    pub fn process_id(mut self, process: Option<u32>) -> Self {
        self.config.opening.process_id = process;
        self
    }

    /// Whether [`Sidecar::pick_open_file`] is used. Each process then inherits one end of a pair of Unix sockets, and
    /// its arguments get `--descriptors N`.
    #[cfg(unix)]
    pub fn hands_files(mut self, hands: bool) -> Self {
        self.config.hands_files = hands;
        self
    }

    /// What happens once the process has ended without being closed.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.config.restart = restart;
        self
    }

    /// How many calls may be in flight (256), so that memory stays bounded whatever the app does.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.config.max_calls = calls;
        self
    }

    /// How long `initialize` may take (60 s).
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.config.start_timeout = time;
        self
    }

    /// How long the sidecar may take to end once its stdin is closed (2 s); then its process group is killed.
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.config.close_timeout = time;
        self
    }

    /// A callback for each line of the sidecar's log, which is one JSON object. It must be quick. The lines also go to
    /// `tracing`, at level DEBUG.
    pub fn on_log(mut self, take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.config.on_log = Some(Arc::new(take));
        self
    }

    /// A callback for each violation of the contract by the sidecar. They also go to `tracing`, at level WARN.
    pub fn on_violation(mut self, take: impl Fn(&Violation) + Send + Sync + 'static) -> Self {
        self.config.on_violation = Some(Arc::new(take));
        self
    }

    /// Starts the process and opens the session, within a tokio runtime.
    ///
    /// Fails with [`Error::Spawn`] if the program cannot be started, [`Error::Gone`] if it ends, [`Error::Remote`] if
    /// it refuses the session, and [`Error::Violation`] if it speaks a version of the contract that was not offered.
    pub async fn spawn(self) -> Result<Sidecar, Error> {
        let (sidecar, opened) = self.start()?;
        opened.await?;
        Ok(sidecar)
    }

    /// The same in two steps, within a tokio runtime: returns the sidecar, and a future that waits until its session is
    /// open. So the sidecar can be closed while it starts. Calls made before that wait for the session, too.
    ///
    /// Either step can fail as [`Builder::spawn`] does; if the second fails, the sidecar cannot be used any more.
    pub fn start(mut self) -> Result<(Sidecar, impl Future<Output = Result<(), Error>> + Send + use<>), Error> {
        if let Some(manifest) = self.manifest {
            let Value::Object(members) = manifest else {
                let reason = "the manifest is not a JSON object".to_owned();
                return Err(Error::Params { method: "initialize".to_owned(), reason });
            };
            self.config.opening.manifest = Some(members);
        }
        Ok(Sidecar::start(self.config))
    }
}
