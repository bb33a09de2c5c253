//! The task behind a [`Sidecar`](crate::Sidecar): starts the process, passes it the calls, and restarts it.
//!
//! This module decides what happens between processes. A call belongs to the process that it was sent to and ends with
//! it. A later call starts the next process, after a wait if the last ones answered nothing. A process that reports
//! that an update has replaced its files is ended once it has nothing left to answer.

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::builder::{Config, Restart};
use crate::error::{Error, Gone, Violation};
use crate::exchange::Start;
use crate::handle::{Command, Handle, object, refuse, typed};
use crate::message::Method;
use crate::schema::methods::Initialize;
use crate::schema::{InitializeResult, PROTOCOL_VERSION};
use crate::session::Session;

pub(crate) struct Supervisor {
    config: Config,
    commands: mpsc::UnboundedReceiver<Command>,
    handle: Handle,
    /// Calls that have not been passed to a process yet.
    waiting: VecDeque<Start>,
    closers: Vec<oneshot::Sender<Option<ExitStatus>>>,
    closing: bool,
    /// How many processes in a row answered no call.
    failures: u32,
}

impl Supervisor {
    pub(crate) fn new(config: Config, commands: mpsc::UnboundedReceiver<Command>, handle: Handle) -> Self {
        let (waiting, closers) = (VecDeque::new(), Vec::new());
        Self { config, commands, handle, waiting, closers, closing: false, failures: 0 }
    }

    /// Runs until the sidecar is closed; reports to `first` whether the first process could be started.
    pub(crate) async fn run(mut self, first: oneshot::Sender<Result<(), Error>>) {
        match self.open().await {
            Ok(session) => {
                let _ = first.send(Ok(()));
                let mut session = Some(session);
                while let Some(live) = session.take() {
                    let gone = self.serve(live).await;
                    session = if self.closing { None } else { self.next(gone).await };
                }
            }
            Err(error) => {
                let _ = first.send(Err(error));
            }
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.take(command, None);
        }
        self.refuse_all(&Error::closed());
        let exit = self.handle.known().exit;
        for closer in self.closers.drain(..) {
            let _ = closer.send(exit);
        }
    }

    /// Serves calls until the process has ended; returns how it ended.
    async fn serve(&mut self, mut session: Session) -> Error {
        for start in self.waiting.drain(..) {
            session.start(start);
        }
        let opened = session.succeeded();
        loop {
            if session.is_spent() && self.config.restart != Restart::Never && !self.handle.is_followed() {
                session.end();
            }
            tokio::select! {
                over = session.turn() => if over { break },
                command = self.commands.recv() => self.take(command.unwrap_or(Command::Dropped), Some(&mut session)),
            }
        }
        self.failures = if session.succeeded() > opened { 0 } else { self.failures.saturating_add(1) };
        self.over(&mut session).await
    }

    /// Handles the end of a process: fails its calls, and returns how it ended.
    async fn over(&mut self, session: &mut Session) -> Error {
        let gone = session.gone(self.closing).await;
        let mut known = self.handle.known();
        known.pid = None;
        known.exit = session.exit();
        gone
    }

    /// Waits for a call that needs another process, and starts one; none if the sidecar is closed first.
    async fn next(&mut self, mut gone: Error) -> Option<Session> {
        loop {
            let Some(wait) = self.config.restart.wait(self.failures) else {
                self.refuse_all(&gone);
                let command = self.commands.recv().await;
                self.take(command.unwrap_or(Command::Dropped), None);
                if self.closing {
                    return None;
                }
                continue;
            };
            let ready = Instant::now() + wait;
            while self.waiting.is_empty() || Instant::now() < ready {
                let due = !self.waiting.is_empty();
                tokio::select! {
                    command = self.commands.recv() => self.take(command.unwrap_or(Command::Dropped), None),
                    () = sleep_until(ready), if due => {}
                }
                if self.closing {
                    return None;
                }
            }
            tracing::info!("restarting the sidecar: {gone}");
            match self.open().await {
                Ok(session) => return Some(session),
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.refuse_all(&error);
                    gone = error;
                }
            }
            if self.closing {
                return None;
            }
        }
    }

    /// Starts a process and opens its session.
    async fn open(&mut self) -> Result<Session, Error> {
        let mut session = Session::spawn(&self.config)?;
        {
            let mut known = self.handle.known();
            (known.pid, known.starts) = (session.pid(), known.starts + 1);
        }
        match self.initialize(&mut session).await {
            Ok(opened) => {
                session.max_line = usize::try_from(opened.capabilities.limits.max_line_bytes).ok();
                self.handle.known().session = Some(Arc::new(opened));
                Ok(session)
            }
            Err(error) => {
                session.finish().await;
                self.over(&mut session).await;
                Err(error)
            }
        }
    }

    async fn initialize(&mut self, session: &mut Session) -> Result<InitializeResult, Error> {
        let (reply, mut answer) = oneshot::channel();
        let method = Initialize::NAME.to_owned();
        session.start(Start {
            id: self.handle.next_id(),
            params: object(&method, &self.config.opening)?,
            reply: typed(method.clone(), reply, None, |opened| opened),
            method,
            sink: None,
            attaches: false,
            file: None,
        });
        let deadline = Instant::now() + self.config.start_timeout;
        let opened: InitializeResult = loop {
            tokio::select! {
                told = &mut answer => break told.unwrap_or_else(|_| Err(Error::closed()))?,
                over = session.turn() => if over { return Err(self.over(session).await) },
                () = sleep_until(deadline) => {
                    return Err(Error::StartTimeout { seconds: self.config.start_timeout.as_secs_f64() });
                }
                command = self.commands.recv() => {
                    self.take(command.unwrap_or(Command::Dropped), None);
                    if self.closing {
                        return Err(Error::closed());
                    }
                }
            }
        };
        match opened.protocol_version {
            version if (1..=u64::from(PROTOCOL_VERSION)).contains(&version) => Ok(opened),
            version => {
                let sentence = format!("The sidecar speaks version {version} of the contract, which was not offered.");
                Err(Violation::new(sentence).into())
            }
        }
    }

    /// Carries out a command with the current process.
    fn take(&mut self, command: Command, session: Option<&mut Session>) {
        match (command, session) {
            (Command::Start(start), _) if self.closing => refuse(start, Error::closed()),
            (Command::Start(start), Some(session)) if !session.is_ending() => session.start(start),
            (Command::Start(start), _) => self.waiting.push_back(start),
            (Command::Forget(start), Some(session)) if !session.is_ending() => session.start(start),
            (Command::Forget(start), _) => refuse(start, Error::closed()), // forgotten with its process
            (Command::Cancel(id), session) => {
                match self.waiting.iter().position(|start| start.id == id).and_then(|at| self.waiting.remove(at)) {
                    Some(start) => refuse(start, Error::unsent()),
                    None => session.into_iter().for_each(|session| session.cancel(id)),
                }
            }
            (Command::Close(closer), session) => {
                self.closers.push(closer);
                self.close(session);
            }
            (Command::Dropped, session) => self.close(session),
            (Command::Unfollowed, _) => {}
        }
    }

    fn close(&mut self, session: Option<&mut Session>) {
        self.closing = true;
        if let Some(session) = session {
            session.end();
        }
    }

    fn refuse_all(&mut self, error: &Error) {
        for start in self.waiting.drain(..) {
            refuse(start, error.clone());
        }
    }
}

impl Error {
    /// The [`Gone`] of a sidecar that this host has closed.
    pub(crate) fn closed() -> Self {
        Self::Gone(Arc::new(Gone { exit: None, stderr: String::new(), closed: true }))
    }
}
