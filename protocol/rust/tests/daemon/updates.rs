//! A sidecar whose files an update has replaced while it runs: it says so, is ended, and the next call starts the new one.

use std::path::PathBuf;

use locara_diffusion::{Answer, Builder, ErrorKind, Restart, Sidecar};
use serde_json::{Map, Value};

use crate::support::{PROMPT, TempDir, alive, all, manifest, opened_with, params, program, steps, until};

/// A daemon of a version that the installed engine does not have, and no other one after it.
const OLD: &str = concat!(
    "from locara_sidecar.ipc import frames; frames.VERSION += 1; ",
    "from locara_sidecar.__main__ import main; main()"
);

#[tokio::test]
async fn an_old_daemon_is_ended_once_it_has_said_so_and_the_next_call_starts_the_new_one() {
    let folder = TempDir::new().unwrap();
    let text = format!(
        "if [ -e {first} ]; then exec {program} \"$@\"; fi; touch {first}; exec {python} -c '{OLD}' \"$@\"",
        first = folder.path().join("first").display(),
        program = program().display(),
        python = program().with_file_name("python").display(),
    );
    let args = ["-c", &text, "sh", "serve", "--engine", "fake"];
    let opened = opened_with(|builder| builder.command("sh", args)).await;
    let sidecar = &opened.sidecar;
    let old = sidecar.pid().unwrap();
    let (messages, answer) = sidecar.generate(params(PROMPT, steps(2)));
    let error = answer.await.unwrap_err();
    assert_eq!(error.kind(), Some(&ErrorKind::EngineUnavailable));
    assert!(error.is_outdated() && !error.retryable(), "{error}");
    assert!(!all(messages).await.is_empty(), "its messages end");
    until("it is gone", async || sidecar.pid().is_none()).await;
    assert!(!alive(old));
    assert_eq!(sidecar.starts(), 1, "no call, no process");

    // nothing is sent again: the new process has no job
    assert!(sidecar.jobs().await.unwrap().is_empty());
    sidecar.generate(params(PROMPT, steps(2))).1.await.unwrap();
    assert_eq!(sidecar.starts(), 2);
    opened.close().await;
}

/// A program that answers as a daemon would whose files were replaced. What is held is answered by another call:
/// `ping` by `models.unload`, with a result, and `image.generate` by `models.load`, with an error. The end of stdin is told
/// by a file.
const PLAYED: &str = r#"
say() { echo "{\"jsonrpc\":\"2.0\",$1}"; }
error='"error":{"code":-32014,"message":"anew","data":{"kind":"StorageError","retryable":false,"reason":"updated"}}'
while read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *\"initialize\"*) say "\"id\":$id,RESULT" ;;
    *\"ping\"*|*\"image.generate\"*) held=$id ;;
    *\"jobs.attach\"*) say "\"id\":$id,\"result\":{\"jobId\":\"job-1\",\"state\":\"running\"}" ;;
    *\"models.unload\"*) say "\"id\":$held,\"result\":{}" ; say "\"id\":$id,\"result\":{}" ;;
    *\"models.verify\"*) say "\"id\":$id,$error" ;;
    *\"models.load\"*)
      say '"method":"DiffusionStep","params":{"channel":1,"index":0,"end":true}'
      say "\"id\":$held,$error" ; say "\"id\":$id,$error" ;;
    *\"jobs.result\"*) say "\"id\":$id,$error" ;;
    *) say "\"id\":$id,\"result\":{}" ;;
  esac
done
echo ended >> FOLDER/ended
"#;

/// The answer to `initialize`, without its id.
const RESULT: &str = concat!(
    r#"\"result\":{\"protocolVersion\":1,\"serverInfo\":{\"name\":\"a\",\"version\":\"1\"},"#,
    r#"\"capabilities\":{\"methods\":[],\"notifications\":[],\"engines\":[],\"imageFormats\":[],"#,
    r#"\"limits\":{\"maxLineBytes\":1000,\"maxInlineImageBytes\":1,\"maxQueue\":1,\"maxBatch\":1,\"maxPromptBytes\":1}},"#,
    r#"\"app\":{\"id\":null,\"granted\":[],\"warnings\":[]}}"#
);

struct Player {
    sidecar: Sidecar,
    folder: TempDir,
}

impl Player {
    async fn new(change: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = TempDir::new().unwrap();
        let text = PLAYED.replace("RESULT", RESULT).replace("FOLDER", folder.path().to_str().unwrap());
        let builder = Sidecar::builder().command("sh", ["-c", &text]).manifest(manifest());
        Self { sidecar: change(builder).spawn().await.unwrap(), folder }
    }

    fn call(&self, method: &str) -> Answer<Map<String, Value>> {
        self.sidecar.call(method, &Map::new(), false).1
    }

    /// How many processes have ended because their stdin did.
    fn ended(&self) -> usize {
        let file: PathBuf = self.folder.path().join("ended");
        std::fs::read_to_string(file).unwrap_or_default().lines().count()
    }
}

#[tokio::test]
async fn calls_under_way_are_answered_first_and_new_ones_go_to_the_old_process_until_then() {
    let player = Player::new(|builder| builder).await;
    let old = player.sidecar.pid();
    let held = player.call("ping");
    assert!(player.call("models.verify").await.unwrap_err().is_outdated());
    player.call("models.list").await.unwrap();
    assert_eq!((player.sidecar.pid(), player.sidecar.starts(), player.ended()), (old, 1, 0));
    player.call("models.unload").await.unwrap(); // answers the one that was held
    held.await.unwrap();
    player.call("models.list").await.unwrap();
    assert_eq!((player.sidecar.starts(), player.ended()), (2, 1));
    assert_ne!(player.sidecar.pid(), old);
    // the new one has said nothing, and stays
    player.call("models.list").await.unwrap();
    assert_eq!(player.sidecar.starts(), 2);
    player.sidecar.close().await;
}

#[tokio::test]
async fn calls_that_are_made_as_it_ends_are_done_by_the_new_process() {
    let player = Player::new(|builder| builder).await;
    let refused = player.call("models.verify");
    assert!(refused.await.unwrap_err().is_outdated());
    let calls: Vec<_> = (0..50).map(|_| player.call("models.list")).collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!((player.sidecar.starts(), player.ended()), (2, 1));
    player.sidecar.close().await;
}

#[tokio::test]
async fn without_restart_it_is_not_ended() {
    let player = Player::new(|builder| builder.restart(Restart::Never)).await;
    let old = player.sidecar.pid();
    assert!(player.call("models.verify").await.unwrap_err().is_outdated());
    for _ in 0..3 {
        player.call("models.list").await.unwrap();
    }
    assert_eq!((player.sidecar.pid(), player.ended()), (old, 0));
    player.sidecar.close().await;
}

#[tokio::test]
async fn who_follows_a_job_has_its_answer_before_the_process_ends() {
    let player = Player::new(|builder| builder).await;
    let own = player.call("image.generate");
    let (_messages, followed) = player.sidecar.attach("job-1");
    let another = tokio::spawn(player.sidecar.attach("job-2").1); // which does not end
    let other = player.call("models.load"); // the job ends, and all calls are answered
    assert!(own.await.unwrap_err().is_outdated());
    assert!(other.await.unwrap_err().is_outdated());
    assert_eq!(player.ended(), 0);
    let error = followed.await.unwrap_err();
    assert!(error.is_outdated(), "{error}");
    assert_eq!((player.sidecar.starts(), player.ended()), (1, 0), "another one follows");
    another.abort();
    until("it has ended", async || player.ended() == 1).await;
    until("it is known", async || player.sidecar.pid().is_none()).await;
    player.sidecar.close().await;
}
