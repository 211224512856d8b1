//! A connection's stream, which reports to the [`ConnectionState`] when octets come and when the client reads none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::api::connection::state::ConnectionState;

/// The first octets of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that reports to the state of its connection.
pub(in crate::api) struct WatchedStream<S> {
    inner: S,
    state: Arc<ConnectionState>,
    /// The octets of [`PREFACE`] that have come; `None` once it is complete or other octets came.
    preface: Option<usize>,
    /// True if the last write took no octet, as the buffer of the socket is full.
    is_blocked: bool,
    /// Whether the sending side is shut down.
    is_shut: bool,
}

impl<S> WatchedStream<S> {
    pub(in crate::api) fn new(inner: S, state: Arc<ConnectionState>) -> Self {
        Self { inner, state, preface: Some(0), is_blocked: false, is_shut: false }
    }

    /// Reports octets that came, and HTTP/2 once its preface is complete.
    fn received(&mut self, octets: &[u8]) {
        if let Some(matched) = self.preface {
            let rest = &PREFACE[matched..];
            let common = rest.len().min(octets.len());
            let is_preface = rest[..common] == octets[..common];
            self.preface = is_preface.then_some(matched + common).filter(|matched| *matched < PREFACE.len());
            if is_preface && self.preface.is_none() {
                self.state.speaks_http2();
            }
        }
        self.state.received();
    }

    /// Reports whether the client reads.
    fn wrote<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() != self.is_blocked {
            self.is_blocked = polled.is_pending();
            self.state.blocked(self.is_blocked);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, into);
        let came = &into.filled()[before..];
        if !came.is_empty() {
            this.received(came);
        } else if polled.is_pending() {
            this.state.awaits();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(context, octets);
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, parts);
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(context);
        this.wrote(polled)
    }

    /// Shuts the sending side down, and reads what the client still sends: closing a socket with unread octets resets the
    /// connection, and the client may lose the answer (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            let polled = Pin::new(&mut this.inner).poll_shutdown(context);
            ready!(this.wrote(polled))?;
            this.is_shut = true;
            this.state.closing();
        }
        let mut space = [0; 2048];
        loop {
            let mut into = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.inner).poll_read(context, &mut into)) {
                Ok(()) if !into.filled().is_empty() => {}
                // An error ends the connection as well.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
