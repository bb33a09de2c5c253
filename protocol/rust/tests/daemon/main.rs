//! The crate against the real daemon with the fake engine. `LOCARA_SIDECAR` names the daemon's program.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod download;
#[cfg(target_os = "linux")]
mod handing;
mod images;
mod jobs;
mod outside;
mod process;
mod support;
#[cfg(target_os = "linux")]
mod updates;
