//! Downloads from a hub on loopback: to their end with progress, cancelled and taken up again, gated, denied.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use locara_diffusion::{Builder, DownloadPhase, ErrorKind, RemoveParams};
use serde_json::{Value, json};

use crate::support::{Opened, TempDir, manifest, opened_with, program, repository};

/// A hub with two models, which ends with its stdin.
struct Hub {
    program: Child,
    told: Value,
    folder: TempDir,
}

impl Hub {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut program = Command::new(program().with_file_name("python"))
            .args(["-m", "support.served_models"])
            .arg(folder.path())
            .current_dir(repository().join("tests"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { program, told: serde_json::from_str(&line).unwrap(), folder }
    }

    fn told(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// A session of an app that declares the hub's models, with an empty cache of its own.
    async fn session(&self, name: &str, flags: &[&str]) -> Opened {
        let home = self.folder.path().join(name);
        std::fs::create_dir(&home).unwrap();
        let mut declared = manifest();
        declared["capabilities"] = json!({"models": ["open", "gated"]});
        opened_with(|builder| {
            let builder =
                builder.arg("--cache-dir").arg(home.join("cache")).arg("--catalogue").arg(self.told("catalogue"));
            let builder = flags.iter().fold(builder, |builder: Builder, flag| builder.arg(flag));
            let builder = builder.env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
            builder.env("HF_ENDPOINT", self.told("hub")).env("HF_HOME", home.join("hf")).manifest(declared)
        })
        .await
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        let _ = self.program.wait();
    }
}

/// More bytes than the configurations have, which come first and are fetched anew after a cancel.
const IN_THE_WEIGHTS: u64 = 10_000;

#[tokio::test]
async fn models_are_downloaded_with_progress_cancelled_taken_up_again_and_removed() {
    let hub = Hub::new();
    let opened = hub.session("allowed", &["--allow-downloads", "--allow-model-management"]).await;
    let sidecar = &opened.sidecar;

    let (mut messages, answer) = sidecar.download("open");
    while let Some(progress) = messages.next().await {
        if progress.phase == DownloadPhase::Downloading && progress.bytes > IN_THE_WEIGHTS {
            answer.cancel();
        }
    }
    assert!(answer.await.unwrap_err().is_cancelled());
    assert!(!sidecar.model("open").await.unwrap().installed);

    let (mut messages, answer) = sidecar.download("open");
    let mut bytes = Vec::new();
    let mut last = None;
    while let Some(progress) = messages.next().await {
        if progress.phase == DownloadPhase::Downloading {
            bytes.push(progress.bytes);
        }
        last = Some(progress);
    }
    let done = answer.await.unwrap();
    assert!(bytes[0] > 0, "it went on from where it was: {bytes:?}");
    assert!(bytes.is_sorted(), "{bytes:?}");
    let last = last.unwrap();
    assert_eq!((last.bytes, last.total_bytes), (done.bytes, done.bytes));
    let model = sidecar.model("open").await.unwrap();
    assert_eq!((model.installed, model.digest.as_ref()), (true, Some(&done.digest)));
    assert_eq!(sidecar.verify("open").1.await.unwrap().digest, done.digest);

    let removed = sidecar.remove(RemoveParams::new("open")).await.unwrap();
    assert_eq!(removed.removed[0].digest, done.digest);
    assert!(!sidecar.model("open").await.unwrap().installed);

    let error = sidecar.download("gated").1.await.unwrap_err();
    assert_eq!(error.kind(), Some(&ErrorKind::LicenseNotAccepted));
    assert!(error.remote().unwrap().data["url"].as_str().unwrap().contains("org/gated"));
    opened.close().await;

    let opened = hub.session("denied", &[]).await;
    let error = opened.sidecar.download("open").1.await.unwrap_err();
    assert_eq!(error.remote().unwrap().denied().unwrap().reason, "hostFlag");
    opened.close().await;
}
