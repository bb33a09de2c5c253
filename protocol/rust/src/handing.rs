//! Passes open files to the sidecar over a socket that it inherits, one descriptor in each datagram.
//!
//! This module owns one process's pair of sockets, and sends. The task that writes the lines sends a file just before
//! the line that names it, so both go to the same process, in this order.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// How long the sidecar may take to make room in a full socket: Linux keeps some 280 of these datagrams by default,
/// macOS, with its 4 KiB, some forty.
const FULL: Duration = Duration::from_secs(5);
/// The interval at which a full socket is retried. macOS then reports ENOBUFS, and does not signal when there is room.
const AGAIN: Duration = Duration::from_millis(5);

/// A file to pass to the sidecar.
pub(crate) struct Handed {
    /// Its name in the call: visible ASCII, 64 bytes at most.
    pub(crate) name: String,
    /// Shared with the task that waits for the answer: the descriptor stays open until the call is answered.
    pub(crate) file: Arc<OwnedFd>,
}

/// Our end of the pair.
pub(crate) struct HandingSocket(UnixDatagram);

impl HandingSocket {
    /// Creates a pair. The command's process inherits the other end, whose number becomes the last argument. Our copy
    /// of that end is dropped with the command.
    pub(crate) fn given_to(command: &mut Command) -> io::Result<Self> {
        let (ours, theirs) = UnixDatagram::pair()?; // both are close-on-exec
        ours.set_nonblocking(true)?;
        command.arg("--descriptors").arg(theirs.as_raw_fd().to_string());
        inherited(command, theirs.into());
        Ok(Self(ours))
    }

    /// Sends a file, and waits for room without blocking the thread. May be dropped at any time.
    ///
    /// A failure to send is not reported here: the line is sent anyway. The sidecar, which reads the socket only when a
    /// call names a file, then makes room and refuses that call. If the process has ended, its calls fail with that.
    pub(crate) async fn send(&self, handed: &Handed) {
        let give_up = Instant::now() + FULL;
        loop {
            match send(self.0.as_fd(), handed.name.as_bytes(), handed.file.as_fd()) {
                Ok(()) => return,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ETOOMANYREFS) if Instant::now() < give_up => {
                    sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!("an open file cannot be sent to the sidecar: {error}");
                    return;
                }
            }
        }
    }
}

fn send(socket: BorrowedFd<'_>, name: &[u8], file: BorrowedFd<'_>) -> Result<(), Errno> {
    let files = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(name)], &rights, MsgFlags::empty(), None).map(drop)
}

/// Lets the command's process, and no other, inherit a descriptor.
///
/// A descriptor without close-on-exec would be inherited by whatever any thread starts at that moment. So it keeps the
/// flag here; only the child clears it, between fork and exec.
#[allow(unsafe_code)]
fn inherited(command: &mut Command, descriptor: OwnedFd) {
    let keep = move || fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(io::Error::from);
    // SAFETY: only async-signal-safe code may run between fork and exec. The closure makes a single call, to fcntl(2),
    // which is; it takes no lock, and neither allocates nor frees: an errno becomes an io::Error without allocating.
    unsafe { command.pre_exec(keep) };
}
