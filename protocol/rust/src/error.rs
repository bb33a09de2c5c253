//! Errors, with the contract's kinds.

use std::fmt;
use std::process::ExitStatus;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::{ErrorKind, ImageResult};

/// The error of a call. Cheap to clone, because the end of a process fails all of its calls.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sidecar answered with an error.
    #[error(transparent)]
    Remote(#[from] Arc<RemoteError>),
    /// The process has ended, or was closed, before it answered.
    #[error(transparent)]
    Gone(#[from] Arc<Gone>),
    /// The sidecar did something that the contract forbids.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The program cannot be started.
    #[error("{program} cannot be started: {source}")]
    Spawn {
        /// The program that was to be run.
        program: String,
        /// Why it could not be started.
        source: Arc<std::io::Error>,
    },
    /// `initialize` was not answered within [`Builder::start_timeout`](crate::Builder::start_timeout).
    #[error("The sidecar did not answer `initialize` within {seconds} seconds.")]
    StartTimeout {
        /// How long it was given.
        seconds: f64,
    },
    /// The parameters cannot be sent.
    #[error("The parameters of {method} cannot be sent: {reason}")]
    Params {
        /// The method of the call.
        method: String,
        /// What is wrong with them.
        reason: String,
    },
    /// More calls are in flight than [`Builder::max_calls`](crate::Builder::max_calls) allows.
    #[error("{limit} calls are already in flight.")]
    TooManyCalls {
        /// How many are allowed.
        limit: usize,
    },
}

impl Error {
    /// The sidecar's own error, if it answered with one.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) => Some(error),
            _ => None,
        }
    }

    /// The kind of the sidecar's error.
    #[must_use]
    pub fn kind(&self) -> Option<&ErrorKind> {
        self.remote().map(|error| &error.kind)
    }

    /// Whether the call was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind() == Some(&ErrorKind::RequestCancelled)
    }

    /// Whether the same request may succeed if it is sent again: if the sidecar says so, or its process ended.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Remote(error) => error.retryable(),
            Self::Gone(gone) => !gone.closed,
            Self::TooManyCalls { .. } => true,
            _ => false,
        }
    }

    /// Whether an update has replaced the sidecar's files while its process runs, so this call needs a new process.
    /// The next call starts one, unless [`Restart::Never`](crate::Restart::Never) was chosen. Then make the call again;
    /// files that it names must be picked again.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.remote().is_some_and(RemoteError::is_outdated)
    }

    pub(crate) fn unsent() -> Self {
        let data = Map::from_iter([
            ("kind".to_owned(), Value::from(ErrorKind::RequestCancelled.as_str())),
            ("retryable".to_owned(), Value::from(true)),
            ("images".to_owned(), Value::Array(Vec::new())),
        ]);
        let message = "The call was cancelled before it was sent.".to_owned();
        Self::Remote(Arc::new(RemoteError { kind: ErrorKind::RequestCancelled, code: -32800, message, data }))
    }
}

/// The sidecar answered with an error. Serialized, it is what was on the wire: `code`, `message` and `data`.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct RemoteError {
    /// From `data.kind`, or else from the code.
    #[serde(skip)]
    pub kind: ErrorKind,
    /// The JSON-RPC code.
    pub code: i64,
    /// One sentence for a person.
    pub message: String,
    /// Everything that the sidecar reported.
    pub data: Map<String, Value>,
}

impl RemoteError {
    /// Whether the same request may succeed if it is sent again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.data.get("retryable") == Some(&Value::Bool(true))
    }

    /// Whether only a new process can do this: see [`Error::is_outdated`].
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.data.get("reason").and_then(Value::as_str) == Some("updated")
    }

    /// For InvalidParams, and other errors about one member: its path, from `$`.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.data.get("path").and_then(Value::as_str)
    }

    /// The images that were finished before an image's job was cancelled or failed.
    #[must_use]
    pub fn images(&self) -> Vec<ImageResult> {
        self.member("images").unwrap_or_default()
    }

    /// For CapabilityDenied: what was denied, why, and what would grant it.
    #[must_use]
    pub fn denied(&self) -> Option<Denied> {
        let all = Value::Object(self.data.clone());
        (self.kind == ErrorKind::CapabilityDenied).then(|| serde_json::from_value(all).ok()).flatten()
    }

    fn member<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.data.get(name).and_then(|value| serde_json::from_value(value.clone()).ok())
    }
}

/// Reads an answer's error object; members that are missing or of another type are ignored.
#[derive(Deserialize)]
pub(crate) struct WireError {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Value,
}

impl From<WireError> for RemoteError {
    fn from(wire: WireError) -> Self {
        let Value::Object(data) = wire.data else {
            return Self::from(WireError { data: Value::Object(Map::new()), ..wire });
        };
        let told = data.get("kind").and_then(|kind| serde_json::from_value(kind.clone()).ok());
        let kind = told.or_else(|| ErrorKind::of_code(wire.code)).unwrap_or(ErrorKind::InternalError);
        Self { kind, code: wire.code, message: wire.message, data }
    }
}

/// The details of a CapabilityDenied.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Denied {
    /// What was requested, for example `models` or `fs.user-folder`.
    pub capability: String,
    /// The model or the path that it is about.
    pub resource: String,
    /// `notDeclared`, `noHostGrant`, `hostFlag` or `digestMismatch`.
    pub reason: String,
    /// The manifest fragment that would grant everything that the call lacks.
    pub declare: Option<Map<String, Value>>,
    /// What the host must supply.
    pub host: Option<Value>,
}

/// The process is gone: how it ended, if known, and the end of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gone {
    /// How it ended; none if it never started, or did not end even when it was killed.
    pub exit: Option<ExitStatus>,
    /// The end of what it wrote to stderr, 8 KiB at most.
    pub stderr: String,
    /// Whether this host closed it.
    pub closed: bool,
}

impl Gone {
    /// The exit status, unless a signal ended it.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        self.exit.and_then(|exit| exit.code())
    }

    /// The signal that ended it.
    #[cfg(unix)]
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.exit.and_then(|exit| exit.signal())
    }
}

const SHOWN: usize = 300;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            _ if self.closed => f.write_str("The sidecar was closed.")?,
            Some(exit) => write!(f, "The sidecar ended with {exit}.")?,
            None => f.write_str("The sidecar is gone.")?,
        }
        match self.stderr.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) if !self.closed => {
                write!(f, " Its last words: {}", last.chars().take(SHOWN).collect::<String>())
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Gone {}

/// The sidecar did something that the contract forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
#[non_exhaustive]
pub struct Violation {
    /// What it did, in one sentence.
    pub sentence: String,
}

impl Violation {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }
}
