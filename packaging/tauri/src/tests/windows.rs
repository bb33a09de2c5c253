//! Several windows, and the end of one.

use serde_json::json;

use super::support::*;

#[test]
fn two_windows_share_one_sidecar_and_each_has_its_own_steps() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let (first, second) = (host.window("first"), host.window("second"));
    // both need it first
    let calls = [start(&first, "generate", long(quick(4), 7)), start(&second, "generate", long(quick(4), 8))];
    for call in calls {
        call.join().unwrap().unwrap();
    }
    let sidecar = tauri::async_runtime::block_on(host.diffusion().sidecar()).unwrap();
    assert_eq!(sidecar.starts(), 1);
    for (window, channel) in [("first", 7), ("second", 8)] {
        let frames = host.frames.lock().unwrap();
        assert!(frames.iter().filter(|frame| frame.channel == channel).all(|frame| frame.window == window));
    }
    assert_ne!(host.messages(7)[0]["jobId"], host.messages(8)[0]["jobId"]);
    let jobs = invoke(&second, "jobs_list", json!({"params": {}})).unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
}

#[test]
fn the_end_of_a_window_cancels_its_calls_and_no_others() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let (first, second) = (host.window("first"), host.window("second"));
    let drawn = start(&first, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    let queued = start(&first, "generate", long(quick(2), 8));
    let others = start(&second, "generate", long(quick(2), 9));
    until("all are known", || host.diffusion().calls.len() == 3);
    host.diffusion().window_gone("first");
    for call in [drawn, queued] {
        assert_eq!(call.join().unwrap().unwrap_err()["kind"], "RequestCancelled");
    }
    others.join().unwrap().unwrap();
    let jobs = invoke(&second, "jobs_list", json!({"params": {}})).unwrap();
    assert!(jobs["jobs"].as_array().unwrap().iter().all(|job| job["state"] != "running" && job["state"] != "queued"));
}

#[test]
fn a_window_that_looks_at_anothers_job_takes_nothing_from_it_and_leaves_it_when_it_ends() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let (first, second, third) = (host.window("first"), host.window("second"), host.window("third"));
    let mut params = steady(12);
    params["options"]["preview"] = json!({"everySteps": 4});
    let drawn = start(&first, "generate", long(params, 7));
    until("it draws, and its last message has no preview", || host.messages(7).iter().any(|step| step["step"] == 5));
    let job = host.messages(7)[0]["jobId"].clone();
    let followed = start(&second, "jobs_attach", long(json!({"jobId": job}), 8));
    let watched = start(&third, "jobs_attach", long(json!({"jobId": job}), 9));
    until("it is followed", || !host.messages(8).is_empty() && !host.messages(9).is_empty());
    assert!(host.messages(8)[0]["preview"]["data"].is_string(), "the first message has the last preview");
    host.diffusion().window_gone("second");
    let seen = host.messages(8).len();
    let [drawn, followed, watched] = [drawn, followed, watched].map(|call| call.join().unwrap().unwrap());
    assert_eq!(followed["result"], drawn["result"]);
    assert_eq!(watched["result"], drawn["result"]);
    assert_eq!(finished(&host.messages(7)), (1..=12).collect::<Vec<_>>());
    for (channel, answer) in [(7, drawn), (9, watched)] {
        assert_eq!(answer["messages"], host.messages(channel).len());
        assert_eq!(host.messages(channel).last().unwrap()["progress"], 1.0);
    }
    assert_eq!(host.messages(8).len(), seen, "nothing is sent to a window that is gone");
}

#[test]
fn a_page_that_is_loaded_twice_quickly_follows_its_job_once() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let lost = start(&window, "generate", long(steady(12), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["step"] == 1));
    let job = host.messages(7)[0]["jobId"].clone();
    let once = send(&window, "jobs_attach", long(json!({"jobId": job}), 8));
    let twice = send(&window, "jobs_attach", long(json!({"jobId": job}), 9));
    let answer = twice.recv().unwrap().unwrap();
    assert_eq!(host.messages(9).last().unwrap()["progress"], 1.0);
    assert_eq!(answer["result"], lost.join().unwrap().unwrap()["result"]);
    assert_eq!(answer["result"], once.recv().unwrap().unwrap()["result"]);
    for before in [7, 8] {
        let last = host.messages(before).last().map_or(0.0, |step| step["progress"].as_f64().unwrap());
        assert!(last < 1.0, "nothing more is sent to the previous page");
    }
}

#[test]
fn a_call_whose_window_is_closed_behind_it_is_cancelled() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    for turn in 0..20 {
        let call = send(&window, "generate", long(slow(), turn));
        host.diffusion().window_gone("main");
        let answer = call.recv_timeout(std::time::Duration::from_secs(50)).expect("it is not cancelled");
        assert_eq!(answer.unwrap_err()["kind"], "RequestCancelled");
    }
}
