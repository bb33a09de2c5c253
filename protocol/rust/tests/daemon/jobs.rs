//! Jobs, models and the record.

use locara_diffusion::{
    CapabilityLogParams, Decision, ErrorKind, GcParams, JobAnswer, JobMessage, JobState, LoadParams, ModelPhase,
};

use crate::support::{PROMPT, all, drawing, finished, opened, opened_with, params, steps};

#[tokio::test]
async fn a_job_is_found_again_followed_to_its_end_and_answered_as_its_own_call_was() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let (mut own, answer) = sidecar.generate(params("fake:slow=150 a", steps(8)));
    while drawing(&mut own).await.step < 2 {}
    let jobs = sidecar.jobs().await.unwrap();
    assert_eq!(jobs[0].state, JobState::Running);
    assert!(jobs[0].last.as_ref().unwrap().preview.is_some());
    let (messages, attached) = sidecar.attach(&jobs[0].job_id);
    let (seen, result) = tokio::join!(all(messages), attached);
    let seen: Vec<_> = seen
        .into_iter()
        .map(|message| match message {
            JobMessage::Step(step) => step,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(finished(&seen).last(), Some(&8));
    let JobAnswer::Images(result) = result.unwrap() else { panic!("no image's job") };
    assert_eq!(*result, answer.await.unwrap());
    assert_eq!(sidecar.job_result(&result.job_id).await.unwrap(), JobAnswer::Images(result.clone()));

    // one that has ended gives its last message
    let (messages, attached) = sidecar.attach(&result.job_id);
    assert_eq!(all(messages).await.len(), 1);
    assert_eq!(attached.await.unwrap(), JobAnswer::Images(result));
    let error = sidecar.attach("no-such-job").1.await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.jobId"));
    opened.close().await;
}

#[tokio::test]
async fn looking_away_from_a_job_leaves_it_and_cancelling_ends_it() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let (mut own, answer) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    let job = drawing(&mut own).await.job_id;
    let (mut messages, attached) = sidecar.attach(&job);
    assert!(messages.next().await.is_some());
    drop((messages, attached));
    assert_eq!(sidecar.jobs().await.unwrap()[0].state, JobState::Running);
    let (_, attached) = sidecar.attach(&job);
    attached.cancel();
    assert!(attached.await.unwrap_err().is_cancelled());
    assert!(answer.await.unwrap_err().is_cancelled());
    assert!(!sidecar.cancel_job(&job).await.unwrap());
    assert!(sidecar.job_result(&job).await.unwrap_err().is_cancelled());
    opened.close().await;
}

#[tokio::test]
async fn models_are_listed_loaded_verified_and_unloaded_and_the_record_tells_what_was_denied() {
    let opened = opened().await;
    let sidecar = &opened.sidecar;
    let models = sidecar.models().await.unwrap();
    assert_eq!(models[0].id, "pocket");
    let one = sidecar.model("pocket").await.unwrap();
    // not the whole: how much memory is free changes between the two calls
    assert_eq!(
        (one.id, one.digest, one.limits),
        (models[0].id.clone(), models[0].digest.clone(), models[0].limits.clone())
    );
    let (messages, answer) = sidecar.load(LoadParams::new("pocket"));
    assert!(all(messages).await.iter().any(|progress| progress.phase == ModelPhase::Loading));
    let loaded = answer.await.unwrap();
    assert_eq!(loaded.model, "pocket");
    let jobs = sidecar.jobs().await.unwrap();
    let (messages, answer) = sidecar.attach(&jobs[0].job_id);
    assert!(matches!(all(messages).await[..], [JobMessage::Progress(_)]));
    assert_eq!(answer.await.unwrap(), JobAnswer::Load(loaded));
    assert!(sidecar.unload().await.unwrap());
    assert!(sidecar.verify("pocket").1.await.unwrap().ok);
    let error = sidecar.collect(GcParams::default()).await.unwrap_err();
    assert_eq!(error.remote().unwrap().denied().unwrap().reason, "hostFlag");
    assert!(sidecar.usage().await.unwrap().reclaimable_bytes <= sidecar.usage().await.unwrap().bytes);
    let record = sidecar.capability_log(CapabilityLogParams::default()).await.unwrap();
    assert!(record.iter().any(|entry| entry.decision == Decision::Allow));
    assert!(record.iter().any(|entry| entry.decision == Decision::Deny));
    assert!(!sidecar.info().await.unwrap().version.is_empty());
    let session = sidecar.session().unwrap();
    assert!(session.app.granted.contains(&"model:pocket".to_owned()));
    opened.close().await;
}

#[tokio::test]
async fn more_calls_than_were_allowed_are_refused_at_once() {
    let opened = opened_with(|builder| builder.max_calls(2)).await;
    let sidecar = &opened.sidecar;
    let (mut messages, first) = sidecar.generate(params("fake:slow=60000 a", steps(8)));
    drawing(&mut messages).await;
    let (_, second) = sidecar.generate(params(PROMPT, steps(2)));
    let error = sidecar.ping().await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.retryable()), ("2 calls are already in flight.", true));
    first.cancel();
    assert_eq!(first.await.unwrap_err().kind(), Some(&ErrorKind::RequestCancelled));
    second.await.unwrap();
    sidecar.ping().await.unwrap();
    opened.close().await;
}
