//! A connection's octets, whose coming and going the [`Pulse`] hears of.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::api::connection::deadlines::Pulse;

/// What HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that is watched.
pub(in crate::api) struct Stream<S> {
    /// The stream.
    inner: S,
    /// Who hears of it.
    pulse: Arc<Pulse>,
    /// How much of [`PREFACE`] has come; none when something else did.
    preface: Option<usize>,
    /// Whether the last write came to nothing.
    is_blocked: bool,
    /// Whether all is sent that will be.
    is_shut: bool,
}

impl<S> Stream<S> {
    /// Watches a stream.
    pub(in crate::api) fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse, preface: Some(0), is_blocked: false, is_shut: false }
    }

    /// Notes what came in.
    fn heard(&mut self, octets: &[u8]) {
        if let Some(matched) = self.preface {
            let rest = &PREFACE[matched..];
            let common = rest.len().min(octets.len());
            let is_it = rest[..common] == octets[..common];
            self.preface = is_it.then_some(matched + common).filter(|matched| *matched < PREFACE.len());
            if is_it && self.preface.is_none() {
                self.pulse.speaks_http2();
            }
        }
        self.pulse.heard();
    }

    /// Notes whether the client took anything.
    fn wrote<T>(&mut self, polled: &Poll<io::Result<T>>) {
        let is_blocked = polled.is_pending();
        if is_blocked != self.is_blocked {
            self.is_blocked = is_blocked;
            self.pulse.blocked(is_blocked);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, into);
        let came = &into.filled()[before..];
        if !came.is_empty() {
            this.heard(came);
        } else if polled.is_pending() {
            this.pulse.awaits();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(context, octets);
        this.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, parts);
        this.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(context);
        this.wrote(&polled);
        polled
    }

    /// Ends what is sent, and reads what the client still sends: a socket that is closed with something unread in it
    /// resets the connection, and the client may lose the answer (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            let polled = Pin::new(&mut this.inner).poll_shutdown(context);
            this.wrote(&polled);
            ready!(polled)?;
            this.is_shut = true;
            this.pulse.leave();
        }
        let mut space = [0; 2048];
        loop {
            let mut into = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.inner).poll_read(context, &mut into)) {
                Ok(()) if !into.filled().is_empty() => {}
                // Whatever ends it, the end was wanted.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
