//! Files that the user picks: a web view gets a handle and the file's own name, never a path.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use locara_diffusion::{FileAccess, PickFileResult, Sidecar};
use serde::Deserialize;
use tauri::{Manager, Runtime, Window};
use tauri_plugin_dialog::{Dialog, DialogExt};

use crate::diffusion::Diffusion;
use crate::error::Error;
#[cfg(unix)]
use crate::opening;

/// A request for a file. A web view specifies no more than this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct FileRequest {
    /// The dialog's title.
    #[serde(default)]
    pub title: Option<String>,
    /// The suggested name for a file to save.
    #[serde(default)]
    pub file_name: Option<String>,
    /// Whether it is to be saved; otherwise it is to be read.
    #[serde(skip)]
    pub save: bool,
}

pub(crate) type Chooser<R> = Arc<dyn Fn(&Window<R>, &FileRequest) -> Result<Option<PathBuf>, Error> + Send + Sync>;

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Shows the system's dialog, and blocks until the user has answered.
pub(crate) fn dialogs<R: Runtime>() -> Chooser<R> {
    Arc::new(|window: &Window<R>, request: &FileRequest| {
        window.try_state::<Dialog<R>>().ok_or(Error::NoDialog)?;
        let mut asked = window.dialog().file().add_filter("Images", &EXTENSIONS);
        if let Some(title) = &request.title {
            asked = asked.set_title(title);
        }
        if let Some(name) = &request.file_name {
            asked = asked.set_file_name(name);
        }
        #[cfg(any(windows, target_os = "macos", target_os = "linux"))]
        {
            asked = asked.set_parent(window);
        }
        let picked = if request.save { asked.blocking_save_file() } else { asked.blocking_pick_file() };
        Ok(picked.and_then(|file| file.into_path().ok()))
    })
}

/// The handles that windows hold.
pub(crate) struct Files<R: Runtime> {
    chooser: Chooser<R>,
    /// Whether open files are passed to the sidecar, instead of paths.
    #[cfg_attr(not(unix), allow(dead_code))]
    hands: bool,
    /// By window, for each window that has asked for one, until it is gone.
    held: Mutex<HashMap<String, Vec<Held>>>,
}

/// A handle, and which of the sidecar's processes knows it.
pub(crate) struct Held {
    pub(crate) handle: String,
    process: u64,
}

impl Held {
    /// Whether there is something to release: a handle ends with its process.
    pub(crate) fn is_known(&self, sidecar: &Sidecar) -> bool {
        sidecar.pid().is_some() && sidecar.starts() == self.process
    }
}

impl<R: Runtime> Files<R> {
    pub(crate) fn new(chooser: Chooser<R>, hands: bool) -> Self {
        Self { chooser, hands, held: Mutex::default() }
    }

    /// Asks the user; none if nothing was picked. The file goes to the current sidecar: a new token may have replaced
    /// the old one while the dialog was open.
    pub(crate) async fn pick(
        &self,
        window: Window<R>,
        diffusion: &Diffusion<R>,
        request: FileRequest,
    ) -> Result<Option<PickFileResult>, Error> {
        diffusion.sidecar().await?; // if it cannot be started, that is reported before the user is asked
        let (chooser, label) = (Arc::clone(&self.chooser), window.label().to_owned());
        self.held().entry(label.clone()).or_default();
        let access = if request.save { FileAccess::Write } else { FileAccess::Read };
        let asked = tauri::async_runtime::spawn_blocking(move || chooser(&window, &request));
        let Some(path) = asked.await.map_err(|_| Error::Ending)?? else {
            return Ok(None);
        };
        let sidecar = diffusion.sidecar().await?;
        #[cfg(unix)]
        let picked = if self.hands {
            opening::hand(&sidecar, path, access).await?
        } else {
            sidecar.pick_file(&path, access).await?
        };
        #[cfg(not(unix))]
        let picked = sidecar.pick_file(&path, access).await?;
        let held = Held { handle: picked.handle.clone(), process: sidecar.starts() };
        let is_there = self.held().get_mut(&label).map(|handles| handles.push(held)).is_some();
        if !is_there {
            let _ = sidecar.release_file(&picked.handle).await; // the window was closed before its dialog was
            return Ok(None);
        }
        Ok(Some(picked))
    }

    /// Releases a window's handle; none if the window does not hold it.
    pub(crate) fn released(&self, window: &str, handle: &str) -> Option<Held> {
        let mut held = self.held();
        let handles = held.get_mut(window)?;
        let at = handles.iter().position(|one| one.handle == handle)?;
        Some(handles.swap_remove(at))
    }

    /// The handles of a window that is gone.
    pub(crate) fn taken_back(&self, window: &str) -> Vec<Held> {
        self.held().remove(window).unwrap_or_default()
    }

    /// Called when the sidecar that knew the handles is gone.
    pub(crate) fn forget(&self) {
        self.held().values_mut().for_each(Vec::clear);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl<R: Runtime> Files<R> {
    /// Returns how many handles a window holds.
    pub(crate) fn count(&self, window: &str) -> usize {
        self.held().get(window).map_or(0, Vec::len)
    }
}
