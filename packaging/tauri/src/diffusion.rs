//! The one sidecar of an app: started at the first call, shared by all windows, ended with the app.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use locara_diffusion::Sidecar;
use serde_json::{Map, Value};
use tauri::path::BaseDirectory;
use tauri::{AppHandle, Manager, Runtime, async_runtime};

use crate::builder::Settings;
use crate::calls::{Calls, locked};
use crate::error::Error;
use crate::files::{Chooser, Files, Held};
use crate::folders::{self, Root};
use crate::jobs::Jobs;

/// How long the sidecar may take to end by itself once the app ends; then its process group is killed. Together that is
/// within 2 seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// What points a Python program to the wrong libraries: an app that is started from a Python environment, or as an `AppImage`,
/// has them.
const UNWANTED: [&str; 4] = ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE"];

/// The plugin's state: [`DiffusionExt::diffusion`](crate::DiffusionExt::diffusion) gives it.
pub struct Diffusion<R: Runtime> {
    app: AppHandle<R>,
    settings: Settings,
    manifest: Map<String, Value>,
    roots: Vec<Root>,
    sidecar: Mutex<Option<Sidecar>>,
    /// The one that is being started.
    opening: Mutex<Option<Sidecar>>,
    token: Mutex<Option<String>>,
    /// Held by the one call that starts the sidecar.
    starting: tokio::sync::Mutex<()>,
    ending: AtomicBool,
    pub(crate) calls: Calls,
    pub(crate) jobs: Jobs,
    pub(crate) files: Files<R>,
}

impl<R: Runtime> Diffusion<R> {
    pub(crate) fn new(
        app: &AppHandle<R>,
        mut settings: Settings,
        chooser: Chooser<R>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let manifest = read(&resource(app, &settings.manifest)?)?;
        let roots = folders::resolved(app, &manifest, &settings.folders)?;
        folders::make(&roots)?;
        folders::show(app, &roots)?;
        let hands_files = cfg!(unix) && settings.hands_files;
        Ok(Self {
            app: app.clone(),
            token: Mutex::new(settings.token.take()),
            settings,
            manifest,
            roots,
            sidecar: Mutex::new(None),
            opening: Mutex::new(None),
            starting: tokio::sync::Mutex::new(()),
            ending: AtomicBool::new(false),
            calls: Calls::default(),
            jobs: Jobs::default(),
            files: Files::new(chooser, hands_files),
        })
    }

    /// The app's sidecar, which is started if it is not there yet. After its death, its next call starts it anew; no call
    /// is sent again by itself.
    ///
    /// With it, Rust code can do all that a web view can, and what only a host may. Do not close it.
    pub async fn sidecar(&self) -> Result<Sidecar, Error> {
        let _starting = match self.running()? {
            Some(sidecar) => return Ok(sidecar),
            None => self.starting.lock().await,
        };
        if let Some(sidecar) = self.running()? {
            return Ok(sidecar); // another call has started it meanwhile
        }
        self.start().await
    }

    /// Starts the sidecar anew with another access token for gated models, or with none. It is kept in memory only.
    ///
    /// Fails with [`Error::Busy`] while a long call of a window is under way, which would end with the old one; if the
    /// sidecar does not take the token, the next call starts it with the one before. Picked files have to be picked again.
    pub async fn set_token(&self, token: Option<String>) -> Result<(), Error> {
        self.running()?;
        let _starting = self.starting.lock().await;
        let old = {
            let mut known = self.known(); // a call that is opened from now on waits for it, and then for the new one
            if !self.calls.is_empty() {
                return Err(Error::Busy);
            }
            known.take()
        };
        let before = std::mem::replace(&mut *locked(&self.token), token);
        if let Some(sidecar) = old {
            sidecar.close().await;
            self.files.forget();
        }
        match self.start().await {
            Ok(_) => Ok(()),
            Err(error) => {
                *locked(&self.token) = before;
                Err(error)
            }
        }
    }

    /// For the holder of `starting`.
    async fn start(&self) -> Result<Sidecar, Error> {
        let (sidecar, opened) = self.builder().start()?;
        *locked(&self.opening) = Some(sidecar.clone());
        let _forgets = Forgets(&self.opening);
        if self.ending.load(Ordering::SeqCst) {
            sidecar.close().await; // the app ended meanwhile
        }
        opened.await?;
        *self.known() = Some(sidecar.clone());
        Ok(sidecar)
    }

    fn running(&self) -> Result<Option<Sidecar>, Error> {
        if self.ending.load(Ordering::SeqCst) { Err(Error::Ending) } else { Ok(self.known().clone()) }
    }

    fn known(&self) -> MutexGuard<'_, Option<Sidecar>> {
        locked(&self.sidecar)
    }

    /// The folder that stands for a root, for example `user-folder`, if the manifest declares that.
    #[must_use]
    pub fn folder(&self, root: &str) -> Option<&Path> {
        self.roots.iter().find(|one| one.name == root).map(|one| one.folder.as_path())
    }

    fn builder(&self) -> locara_diffusion::Builder {
        let package = self.app.package_info();
        let mut builder = Sidecar::builder()
            .command(self.program(), ["serve"])
            .manifest(Value::Object(self.manifest.clone()))
            .client_info(package.name.clone(), package.version.to_string())
            .close_timeout(CLOSE_TIMEOUT)
            .on_log(|line| tracing::debug!(target: "locara_sidecar", "{line}"));
        #[cfg(unix)]
        {
            builder = builder.hands_files(self.settings.hands_files);
        }
        for arg in &self.settings.args {
            builder = builder.arg(arg);
        }
        for name in UNWANTED {
            builder = builder.env_remove(name);
        }
        if std::env::var_os("APPIMAGE").is_some() {
            builder = builder.env_remove("LD_LIBRARY_PATH");
        }
        for (name, value) in &self.settings.variables {
            builder = builder.env(name, value);
        }
        for root in &self.roots {
            builder = builder.grant(&root.name, root.folder.to_string_lossy());
        }
        let token = locked(&self.token).clone();
        if let Some(token) = token {
            builder = builder.token(token);
        }
        builder
    }

    fn program(&self) -> PathBuf {
        let named = if cfg!(all(debug_assertions, not(test))) { std::env::var_os("LOCARA_SIDECAR") } else { None };
        match named {
            Some(program) => PathBuf::from(program),
            // what has no place is told when it is started, and the app runs without pictures
            None => match resource(&self.app, &self.settings.program) {
                Ok(program) => shipped(program, self.app.path().resource_dir().ok().as_deref(), &self.settings.program),
                Err(_) => self.settings.program.clone(),
            },
        }
    }

    /// A picture was saved: pages may show it.
    pub(crate) fn saved(&self, file: &str) {
        folders::show_file(&self.app, Path::new(file));
    }

    /// A window is gone, and nobody waits for its calls or uses its files any more.
    pub(crate) fn window_gone(&self, window: &str) {
        self.calls.cancel_window(window);
        self.jobs.forget_window(window);
        let held = self.files.taken_back(window);
        if !held.is_empty() {
            let app = self.app.clone();
            async_runtime::spawn(async move { app.state::<Self>().give_back(held).await });
        }
    }

    /// Gives picked files back, as far as the sidecar still has them: no process is started for that.
    pub(crate) async fn give_back(&self, held: Vec<Held>) {
        let Some(sidecar) = self.known().clone() else { return };
        for held in held.iter().filter(|held| held.is_known(&sidecar)) {
            let _ = sidecar.release_file(&held.handle).await; // one that cannot be given back ends with the sidecar
        }
    }

    /// The app ends: waits until the sidecar is gone.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        // of the two, one is there at most, but for a moment in which both are the same
        let found = [self.known().take(), locked(&self.opening).take()];
        for sidecar in found.into_iter().flatten() {
            async_runtime::block_on(sidecar.close());
        }
    }
}

/// Empties a place when it is dropped: whoever starts the sidecar may be given up.
struct Forgets<'a>(&'a Mutex<Option<Sidecar>>);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        locked(self.0).take();
    }
}

/// A file among the app's resources, unless its path is absolute.
fn resource<R: Runtime>(app: &AppHandle<R>, file: &Path) -> tauri::Result<PathBuf> {
    if file.is_absolute() { Ok(file.to_path_buf()) } else { app.path().resolve(file, BaseDirectory::Resource) }
}

/// The program among the resources, `usr/lib/NAME` on Linux, or below `usr/share/NAME` if it is there alone: what makes an
/// `AppImage` changes each library below `usr/lib`, and the sidecar's would no longer be found as they were built.
pub(crate) fn shipped(among: PathBuf, resources: Option<&Path>, program: &Path) -> PathBuf {
    if cfg!(target_os = "linux")
        && program.is_relative()
        && !among.exists()
        && let Some((lib, name)) = resources.and_then(|folder| Some((folder.parent()?, folder.file_name()?)))
    {
        let shared = lib.with_file_name("share").join(name).join(program);
        if shared.exists() {
            return shared;
        }
    }
    among
}

fn read(file: &Path) -> Result<Map<String, Value>, Box<dyn std::error::Error>> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!("{place} cannot be read: {error}. It is the app's manifest, and belongs into bundle.resources of tauri.conf.json.")
    })?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{place} is no JSON object: {error}"))?)
}
