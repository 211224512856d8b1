//! Rebuilding of a response from the records that are kept.

use super::names::{NameId, Names, POINTER_REACH};
use super::parse::{Message, RdataPart, Record, walk_rdata};
use super::svcb::{self, Hints};
use super::{KeptMessage, ResponseError};
use crate::dns::name::uncompressed_length;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE};

/// Writes the records of `message` that `keep` selects, under the given header flags.
///
/// Owner names and names in types of RFC 1035 are compressed; all others are written in full (RFC 3597 §4). SVCB and
/// HTTPS records lose their `ech` parameter and the hints that `hints` excludes. The ID is 0 and the question is in
/// lower case.
///
/// # Errors
/// Fails if the message no longer fits in 64 KiB, because names had been compressed where this is not allowed.
pub(super) fn rebuild(
    message: &mut Message<'_>,
    keep: &[bool],
    hints: Hints,
    flags: u16,
    qtype: RecordType,
) -> Result<KeptMessage, ResponseError> {
    let mut counts = [1, 0, 0, 0];
    let mut writer = Writer {
        out: Vec::with_capacity(message.bytes.len()),
        written: vec![None; message.names.len()],
        ttl_offsets: Vec::with_capacity(message.records.len()),
    };
    Header { id: 0, flags, counts }.write(&mut writer.out);
    writer.write_question(&message.names, message.qname, qtype);
    for (record, _) in message.records.iter().zip(keep).filter(|(_, keep)| **keep) {
        let params = match record.rtype {
            RecordType::SVCB | RecordType::HTTPS => Some(svcb::params(message.rdata(record))),
            _ => None,
        };
        writer.write_record(&mut message.names, message.bytes, record, params.map(|params| (params, hints)))?;
        counts[record.section.index()] += 1;
    }
    let Writer { mut out, ttl_offsets, .. } = writer;
    let mut header = Vec::with_capacity(HEADER);
    Header { id: 0, flags, counts }.write(&mut header);
    // The counts are known only after all records have been written.
    out[..HEADER].copy_from_slice(&header);
    Ok(KeptMessage { message: out, ttl_offsets })
}

/// A message under construction.
struct Writer {
    out: Vec<u8>,
    /// The offset of each name already written, indexed by [`NameId`]; `None` beyond the reach of a pointer.
    written: Vec<Option<u16>>,
    /// The offsets of the TTL fields.
    ttl_offsets: Vec<u16>,
}

impl Writer {
    /// Writes the question, its name in lower case and uncompressed.
    fn write_question(&mut self, names: &Names<'_>, qname: NameId, qtype: RecordType) {
        self.write_name(names, qname, true);
        self.out[HEADER..].make_ascii_lowercase();
        self.out.extend_from_slice(&qtype.0.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
    }

    /// Writes a record; `params` are the parameters of an SVCB or HTTPS record, which are rewritten.
    fn write_record<'a>(
        &mut self,
        names: &mut Names<'a>,
        bytes: &'a [u8],
        record: &Record,
        params: Option<(&[u8], Hints)>,
    ) -> Result<(), ResponseError> {
        self.write_name(names, record.owner, true);
        self.out.extend_from_slice(&record.rtype.0.to_be_bytes());
        self.out.extend_from_slice(&record.class.to_be_bytes());
        self.ttl_offsets.push(u16::try_from(self.out.len()).map_err(|_| ResponseError::Malformed)?);
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        // RDLENGTH is known only after names have been written in full.
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        if let Some((params, hints)) = params {
            let (priority, target) = bytes[record.rdata.start..record.rdata.end - params.len()].split_at(2);
            self.out.extend_from_slice(priority);
            self.write_in_full(names, record.target, target);
            svcb::rewrite(params, hints, &mut self.out);
        } else {
            walk_rdata(names, bytes, record.rtype, record.rdata.clone(), |names, part| match part {
                RdataPart::Bytes(bytes) => self.out.extend_from_slice(bytes),
                RdataPart::Name { name, compress: true, .. } => self.write_name(names, name, true),
                RdataPart::Name { name, compress: false, octets } => self.write_in_full(names, name, octets),
            })?;
        }
        if self.out.len() > MAX_MESSAGE {
            return Err(ResponseError::Malformed);
        }
        let length = u16::try_from(self.out.len() - length_at - 2).map_err(|_| ResponseError::Malformed)?;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Writes a name without compression. A name that was uncompressed keeps its case, which is part of the signed form
    /// of some types (RFC 6840 §5.1).
    fn write_in_full(&mut self, names: &Names<'_>, name: NameId, octets: &[u8]) {
        if uncompressed_length(octets) == Ok(octets.len()) {
            self.out.extend_from_slice(octets);
        } else {
            self.write_name(names, name, false);
        }
    }

    /// Writes a name. With `compress`, it ends in a pointer at the first suffix that has been written before.
    fn write_name(&mut self, names: &Names<'_>, name: NameId, compress: bool) {
        for name in names.at_and_above(name) {
            if compress && name != NameId::ROOT {
                let written = &mut self.written[name.index()];
                if let Some(at) = *written {
                    self.out.extend_from_slice(&(0xc000 | at).to_be_bytes());
                    return;
                }
                *written = u16::try_from(self.out.len()).ok().filter(|&at| usize::from(at) < POINTER_REACH);
            }
            self.out.extend_from_slice(names.label(name));
        }
    }
}
