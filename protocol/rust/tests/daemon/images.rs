//! `image.generate` and `image.edit`.

use locara_diffusion::methods::Ping;
use locara_diffusion::{EditOptions, EditParams, ErrorKind, GenerateOptions, ImageInput, ImageMime, OutputOptions};
use locara_diffusion::{Error, FileAccess, GenerateParams, NoParams, Phase};
use serde_json::json;

use crate::support::{PROMPT, all, drawing, finished, opened, opened_with, params, quick_edit, steps, until};

#[tokio::test]
async fn the_steps_come_with_previews_then_the_result() {
    let opened = opened().await;
    let (messages, answer) = opened.sidecar.generate(params(PROMPT, steps(6)));
    let seen = all(messages).await;
    assert_eq!(finished(&seen), [1, 2, 3, 4, 5, 6]);
    assert!((seen.last().unwrap().progress - 1.0).abs() < f64::EPSILON);
    let preview = seen.iter().find_map(|step| step.preview.as_ref()).unwrap();
    assert!(preview.bytes().unwrap().starts_with(b"RIFF"));
    assert!(preview.data_url().starts_with("data:image/webp;base64,UklGR"));
    let result = answer.await.unwrap();
    assert!(std::path::Path::new(result.images[0].path.as_ref().unwrap()).exists());

    // sent again, its parameters make the same picture
    let again: GenerateParams = serde_json::from_value(result.parameters.clone().into()).unwrap();
    let (_, answer) = opened.sidecar.generate(again);
    assert_eq!(answer.await.unwrap().images[0].sha256, result.images[0].sha256);

    // by its name, with what a web view gave
    let given = json!({"prompt": PROMPT, "options": {"stepz": 3}});
    let (_, answer) = opened.sidecar.call("image.generate", given.as_object().unwrap(), true);
    let error = answer.await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.options.stepz"));
    opened.close().await;
}

#[tokio::test]
async fn cancelling_answers_with_what_was_finished() {
    let opened = opened().await;
    let options = GenerateOptions { count: Some(16), ..steps(2) };
    let (mut messages, answer) = opened.sidecar.generate(params("fake:slow=300 a lake", options));
    while let Some(step) = messages.next().await {
        if step.image == 2 && step.step == 1 {
            answer.cancel();
        }
    }
    let error = answer.await.unwrap_err();
    assert!(error.is_cancelled() && error.retryable());
    let remote = error.remote().unwrap();
    assert_eq!(remote.code, -32800);
    assert!((1..16).contains(&remote.images().len()));
    opened.close().await;
}

#[tokio::test]
async fn dropping_the_answer_cancels_and_detaching_does_not() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let (mut messages, answer) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    drawing(&mut messages).await;
    drop(answer);
    while messages.next().await.is_some() {}
    until("it is cancelled", async || sidecar.jobs().await.unwrap()[0].state.as_str() == "cancelled").await;

    let (_, answer) = sidecar.generate(params(PROMPT, steps(2)));
    answer.detach();
    until("the detached one is done", async || sidecar.jobs().await.unwrap()[0].state.as_str() == "done").await;

    // a timeout around it is one way to drop it
    let (_, answer) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), answer).await.is_err());
    until("it is cancelled", async || sidecar.jobs().await.unwrap()[0].state.as_str() == "cancelled").await;
    opened.close().await;
}

#[tokio::test]
async fn answers_that_are_dropped_at_any_moment_leave_nothing_running() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    for turn in 0..100 {
        let (messages, answer) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
        for _ in 0..turn % 5 {
            tokio::task::yield_now().await;
        }
        if turn % 2 == 0 { drop((messages, answer)) } else { drop((answer, messages)) }
    }
    until("all are answered", async || sidecar.open_calls() == 0).await;
    let jobs = sidecar.jobs().await.unwrap();
    assert!(jobs.iter().all(|job| job.state.as_str() == "cancelled"), "{jobs:?}");
    sidecar.generate(params(PROMPT, steps(2))).1.await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn messages_that_nobody_takes_keep_no_call_from_its_end() {
    let opened = opened().await;
    let (messages, answer) = opened.sidecar.generate(params(PROMPT, steps(150)));
    answer.await.unwrap();
    let waited = all(messages).await;
    assert!(waited.len() <= 64, "{}", waited.len());
    assert!((waited.last().unwrap().progress - 1.0).abs() < f64::EPSILON);
    opened.close().await;
}

#[tokio::test]
async fn what_is_nested_too_deep_for_the_sidecar_is_refused_and_not_waited_for() {
    let opened = opened().await;
    let nested = |levels: usize| {
        let deep = (0..levels)
            .fold(json!("]}\"[{\\"), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"b": inner}) });
        serde_json::Map::from_iter([("a".to_owned(), deep)])
    };
    // the request and its params are two levels; the sidecar itself says what is wrong with what it can read
    let error = opened.sidecar.call("models.list", &nested(62), false).1.await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.a"));
    for streams in [false, true] {
        let method = if streams { "image.generate" } else { "models.list" };
        let (messages, answer) = opened.sidecar.call(method, &nested(63), streams);
        let error = answer.await.unwrap_err();
        assert!(matches!(&error, Error::Params { reason, .. } if reason.contains("64 levels")), "{error}");
        assert!(all(messages).await.is_empty());
    }
    opened.close().await;
}

#[tokio::test]
async fn ten_thousand_calls_leave_nothing_behind() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    for _ in 0..100 {
        let calls: Vec<_> = (0..100).map(|_| sidecar.request::<Ping>(NoParams {})).collect();
        for call in calls {
            call.await.unwrap();
        }
    }
    assert_eq!((sidecar.open_calls(), sidecar.starts()), (0, 1));
    opened.close().await;
}

#[tokio::test]
async fn only_the_call_that_is_cancelled_ends() {
    let opened = opened().await;
    let (mut messages, first) = opened.sidecar.generate(params("fake:slow=100 a", steps(6)));
    drawing(&mut messages).await;
    let (mut queued, second) = opened.sidecar.generate(params("b", steps(4)));
    assert_eq!(queued.next().await.unwrap().phase, Phase::Queued);
    let canceller = second.canceller();
    canceller.cancel();
    canceller.cancel(); // twice is once
    assert!(second.await.unwrap_err().is_cancelled());
    assert_eq!(first.await.unwrap().images.len(), 1);
    opened.close().await;
}

#[tokio::test]
async fn errors_have_their_kinds_and_say_what_is_wrong() {
    let opened = opened_with(|builder| builder.arg("--max-line-bytes").arg("100000")).await;
    let sidecar = &opened.sidecar;
    let failure = async |prompt: &str, options| sidecar.generate(params(prompt, options)).1.await.unwrap_err();

    let error = failure(PROMPT, GenerateOptions { model: Some("sd3.5-medium".into()), ..Default::default() }).await;
    assert_eq!(error.kind(), Some(&ErrorKind::CapabilityDenied));
    let denied = error.remote().unwrap().denied().unwrap();
    assert_eq!((denied.capability.as_str(), denied.reason.as_str()), ("models", "notDeclared"));
    let declare = json!({"capabilities": {"models": ["sd3.5-medium"]}});
    assert_eq!(json!(denied.declare), declare);

    let error = failure(PROMPT, steps(0)).await;
    assert_eq!((error.kind(), error.retryable()), (Some(&ErrorKind::InvalidParams), false));
    let wire = serde_json::to_value(error.remote().unwrap()).unwrap();
    assert_eq!((&wire["code"], &wire["data"]["path"]), (&json!(-32602), &json!("$.options.steps")));

    for (word, kind) in [
        ("crash=denoising", ErrorKind::EngineCrashed),
        ("oom", ErrorKind::InsufficientMemory),
        ("nan", ErrorKind::InvalidOutput),
        ("error", ErrorKind::InternalError),
    ] {
        assert_eq!(failure(&format!("fake:{word} a"), steps(4)).await.kind(), Some(&kind));
    }

    // what cannot be sent is told at once, and the session goes on
    let error = failure(PROMPT, GenerateOptions { guidance: Some(f64::NAN), ..Default::default() }).await;
    assert!(matches!(&error, Error::Params { reason, .. } if reason.contains("NaN")), "{error}");
    let image = ImageInput::inline(&[0; 100_000], ImageMime::Png);
    let error = sidecar.edit(EditParams::new("green", image)).1.await.unwrap_err();
    assert!(matches!(&error, Error::Params { reason, .. } if reason.contains("100000")), "{error}");
    assert_eq!(sidecar.ping().await.unwrap().jobs.running, 0);
    opened.close().await;
}

#[tokio::test]
async fn a_picture_is_edited_from_a_folder_inline_and_as_a_picked_file() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let output = OutputOptions { path: Some("first.png".into()), ..Default::default() };
    let options = GenerateOptions { output: Some(output), ..steps(2) };
    sidecar.generate(params(PROMPT, options)).1.await.unwrap();
    let path = opened.pictures.path().join("first.png");
    let edit = |image, output| {
        let options = EditOptions { output, ..quick_edit() };
        sidecar.edit(EditParams { options: Some(options), ..EditParams::new("green", image) })
    };

    let (messages, answer) = edit(ImageInput::file("user-folder", "first.png"), None);
    assert!(!finished(&all(messages).await).is_empty());
    let named = answer.await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let sent = edit(ImageInput::inline(&bytes, ImageMime::Png), None).1.await.unwrap();

    let listed = |count| {
        let images = vec![ImageInput::file("user-folder", "first.png"); count];
        let options = quick_edit();
        sidecar.edit(EditParams { options: Some(options), ..EditParams::of_several("green", images) })
    };
    let one = listed(1).1.await.unwrap();
    assert_eq!(one.images[0].sha256, named.images[0].sha256);
    let error = listed(2).1.await.unwrap_err();
    let wire = serde_json::to_value(error.remote().unwrap()).unwrap();
    assert_eq!((&wire["data"]["path"], &wire["data"]["maxReferences"]), (&json!("$.images"), &json!(1)));

    let read = sidecar.pick_file(&path, FileAccess::Read).await.unwrap();
    assert_eq!((read.name.as_str(), read.bytes), ("first.png", Some(bytes.len() as u64)));
    let handed = sidecar.pick_bytes("first.png", &bytes).await.unwrap();
    assert_eq!((handed.name.as_str(), handed.bytes), ("first.png", Some(bytes.len() as u64)));
    let target = opened.pictures.path().join("picked.png");
    let write = sidecar.pick_file(&target, FileAccess::Write).await.unwrap();
    let output = OutputOptions { handle: Some(write.handle), ..Default::default() };
    let picked = edit(ImageInput::handle(&read.handle), Some(output)).1.await.unwrap();
    let by_bytes = edit(ImageInput::handle(&handed.handle), None).1.await.unwrap();
    assert_eq!(named.images[0].sha256, by_bytes.images[0].sha256);
    assert_eq!(named.images[0].sha256, sent.images[0].sha256);
    assert_eq!(named.images[0].sha256, picked.images[0].sha256);
    assert!(target.exists());

    sidecar.release_file(&read.handle).await.unwrap();
    let error = edit(ImageInput::handle(read.handle), None).1.await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.image.handle"));
    opened.close().await;
}
