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

/// How long the sidecar may take to end once the app ends; then its process group is killed. Both together take less
/// than 2 seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Variables that point a Python program to the wrong libraries. An app that is started from a Python environment, or
/// as an `AppImage`, has them.
const UNWANTED: [&str; 4] = ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE"];

/// The plugin's state, as returned by [`DiffusionExt::diffusion`](crate::DiffusionExt::diffusion).
pub struct Diffusion<R: Runtime> {
    app: AppHandle<R>,
    settings: Settings,
    manifest: Map<String, Value>,
    roots: Vec<Root>,
    sidecar: Mutex<Option<Sidecar>>,
    /// The sidecar that is being started.
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

    /// Returns the app's sidecar, starting it if necessary. After it dies, the next call restarts it; no call is ever
    /// sent again automatically.
    ///
    /// With it, Rust code can do everything that a web view can, and what only a host may. Do not close it.
    pub async fn sidecar(&self) -> Result<Sidecar, Error> {
        let _starting = match self.running()? {
            Some(sidecar) => return Ok(sidecar),
            None => self.starting.lock().await,
        };
        if let Some(sidecar) = self.running()? {
            return Ok(sidecar); // another call has started it in the meantime
        }
        self.start().await
    }

    /// Restarts the sidecar with another access token for gated models, or with none. The token is kept in memory only.
    ///
    /// Fails with [`Error::Busy`] while a window's long call is in flight, because it would end with the old process.
    /// If the sidecar refuses the token, the next call starts it with the previous one. Files must be picked again.
    pub async fn set_token(&self, token: Option<String>) -> Result<(), Error> {
        self.running()?;
        let _starting = self.starting.lock().await;
        let old = {
            let mut known = self.known(); // a call made from now on waits for this, and then for the new sidecar
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

    /// Only for the holder of `starting`.
    async fn start(&self) -> Result<Sidecar, Error> {
        let (sidecar, opened) = self.builder().start()?;
        *locked(&self.opening) = Some(sidecar.clone());
        let _forgets = Forgets(&self.opening);
        if self.ending.load(Ordering::SeqCst) {
            sidecar.close().await; // the app ended in the meantime
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

    /// Returns the folder of a root, for example `user-folder`, if the manifest declares that root.
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
            // a missing program is reported when it is started; the app runs without pictures
            None => match resource(&self.app, &self.settings.program) {
                Ok(program) => shipped(program, self.app.path().resource_dir().ok().as_deref(), &self.settings.program),
                Err(_) => self.settings.program.clone(),
            },
        }
    }

    /// Called when a picture was saved: pages may now show it.
    pub(crate) fn saved(&self, file: &str) {
        folders::show_file(&self.app, Path::new(file));
    }

    /// Called when a window is gone: nobody waits for its calls or uses its files any more.
    pub(crate) fn window_gone(&self, window: &str) {
        self.calls.cancel_window(window);
        self.jobs.forget_window(window);
        let held = self.files.taken_back(window);
        if !held.is_empty() {
            let app = self.app.clone();
            async_runtime::spawn(async move { app.state::<Self>().give_back(held).await });
        }
    }

    /// Releases picked files that the sidecar still has; starts no process for that.
    pub(crate) async fn give_back(&self, held: Vec<Held>) {
        let Some(sidecar) = self.known().clone() else { return };
        for held in held.iter().filter(|held| held.is_known(&sidecar)) {
            let _ = sidecar.release_file(&held.handle).await; // a file that cannot be released ends with the sidecar
        }
    }

    /// Called when the app ends: waits until the sidecar is gone.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        // at most one of the two is set, except for a moment in which both are the same
        let found = [self.known().take(), locked(&self.opening).take()];
        for sidecar in found.into_iter().flatten() {
            async_runtime::block_on(sidecar.close());
        }
    }
}

/// Clears a slot when it is dropped, because the task that starts the sidecar may be cancelled.
struct Forgets<'a>(&'a Mutex<Option<Sidecar>>);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        locked(self.0).take();
    }
}

/// Resolves a path among the app's resources, unless it is absolute.
fn resource<R: Runtime>(app: &AppHandle<R>, file: &Path) -> tauri::Result<PathBuf> {
    if file.is_absolute() { Ok(file.to_path_buf()) } else { app.path().resolve(file, BaseDirectory::Resource) }
}

/// Finds the program among the resources (`usr/lib/NAME` on Linux), or below `usr/share/NAME` if it is only there. The
/// tool that makes an `AppImage` changes each library below `usr/lib`, so the sidecar's files would not be as built.
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
        format!("{place} cannot be read: {error}. It is the app's manifest, and belongs in bundle.resources of tauri.conf.json.")
    })?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{place} is not a JSON object: {error}"))?)
}
