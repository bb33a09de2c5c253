//! Configures the plugin.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use tauri::plugin::TauriPlugin;
use tauri::{Manager, RunEvent, Runtime, Window, WindowEvent};

use crate::diffusion::Diffusion;
use crate::dispatch;
use crate::files::{Chooser, FileRequest, dialogs};

/// The app's settings; everything has a default.
#[must_use = "a builder does nothing until build()"]
pub struct Builder<R: Runtime> {
    settings: Settings,
    chooser: Chooser<R>,
}

pub(crate) struct Settings {
    pub(crate) manifest: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) variables: Vec<(OsString, OsString)>,
    pub(crate) folders: Vec<(String, PathBuf)>,
    pub(crate) token: Option<String>,
    pub(crate) hands_files: bool,
}

/// Whether an app on that system, with that `APP_SANDBOX_CONTAINER_ID` in its environment, is in macOS's App Sandbox.
/// There the app can open a file that the user picks, but its children cannot.
pub(crate) fn in_app_sandbox(system: &str, container: Option<&OsStr>) -> bool {
    system == "macos" && container.is_some_and(|name| !name.is_empty())
}

impl<R: Runtime> Default for Builder<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Runtime> Builder<R> {
    /// A builder with the defaults: `locara.json` and the folder `locara-sidecar` among the app's resources, the
    /// platform's usual folders, no downloads.
    pub fn new() -> Self {
        let settings = Settings {
            manifest: PathBuf::from("locara.json"),
            program: PathBuf::from(format!("locara-sidecar/locara-sidecar{}", std::env::consts::EXE_SUFFIX)),
            args: Vec::new(),
            variables: Vec::new(),
            folders: Vec::new(),
            token: None,
            hands_files: in_app_sandbox(std::env::consts::OS, std::env::var_os("APP_SANDBOX_CONTAINER_ID").as_deref()),
        };
        Self { settings, chooser: dialogs() }
    }

    /// Sets where the manifest is: relative to the app's resources, or absolute. It is read once, when the app starts.
    pub fn manifest(mut self, file: impl Into<PathBuf>) -> Self {
        self.settings.manifest = file.into();
        self
    }

    /// Sets the sidecar's program: relative to the app's resources, or absolute.
    ///
    /// In a debug build, the environment variable `LOCARA_SIDECAR` takes precedence.
    pub fn program(mut self, file: impl Into<PathBuf>) -> Self {
        self.settings.program = file.into();
        self
    }

    /// Adds an argument to `locara-sidecar serve`.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.settings.args.push(arg.into());
        self
    }

    /// Sets a variable in the sidecar's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.settings.variables.push((name.into(), value.into()));
        self
    }

    /// Sets the folder of a root (`user-folder`, `app-data` or `user-paths.<name>`), as an absolute path. It is used
    /// only if the manifest declares that root.
    ///
    /// By default, `user-folder` is a folder with the app's name among the user's pictures, `app-data` is `pictures` in
    /// the app's data, and the others have no folder.
    pub fn folder(mut self, root: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        self.settings.folders.push((root.into(), folder.into()));
        self
    }

    /// Lets the sidecar download models that the manifest declares. A web view needs the permission set `downloads`,
    /// too.
    pub fn allow_downloads(self) -> Self {
        self.arg("--allow-downloads")
    }

    /// Lets the sidecar import, prepare and remove models. A web view needs the permission set `model-management`, too.
    pub fn allow_model_management(self) -> Self {
        self.arg("--allow-model-management")
    }

    /// Sets the token for gated downloads. Only the sidecar gets it; [`Diffusion::set_token`] changes it later.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.settings.token = Some(token.into());
        self
    }

    /// Sets how the user is asked for a file; by default with the system's dialog, through `tauri-plugin-dialog`.
    ///
    /// The function gets the window that asks and what it asks for, and returns the file's path, or none if the user
    /// cancels. It may block.
    pub fn chooser(
        mut self,
        choose: impl Fn(&Window<R>, &FileRequest) -> Option<PathBuf> + Send + Sync + 'static,
    ) -> Self {
        self.chooser = Arc::new(move |window: &Window<R>, request: &FileRequest| Ok(choose(window, request)));
        self
    }

    /// Whether the app opens a picked file and passes the open file to the sidecar, instead of its path. This is needed
    /// where the sidecar may not open what the user picked. By default it is done in macOS's App Sandbox, and nowhere
    /// else.
    ///
    /// A picture is then written in place, over the old content, and a new file is created, empty, as soon as it is
    /// picked. On Windows this has no effect: files are passed by path.
    pub fn hands_files(mut self, hands: bool) -> Self {
        self.settings.hands_files = hands;
        self
    }

    /// Builds the plugin, for `tauri::Builder::plugin`.
    ///
    /// The app does not start if the manifest is missing or not a JSON object, or a folder cannot be created.
    #[must_use]
    pub fn build(self) -> TauriPlugin<R> {
        let Self { settings, chooser } = self;
        tauri::plugin::Builder::new("locara-diffusion")
            .invoke_handler(dispatch::handle)
            .setup(move |app, _api| {
                app.manage(Diffusion::new(app, settings, chooser)?);
                Ok(())
            })
            .on_event(|app, event| match event {
                RunEvent::WindowEvent { label, event: WindowEvent::Destroyed, .. } => {
                    app.state::<Diffusion<R>>().window_gone(label);
                }
                RunEvent::Exit => app.state::<Diffusion<R>>().end(),
                _ => {}
            })
            .build()
    }
}
