//! Open files on their way to the sidecar: over a socket that it inherits, one descriptor in each datagram.
//!
//! Owned here: the pair of sockets of one process, and sending. A file is sent by the task that writes the lines, just
//! before the line that names it, so that the two go to the same process and in this order.

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
/// How often a full socket is tried again. macOS says ENOBUFS then, and gives no notice when there is room.
const AGAIN: Duration = Duration::from_millis(5);

/// A file to be handed over.
pub(crate) struct Handed {
    /// What the call calls it: visible ASCII, 64 bytes at most.
    pub(crate) name: String,
    /// Shared with what waits for the answer: the sender keeps a descriptor open until the call is answered.
    pub(crate) file: Arc<OwnedFd>,
}

/// Our end of the pair.
pub(crate) struct HandingSocket(UnixDatagram);

impl HandingSocket {
    /// Makes a pair, of which the command's process inherits the other end; its number becomes the last argument. Our
    /// copy of that end goes with the command.
    pub(crate) fn given_to(command: &mut Command) -> io::Result<Self> {
        let (ours, theirs) = UnixDatagram::pair()?; // both are close-on-exec
        ours.set_nonblocking(true)?;
        command.arg("--descriptors").arg(theirs.as_raw_fd().to_string());
        inherited(command, theirs.into());
        Ok(Self(ours))
    }

    /// Sends a file, and waits for room without holding up the thread. May be dropped at any time.
    ///
    /// One that cannot be sent is not told here: its line goes all the same, and the sidecar, which looks into the
    /// socket only when a call names a file, makes room and refuses that call. If the process has ended, its calls fail
    /// with that.
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
                    tracing::warn!("an open file cannot be handed over: {error}");
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
/// A descriptor that is not close-on-exec is inherited by whatever any thread starts at that moment. So it stays that
/// here, and is changed in the child alone, between fork and exec.
#[allow(unsafe_code)]
fn inherited(command: &mut Command, descriptor: OwnedFd) {
    let keep = move || fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec only what is async-signal-safe may run. The closure makes one call, of fcntl(2),
    // which is; it takes no lock, and neither allocates nor frees: an errno becomes an io::Error without that.
    unsafe { command.pre_exec(keep) };
}
