//! Differential tests of the wire code against hickory: both get the same recorded, generated and damaged messages.
//!
//! Intended differences are listed with their reasons in [`queries::Difference`] and [`responses::Difference`].

#[expect(unreachable_pub, dead_code, reason = "it is a part of the fuzz targets' library")]
#[path = "../../../tests/fuzz/targets/naive.rs"]
mod naive;
mod queries;
#[path = "../../../tests/fuzz/targets/recorded.rs"]
mod recorded;
mod responses;

use proptest::prelude::*;

use recorded::recorded;

/// A mutation of a message.
#[derive(Clone, Debug)]
enum Damage {
    /// Flips a bit.
    Flip(prop::sample::Index, u8),
    /// Sets an octet.
    Set(prop::sample::Index, u8),
    /// Writes a compression pointer, mostly to an offset near the start.
    Point(prop::sample::Index, u16),
    /// Cuts off the rest.
    Cut(prop::sample::Index),
    /// Appends octets.
    Add(Vec<u8>),
    /// Inserts octets.
    Insert(prop::sample::Index, Vec<u8>),
}

impl Damage {
    /// Applies the mutation.
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Self::Set(at, octet) => bytes[at.index(length)] = *octet,
            Self::Point(at, target) => {
                let at = at.index(length);
                for (to, from) in bytes[at..].iter_mut().zip((0xc000 | target).to_be_bytes()) {
                    *to = from;
                }
            }
            Self::Cut(at) => bytes.truncate(at.index(length)),
            Self::Add(more) => bytes.extend(more),
            Self::Insert(at, more) => {
                let at = at.index(length);
                drop(bytes.splice(at..at, more.iter().copied()));
            }
        }
    }
}

/// Applies all mutations in order.
fn apply(damage: &[Damage], bytes: &mut Vec<u8>) {
    for damage in damage {
        damage.apply(bytes);
    }
}

/// Returns a generator of up to three mutations.
fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<prop::sample::Index>;
    let few = prop::collection::vec(any::<u8>(), 1..4);
    let damage = prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, octet)| Damage::Set(at, octet)),
        2 => (at(), prop_oneof![0u16..80, 0u16..0x4000]).prop_map(|(at, target)| Damage::Point(at, target)),
        1 => at().prop_map(Damage::Cut),
        1 => few.clone().prop_map(Damage::Add),
        1 => (at(), few).prop_map(|(at, more)| Damage::Insert(at, more)),
    ];
    prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(damage, 1..4)]
}
