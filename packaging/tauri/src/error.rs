//! The errors of calls, and how they are reported to a web view.

use locara_diffusion::{ErrorKind, Gone};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// The error of a call. A command rejects with it as `{kind, code, message, data}`, where `data` has `kind` and
/// `retryable`, too: the sidecar's own errors are passed on unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sidecar's error, or that there is none.
    #[error(transparent)]
    Sidecar(#[from] locara_diffusion::Error),
    /// The web view's parameters do not fit the command.
    #[error("{reason}")]
    Params {
        /// The member, from `$`.
        path: &'static str,
        /// One sentence.
        reason: String,
    },
    /// The app cannot open the picked file, to pass it to the sidecar.
    #[error("{name} cannot be opened: {source}")]
    Open {
        /// The file's own name, without its folder.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no way to ask the user for a file: the app does not register `tauri-plugin-dialog`.
    #[error("The app has no file dialogs: register tauri_plugin_dialog::init() in Rust.")]
    NoDialog,
    /// The calls in flight must end first.
    #[error("A call is in flight: wait until it has ended, or cancel it.")]
    Busy,
    /// The app is ending.
    #[error("The app is ending.")]
    Ending,
}

/// The code of errors that are not in the contract, whose own codes begin at -32001.
const HOST: i64 = -32000;

impl Error {
    /// The kind, as reported to a web view: one of the contract's, or `SidecarGone` (it ended before it answered, or
    /// cannot be started), `ProtocolViolation`, `NoDialog`, `Busy`.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Sidecar(error) => kind(error),
            Self::Params { .. } => ErrorKind::InvalidParams.as_str(),
            Self::Open { .. } => ErrorKind::StorageError.as_str(),
            Self::NoDialog => "NoDialog",
            Self::Busy => "Busy",
            Self::Ending => "SidecarGone",
        }
    }

    fn code(&self) -> i64 {
        match self {
            Self::Sidecar(error) => match error {
                locara_diffusion::Error::Remote(error) => error.code,
                locara_diffusion::Error::Params { .. } => INVALID_PARAMS,
                locara_diffusion::Error::TooManyCalls { .. } => QUEUE_FULL,
                _ => HOST,
            },
            Self::Params { .. } => INVALID_PARAMS,
            Self::Open { .. } => STORAGE_ERROR,
            Self::NoDialog | Self::Busy | Self::Ending => HOST,
        }
    }

    fn data(&self) -> Map<String, Value> {
        let mut data = match self {
            Self::Sidecar(error) => members(error),
            Self::Params { path, .. } => Map::from_iter([("path".to_owned(), json!(path))]),
            Self::Open { source, .. } => {
                errno(source).into_iter().map(|name| ("errno".to_owned(), json!(name))).collect()
            }
            _ => Map::new(),
        };
        let retryable = match self {
            Self::Sidecar(error) => error.retryable(),
            _ => matches!(self, Self::Busy),
        };
        data.insert("kind".to_owned(), json!(self.kind()));
        data.insert("retryable".to_owned(), json!(retryable));
        data
    }
}

const INVALID_PARAMS: i64 = -32602;
const QUEUE_FULL: i64 = -32013;
const STORAGE_ERROR: i64 = -32014;

/// The name of a common errno of opening a file, as in the sidecar's own errors; the numbers are the same on Linux and
/// macOS.
fn errno(error: &std::io::Error) -> Option<&'static str> {
    let names = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (5, "EIO"),
        (13, "EACCES"),
        (17, "EEXIST"),
        (20, "ENOTDIR"),
        (21, "EISDIR"),
        (22, "EINVAL"),
        (23, "ENFILE"),
        (24, "EMFILE"),
        (28, "ENOSPC"),
        (30, "EROFS"),
    ];
    let number = error.raw_os_error()?;
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

fn kind(error: &locara_diffusion::Error) -> &str {
    match error {
        locara_diffusion::Error::Remote(error) => error.kind.as_str(),
        locara_diffusion::Error::Violation(_) => "ProtocolViolation",
        locara_diffusion::Error::Params { .. } => ErrorKind::InvalidParams.as_str(),
        locara_diffusion::Error::TooManyCalls { .. } => ErrorKind::QueueFull.as_str(),
        _ => "SidecarGone",
    }
}

/// The end of the log stays in Rust, for the app's own log; only its last line is in the message.
fn members(error: &locara_diffusion::Error) -> Map<String, Value> {
    match error {
        locara_diffusion::Error::Remote(error) => error.data.clone(),
        locara_diffusion::Error::Gone(gone) => {
            Map::from_iter([("status".to_owned(), json!(gone.status())), ("signal".to_owned(), json!(signal(gone)))])
        }
        locara_diffusion::Error::Params { .. } => Map::from_iter([("path".to_owned(), json!("$"))]),
        _ => Map::new(),
    }
}

/// The name of the signal that ended it, for example `SIGKILL`, as an `ExitStatus` prints it.
fn signal(gone: &Gone) -> Option<String> {
    let exit = gone.exit?.to_string();
    let name = exit.split(['(', ')']).find(|part| part.starts_with("SIG"));
    name.map(str::to_owned)
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (code, message) = (self.code(), self.to_string());
        json!({"kind": self.kind(), "code": code, "message": message, "data": self.data()}).serialize(serializer)
    }
}
