//! What the tests share: the real daemon, in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use locara_diffusion::{
    Builder, DiffusionStep, EditOptions, GenerateOptions, GenerateParams, Message, Messages, Phase, Sidecar, Violation,
};
use serde_json::{Value, json};

pub(crate) const PROMPT: &str = "a red circle on a blue background";

/// A folder that goes with the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("locara-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().canonicalize()?.join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The daemon's program; make says which one.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("LOCARA_SIDECAR").map_or_else(|| repository().join(".venv/bin/locara-sidecar"), PathBuf::from)
}

/// An example's program, which cargo builds before it runs tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples").join(name)
}

pub(crate) fn manifest() -> Value {
    json!({
        "schema": "locara/v1", "name": "studio", "publisher": "example", "version": "1.2.3",
        "modalities": ["text-to-image", "image-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {"user-folder": "read-write", "user-selected": "read-write"}},
    })
}

/// A session with the real daemon, which must not break the contract.
pub(crate) struct Opened {
    pub(crate) sidecar: Sidecar,
    pub(crate) pictures: TempDir,
    broken: Arc<Mutex<Vec<String>>>,
}

pub(crate) async fn opened() -> Opened {
    opened_with(|builder| builder).await
}

pub(crate) async fn opened_with(change: impl FnOnce(Builder) -> Builder) -> Opened {
    let pictures = TempDir::new().unwrap();
    let broken: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&broken);
    let builder = Sidecar::builder()
        .command(program(), ["serve", "--engine", "fake"])
        .manifest(manifest())
        .grant("user-folder", pictures.path().to_str().unwrap())
        .close_timeout(Duration::from_secs(60)) // a busy machine is no reason to kill it
        .on_violation(move |violation: &Violation| told.lock().unwrap().push(violation.to_string()));
    let sidecar = change(builder).spawn().await.unwrap();
    Opened { sidecar, pictures, broken }
}

impl Opened {
    /// Ends it, and looks whether all was in order.
    pub(crate) async fn close(self) {
        until("no call is open", async || self.sidecar.open_calls() == 0).await;
        let exit = self.sidecar.close().await;
        assert_eq!(exit.and_then(|exit| exit.code()), Some(0));
        assert_eq!(*self.broken.lock().unwrap(), Vec::<String>::new());
    }
}

pub(crate) fn params(prompt: &str, options: GenerateOptions) -> GenerateParams {
    GenerateParams { options: Some(options), ..GenerateParams::new(prompt) }
}

/// Options of an edit that does not take long, and is the same each time.
pub(crate) fn quick_edit() -> EditOptions {
    EditOptions {
        model: Some("pocket".into()),
        strength: Some(0.5),
        steps: Some(4),
        seed: Some(1),
        ..Default::default()
    }
}

pub(crate) fn steps(steps: u32) -> GenerateOptions {
    GenerateOptions { model: Some("pocket".into()), steps: Some(steps), ..Default::default() }
}

pub(crate) async fn all<M: Message>(mut messages: Messages<M>) -> Vec<M> {
    let mut seen = Vec::new();
    while let Some(message) = messages.next().await {
        seen.push(message);
    }
    seen
}

/// The finished denoising steps that messages tell of.
pub(crate) fn finished(messages: &[DiffusionStep]) -> Vec<u32> {
    messages.iter().filter(|one| one.phase == Phase::Denoising && one.step > 0).map(|one| one.step).collect()
}

/// Waits until a job draws.
pub(crate) async fn drawing(messages: &mut Messages<DiffusionStep>) -> DiffusionStep {
    while let Some(step) = messages.next().await {
        if step.phase == Phase::Denoising {
            return step;
        }
    }
    panic!("it ended before it drew");
}

/// Waits until something holds, which is looked at again and again; the bound is generous, because machines are busy.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("Not within a minute: {what}");
}

pub(crate) fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

pub(crate) fn kill(pid: u32) {
    let done = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(done.success());
}
