//! One process and its session.
//!
//! This module owns the process. stdout and stderr are always read; a separate task writes stdin, so neither waits for
//! the other. To end the session, stdin is closed: the sidecar answers what runs and exits within two seconds, or its
//! process group is killed. If dropped, it is killed at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use process_wrap::tokio::{ChildWrapper, CommandWrap};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::FramedRead;

use crate::builder::{Config, OnLog};
use crate::error::{Error, Gone};
use crate::exchange::{Exchange, Start};
use crate::handing::Handed;
#[cfg(unix)]
use crate::handing::HandingSocket;
use crate::lines::{Line, LineDecoder, MAX_LINE_BYTES};

/// How long to read on after the process has ended: a process that it left behind may hold its pipes open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long to wait for a killed process to end.
const KILLED: Duration = Duration::from_secs(5);
const STDERR_KEPT: usize = 8192;
/// The longest line of the log that is passed on.
const MAX_LOG_LINE: usize = 64 * 1024;

pub(crate) struct Session {
    exchange: Exchange,
    child: Group,
    stdout: FramedRead<ChildStdout, LineDecoder>,
    /// No more lines will come.
    silent: bool,
    outgoing: Option<mpsc::UnboundedSender<Outgoing>>,
    writer: Task,
    log: Task,
    words: Arc<Mutex<Vec<u8>>>,
    close_timeout: Duration,
    deadline: Option<Deadline>,
    /// The longest line that the sidecar accepts, once known.
    pub(crate) max_line: Option<usize>,
}

/// A line, and the open file that it names.
struct Outgoing {
    line: String,
    #[cfg_attr(not(unix), allow(dead_code))]
    file: Option<Handed>,
}

enum Deadline {
    /// When it will be killed.
    Kill(Instant),
    /// When to stop waiting for anything.
    Over(Instant),
}

impl Session {
    pub(crate) fn spawn(config: &Config) -> Result<Self, Error> {
        let mut child = Group::spawn(config)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.inner.stdin().take(), child.inner.stdout().take(), child.inner.stderr().take())
        else {
            return Err(config.unspawned(std::io::Error::other("its pipes are missing")));
        };
        let (outgoing, lines) = mpsc::unbounded_channel();
        let words = Arc::new(Mutex::new(Vec::new()));
        Ok(Self {
            exchange: Exchange::new(config.note()),
            stdout: FramedRead::with_capacity(stdout, LineDecoder::new(MAX_LINE_BYTES), 64 * 1024),
            silent: false,
            outgoing: Some(outgoing),
            #[cfg(unix)]
            writer: Task::new(write(stdin, lines, child.handing.take())),
            #[cfg(not(unix))]
            writer: Task::new(write(stdin, lines)),
            log: Task::new(log(stderr, config.on_log.clone(), Arc::clone(&words))),
            child,
            words,
            close_timeout: config.close_timeout,
            deadline: None,
            max_line: None,
        })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.inner.id()
    }

    pub(crate) fn exit(&self) -> Option<ExitStatus> {
        self.child.exit
    }

    /// Whether it has answered a call with a result, `initialize` included.
    pub(crate) fn succeeded(&self) -> u64 {
        self.exchange.succeeded
    }

    /// Whether it has reported that an update has replaced its files, and has nothing left to answer.
    pub(crate) fn is_spent(&self) -> bool {
        self.exchange.outdated && self.exchange.is_idle()
    }

    /// Whether it is ending: it must get no more requests.
    pub(crate) fn is_ending(&self) -> bool {
        self.outgoing.is_none()
    }

    pub(crate) fn start(&mut self, mut start: Start) {
        let file = start.file.take();
        if let Some(line) = self.exchange.start(start, self.max_line) {
            self.send(Outgoing { line, file });
        }
    }

    pub(crate) fn cancel(&mut self, id: u64) {
        if let Some(line) = self.exchange.cancel(id) {
            self.send(Outgoing { line, file: None });
        }
    }

    fn send(&self, line: Outgoing) {
        if let Some(outgoing) = &self.outgoing {
            let _ = outgoing.send(line); // turn() notices a writer that has ended
        }
    }

    /// Closes stdin after the queued lines, and gives the process time to end.
    pub(crate) fn end(&mut self) {
        if self.outgoing.take().is_some() && !self.child.ended {
            self.deadline = Some(Deadline::Kill(Instant::now() + self.close_timeout));
        }
    }

    /// Waits for one event and handles it; true once the process has ended and everything was read. May be dropped at
    /// any time.
    pub(crate) async fn turn(&mut self) -> bool {
        let running = !self.child.ended;
        if !running && self.silent {
            return true;
        }
        let at = match self.deadline {
            Some(Deadline::Kill(at) | Deadline::Over(at)) => at,
            None => Instant::now(),
        };
        tokio::select! {
            line = next_line(&mut self.stdout), if !self.silent => if let Some(line) = line {
                self.exchange.line(&line);
                // messages that arrive in a burst must not be merged just because no other task could run
                if std::mem::take(&mut self.exchange.pressed) {
                    tokio::task::yield_now().await;
                }
            } else {
                self.silent = true;
                self.end(); // a process that has closed its output is useless
            },
            exit = self.child.inner.wait(), if running => {
                // the status is unknown if somebody else has waited for the process
                (self.child.ended, self.child.exit) = (true, exit.ok());
                self.outgoing = None;
                self.deadline = Some(Deadline::Over(Instant::now() + LAST_WORDS));
            }
            _ = &mut self.writer.0, if self.outgoing.is_some() => self.end(),
            () = sleep_until(at), if self.deadline.is_some() => return self.overdue(),
        }
        false
    }

    fn overdue(&mut self) -> bool {
        match self.deadline {
            Some(Deadline::Kill(_)) => {
                self.child.kill();
                self.deadline = Some(Deadline::Over(Instant::now() + KILLED));
                false
            }
            _ => true,
        }
    }

    /// Runs until [`Self::turn`] reports the end.
    pub(crate) async fn finish(&mut self) {
        self.end();
        while !self.turn().await {}
    }

    /// Fails the calls in flight with how the process ended; call it after the end.
    pub(crate) async fn gone(&mut self, closed: bool) -> Error {
        if !self.log.0.is_finished() {
            let _ = timeout(LAST_WORDS, &mut self.log.0).await;
        }
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stderr = String::from_utf8_lossy(&words).into_owned();
        let error = Error::from(Arc::new(Gone { exit: self.child.exit, stderr, closed }));
        self.exchange.fail(&error);
        error
    }
}

/// The child and everything that it starts in its group; killed when dropped.
struct Group {
    inner: Box<dyn ChildWrapper>,
    /// Our end of the socket for open files, until the writer takes it.
    #[cfg(unix)]
    handing: Option<HandingSocket>,
    ended: bool,
    exit: Option<ExitStatus>,
}

impl Group {
    fn spawn(config: &Config) -> Result<Self, Error> {
        let mut command = Command::new(&config.program);
        command.args(&config.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        config.surroundings(&mut command);
        #[cfg(unix)]
        let handing = match config.hands_files.then(|| HandingSocket::given_to(&mut command)).transpose() {
            Ok(handing) => handing,
            Err(error) => return Err(config.unspawned(error)),
        };
        let mut wrapped = CommandWrap::from(command);
        #[cfg(unix)]
        wrapped.wrap(process_wrap::tokio::ProcessGroup::leader());
        #[cfg(windows)]
        wrapped.wrap(process_wrap::tokio::JobObject);
        let inner = wrapped.spawn().map_err(|error| config.unspawned(error))?;
        Ok(Self {
            inner,
            #[cfg(unix)]
            handing,
            ended: false,
            exit: None,
        })
    }

    fn kill(&mut self) {
        let _ = self.inner.start_kill(); // it fails if the child has ended, which wait() reports
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

/// A task that is aborted when its owner is dropped.
struct Task(JoinHandle<()>);

impl Task {
    fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes lines, each after the file that it names, until there are no more or nobody reads them.
async fn write(
    mut stdin: ChildStdin,
    mut lines: mpsc::UnboundedReceiver<Outgoing>,
    #[cfg(unix)] handing: Option<HandingSocket>,
) {
    while let Some(next) = lines.recv().await {
        #[cfg(unix)]
        if let (Some(handing), Some(file)) = (&handing, next.file) {
            handing.send(&file).await;
        }
        if stdin.write_all(next.line.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Reads stderr to its end: passes the lines on, and keeps the last ones.
async fn log(stderr: impl AsyncRead + Unpin, on_log: Option<OnLog>, words: Arc<Mutex<Vec<u8>>>) {
    let mut lines = FramedRead::new(stderr, LineDecoder::with_rest(MAX_LOG_LINE));
    while let Some(line) = next_line(&mut lines).await {
        let Line::Whole(bytes) = line else { continue };
        let text = String::from_utf8_lossy(&bytes);
        tracing::debug!(target: "locara_diffusion::sidecar", "{text}");
        if let Some(on_log) = &on_log {
            on_log(&text);
        }
        let mut kept = words.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&bytes);
        kept.push(b'\n');
        let surplus = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..surplus);
    }
}

/// Returns the next line, or none after the end or a failure of the pipe.
async fn next_line<R: AsyncRead + Unpin>(lines: &mut FramedRead<R, LineDecoder>) -> Option<Line> {
    poll_fn(|context| Pin::new(&mut *lines).poll_next(context)).await.and_then(Result::ok)
}
