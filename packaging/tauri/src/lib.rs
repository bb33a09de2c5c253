//! Text to image in a Tauri 2 app: commands for web views over one Locara image sidecar, which the plugin starts, shares
//! between all windows, and ends with the app. `README.md` leads from an empty folder to a picture.
//!
//! ```
//! use tauri_plugin_locara_diffusion::Builder;
//!
//! fn plugin<R: tauri::Runtime>() -> tauri::plugin::TauriPlugin<R> {
//!     Builder::new().folder("user-folder", "/home/a/Pictures/Posters").allow_downloads().build()
//! }
//! ```
//!
//! From Rust:
//!
//! ```
//! use tauri_plugin_locara_diffusion::locara_diffusion::GenerateParams;
//! use tauri_plugin_locara_diffusion::{DiffusionExt, Error};
//!
//! async fn draw<R: tauri::Runtime>(app: tauri::AppHandle<R>) -> Result<(), Error> {
//!     let sidecar = app.diffusion().sidecar().await?;
//!     let (mut steps, picture) = sidecar.generate(GenerateParams::new("a lake"));
//!     while let Some(step) = steps.next().await {
//!         println!("{}", step.progress);
//!     }
//!     println!("{:?}", picture.await?.images[0].path);
//!     Ok(())
//! }
//! ```

mod builder;
mod calls;
mod commands;
mod diffusion;
mod dispatch;
mod error;
mod files;
mod folders;
mod jobs;
#[cfg(unix)]
mod opening;
#[cfg(test)]
mod tests;

use tauri::plugin::TauriPlugin;
use tauri::{Manager, Runtime, State};

pub use builder::Builder;
pub use diffusion::Diffusion;
pub use error::Error;
pub use files::FileRequest;
pub use locara_diffusion;

/// The plugin with its defaults; [`Builder`] has the rest.
#[must_use]
pub fn init<R: Runtime>() -> TauriPlugin<R> {
    Builder::new().build()
}

/// Reaches the plugin from an app, a window or a web view, in Rust.
pub trait DiffusionExt<R: Runtime> {
    /// The app's sidecar and folders.
    ///
    /// # Panics
    ///
    /// If the plugin is not registered.
    fn diffusion(&self) -> State<'_, Diffusion<R>>;
}

impl<R: Runtime, M: Manager<R>> DiffusionExt<R> for M {
    fn diffusion(&self) -> State<'_, Diffusion<R>> {
        self.state::<Diffusion<R>>()
    }
}
