//! The plugin on Tauri's mock runtime, with its real permission files, against the real daemon with the fake engine.
//! `LOCARA_SIDECAR` names the daemon's program.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod calls;
mod errors;
mod files;
#[cfg(target_os = "linux")]
mod handing;
mod permissions;
mod process;
mod setup;
mod support;
mod tokens;
mod windows;
