//! The process: how it ends, what is told of that, and what starts it anew.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use locara_diffusion::{Error, Restart, Sidecar};

use crate::support::{
    PROMPT, TempDir, alive, drawing, kill, manifest, opened, opened_with, params, program, steps, until,
};

fn gone(error: &Error) -> &locara_diffusion::Gone {
    match error {
        Error::Gone(gone) => gone,
        other => panic!("{other}"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_daemon_that_is_killed_fails_its_calls_with_its_last_words_and_the_next_call_starts_another() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&log);
    let opened = opened_with(|builder| {
        builder.arg("--log-level").arg("debug").on_log(move |line| told.lock().unwrap().push(line.to_owned()))
    })
    .await;
    let sidecar = &opened.sidecar;
    let (mut messages, drawn) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    drawing(&mut messages).await;
    let (_, waiting) = sidecar.generate(params("b", steps(2)));
    let engine = sidecar.ping().await.unwrap().engine.pid.unwrap();
    let daemon = sidecar.pid().unwrap();
    kill(daemon);
    for error in [drawn.await.unwrap_err(), waiting.await.unwrap_err()] {
        assert_eq!((gone(&error).signal(), gone(&error).status()), (Some(9), None));
        assert!(gone(&error).stderr.contains("\"level\""), "{error:?}");
        assert!(error.to_string().contains("Its last words: {"), "{error}");
        assert!(error.retryable());
    }
    while messages.next().await.is_some() {} // the messages end with the process
    assert_eq!(sidecar.pid(), None);

    // nothing that ran is sent again: the new process knows of no job
    assert!(sidecar.jobs().await.unwrap().is_empty());
    assert_eq!(sidecar.starts(), 2);
    sidecar.generate(params(PROMPT, steps(2))).1.await.unwrap();
    assert_eq!(sidecar.jobs().await.unwrap().len(), 1);
    until("the killed daemon's engine is gone", async || !alive(daemon) && !alive(engine)).await;
    assert!(log.lock().unwrap().len() > 1);
    opened.close().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_restart_every_later_call_fails_as_the_first_did() {
    let opened = opened_with(|builder| builder.restart(Restart::Never)).await;
    let sidecar = &opened.sidecar;
    kill(sidecar.pid().unwrap());
    until("it is known", async || sidecar.pid().is_none()).await;
    for _ in 0..2 {
        assert_eq!(gone(&sidecar.ping().await.unwrap_err()).signal(), Some(9));
    }
    assert_eq!(sidecar.starts(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn closing_answers_what_runs_and_leaves_no_process() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let (mut messages, answer) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    drawing(&mut messages).await;
    let (daemon, engine) = (sidecar.pid().unwrap(), sidecar.ping().await.unwrap().engine.pid.unwrap());
    assert_eq!(sidecar.close().await.unwrap().code(), Some(0));
    assert!(answer.await.unwrap_err().is_cancelled());
    until("both are gone", async || !alive(daemon) && !alive(engine)).await;
    let error = sidecar.ping().await.unwrap_err();
    assert!(gone(&error).closed && !error.retryable());
    assert_eq!(sidecar.close().await.unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropping_every_clone_ends_the_process() {
    let opened = opened().await;
    let (mut messages, answer) = opened.sidecar.generate(params("fake:slow=60000 a", steps(8)));
    drawing(&mut messages).await;
    let (daemon, engine) = (opened.sidecar.pid().unwrap(), opened.sidecar.ping().await.unwrap().engine.pid.unwrap());
    let clone = opened.sidecar.clone();
    drop(opened);
    assert!(clone.ping().await.is_ok(), "a clone keeps it");
    drop(clone);
    assert!(answer.await.is_err());
    until("both are gone", async || !alive(daemon) && !alive(engine)).await;
}

#[cfg(target_os = "linux")]
#[test]
fn the_end_of_the_runtime_ends_the_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = runtime.block_on(opened());
    let daemon = opened.sidecar.pid().unwrap();
    let (messages, answer) = opened.sidecar.generate(params("fake:slow=60000 a", steps(8)));
    let (_, dropped) = opened.sidecar.generate(params("b", steps(8)));
    runtime.block_on(opened.sidecar.ping()).unwrap();
    drop(runtime);
    for _ in 0..3000 {
        if !alive(daemon) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!alive(daemon));
    // what is dropped where there is no runtime does nothing, and does not panic
    drop((messages, dropped));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(gone(&runtime.block_on(answer).unwrap_err()).closed, "a call that was under way fails");
    assert!(gone(&runtime.block_on(opened.sidecar.ping()).unwrap_err()).closed);
    drop(runtime);
    drop(opened);
}

const OPENED: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"serverInfo":{"name":"a","version":"1"},"#,
    r#""capabilities":{"methods":[],"notifications":[],"engines":[],"imageFormats":[],"limits":{"maxLineBytes":1000,"#,
    r#""maxInlineImageBytes":1,"maxQueue":1,"maxBatch":1,"maxPromptBytes":1}},"#,
    r#""app":{"id":null,"granted":[],"warnings":[]}}}"#
);

fn script(text: &str) -> locara_diffusion::Builder {
    Sidecar::builder().command("sh", ["-c".to_owned(), text.replace("OPENED", &format!("echo '{OPENED}'"))])
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_heeds_nothing_is_killed_with_what_it_started() {
    let stop = "trap '' TERM; read line; OPENED; sleep 1000 & wait; sleep 1000";
    let sidecar = script(stop).close_timeout(Duration::from_millis(100)).spawn().await.unwrap();
    let shell = sidecar.pid().unwrap();
    let children = format!("/proc/{shell}/task/{shell}/children");
    until("it has its child", async || !std::fs::read_to_string(&children).unwrap().trim().is_empty()).await;
    let child: u32 = std::fs::read_to_string(&children).unwrap().trim().parse().unwrap();
    let exit = sidecar.close().await.unwrap();
    assert_eq!(exit.code(), None);
    until("both are gone", async || !alive(shell) && !alive(child)).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_sidecar_that_hangs_at_its_start_can_be_closed_and_is_killed() {
    let hangs = script("trap '' TERM; sleep 1000 & wait; sleep 1000").close_timeout(Duration::from_millis(100));
    let (sidecar, opened) = hangs.start().unwrap();
    until("it runs", async || sidecar.pid().is_some()).await;
    let shell = sidecar.pid().unwrap();
    let early = tokio::spawn({
        let sidecar = sidecar.clone();
        async move { sidecar.ping().await }
    });
    assert_eq!(sidecar.close().await.unwrap().code(), None);
    assert!(!alive(shell));
    assert!(gone(&opened.await.unwrap_err()).closed);
    assert!(gone(&early.await.unwrap().unwrap_err()).closed);
}

#[tokio::test]
async fn a_call_that_is_made_before_the_session_is_open_waits_for_it() {
    let (sidecar, opened) = Sidecar::builder().command(program(), ["serve", "--engine", "fake"]).start().unwrap();
    sidecar.ping().await.unwrap();
    opened.await.unwrap();
    sidecar.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_start_says_why() {
    let error = Sidecar::builder().command("no-such-program", ["serve"]).spawn().await.unwrap_err();
    assert!(matches!(&error, Error::Spawn { program, .. } if program == "no-such-program"), "{error}");
    let error = script("echo no room >&2; exit 3").spawn().await.unwrap_err();
    assert_eq!(gone(&error).status(), Some(3));
    assert!(error.to_string().ends_with("Its last words: no room"), "{error}");
    let error = script("sleep 1000").start_timeout(Duration::from_millis(100)).close_timeout(Duration::ZERO);
    assert!(matches!(error.spawn().await, Err(Error::StartTimeout { .. })));
    let error = Sidecar::builder().manifest(serde_json::json!([])).spawn().await.unwrap_err();
    assert!(matches!(error, Error::Params { .. }), "{error}");
    let error = Sidecar::builder().command(program(), ["serve", "--no-such-flag"]).spawn().await.unwrap_err();
    assert_eq!(gone(&error).status(), Some(2));
    let mut broken = manifest();
    broken["modalities"] = serde_json::json!(["text-to-imag"]);
    let error = Sidecar::builder().command(program(), ["serve"]).manifest(broken).spawn().await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.manifest.modalities[0]"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_call_that_starts_the_process_anew_fails_with_why_it_could_not_and_a_later_one_tries_again() {
    let folder = TempDir::new().unwrap();
    let (first, broken) = (folder.path().join("first"), folder.path().join("broken"));
    std::fs::write(&broken, "").unwrap();
    // the first one ends by itself, the following ones cannot start while the file is there
    let text = format!(
        "if [ -e {first} ] && [ -e {broken} ]; then echo again >&2; exit 4; fi; if [ -e {first} ]; then exec {program} serve --engine fake; fi; touch {first}; read line; OPENED; exit 5",
        first = first.display(),
        broken = broken.display(),
        program = program().display(),
    );
    let restart = Restart::OnDemand { first: Duration::from_millis(10), most: Duration::from_millis(20) };
    let sidecar = script(&text).restart(restart).spawn().await.unwrap();
    until("the first one has ended", async || sidecar.pid().is_none()).await;
    for _ in 0..3 {
        let error = sidecar.ping().await.unwrap_err();
        assert_eq!(gone(&error).status(), Some(4));
    }
    std::fs::remove_file(&broken).unwrap();
    sidecar.ping().await.unwrap();
    assert_eq!(sidecar.starts(), 5);
    // a call that is cancelled while it waits for a process is answered as any other
    sidecar.close().await;
}
