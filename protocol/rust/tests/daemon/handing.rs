//! Files that are handed over as they are open.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use locara_diffusion::{
    Builder, EditOptions, EditParams, Error, ErrorKind, FileAccess, ImageInput, OutputOptions, Sidecar,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Opened, PROMPT, kill, opened, opened_with, params, quick_edit, steps, until};

/// A session to which files can be handed over, and a picture in its folder.
async fn handing() -> (Opened, PathBuf) {
    handing_with(|builder| builder).await
}

async fn handing_with(change: impl FnOnce(Builder) -> Builder) -> (Opened, PathBuf) {
    let opened = opened_with(|builder| change(builder.hands_files(true))).await;
    let output = OutputOptions { path: Some("first.png".into()), ..Default::default() };
    let options = locara_diffusion::GenerateOptions { output: Some(output), ..steps(2) };
    opened.sidecar.generate(params(PROMPT, options)).1.await.unwrap();
    let path = opened.pictures.path().join("first.png");
    (opened, path)
}

async fn edited(sidecar: &Sidecar, handle: &str, output: Option<OutputOptions>) -> Result<String, Error> {
    let options = EditOptions { output, ..quick_edit() };
    let params = EditParams { options: Some(options), ..EditParams::new("green", ImageInput::handle(handle)) };
    Ok(sidecar.edit(params).1.await?.images[0].sha256.clone())
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// How many descriptors of a process, `self` or its id, are of that file.
fn open_in(process: &str, file: &Path) -> usize {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    links.filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|target| target == file)).count()
}

/// Begins a call, and does not wait for its answer: a timeout of nothing still takes a millisecond, in which it may come.
async fn begun(call: &mut Pin<Box<impl Future<Output: Debug>>>) {
    let first = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
    assert!(first.is_pending(), "{first:?}");
}

#[tokio::test]
async fn an_open_file_is_as_good_as_its_path_and_a_picture_is_saved_into_one_in_place() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    let by_path = sidecar.pick_file(&path, FileAccess::Read).await.unwrap();
    let picked = sidecar.pick_open_file("mine.png", File::open(&path).unwrap(), FileAccess::Read).await.unwrap();
    assert_eq!((picked.name.as_str(), picked.bytes), ("mine.png", by_path.bytes));
    assert_eq!(open_in("self", &path), 0, "it is closed here once the call has ended");

    let target = opened.pictures.path().join("target.png");
    std::fs::write(&target, vec![b'x'; 1 << 20]).unwrap();
    let before = std::fs::metadata(&target).unwrap().ino();
    let output = sidecar.pick_open_file("target.png", writable(&target), FileAccess::Write).await.unwrap();
    assert_eq!((output.name.as_str(), output.bytes), ("target.png", None));
    let output = OutputOptions { handle: Some(output.handle), ..Default::default() };
    let made = edited(sidecar, &picked.handle, Some(output)).await.unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().ino(), before);

    // the file has the picture's bytes and no other
    let saved = sidecar.pick_file(&target, FileAccess::Read).await.unwrap();
    let reference = OutputOptions { path: Some("reference.png".into()), ..Default::default() };
    assert_eq!(edited(sidecar, &by_path.handle, Some(reference)).await.unwrap(), made);
    let reference = opened.pictures.path().join("reference.png");
    assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(reference).unwrap());
    assert!(edited(sidecar, &saved.handle, None).await.is_ok());
    opened.close().await;
}

#[tokio::test]
async fn a_file_for_the_other_access_and_a_name_that_is_a_path_are_refused() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    let file = File::open(&path).unwrap();
    let error = sidecar.pick_open_file("a.png", file, FileAccess::Write).await.unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!((&remote.kind, remote.path()), (&ErrorKind::StorageError, Some("$.descriptor")));
    assert_eq!(remote.data["errno"], "EBADF");
    let error = sidecar.pick_open_file("a.txt", writable(&path), FileAccess::Write).await.unwrap_err();
    assert_eq!(error.remote().unwrap().path(), Some("$.name"));
    for name in ["a/b.png", "", "..", &"a".repeat(256)] {
        let error = sidecar.pick_open_file(name, File::open(&path).unwrap(), FileAccess::Read).await.unwrap_err();
        assert!(matches!(&error, Error::Params { reason, .. } if reason.starts_with("$.name")), "{error}");
    }
    let daemon = sidecar.pid().unwrap().to_string();
    until("nothing is open", async || open_in("self", &path) + open_in(&daemon, &path) == 0).await;
    opened.close().await;
}

#[tokio::test]
async fn calls_that_are_refused_leave_room_for_those_that_come_after() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    for _ in 0..300 {
        // a name that the sidecar alone refuses
        let file = File::open(&path).unwrap();
        let error = sidecar.pick_open_file("a\u{0}.png", file, FileAccess::Read).await.unwrap_err();
        assert_eq!(error.remote().unwrap().path(), Some("$.name"));
    }
    sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read).await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn after_a_restart_files_are_handed_to_the_new_process() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    for starts in 2..4 {
        kill(sidecar.pid().unwrap());
        until("it is known", async || sidecar.pid().is_none()).await;
        let picked = sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read).await.unwrap();
        assert_eq!(sidecar.starts(), starts);
        edited(sidecar, &picked.handle, None).await.unwrap();
    }
    assert_eq!(open_in("self", &path), 0);
    opened.close().await;
}

#[tokio::test]
async fn many_at_once_leave_nothing_open() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    let daemon = sidecar.pid().unwrap().to_string();
    for _ in 0..3 {
        let mut picks = JoinSet::new();
        for number in 0..100 {
            let (sidecar, file) = (sidecar.clone(), File::open(&path).unwrap());
            picks.spawn(async move { sidecar.pick_open_file(&format!("{number}.png"), file, FileAccess::Read).await });
        }
        let picked: Vec<_> = picks.join_all().await.into_iter().map(Result::unwrap).collect();
        assert_eq!((open_in("self", &path), open_in(&daemon, &path)), (0, 100));
        for one in picked {
            sidecar.release_file(&one.handle).await.unwrap();
        }
        until("all are released", async || open_in(&daemon, &path) == 0).await;
    }
    opened.close().await;
}

#[tokio::test]
async fn a_pick_that_nobody_waits_for_any_more_leaves_nothing_open() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    let daemon = sidecar.pid().unwrap().to_string();
    for _ in 0..20 {
        // cancelled on its way
        let pick = sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read);
        begun(&mut Box::pin(pick)).await;
        // never begun
        drop(sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read));
    }
    until("none is open", async || open_in("self", &path) + open_in(&daemon, &path) == 0).await;

    // dropped once the sidecar has opened it
    let mut pick = Box::pin(sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read));
    begun(&mut pick).await;
    until("the sidecar has it", async || open_in(&daemon, &path) == 1).await;
    until("it is answered", async || sidecar.open_calls() == 0).await;
    drop(pick);
    until("it is released", async || open_in("self", &path) + open_in(&daemon, &path) == 0).await;
    // the same by its path
    let mut pick = Box::pin(sidecar.pick_file(&path, FileAccess::Read));
    begun(&mut pick).await;
    until("it is answered", async || sidecar.open_calls() == 0).await;
    assert_eq!(open_in(&daemon, &path), 1);
    drop(pick);
    until("it is released", async || open_in(&daemon, &path) == 0).await;
    opened.close().await;
}

#[tokio::test]
async fn a_daemon_that_dies_fails_the_pick_and_nothing_stays_open() {
    let (opened, path) = handing().await;
    let sidecar = &opened.sidecar;
    let daemon = sidecar.pid().unwrap();
    let stopped = std::process::Command::new("kill").args(["-STOP", &daemon.to_string()]).status().unwrap();
    assert!(stopped.success());
    let mut picks = JoinSet::new();
    for _ in 0..50 {
        let (sidecar, file) = (sidecar.clone(), File::open(&path).unwrap());
        picks.spawn(async move { sidecar.pick_open_file("a.png", file, FileAccess::Read).await });
    }
    // nothing is read, and the thread that all of this runs on is not held up
    until("they are under way", async || sidecar.open_calls() == 50).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(open_in("self", &path), 50, "each is kept open until its call has ended, sent or not");
    kill(daemon);
    for ended in picks.join_all().await {
        assert!(matches!(ended, Err(Error::Gone(_))), "{ended:?}");
    }
    until("nothing is open", async || open_in("self", &path) == 0).await;
}

#[tokio::test]
async fn a_socket_that_stays_full_costs_one_call_and_the_others_go_on() {
    let (opened, path) = handing_with(|builder| builder.max_calls(1000)).await;
    let sidecar = &opened.sidecar;
    let daemon = sidecar.pid().unwrap();
    let signal = |name: &str| {
        let done = std::process::Command::new("kill").args([name, &daemon.to_string()]).status().unwrap();
        assert!(done.success());
    };
    // what a socket holds by default, at some 770 bytes a datagram
    let kept =
        std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap().trim().parse::<usize>().unwrap() / 770;
    if kept > 500 {
        return; // the process may not have so many files
    }
    signal("-STOP");
    let mut picks = JoinSet::new();
    for _ in 0..kept + 30 {
        let (sidecar, file) = (sidecar.clone(), File::open(&path).unwrap());
        picks.spawn(async move { sidecar.pick_open_file("a.png", file, FileAccess::Read).await });
    }
    tokio::time::sleep(Duration::from_secs(7)).await; // the first that finds it full gives up after five
    signal("-CONT");
    let ended = picks.join_all().await;
    let invalid = |one: &&Error| one.kind() == Some(&ErrorKind::InvalidParams);
    let refused: Vec<_> = ended.iter().filter_map(|one| one.as_ref().err()).filter(invalid).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].remote().unwrap().path(), Some("$.descriptor"));
    let picked: Vec<_> = ended.iter().flatten().collect();
    assert_eq!(picked.len(), kept.min(256), "as many as the sidecar keeps");
    for one in picked {
        sidecar.release_file(&one.handle).await.unwrap();
    }
    sidecar.pick_open_file("a.png", File::open(&path).unwrap(), FileAccess::Read).await.unwrap();
    assert_eq!(open_in("self", &path), 0);
    opened.close().await;
}

#[tokio::test]
async fn the_sidecars_end_is_its_own_alone() {
    let (opened, _) = handing().await;
    let sidecar = &opened.sidecar;
    let daemon = sidecar.pid().unwrap();
    let words = std::fs::read_to_string(format!("/proc/{daemon}/cmdline")).unwrap();
    let mut words = words.split('\0').skip_while(|word| *word != "--descriptors").skip(1);
    let number = words.next().unwrap();
    let socket = std::fs::read_link(format!("/proc/{daemon}/fd/{number}")).unwrap();
    assert!(socket.to_str().unwrap().starts_with("socket:["), "{}", socket.display());
    let engine = sidecar.ping().await.unwrap().engine.pid.unwrap().to_string();
    assert_eq!((open_in("self", &socket), open_in(&engine, &socket)), (0, 0));
    assert_eq!(open_in(&daemon.to_string(), &socket), 1);
    opened.close().await;
}

#[tokio::test]
async fn without_a_socket_the_call_says_what_is_missing() {
    let opened = opened().await;
    let path = opened.pictures.path().join("a.png");
    let pick = opened.sidecar.pick_open_file("a.png", writable(&path), FileAccess::Write);
    let error = timeout(Duration::from_secs(60), pick).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Params { reason, .. } if reason.contains("hands_files")), "{error}");
    assert_eq!(open_in("self", &path), 0);
    opened.close().await;
}
