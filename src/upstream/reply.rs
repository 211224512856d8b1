//! What a reply of an upstream means: an answer, or why it is none. One reader for all, whatever carried them.

use std::fmt::Display;

use super::{Failure, FailureKind};
use crate::dns::rcode::Rcode;
use crate::dns::rebinding::Reach;
use crate::dns::response::{Edns, Question, Response, header_rcode};

/// Why one try brought no answer.
#[derive(Debug)]
pub(super) struct TryError {
    /// What it comes to.
    pub(super) kind: FailureKind,
    /// The response code, if there was a reply with one.
    pub(super) rcode: Option<Rcode>,
    /// What was said, if something was.
    pub(super) response: Option<Box<Response>>,
    /// Why, without the upstream's name.
    pub(super) detail: String,
}

impl TryError {
    /// Returns an error without a response.
    pub(super) fn new(kind: FailureKind, detail: &dyn ToString) -> Self {
        Self { kind, rcode: None, response: None, detail: detail.to_string() }
    }

    /// Returns that the network says that nobody is there.
    pub(super) fn network(error: &std::io::Error) -> Self {
        Self::new(FailureKind::Network, error)
    }

    /// Returns that replies came, and none that can be used.
    pub(super) fn garbled() -> Self {
        Self::new(FailureKind::Malformed, &"reply that cannot be read, or to another question")
    }

    /// Returns the failure it is when nobody but `server` can be asked.
    pub(super) fn at(self, server: impl Display) -> Failure {
        let Self { kind, rcode: _, response, detail } = self;
        Failure { kind, is_passing: kind.is_absence(), response, detail: format!("{server}: {detail}") }
    }

    /// Returns the failure that an RCODE which is no answer stands for.
    pub(super) fn unwilling(rcode: Rcode, response: Option<Box<Response>>) -> Self {
        let kind = if rcode == Rcode::SERVFAIL { FailureKind::ServFail } else { FailureKind::Refused };
        Self { kind, rcode: Some(rcode), response, detail: rcode.to_string() }
    }

    /// Returns how a question is asked again, at once and at the same upstream, whose query with this much of EDNS was not
    /// understood.
    pub(super) fn less(&self, edns: Edns, question: &Question) -> Option<Edns> {
        self.rcode.filter(|rcode| Edns::is_rejected_by(*rcode)).and_then(|_| edns.less(question.dnssec_ok))
    }
}

/// Reads a reply to `question` and says whether it is an answer.
pub(super) fn read(bytes: &[u8], question: &Question, reach: &Reach) -> Result<Response, TryError> {
    let response = Response::parse_in(bytes, question, reach).map_err(|error| match header_rcode(bytes) {
        // Who cannot read our query may as well write a reply that cannot be read.
        Some(rcode) if is_unwilling(rcode) => TryError::unwilling(rcode, None),
        _ => TryError::new(FailureKind::Malformed, &error),
    })?;
    match response.rcode() {
        rcode if is_unwilling(rcode) => Err(TryError::unwilling(rcode, Some(Box::new(response)))),
        _ if response.is_lame(bytes, question) => Err(TryError::new(FailureKind::Lame, &"no answer and no recursion")),
        _ => Ok(response),
    }
}

/// Returns whether an RCODE is no answer: another upstream may do better. All are but three, YXDOMAIN of a DNAME record being
/// one of them (RFC 6672 §2.2); of the others stub resolvers make as little as of silence.
pub(super) fn is_unwilling(rcode: Rcode) -> bool {
    !matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN | Rcode::YXDOMAIN)
}
