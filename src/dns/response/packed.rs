//! The parts of a response packed into one allocation: a cache hit reads few cache lines, and a miss allocates once.

/// The packed parts, in the order of [`Parts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The octets of all parts, one after the other.
    bytes: Box<[u8]>,
    /// The end offset of each part but the last, which ends with `bytes`.
    ends: [u32; 4],
}

/// The parts of a response before packing.
pub(super) struct Parts<'a> {
    /// The whole message. Its buffer is reused, so spare capacity saves an allocation.
    pub(super) message: Vec<u8>,
    /// The offsets of the TTL fields in the message.
    pub(super) ttl_offsets: &'a [u16],
    /// EDE options in wire format, one after the other.
    pub(super) ede_options: &'a [u8],
    /// The targets of the CNAME chain in wire format, one after the other.
    pub(super) targets: &'a [u8],
    /// The names that MX, NAPTR, SRV, SVCB and HTTPS records lead to, in wire format, one after the other.
    pub(super) service_targets: &'a [u8],
}

impl Parts<'_> {
    /// Returns the number of octets that the parts take after the message.
    pub(super) fn octets_after_message(&self) -> usize {
        size_of_val(self.ttl_offsets) + self.ede_options.len() + self.targets.len() + self.service_targets.len()
    }
}

impl Packed {
    /// Packs the parts into one allocation.
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let room = parts.octets_after_message();
        let Parts { message: mut bytes, ttl_offsets, ede_options, targets, service_targets } = parts;
        bytes.reserve_exact(room);
        let message_end = end(&bytes);
        for offset in ttl_offsets {
            bytes.extend_from_slice(&offset.to_ne_bytes());
        }
        let offsets_end = end(&bytes);
        let [edes_end, targets_end] = [ede_options, targets].map(|part| {
            bytes.extend_from_slice(part);
            end(&bytes)
        });
        bytes.extend_from_slice(service_targets);
        Self { bytes: bytes.into(), ends: [message_end, offsets_end, edes_end, targets_end] }
    }

    /// Returns the whole message.
    pub(super) fn message(&self) -> &[u8] {
        self.part(0, self.ends[0])
    }

    /// Replaces each TTL by the result of `change`.
    pub(super) fn change_ttls(&mut self, change: impl Fn(u32) -> u32) {
        let (message, behind) = self.bytes.split_at_mut(index(self.ends[0]));
        let (offsets, _) = behind[..index(self.ends[1] - self.ends[0])].as_chunks();
        for offset in offsets {
            let ttl = message.get_mut(usize::from(u16::from_ne_bytes(*offset))..).and_then(<[u8]>::first_chunk_mut);
            if let Some(ttl) = ttl {
                *ttl = change(u32::from_be_bytes(*ttl)).to_be_bytes();
            }
        }
    }

    /// Returns the offsets of the TTL fields in the message.
    pub(super) fn ttl_offsets(&self) -> impl ExactSizeIterator<Item = u16> + Clone + '_ {
        self.raw_ttl_offsets().iter().map(|pair| u16::from_ne_bytes(*pair))
    }

    /// Returns the offsets of the TTL fields as they are packed: integers in native byte order.
    pub(super) fn raw_ttl_offsets(&self) -> &[[u8; 2]] {
        self.part(self.ends[0], self.ends[1]).as_chunks().0
    }

    /// Returns the EDE options in wire format.
    pub(super) fn ede_options(&self) -> &[u8] {
        self.part(self.ends[1], self.ends[2])
    }

    /// Returns the targets of the CNAME chain in wire format.
    pub(super) fn targets(&self) -> &[u8] {
        self.part(self.ends[2], self.ends[3])
    }

    /// Returns the service targets in wire format.
    pub(super) fn service_targets(&self) -> &[u8] {
        &self.bytes[index(self.ends[3])..]
    }

    /// Returns the heap memory that the parts take, in octets.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the octets between two end offsets.
    fn part(&self, start: u32, end: u32) -> &[u8] {
        &self.bytes[index(start)..index(end)]
    }
}

/// Returns the length of `bytes` as an end offset. A message has at most 64 KiB and its parts are bounded, so it always
/// fits.
fn end(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Converts an end offset to a slice index.
fn index(end: u32) -> usize {
    usize::try_from(end).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_parts_round_trip() {
        const PARTS: &[[&[u8]; 3]] = &[[b"", b"", b""], [b"e", b"", b"s"], [b"", b"tt", b""], [b"eee", b"t", b"ss"]];
        for [ede_options, targets, service_targets] in PARTS {
            for ttl_offsets in [&[][..], &[12], &[12, 300, 65_535]] {
                let message = b"message".to_vec();
                let packed = Packed::new(Parts { message, ttl_offsets, ede_options, targets, service_targets });
                assert_eq!(packed.message(), b"message");
                assert_eq!(packed.ttl_offsets().collect::<Vec<_>>(), ttl_offsets);
                assert_eq!(
                    [packed.ede_options(), packed.targets(), packed.service_targets()],
                    [*ede_options, *targets, *service_targets]
                );
            }
        }
    }
}
